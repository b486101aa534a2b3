//! The part of a profile that runs on the device — containers, workloads, models, guests — → the step of its payload.

use super::compose::{Composer, PlanError, package};
use super::packages::{PAUSE_SET, container_set};
use super::*;
use crate::layer::kubernetes::podman;
use crate::layer::workload::gitops::{Controller, Gitops};
use crate::layer::workload::vm::{Forward, Machine};
use crate::lock::LockedFile;
use crate::profile::{self, ArchProfile, Origin};
use crate::source::remote::PinnedPart;

impl Composer<'_> {
    /// The step of the payload, where there is anything in it.
    pub(super) fn payload(&mut self, arch: Arch, wanted: &ArchProfile) -> Result<Option<StepId>, PlanError> {
        let gitops = self.gitops(wanted);
        // EdgeCore's pods have no first process but the one that is carried.
        let kubeedge = distribution::is_kubeedge(wanted);
        let nothing = wanted.container.is_empty() && wanted.workload.is_empty() && gitops.is_none();
        if nothing && !kubeedge {
            return Ok(None);
        }
        let mut containers = vec![];
        for container in &wanted.container {
            let name = container.name.as_str();
            let rootfs =
                self.rootfs(arch, &container_set(name), &container_set(name), Purpose::Container, None)?;
            containers.push(Container {
                name: name.into(),
                rootfs,
                files: container.files.iter().map(|f| self.file(f)).collect::<Result<_, _>>()?,
                command: container.command.clone(),
                user: container.user.as_ref().map(|u| u.as_str().into()),
                ports: container
                    .ports
                    .iter()
                    .map(|p| format!("{}/{}", p.number, if p.udp { "udp" } else { "tcp" }))
                    .collect(),
            });
        }
        let (mut workloads, mut charts, mut models, mut guests) = (vec![], vec![], vec![], vec![]);
        for workload in &wanted.workload {
            guests.extend(self.guest(workload, distribution::product(wanted).is_some())?);
            charts.extend(self.chart(arch, workload)?);
            models.extend(self.model(workload)?);
            let manifest =
                |path: &str| Ok((path.rsplit('/').next().unwrap_or(path).to_string(), self.locked(path)?));
            let manifests =
                workload.manifests.iter().map(|m| manifest(m.as_str())).collect::<Result<_, PlanError>>()?;
            if !workload.manifests.is_empty() {
                workloads.push(Workload {
                    name: workload.name.as_str().into(),
                    required: workload.required,
                    manifests,
                });
            }
        }
        let runner = match distribution::product(wanted) {
            Some(_) => Runner::Cluster,
            None if kubeedge => Runner::Kubeedge,
            None => Runner::Podman,
        };
        let images = self.lock.images.iter().filter(|i| i.arch == arch).cloned().collect();
        let pause = self
            .lock
            .packages_of(PAUSE_SET, arch)
            .find(|p| p.name == podman::PAUSE_PACKAGE.0)
            .map(|p| package(p, &[]));
        Ok(Some(self.step(
            arch,
            "payload",
            Recipe::Payload(Payload {
                arch,
                runner,
                pause,
                containers,
                images,
                workloads,
                charts,
                models,
                guests,
                gitops,
            }),
        )))
    }

    fn gitops(&self, wanted: &ArchProfile) -> Option<Gitops> {
        let controller = match wanted.gitops.kind {
            profile::GitopsKind::None => return None,
            profile::GitopsKind::Flux => Controller::Flux,
            profile::GitopsKind::Argocd => Controller::Argocd,
        };
        Some(Gitops {
            controller,
            name: self.profile.name().to_string(),
            url: wanted.gitops.url.as_ref()?.as_str().into(),
            branch: wanted.gitops.branch.as_str().into(),
            path: wanted.gitops.path.as_str().into(),
            secret: wanted.gitops.secret.as_ref().map(|s| s.as_str().into()),
        })
    }

    fn guest(&self, workload: &profile::Workload, on_cluster: bool) -> Result<Option<Guest>, PlanError> {
        let Some(vm) = &workload.vm else { return Ok(None) };
        let missing = || PlanError::NotLocked(vm.disk.to_string());
        let disk = match &vm.disk {
            Origin::Oci(reference) if on_cluster => GuestDisk::Image(reference.clone()),
            Origin::File(path) => GuestDisk::File(self.locked(path)?),
            origin => match &self.lock.remote(&origin.to_string()).ok_or_else(missing)?.files[..] {
                [file] if !file.unpack => GuestDisk::File(file.digest),
                files => {
                    let why = format!("{origin} has {} files, not one that is a disk", files.len());
                    return Err(PlanError::Unfit(why));
                }
            },
        };
        Ok(Some(Guest {
            name: workload.name.as_str().into(),
            required: workload.required,
            disk,
            memory: vm.memory.0.div_ceil(1 << 20),
            cpus: vm.cpus.get(),
            machine: match vm.machine {
                profile::Machine::Modern => Machine::Modern,
                profile::Machine::Legacy => Machine::Legacy,
            },
            ports: vm.ports.iter().map(|p| Forward { host: p.host, guest: p.guest, udp: p.udp }).collect(),
            bridge: vm.bridge.as_ref().map(|b| b.as_str().into()),
        }))
    }

    fn chart(&self, arch: Arch, workload: &profile::Workload) -> Result<Option<Chart>, PlanError> {
        let Some(helm) = &workload.helm else { return Ok(None) };
        let values = helm.values.as_ref().map(|file| self.locked(file.as_str())).transpose()?;
        let source = helm.chart.to_string();
        let wanted_values = values.unwrap_or_else(|| Digest::of(""));
        let locked = self
            .lock
            .charts
            .iter()
            .find(|c| (&c.source, c.arch, c.values) == (&source, arch, wanted_values))
            .ok_or_else(|| PlanError::NotLocked(format!("chart {source} for {arch}")))?;
        Ok(Some(Chart {
            name: workload.name.as_str().into(),
            required: workload.required,
            namespace: helm.namespace.as_str().into(),
            package: locked.digest,
            values,
        }))
    }

    fn model(&self, workload: &profile::Workload) -> Result<Option<Model>, PlanError> {
        let Some(model) = &workload.model else { return Ok(None) };
        let missing = || PlanError::NotLocked(model.source.to_string());
        let files = match &model.source {
            Origin::File(path) => {
                let dir = format!("{path}/");
                let name = path.rsplit('/').next().unwrap_or(path);
                let file = |f: &LockedFile| {
                    let path = if f.path == *path { name } else { f.path.strip_prefix(&dir)? };
                    Some(ModelFile { path: path.into(), archive: None, digest: f.digest })
                };
                self.lock.files.iter().filter_map(file).collect()
            }
            _ => {
                let remote = self.lock.remote(&model.source.to_string()).ok_or_else(missing)?;
                let file = |f: &PinnedPart| ModelFile {
                    path: f.path.clone(),
                    archive: f.unpack.then(|| f.media_type.clone()),
                    digest: f.digest,
                };
                remote.files.iter().map(file).collect::<Vec<_>>()
            }
        };
        if files.is_empty() {
            return Err(missing());
        }
        let mount = format!("/{}", model.mount.tree());
        Ok(Some(Model { name: workload.name.as_str().into(), required: workload.required, mount, files }))
    }
}
