//! The signature of a boot image, from a disk that may be anybody's.
#![no_main]

use forge::boot::authenticode;
use forge::sign::rsa;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(found)) = authenticode::open(&bytes.to_vec().into()) {
        let _ = (
            rsa::subject(&found.certificate),
            rsa::verify(&found.certificate, &found.message, &found.signature),
        );
    }
});
