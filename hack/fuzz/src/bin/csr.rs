//! A box's request for a certificate, as the fleet takes it.
#![no_main]

use forge::enroll::csr;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = csr::verify(bytes, "till-1");
});
