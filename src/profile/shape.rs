//! The one description of a profile's tables: a `table!` gives a struct, its reader and its JSON Schema.
//!
//! A reader goes through all keys before it gives up, so that no fault hides another.

use super::diagnostic::{Fault, Place, Sources};
use super::fragment::{Entry, Node, Table, Value};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

/// The most items that a list or a table of free keys may have.
const MAX_ITEMS: usize = 4096;

/// A value that a profile can hold.
pub trait Shape: Sized {
    /// The key by whose text the items of a list are told apart.
    const KEY: Option<&'static str> = None;

    /// Reads the value at `node`; `None` when there are faults, which are then in `reader`.
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self>;

    /// Its JSON Schema; tables go into `definitions` by name.
    fn schema(definitions: &mut Definitions) -> Json;

    /// Whether a key of this type without a default must be there.
    fn required() -> bool {
        true
    }

    /// What it is when its key is absent and has no default of its own: an empty table for a table, nothing else.
    fn absent(_parent: Place, _reader: &mut Reader<'_>) -> Absent<Self> {
        Absent::Missing
    }
}

/// What the absence of a key means.
pub enum Absent<T> {
    /// A fault of the table that lacks it.
    Missing,
    /// Something; `None` when its own faults have been told.
    Read(Option<T>),
}

/// Definitions of a JSON Schema, by the name of the table.
pub type Definitions = BTreeMap<&'static str, Json>;

/// Where a reader keeps the faults and finds what is outside the text.
pub struct Reader<'a> {
    /// The faults so far.
    pub faults: Vec<Fault>,
    /// The texts of the profile.
    pub sources: &'a Sources,
    /// The environment, for the values that may name it.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Resolves a path that a profile names at a place.
    pub files: &'a mut dyn Files,
    /// The keys from the root to what is being read, for messages.
    pub path: Vec<String>,
}

/// The files that a profile names.
pub trait Files {
    /// Takes note of the file `path`, named at `place`: the path from the main profile's directory.
    ///
    /// # Errors
    /// When the file is not there, or must not be taken.
    fn note(
        &mut self,
        sources: &Sources,
        place: Place,
        path: &str,
        content: Content,
    ) -> Result<String, Wrong>;

    /// The text of a profile, by its path from the main profile's directory.
    ///
    /// # Errors
    /// When it is not there, too long or no text.
    fn profile(&mut self, path: &str) -> Result<String, Wrong>;

    /// What people are told as the name of the file `path`.
    fn name(&self, path: &str) -> String;
}

/// What a file is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Goes into the image: read, searched for secrets, and part of the profile's checksum.
    File,
    /// As a file, and Kubernetes manifests: no Secret among them.
    Manifest,
    /// Large, or a directory: it must be there; its digest is the lock's business.
    Locked,
    /// A key that stays on this machine: not looked at, and perhaps made later.
    Key,
}

/// Why a text is not the word that it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: String,
}

impl Wrong {
    /// The fault that it is at `place`.
    pub fn at(self, place: Place) -> Fault {
        Fault::new(place, self.message, self.help)
    }

    /// A message and a help.
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Wrong {
        Wrong { message: message.into(), help: help.into() }
    }
}

impl Reader<'_> {
    /// Takes note of a fault.
    pub fn fault(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// Takes note of a wrong word at `place`.
    pub fn wrong(&mut self, place: Place, wrong: Wrong) {
        self.fault(wrong.at(place));
    }

    /// Takes note of the file `path` that `node` names; `None` when it cannot be had.
    pub fn file(&mut self, node: &Node, path: &str, content: Content) -> Option<String> {
        match self.files.note(self.sources, node.place, path, content) {
            Ok(path) => Some(path),
            Err(wrong) => {
                self.wrong(node.place, wrong);
                None
            }
        }
    }

    /// Takes note that the value is of another type than `expected`.
    pub fn mismatch<T>(&mut self, node: &Node, expected: &str) -> Option<T> {
        let name = self.path.last().cloned().unwrap_or_default();
        let help = match (&node.value, expected) {
            (Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_), "a list") => {
                "put it in brackets: [ … ]"
            }
            (Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_), _) => {
                "put it in quotes"
            }
            (_, "a list") => "put it in brackets: [ … ]; several tables of one name are written [[name]]",
            (_, "a table") => "write keys and values: [name] and a line for each, or { key = value }",
            (Value::Table(_) | Value::List(_), _) => "write a single value",
            _ => "remove the quotes",
        };
        let message = format!("`{name}` is {}, expected {expected}", node.kind());
        self.fault(Fault::new(node.place, message, help).label(format!("expected {expected}")));
        None
    }

    /// The entries of a table that has only `known` keys.
    pub fn table<'n>(&mut self, node: &'n Node, known: &[&str]) -> Option<&'n Table> {
        let Some(table) = node.table() else {
            return self.mismatch(node, "a table");
        };
        for (key, entry) in table {
            if !known.contains(&key.as_str()) {
                self.unknown(key, entry, known);
            }
        }
        Some(table)
    }

    fn unknown(&mut self, key: &str, entry: &Entry, known: &[&str]) {
        let list = known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
        let meant = super::suggest::nearest(key, known).map(|near| format!(", did you mean `{near}`?"));
        let message = format!("unknown key `{key}`{}", meant.unwrap_or_default());
        let at = if self.path.is_empty() { "a profile".into() } else { format!("`{}`", self.path.join(".")) };
        self.fault(Fault::new(entry.key, message, format!("{at} takes {list}")).label("unknown key"));
    }

    /// Reads the key `name` of `table`, with what to do when it is absent.
    pub fn field<T: Shape>(
        &mut self,
        node: &Node,
        name: &str,
        doc: &str,
        default: Option<fn() -> T>,
    ) -> Option<T> {
        self.path.push(name.into());
        let read = match (node.table().and_then(|table| table.get(name)), default) {
            (Some(entry), _) => T::read(&entry.node, self),
            (None, Some(default)) => Some(default()),
            (None, None) => match T::absent(node.place, self) {
                Absent::Read(value) => value,
                Absent::Missing => {
                    let path = self.path.join(".");
                    let doc = doc.trim().trim_end_matches('.');
                    let help = format!("add `{name}`: {doc}");
                    let fault = Fault::new(node.place, format!("missing key `{path}`"), help);
                    self.fault(fault.label("it is not here"));
                    None
                }
            },
        };
        self.path.pop();
        read
    }
}

impl Shape for bool {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<bool> {
        match node.value {
            Value::Boolean(value) => Some(value),
            _ => reader.mismatch(node, "`true` or `false`"),
        }
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "boolean" })
    }
}

impl Shape for String {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<String> {
        match &node.value {
            Value::String(text) => Some(text.clone()),
            _ => reader.mismatch(node, "a string"),
        }
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string" })
    }
}

impl<T: Shape> Shape for Option<T> {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Option<T>> {
        T::read(node, reader).map(Some)
    }
    fn schema(definitions: &mut Definitions) -> Json {
        T::schema(definitions)
    }
}

impl<T: Shape> Shape for Vec<T> {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Vec<T>> {
        let Value::List(items) = &node.value else {
            return reader.mismatch(node, "a list");
        };
        if items.len() > MAX_ITEMS {
            let name = reader.path.join(".");
            let message = format!("`{name}` has more than {MAX_ITEMS} items");
            reader.fault(Fault::new(node.place, message, "a profile of a site is not that long"));
            return None;
        }
        let read: Vec<Option<T>> = items.iter().map(|item| T::read(item, reader)).collect();
        let unique = distinct::<T>(items, reader);
        let all: Option<Vec<T>> = read.into_iter().collect();
        all.filter(|_| unique)
    }
    fn schema(definitions: &mut Definitions) -> Json {
        json!({ "type": "array", "maxItems": MAX_ITEMS, "items": T::schema(definitions) })
    }
}

/// Tells of tables that are there twice. Words may be: two files may well ask for the same package.
fn distinct<T: Shape>(items: &[Node], reader: &mut Reader<'_>) -> bool {
    let Some(key) = T::KEY else { return true };
    let before = reader.faults.len();
    let mut seen: BTreeMap<&str, Place> = BTreeMap::new();
    for named in items.iter().filter_map(|item| item.at(&[key])) {
        let Some(text) = named.text() else { continue };
        if let Some(first) = seen.get(text) {
            let list = reader.path.last().cloned().unwrap_or_default();
            let message = format!("there are two `{list}` with {key} `{text}`");
            let fault = Fault::new(named.place, message, "remove one of them, or give it another name");
            reader.fault(fault.label("the second").related(*first, "the first"));
        } else {
            seen.insert(text, named.place);
        }
    }
    reader.faults.len() == before
}

impl<T: Shape> Shape for BTreeMap<String, T> {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(table) = node.table() else {
            return reader.mismatch(node, "a table");
        };
        if table.len() > MAX_ITEMS {
            let message = format!("the table has more than {MAX_ITEMS} keys");
            reader.fault(Fault::new(node.place, message, "a profile of a site is not that long"));
            return None;
        }
        let read: Vec<Option<(String, T)>> = table
            .iter()
            .map(|(key, entry)| {
                reader.path.push(key.clone());
                let value = T::read(&entry.node, reader);
                reader.path.pop();
                Some((key.clone(), value?))
            })
            .collect();
        read.into_iter().collect()
    }
    fn schema(definitions: &mut Definitions) -> Json {
        json!({ "type": "object", "maxProperties": MAX_ITEMS, "additionalProperties": T::schema(definitions) })
    }
}

/// Declares a table: its keys in kebab-case, each with its type, its documentation and, where it may be left out, its
/// default. `keyed by` names the key by which the items of a list of such tables are told apart.
macro_rules! table {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident $(keyed by $key:literal)? {
            $( $(#[doc = $field_doc:literal])+ pub $field:ident : $type:ty $(= $default:expr)? , )+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, serde::Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub struct $name { $( $(#[doc = $field_doc])+ pub $field: $type, )+ }

        impl $crate::profile::shape::Shape for $name {
            $(const KEY: Option<&'static str> = Some($key);)?

            fn read(
                node: &$crate::profile::fragment::Node,
                reader: &mut $crate::profile::shape::Reader<'_>,
            ) -> Option<Self> {
                let keys = [$($crate::profile::shape::key(stringify!($field))),+];
                let known: Vec<&str> = keys.iter().map(String::as_str).collect();
                reader.table(node, &known)?;
                $(
                    #[allow(unused_mut, unused_assignments, reason = "only keys with a default assign it")]
                    let $field = {
                        let mut default: Option<fn() -> $type> = None;
                        $( default = Some(|| $default); )?
                        let name = $crate::profile::shape::key(stringify!($field));
                        reader.field::<$type>(node, &name, concat!($($field_doc),+), default)
                    };
                )+
                Some($name { $($field: $field?),+ })
            }

            fn schema(definitions: &mut $crate::profile::shape::Definitions) -> serde_json::Value {
                let mut properties = $crate::profile::shape::Properties::default();
                $(
                    #[allow(unused_mut, unused_assignments, reason = "only keys with a default assign it")]
                    {
                        let mut default: Option<fn() -> $type> = None;
                        $( default = Some(|| $default); )?
                        properties.add(definitions, stringify!($field), concat!($($field_doc),+), default);
                    }
                )+
                definitions.insert(stringify!($name), properties.table(concat!($($doc),+)));
                serde_json::json!({ "$ref": concat!("#/$defs/", stringify!($name)) })
            }

            fn required() -> bool {
                // A table may be left out when each of its keys may.
                #[allow(unused_mut, unused_assignments, reason = "only keys with a default assign it")]
                let keys = [$({
                    let mut required = <$type as $crate::profile::shape::Shape>::required();
                    $( let _: fn() -> $type = || $default; required = false; )?
                    required
                }),+];
                keys.contains(&true)
            }

            fn absent(
                parent: $crate::profile::diagnostic::Place,
                reader: &mut $crate::profile::shape::Reader<'_>,
            ) -> $crate::profile::shape::Absent<Self> {
                let empty = $crate::profile::fragment::Node::empty(parent);
                $crate::profile::shape::Absent::Read(Self::read(&empty, reader))
            }
        }
    };
}
pub(super) use table;

/// `disk_formats` → `disk-formats`, `r#ref` → `ref`.
pub fn key(field: &str) -> String {
    field.strip_prefix("r#").unwrap_or(field).replace('_', "-")
}

/// The properties of a table's JSON Schema, as they are declared.
#[derive(Default)]
pub struct Properties {
    properties: serde_json::Map<String, Json>,
    required: Vec<String>,
}

impl Properties {
    /// Adds the key of `field`; a list gets a second one, which appends.
    pub fn add<T: Shape + serde::Serialize>(
        &mut self,
        definitions: &mut Definitions,
        field: &str,
        doc: &str,
        default: Option<fn() -> T>,
    ) {
        let name = key(field);
        if default.is_none() && T::required() {
            self.required.push(name.clone());
        }
        let mut schema = T::schema(definitions);
        schema["description"] = doc.trim().into();
        if schema["type"] == "array" {
            let mut more = schema.clone();
            more["description"] = format!("Appends to the `{name}` of the files extended.").into();
            self.properties.insert(format!("{name}+"), more);
        }
        let default = default.and_then(|default| serde_json::to_value(default()).ok());
        if let Some(default) = default.filter(|default| !default.is_null()) {
            schema["default"] = default;
        }
        self.properties.insert(name, schema);
    }

    /// The schema of the table.
    pub fn table(self, doc: &str) -> Json {
        json!({
            "type": "object",
            "description": doc.trim(),
            "properties": self.properties,
            "required": self.required,
            "additionalProperties": false,
        })
    }
}
