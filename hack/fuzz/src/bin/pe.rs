//! A unified kernel image, and a stub that sections are put behind.
#![no_main]

use forge::boot::{pe::Pe, uki::Uki};
use forge_fuzz::file;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(uki) = Uki::open(bytes.to_vec().into()) {
        let _ = (uki.root_hashes(), uki.argument("roothash"), uki.sections());
    }
    if let Ok(pe) = Pe::open(bytes.to_vec().into()) {
        let _ = pe.append(&[(".x", vec![b"content".to_vec().into()])], &file(&[]));
    }
});
