//! What starts a device: initrd, dm-verity, unified kernel image.
