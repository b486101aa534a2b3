//! Disk images: partitions, file systems, and how they lie on a disk.

pub mod erofs;
