//! Digests of what is planned, over a canonical JSON: keys in order, no white space.

use std::fmt::Write as _;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::model::Plan;
use crate::lane::Lane;

/// One text for one value: object keys in byte order, no white space between tokens.
///
/// # Panics
/// Never for lanes and plans: all their keys are strings and all their values have a JSON form.
pub fn canonical_json<T: Serialize>(value: &T) -> String {
    // serde_json's own map is ordered by key, so going through a value sorts every object.
    serde_json::to_value(value).expect("lanes and plans have a JSON form").to_string()
}

/// `sha256:<hex>` of the value's canonical JSON.
pub fn digest<T: Serialize>(value: &T) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(canonical_json(value)) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

impl Lane {
    /// `sha256:<hex>` of the lane's canonical JSON.
    pub fn digest(&self) -> String {
        digest(self)
    }
}

impl Plan {
    /// `sha256:<hex>` of the plan's canonical JSON.
    pub fn digest(&self) -> String {
        digest(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_keys_does_not_matter() {
        #[derive(Serialize)]
        struct Unordered {
            zebra: u8,
            ant: [u8; 2],
        }
        assert_eq!(canonical_json(&Unordered { zebra: 1, ant: [2, 3] }), r#"{"ant":[2,3],"zebra":1}"#);
    }

    #[test]
    fn the_digest_is_the_one_that_sha256sum_gives() {
        // printf '"a"' | sha256sum
        assert_eq!(digest(&"a"), "sha256:ac8d8342bbb2362d13f0a559a3621bb407011368895164b628a54f7fc33fc43c");
    }
}
