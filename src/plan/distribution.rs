//! A profile's `[kubernetes]` with an API server → what is asked of its upstream release, and the layer's specification.

use super::compose::PlanError;
use super::recipe::Cluster;
use crate::layer::kubernetes::cluster;
use crate::lock::Lock;
use crate::model::Arch;
use crate::profile::{ArchProfile, Distribution, EnrollMode, Opaque, Profile, Role};
use crate::source::release::{Product, Wanted};
use std::collections::BTreeMap;

/// What is released of the profile's distribution, where it comes from a release.
pub fn product(wanted: &ArchProfile) -> Option<Product> {
    match wanted.kubernetes.distribution {
        Distribution::K3s => Some(Product::K3s),
        Distribution::Rke2 => Some(Product::Rke2),
        Distribution::None | Distribution::Podman => None,
    }
}

/// What is asked of the distribution's release.
pub fn release(arch: Arch, wanted: &ArchProfile) -> Option<Wanted> {
    let product = product(wanted)?;
    let version = wanted.kubernetes.version.as_ref()?;
    let mut files = vec![product.program(arch)];
    files.extend(wanted.kubernetes.airgap_images.then(|| product.images(arch)));
    Some(Wanted { product, version: version.as_str().into(), arch, files })
}

/// The layer of the profile's distribution, its inputs by what `lock` says.
///
/// # Errors
/// [`PlanError::NotLocked`] when the lock lacks a file of it.
pub fn cluster(
    profile: &Profile,
    lock: &Lock,
    arch: Arch,
    wanted: &ArchProfile,
) -> Result<Option<Cluster>, PlanError> {
    let (Some(product), Some(release)) = (product(wanted), release(arch, wanted)) else { return Ok(None) };
    let locked = |file: &str| {
        let found = lock.releases.iter().find(|r| r.answers(&release, file));
        let missing = || PlanError::NotLocked(format!("{file} of {product} {} for {arch}", release.version));
        found.map(|f| f.digest).ok_or_else(missing)
    };
    let role = match wanted.kubernetes.role {
        Role::Server => cluster::Role::Server,
        Role::Agent => cluster::Role::Agent,
    };
    let passed =
        |table: &BTreeMap<String, Opaque>| table.iter().map(|(k, v)| (k.clone(), v.0.clone())).collect();
    Ok(Some(Cluster {
        product,
        version: release.version.clone(),
        arch,
        role,
        start: start(profile, role),
        program: locked(&product.program(arch))?,
        images: match wanted.kubernetes.airgap_images {
            true => Some(locked(&product.images(arch))?),
            false => None,
        },
        node_name: profile.name().to_string(),
        labels: profile.site.labels.clone(),
        config: passed(&wanted.kubernetes.config),
        registries: passed(&wanted.kubernetes.registries),
    }))
}

/// A site that must serve with no link cannot wait for a grant, and where nothing is granted there is none to wait for;
/// every other device gets its cluster's keys first.
fn start(profile: &Profile, role: cluster::Role) -> cluster::Start {
    let alone = role == cluster::Role::Server && profile.site.autonomous;
    match alone || profile.enroll.mode == EnrollMode::None {
        true => cluster::Start::Boot,
        false => cluster::Start::Granted,
    }
}
