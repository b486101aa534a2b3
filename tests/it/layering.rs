//! Who may know whom: the table of the house against the code's own imports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A room and the rooms that it may import. Rooms import themselves; `error` and `model` are open to all.
const TABLE: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("model", &[]),
    ("host", &[]),
    ("template", &[]),
    ("tree", &[]),
    ("secret", &[]),
    ("oci", &["host", "tree"]),
    ("sign", &["host"]),
    // It ships on devices: no image format, no planning, no effect.
    ("enroll", &["sign"]),
    ("tpm", &[]),
    // Likewise, with the box below it; of disks it knows only how to read a stick.
    ("device", &["disk", "enroll", "host", "sign", "tpm"]),
    ("fleet", &["enroll", "host", "sign", "tpm"]),
    ("profile", &["host", "secret", "template", "tree"]),
    ("source", &["host", "oci"]),
    ("debian", &["host", "source", "template", "tree"]),
    ("board", &["boot", "template", "tree"]),
    ("boot", &["template", "tree"]),
    ("disk", &["boot", "tree"]),
    ("layer", &["boot", "oci", "template", "tree"]),
    ("seal", &["host", "oci", "sign", "tree"]),
    ("lock", &["debian", "host", "layer", "oci", "profile", "source", "tree"]),
    ("plan", &["board", "boot", "debian", "disk", "layer", "lock", "oci", "profile", "source", "tree"]),
    (
        "build",
        &[
            "board", "boot", "debian", "disk", "host", "layer", "lock", "oci", "plan", "sign", "source",
            "template", "tree",
        ],
    ),
    ("seed", &["enroll"]),
    ("carrier", &["disk", "enroll", "fleet", "host", "seed", "tree"]),
    ("contents", &["debian", "disk", "tree"]),
    ("attest", &["contents", "lock", "sign"]),
    (
        "release",
        &[
            "attest", "boot", "build", "contents", "disk", "host", "inspect", "lock", "oci", "plan", "seal",
            "sign", "template", "tree",
        ],
    ),
    ("publish", &["host", "oci", "release", "source"]),
    (
        "inspect",
        &[
            "boot", "contents", "disk", "host", "lock", "oci", "release", "seal", "secret", "sign",
            "template", "tree",
        ],
    ),
    // What a disk says of the machine that it starts on.
    ("run", &["boot", "disk", "enroll", "host", "tree"]),
    ("flash", &["disk", "enroll", "host", "run", "sign", "tree"]),
    ("trial", &["carrier", "device", "disk", "enroll", "fleet", "host", "run", "sign", "tree"]),
    ("toolbox", &["build", "debian", "host", "lock", "run", "source", "tree"]),
    (
        "cli",
        &[
            "boot", "build", "carrier", "contents", "debian", "disk", "enroll", "flash", "fleet", "host",
            "inspect", "layer", "lock", "oci", "plan", "profile", "publish", "release", "run", "seal",
            "secret", "seed", "sign", "source", "template", "toolbox", "tree", "trial",
        ],
    ),
    ("lib", &[]),
    ("main", &["cli", "debian", "host", "lock"]),
    ("bin", &["device"]),
];

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The rooms named after `crate::` or `forge::`, also inside `{…}` groups; comments and tests at the file's foot excluded.
fn imports(source: &str) -> BTreeSet<String> {
    let code: String = source
        .split("#[cfg(test)]")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|l| !l.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut rooms = BTreeSet::new();
    for prefix in ["crate::", "forge::"] {
        for (at, _) in code.match_indices(prefix) {
            let rest = &code[at + prefix.len()..];
            if let Some(group) = rest.strip_prefix('{') {
                let mut depth = 0;
                let mut word = String::new();
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' => word.clear(),
                        c if depth == 0 && (c.is_ascii_lowercase() || c == '_') => word.push(c),
                        _ => {}
                    }
                    if c == ':' && depth == 0 && !word.is_empty() {
                        rooms.insert(std::mem::take(&mut word));
                    }
                }
            } else {
                rooms.insert(rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect());
            }
        }
    }
    rooms
}

#[test]
fn rooms_know_only_whom_they_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let table: BTreeMap<&str, &[&str]> = TABLE.iter().copied().collect();
    let mut files = vec![];
    rust_files(&root, &mut files);
    let mut faults = vec![];
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let room = relative
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs")
            .to_string();
        let Some(allowed) = table.get(room.as_str()) else {
            faults.push(format!("{} is in no room of the table", relative.display()));
            continue;
        };
        for import in imports(&std::fs::read_to_string(&file).unwrap()) {
            let known = table.contains_key(import.as_str());
            if known
                && import != room
                && !["error", "model"].contains(&import.as_str())
                && !allowed.contains(&import.as_str())
            {
                faults.push(format!("{} imports {import}", relative.display()));
            }
        }
    }
    assert!(faults.is_empty(), "imports against the table:\n{}", faults.join("\n"));
}

#[test]
fn a_planted_import_would_be_seen() {
    let seen = imports(
        "use crate::{model::Digest, host::{fs, tool}, tree::Tree};\nlet x = crate::cli::run();\n// crate::never\n#[cfg(test)]\nuse crate::oci::x;",
    );
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["cli", "host", "model", "tree"]);
}
