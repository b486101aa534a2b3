//! Relations between packages, and the order of versions.
#![no_main]

use forge::debian::{relation, version};
use forge::model::Arch;
use std::cmp::Ordering;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(clauses) = relation::parse(text, Arch::Amd64) {
        for relation in clauses.iter().flat_map(relation::Clause::alternatives) {
            let _ = relation.admits("1:2.0~rc1-1+b1");
        }
    }
    let _ = text.parse::<relation::Clause>();
    if let Some((a, b)) = text.split_once('\n') {
        assert_eq!(version::compare(a, b), version::compare(b, a).reverse());
        assert_eq!(version::compare(a, a), Ordering::Equal);
        let _ = (version::is_valid(a), version::is_valid(b));
    }
});
