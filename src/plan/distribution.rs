//! A profile's `[kubernetes]` with an API server, and its `[agent]` → what is asked of their upstream releases, and the
//! layers' specifications.

use super::compose::PlanError;
use super::recipe::{Cluster, Edge};
use crate::layer::kubernetes::cluster;
use crate::lock::Lock;
use crate::model::{Arch, Digest};
use crate::profile::{AgentKind, ArchProfile, Distribution, EnrollMode, Opaque, Profile, Role};
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

/// Whether the profile's pods are EdgeCore's.
pub fn is_kubeedge(wanted: &ArchProfile) -> bool {
    wanted.agent.kind == AgentKind::Kubeedge
}

/// What is asked of the release of the profile's distribution, or of its agent: it has one of both at most.
pub fn release(arch: Arch, wanted: &ArchProfile) -> Option<Wanted> {
    let (product, version, images) = match product(wanted) {
        Some(product) => {
            let images = product.images(arch).filter(|_| wanted.kubernetes.airgap_images);
            (product, wanted.kubernetes.version.as_ref()?, images)
        }
        None if is_kubeedge(wanted) => (Product::Kubeedge, wanted.agent.version.as_ref()?, None),
        None => return None,
    };
    let version = version.as_str();
    let files = std::iter::once(product.program(version, arch)).chain(images).collect();
    Some(Wanted { product, version: version.into(), arch, files })
}

fn locked(lock: &Lock, release: &Wanted, file: &str) -> Result<Digest, PlanError> {
    let found = lock.releases.iter().find(|r| r.answers(release, file));
    let Wanted { product, version, arch, .. } = release;
    found
        .map(|f| f.digest)
        .ok_or_else(|| PlanError::NotLocked(format!("{file} of {product} {version} for {arch}")))
}

fn passed(table: &BTreeMap<String, Opaque>) -> BTreeMap<String, serde_json::Value> {
    table.iter().map(|(k, v)| (k.clone(), v.0.clone())).collect()
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
    let role = match wanted.kubernetes.role {
        Role::Server => cluster::Role::Server,
        Role::Agent => cluster::Role::Agent,
    };
    let images = product.images(arch).filter(|_| wanted.kubernetes.airgap_images);
    Ok(Some(Cluster {
        product,
        version: release.version.clone(),
        arch,
        role,
        start: start(profile, role),
        program: locked(lock, &release, &product.program(&release.version, arch))?,
        images: images.map(|file| locked(lock, &release, &file)).transpose()?,
        node_name: profile.name().to_string(),
        labels: profile.site.labels.clone(),
        config: passed(&wanted.kubernetes.config),
        registries: passed(&wanted.kubernetes.registries),
    }))
}

/// The layer of KubeEdge's EdgeCore, where it is the profile's agent.
///
/// # Errors
/// [`PlanError::NotLocked`] when the lock lacks its release.
pub fn kubeedge(
    profile: &Profile,
    lock: &Lock,
    arch: Arch,
    wanted: &ArchProfile,
) -> Result<Option<Edge>, PlanError> {
    let Some(release) = release(arch, wanted).filter(|r| r.product == Product::Kubeedge) else {
        return Ok(None);
    };
    Ok(Some(Edge {
        version: release.version.clone(),
        arch,
        start: match profile.enroll.mode {
            EnrollMode::None => cluster::Start::Boot,
            _ => cluster::Start::Granted,
        },
        program: locked(lock, &release, &Product::Kubeedge.program(&release.version, arch))?,
        node_name: profile.name().to_string(),
        labels: profile.site.labels.clone(),
        config: passed(&wanted.agent.config),
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
