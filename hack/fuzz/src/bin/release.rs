//! What an archive says of itself, and what a machine says of its archives; dpkg's own tables.
#![no_main]

use forge::debian::{release::Release, rules::Rules, sources};
use forge::model::{Arch, Epoch};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(release) = Release::parse(text) {
        let _ = release.check("trixie", Epoch(1_700_000_000));
        let _ = release.lists("main", Arch::Amd64);
    }
    let _ = (sources::parse_list(text), sources::parse_sources(text));
    let _ = (Rules::parse(text, "", "", ""), Rules::parse("", text, text, text));
});
