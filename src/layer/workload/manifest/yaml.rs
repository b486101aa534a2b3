//! YAML 1.2 text → documents whose nodes know their line and column.
//!
//! Scalars stay text: what a number or a truth value is, the reader of a field decides. Aliases share the node that they
//! name, so a bomb of them costs no memory here; its weight when written out is counted all the same, because whoever
//! reads the file on the device writes it out.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The most nodes of a file with its aliases written out: more than the largest operator's manifests, less than what
/// fills a small device's memory.
const MAX_NODES: u64 = 200_000;
/// How deep mappings and lists may nest, aliases written out; Kubernetes' own types end at about 20. Nodes are walked and
/// dropped by recursion: a chain of aliases as long as a file may be would overflow the stack.
const MAX_DEPTH: usize = 100;

/// A node and where it begins.
#[derive(Debug)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it begins.
    pub place: Place,
    /// Count of nodes in it, aliases written out.
    weight: u64,
    /// How deep it nests, aliases written out; 0 for a scalar.
    depth: usize,
}

/// A line and a column, both from 1, in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// What a node is.
#[derive(Debug)]
pub enum Value {
    /// Text; `plain` where it is written without quotes and may mean a number, a truth value or nothing.
    Scalar {
        /// The text.
        text: String,
        /// Written without quotes.
        plain: bool,
    },
    /// A list.
    Sequence(Vec<Arc<Node>>),
    /// Keys and values in the order of the text.
    Mapping(Vec<(String, Arc<Node>)>),
}

/// What is wrong with the text, and where.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct BadYaml {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub why: String,
}

impl Node {
    /// The value of `key`, also of one merged in by `<<`; `None` where this is no mapping or has no such key, or an
    /// empty one.
    pub fn get(&self, key: &str) -> Option<&Node> {
        let Value::Mapping(entries) = &self.value else { return None };
        let own = entries.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_ref());
        let merged = || {
            let (_, from) = entries.iter().find(|(k, _)| k == "<<")?;
            match &from.value {
                Value::Sequence(maps) => maps.iter().find_map(|map| map.get(key)),
                _ => from.get(key),
            }
        };
        own.or_else(merged).filter(|node| !node.is_null())
    }

    /// The value at the end of a path of keys.
    pub fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }

    /// The text, where this is a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The elements, where this is a list.
    pub fn items(&self) -> Option<&[Arc<Node>]> {
        match &self.value {
            Value::Sequence(items) => Some(items),
            _ => None,
        }
    }

    /// Whether nothing is written here.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null"))
    }
}

/// A mapping or list that is not closed yet.
struct Open {
    place: Place,
    anchor: usize,
    children: Children,
}

enum Children {
    List(Vec<Arc<Node>>),
    Map { entries: Vec<(String, Arc<Node>)>, seen: BTreeSet<String>, key: Option<String> },
}

/// The documents of `text`; an empty one is left out.
///
/// # Errors
/// [`BadYaml`] with the first fault: syntax, a duplicate key, a key that is no text, an alias of nothing or of what it
/// stands in, too many nodes or too deep.
pub fn parse(text: &str) -> Result<Vec<Arc<Node>>, BadYaml> {
    parse_up_to(text, MAX_NODES)
}

/// [`parse`], with another bound for the count of nodes.
///
/// # Errors
/// As [`parse`].
pub fn parse_up_to(text: &str, nodes: u64) -> Result<Vec<Arc<Node>>, BadYaml> {
    let mut documents = vec![];
    let mut open: Vec<Open> = vec![];
    let mut anchors: BTreeMap<usize, Arc<Node>> = BTreeMap::new();
    let mut total = 0_u64;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| BadYaml {
            place: Place { line: e.marker().line(), column: e.marker().col() + 1 },
            why: e.info().to_string(),
        })?;
        let place = place(span);
        let bad = |why: &str| Err(BadYaml { place, why: why.into() });
        let node = match event {
            Event::Scalar(text, style, anchor, _) => {
                let plain = style == ScalarStyle::Plain;
                let node = Node {
                    value: Value::Scalar { text: text.into_owned(), plain },
                    place,
                    weight: 1,
                    depth: 0,
                };
                anchored(&mut anchors, anchor, node)
            }
            Event::Alias(anchor) => match anchors.get(&anchor) {
                Some(node) => node.clone(),
                None => return bad("this alias names nothing that is complete before it"),
            },
            Event::SequenceStart(anchor, _) => {
                open.push(Open { place, anchor, children: Children::List(vec![]) });
                if open.len() > MAX_DEPTH {
                    return bad("nested deeper than 100 levels");
                }
                continue;
            }
            Event::MappingStart(anchor, _) => {
                let children = Children::Map { entries: vec![], seen: BTreeSet::new(), key: None };
                open.push(Open { place, anchor, children });
                if open.len() > MAX_DEPTH {
                    return bad("nested deeper than 100 levels");
                }
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open { place, anchor, children }) => {
                    anchored(&mut anchors, anchor, close(place, children))
                }
                None => continue,
            },
            Event::DocumentEnd => {
                anchors.clear();
                continue;
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => continue,
        };
        let depth = node.depth;
        match open.last_mut() {
            None => {
                total = total.saturating_add(node.weight);
                if !node.is_null() {
                    documents.push(node);
                }
            }
            Some(parent) => parent.take(node, place)?,
        }
        if open.len() + depth > MAX_DEPTH {
            return bad("nested deeper than 100 levels, aliases written out");
        }
        // Each node is weighed as soon as it is complete: an alias of it can only follow.
        let heaviest = open.last().map_or(0, Open::weight);
        if total.saturating_add(heaviest) > nodes {
            return bad(&format!("more than {nodes} nodes, aliases written out"));
        }
    }
    Ok(documents)
}

impl Open {
    fn take(&mut self, node: Arc<Node>, place: Place) -> Result<(), BadYaml> {
        let bad = |why: String| Err(BadYaml { place, why });
        match &mut self.children {
            Children::List(items) => items.push(node),
            Children::Map { entries, seen, key } => match key.take() {
                Some(key) => entries.push((key, node)),
                None => {
                    let Some(text) = node.text() else { return bad("a key must be text".into()) };
                    if !seen.insert(text.into()) {
                        return bad(format!("the key `{text}` is there twice"));
                    }
                    *key = Some(text.into());
                }
            },
        }
        Ok(())
    }

    /// The weight of the latest child: the others were weighed when they were the latest.
    fn weight(&self) -> u64 {
        match &self.children {
            Children::List(items) => items.last().map_or(0, |n| n.weight),
            Children::Map { entries, .. } => entries.last().map_or(0, |(_, n)| n.weight),
        }
    }
}

fn close(place: Place, children: Children) -> Node {
    let sum = |nodes: &mut dyn Iterator<Item = u64>| nodes.fold(1_u64, u64::saturating_add);
    match children {
        Children::List(items) => {
            let weight = sum(&mut items.iter().map(|n| n.weight));
            let depth = 1 + items.iter().map(|n| n.depth).max().unwrap_or(0);
            Node { value: Value::Sequence(items), place, weight, depth }
        }
        Children::Map { entries, .. } => {
            let weight = sum(&mut entries.iter().map(|(_, n)| n.weight.saturating_add(1)));
            let depth = 1 + entries.iter().map(|(_, n)| n.depth).max().unwrap_or(0);
            Node { value: Value::Mapping(entries), place, weight, depth }
        }
    }
}

/// The node, remembered under its anchor where it has one (0 is none).
fn anchored(anchors: &mut BTreeMap<usize, Arc<Node>>, anchor: usize, node: Node) -> Arc<Node> {
    let node = Arc::new(node);
    if anchor > 0 {
        anchors.insert(anchor, node.clone());
    }
    node
}

fn place(span: Span) -> Place {
    Place { line: span.start.line(), column: span.start.col() + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_know_their_place() {
        let documents = parse("# c\n---\na:\n  - b: x\n---\n---\nc: 'null'\n").unwrap();
        assert_eq!(documents.len(), 2);
        let b = documents[0].get("a").unwrap().items().unwrap()[0].get("b").unwrap();
        assert_eq!((b.text(), b.place), (Some("x"), Place { line: 4, column: 8 }));
        assert_eq!(documents[1].get("c").unwrap().text(), Some("null"), "quoted text is never nothing");
    }

    #[test]
    fn anchors_and_merges_are_followed() {
        let documents = parse("base: &b {image: x, tag: 1}\nuse:\n  <<: *b\n  tag: 2\n").unwrap();
        let used = documents[0].get("use").unwrap();
        assert_eq!(used.get("image").unwrap().text(), Some("x"));
        assert_eq!(used.get("tag").unwrap().text(), Some("2"));
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..30 {
            let before = i - 1;
            bomb += &format!("a{i}: &a{i} [{}]\n", format!("*a{before},").repeat(10));
        }
        let fault = parse(&bomb).unwrap_err();
        assert!(fault.why.contains("nodes"), "{fault}");
        assert!(fault.place.line < 8, "{:?}", fault.place);
    }

    #[test]
    fn a_chain_of_aliases_does_not_overflow_the_stack() {
        let mut chain = String::from("- &a0 [x]\n");
        for i in 1..190_000 {
            chain += &format!("- &a{i} [*a{}]\n", i - 1);
        }
        let fault = std::thread::spawn(move || parse(&chain).unwrap_err()).join().unwrap();
        assert!(fault.why.contains("deeper") && fault.place.line < 110, "{fault} {:?}", fault.place);
    }

    #[test]
    fn a_bomb_of_brackets_is_refused() {
        for bomb in ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000)] {
            assert!(parse(&bomb).is_err());
        }
    }

    proptest::proptest! {
        /// Whatever the text, the answer is documents or a fault with a place in it, and never a panic.
        #[test]
        fn any_text_is_answered(text in "(kind|a|- |: |\\?|\\{|\\}|\\[|\\]|, |&a |\\*a|<<|\\||>|'|\"|#|!|%|---|\\.\\.\\.|\n|\t| |\u{feff}|é){0,60}") {
            if let Err(fault) = parse(&text) {
                proptest::prop_assert!(fault.place.line <= text.lines().count() + 1, "{:?}: {}", fault.place, fault);
            }
        }
    }

    #[test]
    fn faults_say_where() {
        for (text, line, why) in [
            ("a: 1\nb: 2\na: 3\n", 3, "twice"),
            ("a: &x\n  b: *x\n", 2, "alias"),
            ("a: 1\n  b: 2\n", 2, ""),
            ("a: [1\n", 2, ""),
            ("a:\n\t- b\n", 2, ""),
            ("? [a]\n: b\n", 1, "key"),
        ] {
            let fault = parse(text).unwrap_err();
            assert!(fault.why.contains(why), "{text}: {fault}");
            assert_eq!(fault.place.line, line, "{text}: {fault}");
        }
    }
}
