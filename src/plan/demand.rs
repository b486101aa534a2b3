//! Profile → what must be locked before it can be planned. Manifests and charts beside the profile are read and refused
//! here, before anything is fetched.

use super::compose::PlanError;
use super::{distribution, fit, packages, shim};
use crate::layer::agent::kubeedge;
use crate::layer::kubernetes::podman;
use crate::layer::workload::manifest::field::ImageField;
use crate::layer::workload::name::ImageName;
use crate::layer::workload::{self, chart, manifest};
use crate::lock::{Demand, LockedFile, Rendering, WantedChart};
use crate::model::{Arch, Bytes, Epoch};
use crate::oci::layer::{self, Codec};
use crate::profile::{self, ArchProfile, Distribution, Helm, Origin, Profile};
use crate::tree::{Content, Node, Tree, TreePath, tar};
use std::collections::BTreeSet;
use std::io;
use std::num::NonZero;

/// The files beside the profile.
pub trait Beside {
    /// The bytes of one.
    ///
    /// # Errors
    /// What the file system says.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;

    /// Digest and length of a file, or of all files below a directory, however large.
    ///
    /// # Errors
    /// What the file system says; for what is neither file nor directory.
    fn measure(&self, path: &str) -> io::Result<Vec<LockedFile>>;
}

/// What must be locked before `profile` can be planned.
///
/// # Errors
/// [`PlanError::NotBuilt`] for what no lock could help; [`PlanError::Manifests`] for what the runtime would not take, and
/// [`PlanError::Unfit`] for what the machine has not.
pub fn demand(profile: &Profile, beside: &dyn Beside) -> Result<Demand, PlanError> {
    let mut demand = Demand::default();
    for (&arch, wanted) in &profile.arch {
        shim::check(profile, wanted)?;
        demand.sets.extend(packages::sets(profile, arch, wanted)?);
        demand.releases.extend(distribution::release(arch, wanted));
        content(&mut demand, arch, wanted, beside)?;
    }
    demand.remotes.sort();
    demand.remotes.dedup();
    let embedded = profile.files.iter();
    let embedded =
        embedded.map(|(path, f)| LockedFile { path: path.clone(), size: Bytes(f.size), digest: f.digest });
    demand.files.extend(embedded);
    demand.files.sort_by(|a, b| a.path.cmp(&b.path));
    demand.files.dedup();
    Ok(demand)
}

/// What the workloads, the board and the kernel name beside packages: images, charts, remote files, files.
fn content(
    demand: &mut Demand,
    arch: Arch,
    wanted: &ArchProfile,
    beside: &dyn Beside,
) -> Result<(), PlanError> {
    let workloads = workloads(wanted, beside)?;
    fit::check(wanted, &workloads)?;
    demand.images.extend(images(wanted, &workloads).into_iter().map(|image| (image, arch)));
    for workload in &wanted.workload {
        let Some(helm) = &workload.helm else { continue };
        let chart = wanted_chart(helm, workload, arch, wanted, beside)?;
        for release in chart.rendering.iter().flat_map(Rendering::releases) {
            if !demand.releases.contains(&release) {
                demand.releases.push(release);
            }
        }
        demand.charts.push(chart);
    }
    let disks = wanted.workload.iter().filter_map(|w| w.vm.as_ref()).map(|vm| &vm.disk);
    let (images, disks): (Vec<_>, Vec<_>) =
        disks.partition(|disk| distribution::product(wanted).is_some() && matches!(disk, Origin::Oci(_)));
    let reference = |disk: &&Origin| disk.to_string().trim_start_matches("oci:").to_string();
    demand.images.extend(images.iter().map(|disk| (reference(disk), arch)));
    let models = wanted.workload.iter().filter_map(|w| w.model.as_ref()).map(|m| &m.source);
    for origin in models.chain(disks).chain([&wanted.board_firmware, &wanted.kernel]) {
        match origin {
            Origin::Url(_) | Origin::Oci(_) => demand.remotes.push(origin.to_string()),
            Origin::File(path) => {
                demand.files.extend(beside.measure(path).map_err(|e| unread(path, e))?);
            }
            Origin::Release => {}
        }
    }
    Ok(())
}

fn unread(path: &str, fault: io::Error) -> PlanError {
    PlanError::Manifests(format!("{path}: {fault}"))
}

/// The workloads that have manifests, parsed; what the runtime would not take is refused.
fn workloads(wanted: &ArchProfile, beside: &dyn Beside) -> Result<Vec<workload::Workload>, PlanError> {
    let mut workloads = vec![];
    for workload in &wanted.workload {
        let fields = fields(workload);
        let mut manifests = vec![];
        for file in &workload.manifests {
            let bytes = beside.read(file.as_str()).map_err(|e| unread(file.as_str(), e))?;
            let parsed = manifest::parse_with(file.as_str(), &bytes, &fields)
                .map_err(|faults| PlanError::Manifests(told(&faults)))?;
            manifests.push((parsed, Content::from(bytes)));
        }
        let has = |kind: &str| manifests.iter().any(|(m, _)| m.objects.iter().any(|o| o.kind == kind));
        if let Some(field) = fields.iter().find(|f| workload.helm.is_none() && !has(&f.kind)) {
            return Err(PlanError::Manifests(format!(
                "workload `{}`: `image-paths` names the kind `{}`, which its manifests do not have",
                workload.name, field.kind
            )));
        }
        workloads.push(workload::Workload {
            name: workload.name.as_str().into(),
            required: workload.required,
            manifests,
        });
    }
    let faults = match wanted.kubernetes.distribution {
        Distribution::Podman => podman::check(&workloads),
        _ if distribution::is_kubeedge(wanted) => kubeedge::check(&workloads),
        _ => vec![],
    };
    if faults.is_empty() { Ok(workloads) } else { Err(PlanError::Manifests(told(&faults))) }
}

/// The names of the images that the profile makes itself.
fn own(wanted: &ArchProfile) -> Vec<ImageName> {
    let parsed = wanted.container.iter().filter_map(|c| c.name.as_str().parse::<ImageName>().ok());
    parsed.map(|n| n.local()).collect()
}

/// The container images that the workloads of one architecture take from registries: those of their manifests and lists,
/// less those that the profile makes itself.
fn images(wanted: &ArchProfile, workloads: &[workload::Workload]) -> BTreeSet<String> {
    let own = own(wanted);
    let used = workloads.iter().flat_map(|w| &w.manifests).flat_map(|(m, _)| m.images());
    let listed = wanted.workload.iter().flat_map(|w| &w.images).filter_map(|i| i.as_str().parse().ok());
    used.map(|u| u.name.clone())
        .chain(listed)
        .filter(|name| !own.contains(&name.local()))
        .map(|name| name.to_string())
        .collect()
}

fn wanted_chart(
    helm: &Helm,
    workload: &profile::Workload,
    arch: Arch,
    wanted: &ArchProfile,
    beside: &dyn Beside,
) -> Result<WantedChart, PlanError> {
    let values = match &helm.values {
        Some(file) => beside.read(file.as_str()).map_err(|e| unread(file.as_str(), e))?,
        None => vec![],
    };
    let package = match &helm.chart {
        Origin::File(path) => Some(package(path, beside).map_err(|e| unread(path, e))?),
        _ => None,
    };
    if let Some(package) = &package {
        chart::read(package, &values)
            .map_err(|e| PlanError::Manifests(format!("chart {}: {e}", helm.chart)))?;
    }
    Ok(WantedChart {
        source: helm.chart.to_string(),
        arch,
        version: helm.version.as_ref().map(|v| v.as_str().into()),
        values,
        package,
        own: own(wanted).iter().map(ToString::to_string).collect(),
        rendering: wanted.helm.version.as_ref().map(|version| Rendering {
            helm: version.as_str().into(),
            kubernetes: kubernetes_version(wanted),
            name: workload.name.as_str().into(),
            namespace: helm.namespace.as_str().into(),
            fields: fields(workload),
        }),
    })
}

/// The version that the API server says, `v1.34.2`, without the distribution's own `+k3s1`.
fn kubernetes_version(wanted: &ArchProfile) -> String {
    let version = wanted.kubernetes.version.as_ref().map_or("", |v| v.as_str());
    version.split('+').next().unwrap_or_default().into()
}

fn fields(workload: &profile::Workload) -> Vec<ImageField> {
    let field =
        |f: &profile::ImageField| ImageField { kind: f.kind.as_str().into(), path: f.path.as_str().into() };
    workload.image_paths.iter().map(field).collect()
}

/// The package of a chart beside the profile: the file, or the directory packed, so that equal files are equal bytes.
fn package(path: &str, beside: &dyn Beside) -> io::Result<Vec<u8>> {
    let files = beside.measure(path)?;
    if let [file] = &files[..]
        && file.path == path
    {
        return beside.read(path);
    }
    let bad = |e: String| io::Error::new(io::ErrorKind::InvalidData, e);
    let mut tree = Tree::new();
    for file in &files {
        let below = file.path.strip_prefix(path).unwrap_or(&file.path).trim_start_matches('/');
        let at = TreePath::parse(&format!("chart/{below}")).map_err(|e| bad(e.to_string()))?;
        tree.insert(at, Node::file(beside.read(&file.path)?, 0o644)).map_err(|e| bad(e.to_string()))?;
        if tree.content_len() > chart::MAX_PACKAGE * 8 {
            return Err(bad(format!("more than a chart may have; {}", chart::TOO_LARGE)));
        }
    }
    let (mut bytes, mut packed) = (vec![], vec![]);
    let written = tar::write(&tree, Epoch(0), &mut bytes)?;
    layer::compress(&bytes[..], written, &mut packed, Codec::Gzip, NonZero::<u32>::MIN)?;
    Ok(packed)
}

fn told(faults: &[manifest::Fault]) -> String {
    let line = |f: &manifest::Fault| match &f.hint {
        Some(hint) => format!("{f} ({hint})"),
        None => f.to_string(),
    };
    faults.iter().map(line).collect::<Vec<_>>().join("\n")
}
