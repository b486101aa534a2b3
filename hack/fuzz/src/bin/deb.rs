//! A binary package: members, control information, contents.
#![no_main]

use forge::debian::{database, deb::Deb};
use forge_fuzz::with_tar_checksums;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let bytes = with_tar_checksums(bytes);
    let Ok((deb, control)) = Deb::open(&bytes[..]) else { return };
    let _ = (database::status(&control), database::conffiles(&control), database::info_name(&control));
    let mut triggers = database::Triggers::default();
    triggers.declare(&control);
    let _ = (triggers.files(), triggers.activated(&control, &[]));
    if let Ok(mut data) = deb.data() {
        while let Ok(Some(_)) = data.next_entry() {}
    }
});
