//! What forge is built from: licences, and crates that stand in the tree twice.

use std::collections::{BTreeMap, BTreeSet};

/// Licences that forge's own allows to be linked in.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates of which two versions are in the tree, and why.
const TWICE: &[&str] = &[
    "base64",       // hyper-util is a version ahead of oci-client and docker_credential
    "getrandom",    // the older one only for targets that forge is not built for
    "syn",          // macros of oci-spec's builders; nothing of it is in the programs
    "synstructure", // macros of x509-parser's decoder; likewise
    "untrusted",    // forge's TLS is on aws-lc-rs, the device's on ring; 500 lines either way
];

fn metadata() -> serde_json::Value {
    let out = std::process::Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
            "--manifest-path",
        ])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Packages that are built into the programs, by id: development dependencies are not.
fn shipped(metadata: &serde_json::Value) -> BTreeSet<String> {
    let nodes: BTreeMap<&str, &serde_json::Value> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| (n["id"].as_str().unwrap(), n))
        .collect();
    let mut seen = BTreeSet::new();
    let mut todo = vec![metadata["resolve"]["root"].as_str().unwrap()];
    while let Some(id) = todo.pop() {
        if !seen.insert(id.to_string()) {
            continue;
        }
        for dep in nodes[id]["deps"].as_array().unwrap() {
            if dep["dep_kinds"].as_array().unwrap().iter().any(|k| k["kind"].is_null()) {
                todo.push(dep["pkg"].as_str().unwrap());
            }
        }
    }
    seen
}

#[test]
fn licences_allow_linking() {
    let metadata = metadata();
    let shipped = shipped(&metadata);
    let mut faults = vec![];
    for package in metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| shipped.contains(p["id"].as_str().unwrap()))
    {
        let licence = package["license"].as_str().unwrap_or_default().replace('/', " OR ");
        // `A OR (B AND C)`: one alternative of which every part is allowed. Parentheses in use are of that shape only.
        let allowed = licence.split(" OR ").any(|alternative| {
            alternative.split(" AND ").all(|part| LICENCES.contains(&part.trim_matches(['(', ')', ' '])))
        });
        if !allowed {
            faults.push(format!("{}: {licence}", package["name"]));
        }
    }
    assert!(faults.is_empty(), "licences not in the list:\n{}", faults.join("\n"));
}

#[test]
fn no_crate_is_built_twice_unexplained() {
    let metadata = metadata();
    let shipped = shipped(&metadata);
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| shipped.contains(p["id"].as_str().unwrap()))
    {
        versions
            .entry(package["name"].as_str().unwrap())
            .or_default()
            .insert(package["version"].as_str().unwrap());
    }
    let twice: Vec<_> = versions.iter().filter(|(name, v)| v.len() > 1 && !TWICE.contains(name)).collect();
    assert!(twice.is_empty(), "{twice:?}");
}
