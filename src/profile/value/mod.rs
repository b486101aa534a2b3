//! The words that a profile is made of, each true by its type.
//!
//! They end in paths, command lines, unit files and references, so each is as narrow as its standard allows.

mod choice;
mod grammar;
mod name;
mod origin;
mod path;
mod quantity;

pub use choice::*;
pub use name::*;
pub use origin::{Base, KeyPlace, KeySource, Origin};
pub use path::*;
pub use quantity::*;

use super::fragment::{Node, Value};
use super::shape::{Definitions, Reader, Shape, Wrong};
use super::word::text;
use crate::model::{Arch, SiteName};
use serde::Serialize;
use serde_json::{Value as Json, json};

/// Reads a string value through `parse`.
fn parsed<T>(
    node: &Node,
    reader: &mut Reader<'_>,
    what: &str,
    parse: impl FnOnce(&str) -> Result<T, Wrong>,
) -> Option<T> {
    let text = text(node, reader, what, false)?;
    parse(&text).map_err(|wrong| reader.wrong(node.place, wrong)).ok()
}

impl Shape for SiteName {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<SiteName> {
        parsed(node, reader, "a site name", |s| {
            SiteName::parse(s).map_err(|_| {
                let shown: String = s.chars().take(80).collect();
                Wrong::new(
                    format!("`{shown}` is not a DNS label"),
                    "1 to 63 of a-z, 0-9 and `-`, not starting or ending with `-`, such as `store-042`",
                )
            })
        })
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" })
    }
}

impl Shape for Arch {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Arch> {
        let text = text(node, reader, "an architecture", false)?;
        // The other standards' spellings are the likeliest slips, and too far away for a comparison of letters.
        if let Some(arch) = Arch::ALL
            .into_iter()
            .find(|a| [a.kernel(), a.efi(), a.systemd()].contains(&text.as_str()) && a.oci() != text)
        {
            let message = format!("`{text}` is not an architecture, did you mean `{arch}`?");
            reader.wrong(node.place, Wrong::new(message, "expected one of `amd64`, `arm64`"));
            return None;
        }
        crate::profile::word::choose(&text, &Arch::ALL.map(|a| (a.oci(), a)), "an architecture", node, reader)
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "enum": Arch::ALL.map(Arch::oci) })
    }
}

/// The version of the profile's format: 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct SchemaVersion(u32);

impl Shape for SchemaVersion {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<SchemaVersion> {
        match node.value {
            Value::Integer(1) => Some(SchemaVersion(1)),
            Value::Integer(n) => {
                let message = format!("schema {n} is not known to this forge");
                reader.wrong(node.place, Wrong::new(message, "this forge reads `schema = 1`"));
                None
            }
            _ => reader.mismatch(node, "the integer 1"),
        }
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "const": 1 })
    }
}

/// A value that forge passes through and does not interpret; always JSON, so that it can be written as YAML.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Opaque(pub Json);

impl Shape for Opaque {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Opaque> {
        opaque(node, reader).map(Opaque)
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({})
    }
}

fn opaque(node: &Node, reader: &mut Reader<'_>) -> Option<Json> {
    Some(match &node.value {
        Value::String(text) => json!(text),
        Value::Integer(n) => json!(n),
        Value::Boolean(b) => json!(b),
        Value::Float(f) if f.is_finite() => json!(f),
        Value::Float(_) | Value::Datetime(_) => {
            let message = format!("{} cannot be passed on as YAML", node.kind());
            reader.wrong(node.place, Wrong::new(message, "write it as a string, in quotes"));
            return None;
        }
        Value::List(items) => {
            let read: Vec<Option<Json>> = items.iter().map(|item| opaque(item, reader)).collect();
            Json::Array(read.into_iter().collect::<Option<_>>()?)
        }
        Value::Table(table) => {
            let read: Vec<Option<(String, Json)>> =
                table.iter().map(|(key, entry)| Some((key.clone(), opaque(&entry.node, reader)?))).collect();
            Json::Object(read.into_iter().collect::<Option<_>>()?)
        }
    })
}
