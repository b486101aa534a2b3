//! Machines that start by way of Debian's shim: what must be locked for it, and what cannot go that way.

use super::compose::{Composer, PlanError, package};
use super::{Enrol, Package};
use crate::boot::shim;
use crate::model::Arch;
use crate::profile::{ArchProfile, Artifact, Profile};

/// The set of the packages with shim and the loader that its vendor signed.
pub(super) const SHIM_SET: &str = "shim";

/// Whether the profile's machines start that way.
pub(super) fn is_wanted(profile: &Profile) -> bool {
    profile.sign.as_ref().and_then(|sign| sign.secure_boot.as_ref()).is_some_and(|keys| keys.shim)
}

/// Refuses installers. The profile's check does so too, but artifacts can be named on the command line.
///
/// # Errors
/// [`PlanError::ShimInstalls`].
pub(super) fn check(profile: &Profile, wanted: &ArchProfile) -> Result<(), PlanError> {
    let installs = wanted.artifacts.iter().any(|a| matches!(a, Artifact::Iso | Artifact::Netboot));
    if installs && is_wanted(profile) { Err(PlanError::ShimInstalls) } else { Ok(()) }
}

impl Composer<'_> {
    /// The locked packages of shim; none where the firmware has the site's own keys.
    ///
    /// # Errors
    /// [`PlanError::NotLocked`].
    pub(super) fn shim(&self, arch: Arch) -> Result<Vec<Package>, PlanError> {
        if !is_wanted(self.profile) {
            return Ok(vec![]);
        }
        let find = |name: String| {
            let locked = self.lock.packages_of(SHIM_SET, arch).find(|p| p.name == name);
            let locked =
                locked.ok_or_else(|| PlanError::NotLocked(format!("package {name} of shim for {arch}")))?;
            Ok(package(locked, &[name]))
        };
        shim::packages(arch).into_iter().map(find).collect()
    }
}

/// The files of a release that a machine's owner needs.
pub(super) fn files(enrol: Enrol) -> &'static [&'static str] {
    match enrol {
        Enrol::Shim => &[super::MOK],
        Enrol::Off | Enrol::Manual | Enrol::IfSafe => &["PK.auth", "KEK.auth", "db.auth", "db.cer"],
    }
}
