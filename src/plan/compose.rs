//! Profile and lock → plan: the only place where a profile's tables become specifications of domain rooms.

use super::packages::OS_SET;
use super::*;
use super::{board, distribution, fit, shim};
use crate::boot::slot::Volume;
use crate::disk::format::Format;
use crate::disk::order::{After, DiskRule};
use crate::lock::{Lock, LockedPackage};
use crate::oci::layer::Codec;
use crate::profile::{
    self, AgentKind, ArchProfile, Artifact, DiskFormat, Distribution, EncryptState, EnrollMode, Origin,
    Profile,
};

/// What a profile asks for and this forge does not build.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum PlanError {
    /// A value that is valid and not built.
    #[error("`{key} = {value}` for {arch} is not built by this version of forge")]
    NotBuilt {
        /// The profile's key.
        key: &'static str,
        /// Its value.
        value: String,
        /// For which architecture.
        arch: Arch,
    },
    /// Manifests that the runtime would not take: file, line, and what would be right, a line each.
    #[error("{0}")]
    Manifests(String),
    /// What asks for more than the machine has: who asks for how much, a line each.
    #[error("{0}")]
    Unfit(String),
    /// An agent that comes in its vendor's image.
    #[error("Palette's agent comes in Palette's own image, which forge does not build")]
    Palette,
    /// Devices that enrol, and installers, need a program that was not given.
    #[error(
        "`enroll.mode`, an installer's ISO and a network boot ask for the program forge-device for {0}, which is not there"
    )]
    NoProgram(Arch),
    /// An installer that machines which start by way of shim would refuse.
    #[error(
        "neither an installer's ISO nor a network boot is started by way of shim yet: build `disk`, and write it with `forge flash`"
    )]
    ShimInstalls,
    /// The lock lacks something; it must be resolved again.
    #[error("the lock has no {0}")]
    NotLocked(String),
}

pub(super) fn not_built(key: &'static str, value: impl ToString, arch: Arch) -> PlanError {
    PlanError::NotBuilt { key, value: value.to_string(), arch }
}

pub(super) fn package(locked: &LockedPackage, request: &[String]) -> Package {
    Package {
        name: locked.name.clone(),
        version: locked.version.clone(),
        digest: locked.digest,
        automatic: !request.contains(&locked.name),
    }
}

/// Composes the plan. `epoch` is SOURCE_DATE_EPOCH where that is set; else the lock's. `programs` are those of
/// `forge-device`, for profiles that enrol.
///
/// # Errors
/// [`PlanError`].
pub fn compose(
    profile: &Profile,
    lock: &Lock,
    epoch: Option<Epoch>,
    programs: &BTreeMap<Arch, Digest>,
) -> Result<Plan, PlanError> {
    let epoch = epoch.unwrap_or(lock.epoch);
    let version = profile.version.as_ref().map_or_else(|| epoch.version(), |v| v.as_str().to_string());
    let mut composer = Composer {
        profile,
        lock,
        programs,
        epoch,
        version: version.clone(),
        steps: vec![],
        keys: BTreeMap::new(),
    };
    let targets = profile
        .arch
        .iter()
        .map(|(&arch, wanted)| Ok((arch, composer.target(arch, wanted)?)))
        .collect::<Result<_, PlanError>>()?;
    Ok(Plan {
        name: profile.name().to_string(),
        version,
        epoch,
        labels: profile.site.labels.clone(),
        steps: composer.steps,
        targets,
    })
}

/// The steps that an installer is made from.
struct Boot {
    os: StepId,
    initrd: StepId,
    uki: StepId,
    disk: StepId,
}

pub(super) struct Composer<'a> {
    pub(super) profile: &'a Profile,
    pub(super) lock: &'a Lock,
    programs: &'a BTreeMap<Arch, Digest>,
    epoch: Epoch,
    version: String,
    steps: Vec<Step>,
    keys: BTreeMap<StepId, Digest>,
}

impl Composer<'_> {
    pub(super) fn step(&mut self, arch: Arch, name: &str, recipe: Recipe) -> StepId {
        let id = StepId::new(format!("{arch}/{name}"));
        let key = recipe.key(&self.keys, self.epoch);
        self.keys.insert(id.clone(), key);
        self.steps.push(Step { id: id.clone(), recipe, key });
        id
    }

    fn target(&mut self, arch: Arch, wanted: &ArchProfile) -> Result<Target, PlanError> {
        if wanted.agent.kind == AgentKind::Palette {
            return Err(PlanError::Palette);
        }
        let kernel = self.deb("image.kernel", &wanted.kernel)?;
        let packages = self.rootfs(arch, "packages", OS_SET, Purpose::Os, kernel)?;
        let os = self.step(arch, "os", Recipe::Os(Os { packages }));
        let payload = self.payload(arch, wanted)?;
        let mut layers = vec![(LayerName::Os, os.clone())];
        if wanted.kubernetes.distribution == Distribution::Podman {
            layers.push((
                LayerName::Kubernetes,
                self.step(arch, "kubernetes", Recipe::Runtime(Runtime::Podman { images: payload.is_some() })),
            ));
        }
        if let Some(cluster) = distribution::cluster(self.profile, self.lock, arch, wanted)? {
            let runtime = self.step(arch, "kubernetes", Recipe::Runtime(Runtime::Cluster(cluster)));
            layers.push((LayerName::Kubernetes, runtime));
        }
        if let Some(edge) = distribution::kubeedge(self.profile, self.lock, arch, wanted)? {
            let agent = self.step(arch, "agent", Recipe::Runtime(Runtime::Kubeedge(edge)));
            layers.push((LayerName::Agent, agent));
        }
        let site = self.site(arch, wanted, &os)?;
        layers.push((LayerName::Site, site));

        let mut target = Target::default();
        if [Artifact::Disk, Artifact::Iso, Artifact::Netboot].iter().any(|a| wanted.artifacts.contains(a)) {
            fit::disk(wanted, self.lock, arch)?;
            let root_layers = layers.iter().map(|(_, id)| id.clone()).collect();
            self.disk(arch, wanted, &os, root_layers, payload.as_ref(), &mut target)?;
        }
        if wanted.artifacts.contains(&Artifact::Oci) {
            layers.extend(payload.map(|p| (LayerName::Workloads, p)));
            let codec = match wanted.compression {
                profile::Compression::Zstd => Codec::Zstd,
                profile::Compression::Gzip => Codec::Gzip,
            };
            for (name, layer) in layers {
                let blob = self.step(arch, &format!("{name}-blob"), Recipe::Blob(Blob { layer, codec }));
                target.layers.push((name, blob));
            }
        }
        Ok(target)
    }

    pub(super) fn rootfs(
        &mut self,
        arch: Arch,
        name: &str,
        set: &str,
        purpose: Purpose,
        kernel: Option<Digest>,
    ) -> Result<StepId, PlanError> {
        let request = self.lock.set(set, arch).map(|s| &*s.request).unwrap_or_default();
        let packages: Vec<Package> = self.lock.packages_of(set, arch).map(|p| package(p, request)).collect();
        if packages.is_empty() {
            return Err(PlanError::NotLocked(format!("packages of {set} for {arch}")));
        }
        Ok(self.step(arch, name, Recipe::Rootfs(Rootfs { arch, packages, kernel, purpose })))
    }

    pub(super) fn locked(&self, path: &str) -> Result<Digest, PlanError> {
        self.lock.file(path).map(|f| f.digest).ok_or_else(|| PlanError::NotLocked(format!("file {path}")))
    }

    pub(super) fn file(&self, file: &profile::File) -> Result<FileInput, PlanError> {
        let content = match (&file.content, &file.source) {
            (Some(text), _) => FileContent::Text(text.clone()),
            (None, Some(source)) => FileContent::Locked(self.locked(source.as_str())?),
            (None, None) => FileContent::Text(String::new()),
        };
        Ok(FileInput { path: file.path.tree().to_string(), mode: file.mode.bits(), content })
    }

    fn site(&mut self, arch: Arch, wanted: &ArchProfile, os: &StepId) -> Result<StepId, PlanError> {
        let site = Site {
            os: os.clone(),
            name: self.profile.name().clone(),
            timezone: wanted.os.timezone.as_str().into(),
            ntp: wanted.os.ntp.iter().map(|h| h.as_str().into()).collect(),
            modules: wanted.os.modules.iter().map(|m| m.as_str().into()).collect(),
            users: wanted
                .os
                .user
                .iter()
                .map(|u| (u.name.as_str().into(), u.ssh_keys.iter().map(|k| k.as_str().into()).collect()))
                .collect(),
            files: wanted.os.file.iter().map(|f| self.file(f)).collect::<Result<_, _>>()?,
            profile: self.root_profile(wanted),
            enroll: self.enrollment(arch)?,
        };
        Ok(self.step(arch, "site", Recipe::Site(site)))
    }

    fn enrollment(&self, arch: Arch) -> Result<Option<Enrollment>, PlanError> {
        let enroll = &self.profile.enroll;
        if enroll.mode == EnrollMode::None {
            return Ok(None);
        }
        let program = *self.programs.get(&arch).ok_or(PlanError::NoProgram(arch))?;
        let mut trust = BTreeMap::new();
        for root in &enroll.trust {
            // Two keys may have one name in two directories.
            let name = root.as_str().rsplit('/').next().unwrap_or_default().trim_end_matches(".pub");
            trust.insert(format!("{}-{name}.pub", trust.len()), self.locked(root.as_str())?);
        }
        Ok(Some(Enrollment { program, trust }))
    }

    /// The part of the resolved profile that the root partition is made from. Workloads are left out: they change
    /// nightly, and must not rewrite the operating system.
    fn root_profile(&self, wanted: &ArchProfile) -> String {
        let board = wanted.board;
        // Where packages and releases are from decides no byte.
        let os = profile::Os { mirror: None, ..wanted.os.clone() };
        let kubernetes = profile::Kubernetes { source: Origin::Release, ..wanted.kubernetes.clone() };
        let agent = profile::Agent { source: Origin::Release, ..wanted.agent.clone() };
        let mut root = serde_json::json!({ "site": self.profile.site, "board": board, "os": os, "kubernetes": kubernetes, "agent": agent, "enroll": self.profile.enroll.in_image() });
        // A key that came later is there where it says something: what was built before keeps its bytes.
        if kubernetes.registries.is_empty()
            && let Some(table) = root["kubernetes"].as_object_mut()
        {
            table.remove("registries");
        }
        root.to_string()
    }

    fn disk(
        &mut self,
        arch: Arch,
        wanted: &ArchProfile,
        os: &StepId,
        layers: Vec<StepId>,
        payload: Option<&StepId>,
        target: &mut Target,
    ) -> Result<(), PlanError> {
        let (name, version) = (self.profile.name().to_string(), self.version.clone());
        let modules = board::of(wanted, arch)?.modules.iter().map(|m| m.to_string()).collect();
        let sealed = wanted.os.encrypt_state == EncryptState::Tpm2;
        let initrd = Initrd { arch, os: os.clone(), modules, sealed };
        let initrd = self.step(arch, "initrd", Recipe::Initrd(initrd));
        let root = self.step(arch, "root", Recipe::Filesystem(Filesystem { layers, label: "root".into() }));
        let payload = payload.map(|p| {
            self.step(
                arch,
                "payload-fs",
                Recipe::Filesystem(Filesystem { layers: vec![p.clone()], label: "payload".into() }),
            )
        });
        let uki = Uki {
            arch,
            os: os.clone(),
            initrd: initrd.clone(),
            root: root.clone(),
            payload: payload.clone(),
            devicetree: wanted.devicetree.as_ref().map(|t| t.as_str().into()),
            kernel_args: wanted.os.kernel_args.iter().map(|a| a.as_str().into()).collect(),
            sealed,
            name: name.clone(),
            version: version.clone(),
        };
        let uki = self.step(arch, "uki", Recipe::Uki(uki));
        let (uki, secure_boot) = self.signed(arch, "signed", os, uki)?;
        for file in secure_boot.into_iter().flat_map(shim::files) {
            target.files.insert(format!("secure-boot/{file}"), (uki.clone(), (*file).into()));
        }
        let firmware = self.firmware(arch, wanted, os)?;
        let has = |artifact| wanted.artifacts.contains(&artifact);
        let formats = if has(Artifact::Disk) { wanted.disk_formats.clone() } else { vec![] };
        let installs = has(Artifact::Iso) || has(Artifact::Netboot);
        // What an installer installs is built where it is no artifact of its own too.
        let more = installs && !formats.contains(&DiskFormat::RawZst);
        let mut compressed = None;
        for format in formats.iter().chain(more.then_some(&DiskFormat::RawZst)) {
            let form = match format {
                DiskFormat::Raw => DiskForm::Raw,
                DiskFormat::RawZst => DiskForm::Compressed(self.frames(arch, &root, payload.as_ref())),
                DiskFormat::Qcow2 => DiskForm::Machine(Format::Qcow2),
                DiskFormat::Vmdk => DiskForm::Machine(Format::Vmdk),
                DiskFormat::Vhdx => DiskForm::Machine(Format::Vhdx),
            };
            let disk = Disk {
                arch,
                name: name.clone(),
                version: version.clone(),
                os: os.clone(),
                uki: uki.clone(),
                root: root.clone(),
                payload: payload.clone(),
                firmware: firmware.clone(),
                form,
                secure_boot,
            };
            let file = disk.file();
            let id = self.step(arch, &file, Recipe::Disk(disk));
            if *format == DiskFormat::RawZst {
                compressed = Some(id.clone());
            }
            // A network boot fetches the image from beside its folder.
            if formats.contains(format) || has(Artifact::Netboot) {
                target.files.insert(file.clone(), (id, file));
            }
        }
        if let Some(disk) = compressed.filter(|_| installs) {
            let boot = Boot { os: os.clone(), initrd, uki, disk };
            self.installer(arch, wanted, boot, target)?;
        }
        Ok(())
    }

    /// The installer, on a medium and for a network boot.
    fn installer(
        &mut self,
        arch: Arch,
        wanted: &ArchProfile,
        boot: Boot,
        target: &mut Target,
    ) -> Result<(), PlanError> {
        let install = &wanted.install;
        let rule = DiskRule {
            serial: install.disk.serial.clone(),
            path: install.disk.path.as_ref().map(|p| p.as_str().into()),
            model: install.disk.model.clone(),
            min_size: install.disk.min_size,
            max_size: install.disk.max_size,
        };
        let disk = boot.disk.clone();
        let installer = Installer {
            arch,
            os: boot.os,
            initrd: boot.initrd,
            uki: boot.uki,
            disk: boot.disk,
            program: *self.programs.get(&arch).ok_or(PlanError::NoProgram(arch))?,
            rule,
            overwrite: install.overwrite,
            after: match install.after {
                profile::AfterInstall::Poweroff => After::Poweroff,
                profile::AfterInstall::Reboot => After::Reboot,
            },
            url: install.url.as_ref().map(|u| u.as_str().into()),
            devicetree: wanted.devicetree.as_ref().map(|t| t.as_str().into()),
            kernel_args: wanted.os.kernel_args.iter().map(|a| a.as_str().into()).collect(),
            name: self.profile.name().to_string(),
            version: self.version.clone(),
        };
        let (os, unsigned) =
            (installer.os.clone(), self.step(arch, "installer", Recipe::Installer(installer)));
        let (installer, _) = self.signed(arch, "signed-installer", &os, unsigned.clone())?;
        if wanted.artifacts.contains(&Artifact::Netboot) {
            for (output, of) in [("forge.efi", &installer), ("cmdline", &unsigned), ("boot.ipxe", &unsigned)]
            {
                target.files.insert(format!("netboot/{output}"), (of.clone(), output.into()));
            }
        }
        if wanted.artifacts.contains(&Artifact::Iso) {
            let iso = self.step(arch, "installer.iso", Recipe::Iso(Iso { arch, installer, disk }));
            target.files.insert("installer.iso".into(), (iso, "installer.iso".into()));
        }
        Ok(())
    }

    /// What starts a machine, and what becomes of the keys that it is signed under; as it was, where it is not.
    fn signed(
        &mut self,
        arch: Arch,
        name: &str,
        os: &StepId,
        uki: StepId,
    ) -> Result<(StepId, Option<Enrol>), PlanError> {
        let Some(keys) = self.profile.sign.as_ref().and_then(|sign| sign.secure_boot.as_ref()) else {
            return Ok((uki, None));
        };
        let certificate = self.locked(keys.cert.as_str())?;
        let enrol = match keys.enroll {
            _ if keys.shim => Enrol::Shim,
            profile::SecureBootEnroll::Off => Enrol::Off,
            profile::SecureBootEnroll::Manual => Enrol::Manual,
            profile::SecureBootEnroll::IfSafe => Enrol::IfSafe,
        };
        let shim = self.shim(arch)?;
        let signed = Recipe::Signed(Signed { arch, os: os.clone(), uki, certificate, shim });
        Ok((self.step(arch, name, signed), Some(enrol)))
    }

    /// The frames of a compressed image: each of the root and payload file systems and their trees.
    fn frames(&mut self, arch: Arch, root: &StepId, payload: Option<&StepId>) -> Vec<StepId> {
        let mut frames = vec![];
        for (what, volume, step) in
            [("root", Volume::Root, Some(root)), ("payload", Volume::Payload, payload)]
        {
            for output in ["image", "verity"] {
                frames.extend(step.map(|of| {
                    let frame = Frame { of: of.clone(), output: output.into(), volume };
                    self.step(arch, &format!("{what}-{output}-frame"), Recipe::Frame(frame))
                }));
            }
        }
        frames
    }
}
