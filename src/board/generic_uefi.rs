//! Any machine with UEFI firmware of its own: it starts `EFI/BOOT/BOOT*.EFI` of the ESP, and needs nothing else there.

use super::Board;
use crate::tree::Tree;

pub const BOARD: Board = Board {
    name: "generic-uefi",
    firmware: None,
    packages: &[],
    components: &[],
    kept: &[],
    modules: &[],
    esp: |_, _| Ok(Tree::new()),
};
