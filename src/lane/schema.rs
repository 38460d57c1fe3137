//! JSON Schemas for lane and profile files, made from the types that read them. Checked in below `schemas/`, so that
//! editors complete the files; a test holds them to the types.

use schemars::{JsonSchema, schema_for};

use super::document::LaneDocument;
use super::profile::ProfileDocument;

/// The JSON Schema of lane files, as text that ends with a line feed.
pub fn lane_schema() -> String {
    text::<LaneDocument>()
}

/// The JSON Schema of profile files.
pub fn profile_schema() -> String {
    text::<ProfileDocument>()
}

fn text<T: JsonSchema>() -> String {
    format!("{:#}\n", schema_for!(T).as_value())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_current(file: &str, schema: &str, renew: &str) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas").join(file);
        let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            checked_in == schema,
            "schemas/{file} is not what the types say; renew it: cargo run -- {renew} > schemas/{file}"
        );
    }

    #[test]
    fn the_lane_schema_is_current() {
        assert_current("lane.schema.json", &lane_schema(), "lane schema");
    }

    #[test]
    fn the_profile_schema_is_current() {
        assert_current("profile.schema.json", &profile_schema(), "lane schema --profile");
    }
}
