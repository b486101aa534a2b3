//! Profile → the sets of packages that its trees are made of. Each part of a profile says what it needs; nothing here is
//! resolved.

use super::board::{self, BOARD_SET};
use super::compose::{PlanError, not_built};
use super::distribution;
use super::shim::{self, SHIM_SET};
use crate::boot;
use crate::layer::agent::kubeedge;
use crate::layer::kubernetes::{cluster, podman};
use crate::layer::site;
use crate::layer::workload::vm;
use crate::lock::{PackageSet, SetVariant};
use crate::model::Arch;
use crate::profile::{AgentKind, ArchProfile, Base, Distribution, EncryptState, EnrollMode, Origin, Profile};

/// The set of the operating system's packages.
pub(super) const OS_SET: &str = "os";

/// The set of the one package that a pod's first process is from.
pub(super) const PAUSE_SET: &str = "pause";

pub(super) fn container_set(name: &str) -> String {
    format!("container/{name}")
}

/// The sets of one architecture.
///
/// # Errors
/// [`PlanError::NotBuilt`] for a base that is no archive, or a board that forge does not know.
pub(super) fn sets(
    profile: &Profile,
    arch: Arch,
    wanted: &ArchProfile,
) -> Result<Vec<PackageSet>, PlanError> {
    let base = match &wanted.os.base {
        base @ (Base::Debian(_) | Base::Ubuntu(_)) => base.to_string(),
        other => return Err(not_built("os.base", other, arch)),
    };
    let set = |name: &str, mut request: Vec<String>| {
        request.sort();
        request.dedup();
        let variant = match name {
            OS_SET => SetVariant::Minbase,
            PAUSE_SET | BOARD_SET | SHIM_SET => SetVariant::Custom,
            _ => SetVariant::Apt,
        };
        PackageSet { name: name.into(), arch, base: base.clone(), variant, request, components: vec![] }
    };
    let mut sets = vec![];
    if has_pods_of_its_own(wanted) {
        sets.push(set(PAUSE_SET, vec![podman::PAUSE_PACKAGE.0.into()]));
    }
    let board = board::of(wanted, arch)?;
    let firmware = board::packages(board, wanted);
    if !firmware.is_empty() {
        let components = match wanted.board_firmware {
            Origin::Release => owned(board.components),
            _ => vec![],
        };
        sets.push(PackageSet { components, ..set(BOARD_SET, firmware) });
    }
    if shim::is_wanted(profile) {
        sets.push(set(SHIM_SET, boot::shim::packages(arch).into()));
    }
    sets.push(set(OS_SET, of_system(profile, arch, wanted)));
    for container in &wanted.container {
        let packages = container.packages.iter().map(|p| p.as_str().into()).collect();
        sets.push(set(&container_set(container.name.as_str()), packages));
    }
    Ok(sets)
}

/// Whether pods' first process is a program of forge's, out of a package, and not of an image that upstream carries.
fn has_pods_of_its_own(wanted: &ArchProfile) -> bool {
    wanted.kubernetes.distribution == Distribution::Podman || wanted.agent.kind == AgentKind::Kubeedge
}

/// What is asked for in the operating system: the profile's own packages, and those of each part that it names.
fn of_system(profile: &Profile, arch: Arch, wanted: &ArchProfile) -> Vec<String> {
    let mut asked: Vec<String> = wanted.os.packages.iter().map(|p| p.as_str().into()).collect();
    let boot = owned(&boot::implied_packages(&asked));
    asked.extend(boot);
    match wanted.kernel {
        Origin::Release => asked.push(boot::kernel_package(arch).into()),
        // What a kernel's package needs, whoever made it.
        _ => asked.push("linux-base".into()),
    }
    if wanted.os.encrypt_state == EncryptState::Tpm2 {
        asked.extend(owned(boot::sealed::PACKAGES));
    }
    if profile.enroll.mode != EnrollMode::None {
        asked.extend(owned(site::enrolling_packages()));
    }
    asked.extend(owned(match wanted.kubernetes.distribution {
        Distribution::None => &[],
        Distribution::Podman => podman::implied_packages(),
        Distribution::K3s | Distribution::Rke2 => cluster::PACKAGES,
    }));
    asked.extend(owned(match wanted.agent.kind {
        AgentKind::None | AgentKind::Files | AgentKind::Palette => &[],
        AgentKind::Kubeedge => kubeedge::PACKAGES,
    }));
    let has_guests = wanted.workload.iter().any(|workload| workload.vm.is_some());
    if has_guests && distribution::product(wanted).is_none() {
        asked.extend(owned(vm::implied_packages(arch)));
    }
    asked
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}
