//! A body as it travels, and an answer that the fleet signed without looking.
#![no_main]

use forge::enroll::claim::{Answer, Claim, Events, GrantRequest, Refusal, Standing};
use forge::enroll::envelope::{Context, Direction, Nonce, Sealed, seal};
use forge::sign::{PrivateKey, Signer as _};
use std::sync::LazyLock;

static KEY: LazyLock<PrivateKey> =
    LazyLock::new(|| PrivateKey::generate().expect("the system has randomness"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let nonce = Nonce::from_random([1; 16]);
    let context = Context { direction: Direction::Answer, method: "GET", path: "/v1/hello", nonce: &nonce };
    let keys = [KEY.public_key().clone()];
    if let Ok(sealed) = Sealed::parse(bytes) {
        let _ = (sealed.nonce(), sealed.open(&context));
        assert!(sealed.open_by(&context, &keys).is_err(), "nobody has signed this");
    }
    let body = seal(&[&*KEY], &context, bytes).expect("a key in memory signs");
    if let Ok(sealed) = Sealed::parse(&body) {
        let payload = sealed.open_by(&context, &keys).expect("it was signed");
        assert_eq!(payload.get(), bytes);
        let _ = serde_json::from_slice::<Answer<Standing>>(bytes);
        let _ = serde_json::from_slice::<Answer<Refusal>>(bytes);
        let _ = serde_json::from_slice::<Answer<serde_json::Value>>(bytes);
        let _ = serde_json::from_slice::<Claim>(bytes).map(|claim| claim.facts.cleaned().fingerprint());
        let _ = (serde_json::from_slice::<Events>(bytes), serde_json::from_slice::<GrantRequest>(bytes));
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(nonce) = Nonce::parse(text)
    {
        assert_eq!(nonce.as_str(), text);
    }
});
