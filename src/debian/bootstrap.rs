//! Packages on disk → a configured tree, as one deterministic tar.
//!
//! The way: [`run`] starts the sandbox; in it [`JOB`] reads all control information and checks all digests, unpacks wave
//! by wave ([`super::unpack`], [`super::configure`]), writes dpkg's database ([`super::database`]), lets the tree's own
//! dpkg configure, takes away what belongs to this machine or this moment, and writes the tar.
//!
//! The bytes depend on the [`Spec`] alone: not on the machine, its user, clock, kernel or number of threads. Files of
//! packages keep their times, clamped to the epoch; all others bear the epoch.

use super::configure::{self, Scripts};
use super::database::{self, Triggers};
use super::deb::{Control, Deb};
use super::relation;
use super::rules::Rules;
use super::stand_in;
use super::unpack::{Ahead, Hashed, OrderMatters, Source, Unpacker};
use crate::error::{self, Kind};
use crate::host::cancel::Cancel;
use crate::host::{emulation, sandbox};
use crate::model::{Arch, Digest, Epoch};
use crate::tree::tar::Written;
use crate::tree::{TreePath, walk};
use anyhow::{Context as _, anyhow, bail};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is to be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// The tree's architecture.
    pub arch: Arch,
    /// The latest time that the tree bears.
    pub epoch: Epoch,
    /// All packages, dependencies included, in any order.
    pub packages: Vec<Package>,
    /// What the tree is for.
    pub variant: Variant,
}

/// A package that was fetched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, epoch included.
    pub version: String,
    /// Where it is.
    pub path: PathBuf,
    /// The digest that its bytes must have.
    pub sha256: Digest,
    /// Whether it is there only because others need it; apt in the tree may then take it away with them.
    pub automatic: bool,
}

/// What a tree is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// A system that boots.
    Os,
    /// The root file system of a container: no documentation, manuals, translations, or apt's caches.
    Container,
    /// Packages unpacked, dpkg's database written, nothing configured: for measuring.
    Unpacked,
}

/// Where and how the work is done; none of it shows in the result.
pub struct Env<'a> {
    /// forge's own program, whose `main` asks [`sandbox::entry`].
    pub program: &'a Path,
    /// A directory on the file system that the tree is made on.
    pub work: &'a Path,
    /// How many packages are unpacked at once.
    pub jobs: usize,
    /// What runs the tree's programs, where they are of another architecture than this machine.
    pub emulator: Option<&'a Path>,
    /// Stops the work.
    pub cancel: &'a Cancel,
    /// Told what is being done.
    pub progress: &'a dyn Fn(&str),
}

/// What the sandbox is told.
#[derive(Serialize, Deserialize)]
struct Order {
    spec: Spec,
    root: PathBuf,
    jobs: usize,
    emulator: Option<PathBuf>,
}

/// For [`sandbox::entry`].
pub const JOB: sandbox::Job = ("bootstrap", inside);
/// For [`sandbox::entry`]: takes away a tree whose files belong to subordinate ids.
pub const REMOVE: sandbox::Job = ("remove-tree", remove_inside);

/// Makes the tree and writes it to `out`, from where that file stands.
///
/// # Errors
/// [`Kind::Verify`] for a package with another digest; a package that is damaged, hostile,
/// or in conflict with another; a script that fails, with its last words; namespaces that the machine refuses.
pub fn run(spec: &Spec, env: &Env<'_>, out: &File) -> anyhow::Result<Written> {
    std::fs::create_dir_all(env.work).with_context(|| format!("making {}", env.work.display()))?;
    let work = env.work.canonicalize()?;
    // Private: nobody else may reach a set-id program of the tree.
    let root = tempfile::Builder::new().prefix(crate::host::fs::TEMPORARY).tempdir_in(&work)?.keep();
    let attempt = |jobs: usize| {
        let emulator = env.emulator.map(Path::canonicalize).transpose()?;
        let order = Order { spec: absolute(spec)?, root: root.join("tree"), jobs, emulator };
        let order = serde_json::to_vec(&order)?;
        sandbox::run(&sandbox::Call {
            program: env.program,
            name: JOB.0,
            job: &order,
            out: Some(out),
            own_users: env.emulator.is_some(),
            cancel: env.cancel,
            progress: env.progress,
        })
    };
    let start = io::Seek::stream_position(&mut &*out)?;
    let mut result = attempt(env.jobs);
    if matches!(&result, Ok(text) if text == ORDER_MATTERS) {
        result = remove(env, &root.join("tree")).and_then(|()| attempt(1));
    }
    let removed = remove(env, &root);
    let written = result.context("making a Debian tree").inspect_err(|_| {
        // Half a tar is worth nothing; where it cannot be cut, the error says enough.
        let _ = out.set_len(start);
    })?;
    removed?;
    let (digest, length) = written.split_once(' ').context("reading the sandbox's answer")?;
    Ok(Written { diff_id: digest.parse()?, length: length.parse()? })
}

/// The sandbox's answer when the work must be done again with one thread.
const ORDER_MATTERS: &str = "order-matters";

fn absolute(spec: &Spec) -> anyhow::Result<Spec> {
    let mut spec = spec.clone();
    for package in &mut spec.packages {
        package.path =
            package.path.canonicalize().with_context(|| format!("looking for {}", package.path.display()))?;
    }
    Ok(spec)
}

/// Takes away a work tree, inside the sandbox where its files belong to ids that are this user's only there.
fn remove(env: &Env<'_>, root: &Path) -> anyhow::Result<()> {
    if rustix::process::getuid().is_root() {
        std::fs::remove_dir_all(root)
    } else {
        let path = serde_json::to_vec(root)?;
        // Even when the work was cancelled: what is left would stay for ever.
        return sandbox::run(&sandbox::Call {
            program: env.program,
            name: REMOVE.0,
            job: &path,
            out: None,
            own_users: false,
            cancel: &Cancel::default(),
            progress: &|_| {},
        })
        .map(drop);
    }
    .with_context(|| format!("removing {}", root.display()))
}

fn remove_inside(order: &[u8]) -> anyhow::Result<String> {
    let root: PathBuf = serde_json::from_slice(order)?;
    std::fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
    Ok(String::new())
}

fn inside(order: &[u8]) -> anyhow::Result<String> {
    let Order { spec, root, jobs, emulator } = serde_json::from_slice(order)?;
    let emulator = emulator.as_deref().map(emulation::open).transpose()?;
    let packages = read_packages(&spec, jobs)?;
    std::fs::create_dir(&root).with_context(|| format!("making {}", root.display()))?;
    rustix::fs::chmod(&root, rustix::fs::Mode::from_raw_mode(0o755))?;
    sandbox::ignore_syncs()?;
    let tree = sandbox::enter(&root)?;
    if let Some(emulator) = &emulator {
        emulation::register(spec.arch, emulator)?;
    }
    match Bootstrap::new(&spec, packages, tree, jobs)?.make() {
        Ok(written) => Ok(format!("{} {}", written.diff_id, written.length)),
        Err(e) if e.root_cause().is::<OrderMatters>() => Ok(ORDER_MATTERS.into()),
        Err(e) => Err(e),
    }
}

/// A package whose control information was read; the digest is checked in the pass that reads the contents, before
/// any of its scripts runs.
struct Opened {
    package: Package,
    control: Arc<Control>,
    file: File,
}

/// Opens all packages and reads what they say of themselves; in the order of their ranks.
fn read_packages(spec: &Spec, jobs: usize) -> anyhow::Result<Vec<Opened>> {
    use rayon::prelude::*;
    let read = |package: &Package| {
        let file = super::unpack::open(&package.path)?;
        let control = match control(&file, package, spec.arch) {
            Ok(control) => Arc::new(control),
            Err(e) => {
                // Of another digest is the better reason, where it is one.
                Hashed::new(&file)?.check(package.sha256)?;
                return Err(e);
            }
        };
        Ok(Opened { package: package.clone(), control, file })
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(jobs.max(1)).build()?;
    let mut packages: Vec<Opened> = pool.install(|| {
        let read = |p: &Package| read(p).with_context(|| format!("reading package {}", p.name));
        spec.packages.par_iter().map(read).collect::<anyhow::Result<_>>()
    })?;
    // base-files brings the links that all others' paths go through, base-passwd the users that they belong to.
    let first = |name: &str| ["base-files", "base-passwd"].iter().position(|n| *n == name).unwrap_or(2);
    packages.sort_by(|a, b| {
        (first(&a.package.name), &a.package.name).cmp(&(first(&b.package.name), &b.package.name))
    });
    if let Some(twice) = packages.windows(2).find(|w| w[0].package.name == w[1].package.name) {
        bail!("package {} is there twice", twice[0].package.name);
    }
    Ok(packages)
}

/// The control information of an open package, which must be of the package that was asked for.
fn control(file: &File, package: &Package, wanted: Arch) -> anyhow::Result<Control> {
    let (_, control) = Deb::open(io::BufReader::new(file))?;
    let found = (control.required("Package")?, control.required("Version")?);
    if found != (package.name.as_str(), package.version.as_str()) {
        let why = anyhow!("it is {} {}, not {} {}", found.0, found.1, package.name, package.version);
        return Err(error::of(Kind::Verify, why));
    }
    let arch = control.required("Architecture")?;
    if arch != "all" && arch != wanted.to_string() {
        return Err(error::of(Kind::Verify, anyhow!("it is of architecture {arch}, not {wanted}")));
    }
    Ok(control)
}

/// A tree under way; this process's root is the tree.
struct Bootstrap<'a> {
    spec: &'a Spec,
    packages: Vec<Opened>,
    members: Vec<configure::Member>,
    unpacker: Unpacker,
    triggers: Triggers,
    scripts: Scripts,
    jobs: usize,
    /// Control files and lists of what is unpacked, by rank.
    lists: BTreeMap<usize, Vec<TreePath>>,
}

impl<'a> Bootstrap<'a> {
    fn new(
        spec: &'a Spec,
        packages: Vec<Opened>,
        tree: OwnedFd,
        jobs: usize,
    ) -> anyhow::Result<Bootstrap<'a>> {
        let members = configure::members(&packages.iter().map(|p| &*p.control).collect::<Vec<_>>());
        let dpkg = packages.iter().find(|p| p.package.name == "dpkg").map(|p| p.package.version.as_str());
        let scripts = Scripts::new(spec.arch, spec.epoch, dpkg.unwrap_or_default());
        let unpacker = Unpacker::new(tree, spec.epoch);
        Ok(Bootstrap {
            spec,
            packages,
            members,
            unpacker,
            triggers: Triggers::default(),
            scripts,
            jobs,
            lists: BTreeMap::new(),
        })
    }

    fn make(mut self) -> anyhow::Result<Written> {
        if self.spec.variant == Variant::Unpacked {
            let all: Vec<usize> = (0..self.packages.len()).collect();
            self.first_wave(&all)?;
            return self.write();
        }
        let mut waves = configure::waves(&self.members).into_iter();
        let first = waves.next().context("planning the order of unpacking")?;
        let waves: Vec<configure::Wave> = waves.collect();
        let later: Vec<usize> = waves.iter().flat_map(|wave| wave.unpack.iter().copied()).collect();
        // The root directory of the tree: files without a name do not show there.
        let mut ahead = Ahead::start(Path::new("/"), self.sources(&later)?, self.jobs > 1)?;
        self.first_wave(&first.unpack)?;
        stand_in::services()?;
        stand_in::initrd_generators()?;
        self.preinst(&first.unpack)?;
        for wave in waves {
            stand_in::host_keys()?;
            let names: Vec<&str> =
                wave.configure.iter().map(|rank| self.members[*rank].name.as_str()).collect();
            if !names.is_empty() {
                self.scripts.configure(Some(&names))?;
            }
            let mut sources = self.sources(&wave.unpack)?;
            sandbox::progress(&format!("decompressing {} packages", sources.len()));
            for source in &mut sources {
                ahead.finish(source)?;
            }
            self.preinst(&wave.unpack)?;
            self.unpack(sources)?;
            let activated = self.register(&wave.unpack)?;
            append("/var/lib/dpkg/triggers/Unincorp", &activated.into_iter().collect::<String>())?;
        }
        stand_in::host_keys()?;
        if self.jobs > 1 {
            stand_in::depmod(self.packages.iter().map(|p| &*p.control), self.scripts.env())?;
        }
        self.scripts.configure(None)?;
        self.scripts.audit()?;
        super::clean::clean(self.spec.variant)?;
        self.write()
    }

    /// base-files first and alone, for the links of the merged /usr; then all others of the wave.
    fn first_wave(&mut self, wave: &[usize]) -> anyhow::Result<()> {
        let (base, others): (Vec<usize>, Vec<usize>) =
            wave.iter().partition(|rank| self.members[**rank].name == "base-files");
        self.unpack(self.sources(&base)?)?;
        merge_usr(self.spec.arch)?;
        self.unpack(self.sources(&others)?)?;
        let admin = Path::new("/").join(database::ADMIN);
        for dir in ["info", "updates", "triggers", "alternatives", "parts"] {
            std::fs::create_dir_all(admin.join(dir))?;
        }
        let arch = format!("{}\n", self.spec.arch);
        for (name, text) in
            [("info/format", "1\n"), ("arch", &arch), ("diversions", ""), ("triggers/Unincorp", "")]
        {
            if !admin.join(name).exists() {
                put(&admin.join(name), text.as_bytes(), 0o644)?;
            }
        }
        self.register(wave)?;
        self.extended_states()
    }

    fn sources(&self, ranks: &[usize]) -> anyhow::Result<Vec<Source>> {
        let source = |rank: &usize| {
            let Opened { package, control, file } = &self.packages[*rank];
            Ok(Source {
                rank: *rank,
                name: package.name.clone(),
                file: file.try_clone()?,
                sha256: package.sha256,
                control: control.clone(),
                data: None,
                conffiles: database::conffiles(control)?,
            })
        };
        ranks.iter().map(source).collect()
    }

    fn unpack(&mut self, sources: Vec<Source>) -> anyhow::Result<()> {
        sandbox::progress(&format!("unpacking {} packages", sources.len()));
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default(); // none yet: no rules
        let rules = Rules::parse(
            &read("/var/lib/dpkg/diversions"),
            &read("/var/lib/dpkg/statoverride"),
            &read("/etc/passwd"),
            &read("/etc/group"),
        )?;
        let mut replaced = vec![];
        for Opened { package, control, .. } in &self.packages {
            let clauses = relation::parse(control.field("Replaces").unwrap_or_default(), self.spec.arch)
                .with_context(|| format!("reading what {} replaces", package.name))?;
            replaced.push(clauses);
        }
        let packages = &self.packages;
        let replaces = |a: usize, b: usize| {
            let Package { name, version, .. } = &packages[b].package;
            replaced[a].iter().flat_map(|c| c.alternatives()).any(|r| r.name == *name && r.admits(version))
        };
        // Killing the sandbox is how this is cancelled.
        let cancel = Cancel::default();
        let done = self.unpacker.unpack(&sources, &rules, &replaces, self.jobs, &cancel)?;
        self.lists.extend(done.lists);
        Ok(())
    }

    /// Tells dpkg of what was unpacked; what that sets off among the packages of before.
    fn register(&mut self, ranks: &[usize]) -> anyhow::Result<BTreeSet<String>> {
        let admin = Path::new("/").join(database::ADMIN);
        let mut ranks = ranks.to_vec();
        ranks.sort_unstable();
        let mut status = String::new();
        let mut activated = BTreeSet::new();
        for rank in &ranks {
            let control = &self.packages[*rank].control;
            let name = database::info_name(control);
            for (file, (bytes, mode)) in &control.files {
                put(&admin.join(format!("info/{name}.{file}")), bytes, *mode)?;
            }
            status += &database::status(control);
            let list = self.lists.get(rank).map(Vec::as_slice).unwrap_or_default();
            activated.extend(self.triggers.activated(control, list));
        }
        for rank in &ranks {
            self.triggers.declare(&self.packages[*rank].control);
        }
        for (rank, path) in self.unpacker.lost() {
            if let Some(list) = self.lists.get_mut(&rank) {
                list.retain(|p| *p != path);
                ranks.push(rank);
            }
        }
        for rank in &ranks {
            let name = database::info_name(&self.packages[*rank].control);
            let list = self.lists.get(rank).map(Vec::as_slice).unwrap_or_default();
            put(&admin.join(format!("info/{name}.list")), database::list(list).as_bytes(), 0o644)?;
        }
        for (name, text) in self.triggers.files() {
            put(&admin.join("triggers").join(name), text.as_bytes(), 0o644)?;
        }
        append("/var/lib/dpkg/status", &status)?;
        Ok(activated)
    }

    /// Which packages apt may take away when nothing needs them any more (apt-mark(8)).
    fn extended_states(&self) -> anyhow::Result<()> {
        let automatic = self.packages.iter().filter(|p| p.package.automatic);
        let text: String = automatic
            .map(|p| {
                let arch = match p.control.field("Architecture") {
                    Some("all") | None => self.spec.arch.to_string(),
                    Some(arch) => arch.to_string(),
                };
                format!("Package: {}\nArchitecture: {arch}\nAuto-Installed: 1\n\n", p.package.name)
            })
            .collect();
        if !text.is_empty() && Path::new("/var/lib/apt").is_dir() {
            put(Path::new("/var/lib/apt/extended_states"), text.as_bytes(), 0o644)?;
        }
        Ok(())
    }

    /// Runs the `preinst` scripts of those that have one, from where dpkg has control files at that time.
    fn preinst(&self, ranks: &[usize]) -> anyhow::Result<()> {
        let directory = Path::new("/var/lib/dpkg/tmp.ci");
        for rank in ranks.iter().filter(|rank| self.members[**rank].preinst) {
            let Opened { package, control, .. } = &self.packages[*rank];
            sandbox::progress(&format!("preparing {}", package.name));
            std::fs::create_dir(directory)?;
            put(&directory.join("control"), control.text.as_bytes(), 0o644)?;
            for (file, (bytes, mode)) in &control.files {
                put(&directory.join(file), bytes, *mode)?;
            }
            let ran = self.scripts.preinst(&package.name, "/var/lib/dpkg/tmp.ci");
            std::fs::remove_dir_all(directory)?;
            ran?;
        }
        Ok(())
    }

    fn write(self) -> anyhow::Result<Written> {
        sandbox::progress("writing the tree");
        let (times, epoch) = (self.unpacker.times(), self.spec.epoch);
        let root = self.unpacker.root().try_clone()?;
        let tree = walk::read(root, |path, stat| match times.get(path) {
            Some(time) if *time == stat.st_mtime => *time,
            _ => epoch.0,
        })?;
        let out = io::BufWriter::with_capacity(1 << 20, sandbox::product()?);
        crate::tree::tar::write(&tree, epoch, out).context("writing the tar")
    }
}

/// The links of a merged /usr, for releases whose base-files leaves them to the installer (Debian 12, Ubuntu 22.04).
fn merge_usr(arch: Arch) -> anyhow::Result<()> {
    let more = match arch {
        Arch::Amd64 => &["lib64"][..],
        Arch::Arm64 => &[],
    };
    for name in ["bin", "sbin", "lib"].iter().chain(more) {
        std::fs::create_dir_all(format!("/usr/{name}"))?;
        match std::os::unix::fs::symlink(format!("usr/{name}"), format!("/{name}")) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e.into()),
            _ => {}
        }
    }
    Ok(())
}

fn put(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    crate::host::fs::overwrite(path, bytes, mode).with_context(|| format!("writing {}", path.display()))
}

fn append(path: &str, text: &str) -> anyhow::Result<()> {
    let old = match std::fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => vec![],
        other => other.with_context(|| format!("reading {path}"))?,
    };
    put(Path::new(path), &[&old, text.as_bytes()].concat(), 0o644)
}
