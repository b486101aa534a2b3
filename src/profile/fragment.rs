//! A profile file as typed: TOML text → a tree of values, each with the place where it stands.
//!
//! Knows TOML (v1.1) and nothing of what the keys mean. The tree is owned, because `extends` merges trees of many files.

use super::diagnostic::{Fault, Place, SourceId, Sources};
use std::collections::BTreeMap;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// The most bytes that one profile file may have. Profiles name big things, they do not hold them.
pub const MAX_FILE_BYTES: usize = 1 << 20;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value's span, quotes and brackets included.
    pub place: Place,
    /// The value.
    pub value: Value,
}

/// A TOML value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text, unescaped.
    String(String),
    /// A whole number; TOML bounds it to 64 bits.
    Integer(i64),
    /// A number with a point, an infinity or not-a-number.
    Float(f64),
    /// `true` or `false`.
    Boolean(bool),
    /// A date, a time or both, as typed.
    Datetime(String),
    /// A list.
    List(Vec<Node>),
    /// Keys and values, in the order of the keys.
    Table(Table),
}

/// The entries of a table by key.
pub type Table = BTreeMap<String, Entry>;

/// A key's own place, and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where the key stands: what is underlined when the key is wrong.
    pub key: Place,
    /// The value.
    pub node: Node,
}

impl Node {
    /// A table without entries at `place`.
    pub fn empty(place: Place) -> Node {
        Node { place, value: Value::Table(Table::new()) }
    }

    /// The entries, of a table.
    pub fn table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The items, of a list.
    pub fn list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// The text, of a string.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value at `path` below this one, through tables.
    pub fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| Some(&node.table()?.get(*key)?.node))
    }

    /// The items of the list at `path`; none where there is no list.
    pub fn items(&self, path: &[&str]) -> &[Node] {
        self.at(path).and_then(Node::list).unwrap_or_default()
    }

    /// Takes the entry `key` out of a table.
    pub fn take(&mut self, key: &str) -> Option<Entry> {
        match &mut self.value {
            Value::Table(table) => table.remove(key),
            _ => None,
        }
    }

    /// What a person calls the type of the value.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::String(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Boolean(_) => "a boolean",
            Value::Datetime(_) => "a date or time",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

/// Reads the file `source`. Syntax errors become faults, all of them, and what could be read is read none the less.
pub fn read(sources: &Sources, source: SourceId, faults: &mut Vec<Fault>) -> Node {
    let text = sources.text(source);
    let place = |span: Range<usize>| Place { source, start: span.start, end: span.end };
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let span = visible(text, error.span().unwrap_or_default());
        let message = error.message().lines().collect::<Vec<_>>().join("; ");
        let help = "TOML is `key = value` a line below `[table]` or `[[list]]`; text stands in quotes";
        faults.push(Fault::new(place(span), message, help).label("not valid TOML"));
    }
    // What is missing at the top is told in the first line.
    let first = place(0..text.lines().next().unwrap_or_default().len());
    Node { place: first, value: table(root.into_inner(), &place, faults) }
}

/// A span of a character at least: an empty one at the end of a line takes the character before it.
fn visible(text: &str, span: Range<usize>) -> Range<usize> {
    if !span.is_empty() {
        return span;
    }
    let before = text.get(..span.start).and_then(|s| s.chars().next_back()).filter(|c| *c != '\n');
    match before {
        Some(c) => span.start - c.len_utf8()..span.end,
        None => {
            span.start
                ..span.end + text.get(span.end..).and_then(|s| s.chars().next()).map_or(0, char::len_utf8)
        }
    }
}

fn table(table: DeTable<'_>, place: &dyn Fn(Range<usize>) -> Place, faults: &mut Vec<Fault>) -> Value {
    let entries = table.into_iter().map(|(key, value)| {
        let entry = Entry { key: place(key.span()), node: node(value, place, faults) };
        (key.into_inner().into_owned(), entry)
    });
    Value::Table(entries.collect())
}

fn node(
    value: toml::Spanned<DeValue<'_>>,
    place: &dyn Fn(Range<usize>) -> Place,
    faults: &mut Vec<Fault>,
) -> Node {
    let at = place(value.span());
    let value = match value.into_inner() {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Integer(digits) => {
            Value::Integer(i64::from_str_radix(digits.as_str(), digits.radix()).unwrap_or_else(|_| {
                faults.push(Fault::new(
                    at,
                    "the number does not fit in 64 bits",
                    "use a smaller number, or a string",
                ));
                0
            }))
        }
        DeValue::Float(digits) => Value::Float(digits.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Datetime(time) => Value::Datetime(time.to_string()),
        DeValue::Array(items) => {
            Value::List(items.into_iter().map(|item| node(item, place, faults)).collect())
        }
        DeValue::Table(entries) => table(entries, place, faults),
    };
    Node { place: at, value }
}
