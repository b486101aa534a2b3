//! A file, what it extends and what the command line sets → a [`Profile`], or every fault.

use super::diagnostic::{Fault, Place, Report, SourceId, Sources};
use super::files::{self, Nowhere, OnDisk};
use super::fragment::{self, Node, Table};
use super::shape::{Files, Reader, Shape as _, Wrong};
use super::tables::Document;
use super::{ArchProfile, Profile, check, merge};
use crate::model::Arch;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How many files deep `extends` may go: nobody can follow more.
const MAX_DEPTH: usize = 8;
/// How many files a profile may be made of.
const MAX_FILES: usize = 64;

/// The environment: the value of a variable, where it is set.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads the profile at `path`, all that it extends, and the files that it names. `overrides` are `KEY.KEY=VALUE` with
/// a TOML value, or text where it is none.
///
/// # Errors
/// All faults of the profile.
pub fn load(path: &Path, overrides: &[String], env: Environment<'_>) -> Result<Profile, Report> {
    let dir = path.parent().unwrap_or(Path::new(""));
    let name = path.display().to_string();
    let mut files = OnDisk { dir: dir.into(), embedded: BTreeMap::new() };
    let main = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let text = files::read_profile(path).map_err(|wrong| {
        let mut sources = Sources::default();
        let source = sources.add(name.clone(), "", "");
        Report::new(sources, vec![wrong.at(Place { source, start: 0, end: 0 })])
    })?;
    let mut profile = assemble(&name, &main, text, overrides, env, &mut files)?;
    profile.dir = dir.into();
    profile.files = files.embedded;
    Ok(profile)
}

/// Reads a profile that is only text: it can extend nothing, and the files that it names are not looked at.
///
/// # Errors
/// All faults of the profile.
pub fn parse(text: &str) -> Result<Profile, Report> {
    assemble("profile.toml", "profile.toml", text.into(), &[], &|_| None, &mut Nowhere)
}

/// For the fuzzer: reads any bytes as a profile and shows what is wrong with it.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Err(report) = parse(text)
    {
        assert!(report.findings().all(|finding| !finding.message.is_empty()));
        assert!(!report.render(true).is_empty());
    }
}

fn assemble(
    name: &str,
    path: &str,
    text: String,
    overrides: &[String],
    env: Environment<'_>,
    files: &mut dyn Files,
) -> Result<Profile, Report> {
    let mut gathering = Gathering { sources: Sources::default(), faults: vec![], files, broken: false };
    let main = gathering.sources.add(name, "", text);
    let mut root = gathering.file(main, &mut vec![path.into()]);
    for set in overrides {
        gathering.set(&mut root, set);
    }
    let Gathering { sources, mut faults, broken, .. } = gathering;
    // What a broken file would have said is unknown: faults of the rest would be guesses.
    let profile = if broken { None } else { resolve(root, &sources, env, files, &mut faults) };
    match profile {
        Some(profile) if faults.is_empty() => Ok(profile),
        _ => Err(Report::new(sources, faults)),
    }
}

/// Reads files and merges them.
struct Gathering<'a> {
    sources: Sources,
    faults: Vec<Fault>,
    files: &'a mut dyn Files,
    /// A file could not be read whole.
    broken: bool,
}

impl Gathering<'_> {
    /// The tree of a file laid onto those that it extends. `chain` is the way here, for cycles.
    fn file(&mut self, source: SourceId, chain: &mut Vec<String>) -> Node {
        let before = self.faults.len();
        let mut own = fragment::read(&self.sources, source, &mut self.faults);
        self.broken |= self.faults.len() > before;
        let mut root = Node::empty(own.place);
        if let Some(extends) = own.take("extends") {
            for base in self.extended(&extends.node) {
                if let Some(tree) = self.base(source, base, chain) {
                    merge::file(&mut root, tree, &mut self.faults);
                }
            }
        }
        merge::file(&mut root, own, &mut self.faults);
        root
    }

    fn extended<'n>(&mut self, extends: &'n Node) -> Vec<&'n Node> {
        let items = extends.list().unwrap_or(std::slice::from_ref(extends));
        let (paths, others): (Vec<_>, Vec<_>) = items.iter().partition(|item| item.text().is_some());
        for other in others {
            self.fail(
                other.place,
                Wrong::new(
                    format!("`extends` names files, not {}", other.kind()),
                    "extends = [\"base/retail.toml\"]",
                ),
            );
        }
        paths
    }

    fn base(&mut self, source: SourceId, node: &Node, chain: &mut Vec<String>) -> Option<Node> {
        let read = self.open(source, node.text().unwrap_or_default(), chain);
        match read {
            Ok((path, base)) => {
                chain.push(path);
                let tree = self.file(base, chain);
                chain.pop();
                Some(tree)
            }
            Err(wrong) => {
                self.fail(node.place, wrong);
                None
            }
        }
    }

    fn open(&mut self, source: SourceId, named: &str, chain: &[String]) -> Result<(String, SourceId), Wrong> {
        let path = files::resolve(self.sources.dir(source), named)?;
        if chain.contains(&path) {
            let help = format!("the way here: {} → {path}", chain.join(" → "));
            return Err(Wrong::new(format!("`{named}` extends itself"), help));
        }
        if chain.len() >= MAX_DEPTH || self.sources.count() >= MAX_FILES {
            let help = format!("at most {MAX_DEPTH} files deep and {MAX_FILES} files in all");
            return Err(Wrong::new("too many files extend one another", help));
        }
        let text = self.files.profile(&path)?;
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir).to_string();
        Ok((path.clone(), self.sources.add(self.files.name(&path), dir, text)))
    }

    fn fail(&mut self, place: Place, wrong: Wrong) {
        self.broken = true;
        self.faults.push(wrong.at(place));
    }

    /// Lays `--set KEY.KEY=VALUE` onto the tree.
    fn set(&mut self, root: &mut Node, set: &str) {
        let typed = self.sources.add("--set", "", set);
        let mut faults = vec![];
        let mut tree = fragment::read(&self.sources, typed, &mut faults);
        if !faults.is_empty()
            && let Some((key, value)) = set.split_once('=')
        {
            // A shell has eaten the quotes: what is no TOML value is text.
            let quoted = format!("{key}={}", toml::Value::from(value));
            let again = self.sources.add("--set", "", quoted);
            faults.clear();
            tree = fragment::read(&self.sources, again, &mut faults);
        }
        self.broken |= !faults.is_empty();
        self.faults.append(&mut faults);
        let place = root.place;
        merge::file(root, tree, &mut self.faults);
        root.place = place; // what is missing is missing in the file
    }
}

/// Tables that are the same for every architecture: one release has one name, one signature and one place.
const COMMON: [&str; 6] = ["schema", "site", "sign", "publish", "enroll", "export"];

/// The merged tree → the profile; `None` when there are faults.
fn resolve(
    mut root: Node,
    sources: &Sources,
    env: Environment<'_>,
    files: &mut dyn Files,
    faults: &mut Vec<Fault>,
) -> Option<Profile> {
    let overlays = overlays(&mut root, faults);
    let wanted = wanted(&root);
    let mut documents = BTreeMap::new();
    // A table of an architecture that is not wanted (a base has it for others) must be right none the less.
    for arch in wanted.iter().chain(overlays.keys()).copied().collect::<BTreeSet<_>>() {
        let mut tree = root.clone();
        if let Some(overlay) = overlays.get(&arch) {
            merge::overlay(&mut tree, overlay.clone(), faults);
        }
        let mut reader = Reader { faults: vec![], sources, env, files: &mut *files, path: vec![] };
        let document = Document::read(&tree, &mut reader);
        check::check(&tree, arch, &mut reader);
        faults.append(&mut reader.faults);
        if wanted.contains(&arch) {
            documents.insert(arch, document);
        }
    }
    let documents = documents.into_iter().map(|(arch, document)| Some((arch, document?)));
    let documents: BTreeMap<Arch, Document> = documents.collect::<Option<_>>()?;
    let Document { site, image, sign, publish, enroll, export, .. } = documents.values().next()?.clone();
    let arch = documents.into_iter().map(|(arch, document)| (arch, ArchProfile::from(document)));
    Some(Profile {
        site,
        version: image.version,
        arch: arch.collect(),
        sign,
        publish,
        enroll,
        export,
        files: BTreeMap::new(),
        dir: Default::default(),
    })
}

/// Takes `[arch.*]` out of the tree.
fn overlays(root: &mut Node, faults: &mut Vec<Fault>) -> BTreeMap<Arch, Node> {
    let Some(entry) = root.take("arch") else { return BTreeMap::new() };
    let Some(arches) = entry.node.table() else {
        let fault = Fault::new(
            entry.node.place,
            format!("`arch` is {}, expected a table", entry.node.kind()),
            "write `[arch.arm64.os]`; the list of architectures is `image.arch`",
        );
        faults.push(fault);
        return BTreeMap::new();
    };
    let known = Arch::ALL.map(Arch::oci);
    let mut overlays = BTreeMap::new();
    for (name, entry) in arches {
        match name.parse::<Arch>() {
            Ok(arch) => {
                refuse_common(&entry.node, faults);
                overlays.insert(arch, entry.node.clone());
            }
            Err(error) => faults.push(Fault::new(
                entry.key,
                error.to_string(),
                format!("write `[arch.{}]`", known.join("]` or `[arch.")),
            )),
        }
    }
    overlays
}

fn refuse_common(overlay: &Node, faults: &mut Vec<Fault>) {
    let empty = Table::new();
    let table = overlay.table().unwrap_or(&empty);
    let image = overlay.at(&["image"]).and_then(Node::table).unwrap_or(&empty);
    let common = COMMON.iter().filter_map(|key| Some((format!("[{key}]"), table.get(*key)?)));
    let common = common
        .chain(["version", "arch"].iter().filter_map(|key| Some((format!("image.{key}"), image.get(*key)?))));
    for (name, entry) in common {
        let fault = Fault::new(
            entry.key,
            format!("`{name}` is the same for every architecture"),
            "move it out of the `arch` table",
        );
        faults.push(fault);
    }
}

/// The architectures that `image.arch` lists, as far as they are known; faults are told when the document is read.
fn wanted(root: &Node) -> BTreeSet<Arch> {
    match root.at(&["image", "arch"]) {
        Some(list) => {
            let known = list.list().unwrap_or_default().iter().filter_map(|item| item.text()?.parse().ok());
            let known: BTreeSet<Arch> = known.collect();
            if known.is_empty() { BTreeSet::from([Arch::Amd64]) } else { known }
        }
        None => BTreeSet::from([Arch::Amd64]),
    }
}

impl From<Document> for ArchProfile {
    fn from(document: Document) -> ArchProfile {
        let Document {
            mut image,
            install,
            mut os,
            kubernetes,
            hardware,
            agent,
            mut container,
            workload,
            helm,
            gitops,
            ..
        } = document;
        // Sets, though typed as lists: neither order nor repetition changes what is built.
        image.artifacts = set(image.artifacts);
        image.disk_formats = set(image.disk_formats);
        os.packages = set(os.packages);
        container
            .iter_mut()
            .for_each(|container| container.packages = set(std::mem::take(&mut container.packages)));
        ArchProfile {
            artifacts: image.artifacts,
            compression: image.compression,
            disk_formats: image.disk_formats,
            board: image.board,
            board_firmware: image.board_firmware,
            kernel: image.kernel,
            devicetree: image.devicetree,
            install,
            os,
            kubernetes,
            hardware,
            agent,
            container,
            workload,
            helm,
            gitops,
        }
    }
}

fn set<T: Ord>(items: Vec<T>) -> Vec<T> {
    items.into_iter().collect::<BTreeSet<T>>().into_iter().collect()
}
