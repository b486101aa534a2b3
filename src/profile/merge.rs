//! Many trees → one: `extends`, `--set`, and the tables of an architecture.
//!
//! Tables merge key by key, anything else replaces what was there. A key that ends in `+` appends to the list of that
//! name: `"packages+" = ["curl"]`, `[[os."file+"]]`. What is not a list cannot be appended to.

use super::diagnostic::Fault;
use super::fragment::{Entry, Node, Table, Value};

/// Lays the file `over`, or what the command line sets, onto the files before it.
pub fn file(base: &mut Node, mut over: Node, faults: &mut Vec<Fault>) {
    let place = over.place;
    let arch = over.take("arch");
    Merge { faults, pending: false }.nodes(base, over);
    if let (Some(arch), Value::Table(table)) = (arch, &mut base.value) {
        // What they append to is known when all files are merged.
        Merge { faults, pending: true }.replace(table, "arch".into(), arch);
    }
    // A missing key is told where the last file could add it.
    base.place = place;
}

/// Lays the tables of one architecture onto the merged files.
pub fn overlay(base: &mut Node, over: Node, faults: &mut Vec<Fault>) {
    Merge { faults, pending: false }.nodes(base, over);
}

struct Merge<'a> {
    faults: &'a mut Vec<Fault>,
    /// Lists are yet to be appended to something: a `+` without a list stays.
    pending: bool,
}

impl Merge<'_> {
    fn nodes(&mut self, base: &mut Node, over: Node) {
        match (&mut base.value, over.value) {
            (Value::Table(table), Value::Table(entries)) => {
                for (key, entry) in entries {
                    match key.strip_suffix('+') {
                        Some(list) => self.append(table, list, entry),
                        None => self.replace(table, key, entry),
                    }
                }
            }
            (_, value) => *base = Node { place: over.place, value },
        }
    }

    fn replace(&mut self, table: &mut Table, key: String, mut entry: Entry) {
        table.remove(&format!("{key}+"));
        match table.get_mut(&key) {
            Some(there) if there.node.table().is_some() && entry.node.table().is_some() => {
                self.nodes(&mut there.node, entry.node);
            }
            _ => {
                if entry.node.table().is_some() {
                    let typed = std::mem::replace(&mut entry.node, Node::empty(entry.key));
                    entry.node.place = typed.place;
                    self.nodes(&mut entry.node, typed);
                }
                table.insert(key, entry);
            }
        }
    }

    fn append(&mut self, table: &mut Table, list: &str, entry: Entry) {
        let Value::List(mut items) = entry.node.value else {
            let message = format!("`{list}+` appends to a list, but holds {}", entry.node.kind());
            let help = format!("write \"{list}+\" = [ … ]");
            self.faults.push(Fault::new(entry.node.place, message, help).label("expected a list"));
            return;
        };
        let waiting = format!("{list}+");
        let key = if self.pending && !table.contains_key(list) { &waiting } else { list };
        match table.get_mut(key) {
            None => {
                let node = Node { place: entry.node.place, value: Value::List(items) };
                table.insert(key.into(), Entry { key: entry.key, node });
            }
            Some(Entry { node: Node { value: Value::List(there), .. }, .. }) => there.append(&mut items),
            Some(there) => {
                let message = format!("`{list}` is {}, nothing can be appended to it", there.node.kind());
                let help = format!("write `{list}` without `+` to replace it");
                let fault = Fault::new(entry.key, message, help);
                self.faults.push(fault.related(there.node.place, "this is no list"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::diagnostic::Sources;
    use super::super::fragment::read;
    use super::*;

    fn merged(files: &[&str], over: &str) -> Node {
        let (mut sources, mut faults) = (Sources::default(), vec![]);
        let mut tree = |text: &str, faults: &mut Vec<Fault>| {
            let source = sources.add("t", "", text);
            read(&sources, source, faults)
        };
        let mut base = tree("", &mut faults);
        for text in files {
            let over = tree(text, &mut faults);
            file(&mut base, over, &mut faults);
        }
        let arch = base.take("arch");
        if let Some(overlaid) = arch.and_then(|arch| arch.node.at(&[over]).cloned()) {
            overlay(&mut base, overlaid, &mut faults);
        }
        assert!(faults.is_empty(), "{faults:?}");
        base
    }

    fn words(node: &Node, path: &[&str]) -> Vec<String> {
        node.items(path).iter().filter_map(Node::text).map(String::from).collect()
    }

    #[test]
    fn lists_replace_unless_marked_and_the_last_file_wins() {
        for (files, expected) in [
            (&["os.packages = ['a']", "os.packages = ['b']"][..], &["b"][..]),
            (&["os.packages = ['a']", "os.'packages+' = ['b']"], &["a", "b"]),
            (&["os.'packages+' = ['a']", "os.'packages+' = ['b']"], &["a", "b"]),
            (&["os.'packages+' = ['a']", "os.packages = ['b']"], &["b"]),
            (&["os.packages = ['a']", "os.x = 1"], &["a"]),
        ] {
            assert_eq!(words(&merged(files, "none"), &["os", "packages"]), expected, "{files:?}");
        }
    }

    #[test]
    fn an_architecture_appends_to_what_all_files_say() {
        for (files, expected) in [
            (
                &["os.packages = ['a']\narch.arm64.os.'packages+' = ['x']", "os.packages = ['b']"][..],
                &["b", "x"][..],
            ),
            (
                &[
                    "arch.arm64.os.'packages+' = ['x']",
                    "os.packages = ['b']\narch.arm64.os.'packages+' = ['y']",
                ],
                &["b", "x", "y"],
            ),
            (
                &["arch.arm64.os.'packages+' = ['x']", "os.packages = ['b']\narch.arm64.os.packages = ['y']"],
                &["y"],
            ),
            (
                &["arch.arm64.os.packages = ['x']", "os.packages = ['b']\narch.arm64.os.'packages+' = ['y']"],
                &["x", "y"],
            ),
        ] {
            assert_eq!(words(&merged(files, "arm64"), &["os", "packages"]), expected, "{files:?}");
        }
    }
}
