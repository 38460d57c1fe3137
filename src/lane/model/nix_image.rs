//! What an image is to be made of by Nix.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// An output of a flake, or what an attribute of a Nix file stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct NixImage {
    /// A flake output (`.#nixosConfigurations.node`, from the project's root) or a store path; absent where `file` is
    /// given.
    pub reference: Option<String>,
    pub file: Option<PathBuf>,
    /// In `file`.
    pub attribute: Option<String>,
    /// The output to boot; the first in which anything boots when absent.
    pub output: Option<String>,
    /// How many derivations are built at a time.
    pub jobs: Option<u32>,
    /// How many processors each may take.
    pub cores: Option<u32>,
}

impl NixImage {
    /// A flake output or a store path.
    pub fn of(reference: impl Into<String>) -> Self {
        Self { reference: Some(reference.into()), ..Self::default() }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Whole {
    reference: Option<String>,
    file: Option<PathBuf>,
    attribute: Option<String>,
    output: Option<String>,
    jobs: Option<u32>,
    cores: Option<u32>,
}

/// Lanes that were kept before there was more to say of it have a string here.
impl<'de> Deserialize<'de> for NixImage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NixImageVisitor;

        impl<'de> Visitor<'de> for NixImageVisitor {
            type Value = NixImage;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string or a table")
            }

            fn visit_str<E: de::Error>(self, reference: &str) -> Result<NixImage, E> {
                Ok(NixImage::of(reference))
            }

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<NixImage, A::Error> {
                let Whole { reference, file, attribute, output, jobs, cores } =
                    Whole::deserialize(MapAccessDeserializer::new(entries))?;
                Ok(NixImage { reference, file, attribute, output, jobs, cores })
            }
        }

        deserializer.deserialize_any(NixImageVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_as_a_string_is_still_read() {
        let read = |json: &str| serde_json::from_str::<NixImage>(json);
        assert_eq!(read("\".#a\"").unwrap(), NixImage::of(".#a"));
        let image = NixImage { file: Some("a.nix".into()), jobs: Some(2), ..NixImage::default() };
        assert_eq!(read(&serde_json::to_string(&image).unwrap()).unwrap(), image);
        assert!(read("{ \"flake\": 1 }").is_err());
    }
}
