//! The profile's JSON Schema, from the same declarations as its reader.
//!
//! JSON Schema 2020-12 (json-schema.org). A file that extends others, or is extended, need not hold everything: a table
//! that is merged demands its keys only of a file that has a `[site]` and no `extends`.

use super::shape::{Definitions, Shape as _};
use super::tables::Document;
use serde_json::{Map, Value as Json, json};

/// The schema of a profile file.
pub fn schema() -> Json {
    let mut definitions = Definitions::new();
    Document::schema(&mut definitions);
    let demands = loosen("Document", &mut definitions);
    let mut root = definitions.remove("Document").unwrap_or_default();
    let overlay = overlay(&root["properties"]);
    root["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    root["title"] = "forge site profile".into();
    root["properties"]["extends"] = json!({
        "description": "Files to build upon, merged left to right, this file last.",
        "type": "array",
        "items": { "type": "string", "pattern": "^[^/]" },
    });
    root["properties"]["arch"] = json!({
        "description": "Tables that replace or append to the others for one architecture.",
        "type": "object",
        "properties": { "amd64": overlay, "arm64": overlay },
        "additionalProperties": false,
    });
    root["if"] = json!({ "required": ["site"], "not": { "required": ["extends"] } });
    root["then"] = demands;
    root["$defs"] = json!(definitions);
    root
}

/// The schema as `forge schema` prints it: sorted keys, two spaces, a newline at the end.
pub fn schema_text() -> String {
    format!("{:#}\n", schema())
}

/// What an architecture can have of its own: tables that are not the same for all.
fn overlay(properties: &Json) -> Json {
    let own = ["image", "os", "kubernetes", "agent", "container", "container+", "workload", "workload+"];
    let properties: Map<String, Json> =
        own.into_iter().map(|key| (key.into(), properties[key].clone())).collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

/// Takes `required` off the definition `name` and those that it holds as tables, and returns the demands taken.
fn loosen(name: &str, definitions: &mut Definitions) -> Json {
    let Some(definition) = definitions.get_mut(name) else { return json!({}) };
    let required =
        definition.as_object_mut().and_then(|object| object.remove("required")).unwrap_or_default();
    let tables: Vec<(String, String)> = definition["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, property)| {
            let table = property["$ref"].as_str()?.strip_prefix("#/$defs/")?;
            Some((key.clone(), table.to_string()))
        })
        .collect();
    let inner: Map<String, Json> =
        tables.into_iter().map(|(key, table)| (key, loosen(&table, definitions))).collect();
    json!({ "required": required, "properties": inner })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file_must_say_what_it_is_for_and_a_part_need_not() {
        let schema = schema();
        assert_eq!(schema["then"]["required"], json!(["schema", "site", "os"]));
        assert_eq!(schema["then"]["properties"]["os"]["required"], json!(["base"]));
        assert!(schema.get("required").is_none());
        assert_eq!(schema["$defs"]["User"]["required"], json!(["name", "ssh-keys"]));
        assert_eq!(schema["$defs"]["Image"]["properties"]["disk-formats"]["default"], json!(["raw.zst"]));
        assert!(schema["$defs"]["Os"]["properties"].get("packages+").is_some());
    }
}
