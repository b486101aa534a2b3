//! A file to be searched for secrets: archives in archives, initrds, disks and file systems.
#![no_main]

use forge::contents::Detail;
use forge::host::cancel::Cancel;
use forge::inspect::{Env, secrets};
use forge_fuzz::with_tar_checksums;
use std::collections::BTreeSet;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("the machine has room for a temporary file");
    let path = dir.path().join("file");
    std::fs::write(&path, with_tar_checksums(bytes)).expect("the machine has room for a temporary file");
    let env =
        Env { work: dir.path(), cancel: &Cancel::default(), detail: Detail::Summary, skip: &BTreeSet::new() };
    let found = secrets::search(&path, "file", &env).expect("what cannot be read is listed");
    for finding in found.findings {
        assert!(finding.place.starts_with("file"));
    }
});
