//! Bundles, statements, payloads, keys: what a verifier reads before it believes anything, and after.
#![no_main]

use forge::model::Digest;
use forge::sign::{PrivateKey, PublicKey, Signature, Signer as _, bundle::Bundle, dsse, simple_signing};
use std::sync::LazyLock;

static KEY: LazyLock<PrivateKey> =
    LazyLock::new(|| PrivateKey::generate().expect("the system has randomness"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (key, nothing) = (KEY.public_key(), Digest::of([]));
    if let Ok(bundle) = Bundle::parse(bytes) {
        assert!(bundle.open(nothing, key).is_err(), "nobody has signed this");
        let _ = bundle.to_bytes();
    }
    // A signer that has lost its mind signs anything.
    if let Ok(envelope) = dsse::seal(&*KEY, dsse::IN_TOTO, bytes) {
        let _ = dsse::open_statement(&envelope, nothing, key);
    }
    if let Ok(signature) = KEY.sign(bytes) {
        let _ = simple_signing::open(bytes, &signature, nothing, key);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = (PublicKey::from_pem(text), Signature::from_base64(text));
        if let Ok(signature) = KEY.sign(bytes) {
            let _ = forge::seal::verify::sums(text, &signature.to_base64(), key);
        }
    }
});
