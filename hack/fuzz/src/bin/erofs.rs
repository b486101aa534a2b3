//! An EROFS image: superblock, inodes, attributes, directories.
#![no_main]

use forge::disk::erofs::Image;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    if let Some(block) = bytes.get_mut(1024..4096) {
        block[4..8].fill(0);
        let checksum = !crc32c::crc32c(block);
        block[4..8].copy_from_slice(&checksum.to_le_bytes());
    }
    let length = bytes.len() as u64;
    let Ok(image) = Image::open(bytes.into()) else { return };
    if let Ok(entries) = image.walk() {
        for entry in entries.values() {
            assert!(entry.len() <= length);
            let mut reader = entry.reader();
            std::io::copy(&mut reader, &mut std::io::sink()).expect("what was walked is inside the image");
        }
    }
});
