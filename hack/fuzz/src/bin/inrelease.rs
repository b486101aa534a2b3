//! A clear-signed file under the keys that forge carries.
#![no_main]

use forge::debian::{archive, openpgp::Keyring, sources::Distribution};
use std::sync::LazyLock;

static KEYRING: LazyLock<Keyring> =
    LazyLock::new(|| archive::keyring(Distribution::Debian).expect("the embedded keyring is one"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = archive::verify(bytes, &KEYRING, "trixie", None);
});
