//! A bundle's files as a carrier has them, and a bootstrap that a root signed without looking.
#![no_main]

use forge::enroll::bootstrap::{Bootstrap, PAYLOAD_TYPE, Trust};
use forge::enroll::bundle::{BOOTSTRAP, Bundle, TICKET};
use forge::enroll::evidence::Facts;
use forge::sign::{PrivateKey, Signer as _, dsse};
use std::collections::BTreeMap;
use std::sync::LazyLock;
use zeroize::Zeroizing;

static KEY: LazyLock<PrivateKey> =
    LazyLock::new(|| PrivateKey::generate().expect("the system has randomness"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let trust = Trust::any(vec![KEY.public_key().clone()]);
    // The bootstrap, then a NUL, then the ticket.
    let at = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let (bootstrap, ticket) = (&bytes[..at], bytes.get(at + 1..).unwrap_or_default());
    let files = |bootstrap: &[u8]| {
        let file = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
        BTreeMap::from([(BOOTSTRAP.to_string(), file(bootstrap)), (TICKET.to_string(), file(ticket))])
    };
    assert!(Bundle::open(&files(bootstrap), &trust).is_err(), "nobody has signed this");
    let Ok(envelope) = dsse::seal(&*KEY, PAYLOAD_TYPE, bootstrap) else { return };
    let Ok(signed) = serde_json::to_vec(&envelope) else { return };
    let _ = Bundle::open(&files(&signed), &trust);
    if let Ok(opened) = Bootstrap::open(&signed, &trust) {
        let opened = opened.into_inner();
        assert!(!opened.endpoints_in_order().is_empty());
        let _ = (opened.check_serial(1), opened.check_image("store", None), opened.row_of(&Facts::default()));
        // What is read can be signed and read again.
        let again = opened.sign(&[&*KEY]).expect("a document that was read can be written");
        let again = serde_json::to_vec(&again).expect("an envelope is JSON");
        assert_eq!(Bootstrap::open(&again, &trust).expect("it holds").get(), &opened);
    }
});
