//! The two ends of a disk of 2 MiB with what is between them zeros.
#![no_main]

use forge::disk::DiskImage;
use forge::disk::gpt::{HEAD, TAIL};
use forge_fuzz::{DISK_LENGTH, with_gpt_checksums};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (head, tail) = bytes.split_at(bytes.len().min(HEAD as usize));
    let tail = &tail[..tail.len().min(TAIL as usize)];
    let mut disk = head.to_vec();
    disk.resize((DISK_LENGTH - TAIL) as usize, 0);
    disk.extend_from_slice(tail);
    disk.resize(DISK_LENGTH as usize, 0);
    with_gpt_checksums(&mut disk);
    if let Ok(disk) = DiskImage::open(disk.into()) {
        for partition in &disk.table().partitions {
            disk.partition(partition).expect("a partition that was checked lies on its disk");
        }
        let _ = forge::disk::verify(&disk, &Default::default());
    }
});
