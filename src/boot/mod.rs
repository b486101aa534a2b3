//! What starts a device: initrd, dm-verity, unified kernel image.

pub mod pe;
pub mod uki;
pub mod verity;
