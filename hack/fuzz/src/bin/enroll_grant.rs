//! A grant's envelope, a grant that the fleet signed without looking, and material that it sealed.
#![no_main]

use forge::enroll::DeviceId;
use forge::enroll::envelope::Nonce;
use forge::enroll::grant::{Grant, Item, Material, OpeningKey, PAYLOAD_TYPE, is_grantable};
use forge::sign::{PrivateKey, Signer as _, dsse};
use std::sync::LazyLock;

static KEY: LazyLock<PrivateKey> =
    LazyLock::new(|| PrivateKey::generate().expect("the system has randomness"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let keys = [KEY.public_key().clone()];
    if let Ok(envelope) = serde_json::from_slice(bytes) {
        assert!(Grant::open(&envelope, &keys, 1).is_err(), "nobody has signed this");
    }
    if let Ok(envelope) = dsse::seal(&*KEY, PAYLOAD_TYPE, bytes)
        && let Ok(grant) = Grant::open(&envelope, &keys, 1)
    {
        let opening = OpeningKey::from_seed(&[3; 32]);
        let (device, nonce) = (DeviceId::of(KEY.public_key()), Nonce::from_random([2; 16]));
        assert!(grant.unseal(&device, &nonce, 0, &opening).is_err(), "the seal is not for this key");
        let _ = grant.unseal(&grant.device, &grant.nonce, grant.generation, &opening);
    }
    if let Ok(material) = serde_json::from_slice::<Material>(bytes) {
        for item in &material.items {
            let Item::Files { files } = item else { continue };
            for file in files.iter().filter(|file| is_grantable(&file.path)) {
                assert!(file.path.starts_with('/') && !file.path.split('/').any(|part| part == ".."));
            }
        }
    }
});
