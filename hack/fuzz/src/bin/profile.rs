//! A site profile, and the report on what is wrong with it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| forge::profile::fuzz(bytes));
