//! Many trees → one: `extends`, `--set`, and the tables of an architecture.
//!
//! Tables merge key by key, anything else replaces what was there. A key that ends in `+` appends to the list of that
//! name: `"packages+" = ["curl"]`, `[[os."file+"]]`. What is not a list cannot be appended to.

use super::diagnostic::Fault;
use super::fragment::{Entry, Node, Table, Value};

/// Lays `over` onto `base`.
pub fn merge(base: &mut Node, over: Node, faults: &mut Vec<Fault>) {
    let Value::Table(entries) = over.value else {
        *base = over;
        return;
    };
    if base.table().is_none() {
        *base = Node::empty(over.place);
    }
    let Value::Table(table) = &mut base.value else { return };
    for (key, entry) in entries {
        match key.strip_suffix('+') {
            Some(list) => append(table, list, entry, faults),
            None => overlay(table, key, entry, faults),
        }
    }
    // Missing keys are told where the last file could add them.
    base.place = over.place;
}

fn overlay(table: &mut Table, key: String, entry: Entry, faults: &mut Vec<Fault>) {
    match table.get_mut(&key) {
        Some(there) if entry.node.table().is_some() => {
            there.key = entry.key;
            merge(&mut there.node, entry.node, faults);
        }
        _ => {
            let mut entry = entry;
            if entry.node.table().is_some() {
                let mut node = Node::empty(entry.node.place);
                merge(&mut node, entry.node, faults); // keys ending in `+` append to nothing
                entry.node = node;
            }
            table.insert(key, entry);
        }
    }
}

fn append(table: &mut Table, list: &str, entry: Entry, faults: &mut Vec<Fault>) {
    let Value::List(mut items) = entry.node.value else {
        let message = format!("`{list}+` appends to a list, but holds {}", entry.node.kind());
        let help = format!("write \"{list}+\" = [ … ]");
        faults.push(Fault::new(entry.node.place, message, help).label("expected a list"));
        return;
    };
    match table.get_mut(list) {
        None => {
            let node = Node { place: entry.node.place, value: Value::List(items) };
            table.insert(list.into(), Entry { key: entry.key, node });
        }
        Some(Entry { node: Node { value: Value::List(there), .. }, .. }) => there.append(&mut items),
        Some(there) => {
            let message = format!("`{list}` is {}, nothing can be appended to it", there.node.kind());
            let help = format!("write `{list}` without `+` to replace it");
            faults.push(Fault::new(entry.key, message, help).related(there.node.place, "this is no list"));
        }
    }
}
