//! A FAT volume of 4 MiB, whose end is zeros as far as the input does not reach.
#![no_main]

use forge::disk::fat;
use forge_fuzz::FAT_LENGTH;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut volume = bytes.to_vec();
    volume.resize(FAT_LENGTH as usize, 0);
    let _ = fat::read(&volume.into());
});
