//! Families of hardware: what a board's own firmware reads from the boot partition, beside what UEFI does.
//!
//! A board is data and one function: which packages of the archive bring its firmware, and how their files and the device
//! trees of the operating system's kernel become files of the ESP. Nothing of it is installed, and no slot holds it: it is
//! what starts the boot loader, and stays where it is when a version changes.
//!
//! | board | from power on to systemd-boot | on the ESP beside it |
//! |---|---|---|
//! | `generic-uefi` | the machine's own UEFI firmware | nothing |
//! | `jetson-orin` | NVIDIA's UEFI firmware in the module's flash | nothing; the kernel is the profile's |
//! | `raspberry-pi` | EEPROM → (Pi 4: `start4.elf`) → U-Boot, whose EFI loader starts it | firmware, device trees, `config.txt`, U-Boot |
//!
//! Another board is another file here and an entry in the list. What a profile may ask of one is `profile`'s to check. Knows
//! no profile, no disk and no cache.

mod generic_uefi;
mod jetson_orin;
mod raspberry_pi;

use crate::tree::Tree;

/// A family of hardware.
pub struct Board {
    /// As a profile names it.
    pub name: &'static str,
    /// The package with the vendor's own firmware, in the place of which a profile may give another version of it.
    pub firmware: Option<&'static str>,
    /// Further packages, free of that.
    pub packages: &'static [&'static str],
    /// Components of the archive that [`Board::firmware`] is in, beside `main`.
    pub components: &'static [&'static str],
    /// What of the packages is kept: paths below these directories.
    pub kept: &'static [&'static str],
    /// Kernel modules that its disks need beside those of any machine; a kernel that has one built in or not at all is
    /// right as well.
    pub modules: &'static [&'static str],
    /// The files of the ESP: from what was kept of the packages, and from the operating system's tree.
    ///
    /// # Errors
    /// When a file is not where the package, or the kernel's, has it.
    pub esp: fn(&Tree, &Tree) -> anyhow::Result<Tree>,
}

/// Every board.
const ALL: [&Board; 3] = [&generic_uefi::BOARD, &jetson_orin::BOARD, &raspberry_pi::BOARD];

/// The board that a profile calls `name`.
pub fn named(name: &str) -> Option<&'static Board> {
    ALL.into_iter().find(|board| board.name == name)
}

impl Board {
    /// Whether anything of its own goes onto the ESP.
    pub fn has_files(&self) -> bool {
        self.firmware.is_some() || !self.packages.is_empty()
    }
}
