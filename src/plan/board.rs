//! A profile's board: what must be locked for it, and the step that makes its files on the ESP; and packages that the
//! profile gives in the place of the archive's.

use super::compose::{Composer, PlanError, not_built, package};
use super::{Firmware, Recipe, StepId};
use crate::board::{self, Board};
use crate::model::{Arch, Digest};
use crate::profile::{self, ArchProfile, Origin};

/// The set of the packages that are unpacked onto the boot partition.
pub(super) const BOARD_SET: &str = "board";

/// The board that a profile names.
///
/// # Errors
/// [`PlanError::NotBuilt`].
pub(super) fn of(wanted: &ArchProfile, arch: Arch) -> Result<&'static Board, PlanError> {
    let name = wanted.board.as_str();
    board::named(name).ok_or_else(|| not_built("image.board", name, arch))
}

/// The packages of the archive that `board` takes: not the one that the profile gives itself.
pub(super) fn packages(board: &Board, wanted: &ArchProfile) -> Vec<String> {
    let own = board.firmware.filter(|_| wanted.board_firmware == Origin::Release);
    own.iter().chain(board.packages).map(|name| name.to_string()).collect()
}

impl Composer<'_> {
    pub(super) fn firmware(
        &mut self,
        arch: Arch,
        wanted: &ArchProfile,
        os: &StepId,
    ) -> Result<Option<StepId>, PlanError> {
        let board = of(wanted, arch)?;
        if !board.has_files() {
            return Ok(None);
        }
        let mut found = vec![];
        for name in packages(board, wanted) {
            let locked = self.lock.packages_of(BOARD_SET, arch).find(|p| p.name == name);
            let locked = locked.ok_or_else(|| {
                PlanError::NotLocked(format!("package {name} of board {} for {arch}", board.name))
            })?;
            found.push(package(locked, std::slice::from_ref(&name)));
        }
        let source = self.deb("image.board-firmware", &wanted.board_firmware)?;
        let firmware = Firmware { board: board.name.into(), os: os.clone(), packages: found, source };
        Ok(Some(self.step(arch, "firmware", Recipe::Firmware(firmware))))
    }

    /// The .deb that the profile's `key` gives in the place of the archive's package.
    pub(super) fn deb(&self, key: &str, origin: &profile::Origin) -> Result<Option<Digest>, PlanError> {
        match origin {
            Origin::Release => Ok(None),
            Origin::File(path) => self.locked(path).map(Some),
            Origin::Url(_) | Origin::Oci(_) => {
                let source = origin.to_string();
                let remote = self.lock.remote(&source).ok_or(PlanError::NotLocked(source))?;
                match &remote.files[..] {
                    [file] if !file.unpack => Ok(Some(file.digest)),
                    files => Err(PlanError::Unfit(format!(
                        "`{key}`: {origin} has {} files, not one that is a package",
                        files.len()
                    ))),
                }
            }
        }
    }
}
