//! OpenPGP certificates, binary or armored.
#![no_main]

use forge::debian::openpgp::Keyring;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(keyring) = Keyring::parse(bytes) {
        assert!(!keyring.primaries().is_empty());
    }
});
