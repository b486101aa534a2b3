//! A tar as a stream, and by index as layers are read.
#![no_main]

use forge::tree::tar::{Reader, Stream, index};
use forge_fuzz::{file, with_tar_checksums};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let bytes = with_tar_checksums(bytes);
    let mut reader = Reader::new(Stream(&bytes[..]));
    while let Ok(Some(entry)) = reader.next_entry() {
        assert!(!entry.path.as_str().starts_with('/') && !entry.path.components().any(|c| c == ".."));
    }
    let _ = index(file(&bytes));
});
