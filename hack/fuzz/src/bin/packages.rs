//! An archive's list of packages, and the resolver over it.
#![no_main]

use forge::debian::packages::{Index, Listing, Pin};
use forge::debian::solve::{Request, solve};
use forge::model::Arch;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let listing = Listing { origin: 0, suites: vec!["trixie".into()], pin: Pin::Automatic };
    let mut index = Index::new(Arch::Amd64);
    if index.add(listing, text.into()).is_err() {
        return;
    }
    for id in index.iter() {
        let _ = (index.package(id), index.relations(id), index.provided_by(id));
    }
    if let (Some(first), true) = (index.iter().next(), index.len() < 200) {
        let mut request = Request::default();
        if let Ok(demand) = index.name(first).parse() {
            request.packages.push(demand);
            let _ = solve(&index, &request);
        }
    }
});
