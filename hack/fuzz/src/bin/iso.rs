//! A medium that may be an installer's.
#![no_main]

use forge::disk::iso::read;
use forge_fuzz::file;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // The descriptor lies in sector 16; what is before it is the boot code's.
    let mut medium = vec![0; 16 * 2048];
    medium.extend(bytes);
    medium.resize(medium.len().max(24 * 2048), 0);
    let medium = file(&medium);
    let _ = (read::is_medium(&medium), read::find(&medium, "disk.raw.zst"));
});
