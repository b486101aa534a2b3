//! Two of the same kind → what differs, one [`Change`] a thing.
//!
//! Layers and files that both sides have by digest are looked into on neither: what is equal costs nothing. Architectures
//! are compared with themselves, layers by name, partitions by what they are for, kernels by their place; names that bear
//! a version would else differ always.

use super::text::delta;
use super::{Inspected, Kernel, Layer};
use crate::contents::FileState;
use crate::model::Bytes;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What kind of thing differs, in the order in which changes are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A package.
    Package,
    /// A container image that is carried along.
    ContainerImage,
    /// An argument of the kernel's command line.
    KernelArgument,
    /// A partition.
    Partition,
    /// A layer of the OCI image.
    Layer,
    /// A file of a release, or a locked one.
    ReleaseFile,
    /// A section of a kernel image.
    Section,
    /// A single fact.
    Fact,
    /// A file of a layer.
    File,
}

impl What {
    /// The word for several.
    pub fn plural(self) -> &'static str {
        match self {
            What::Package => "packages",
            What::ContainerImage => "container images",
            What::KernelArgument => "kernel arguments",
            What::Partition => "partitions",
            What::Layer => "layers",
            What::ReleaseFile => "files",
            What::Section => "kernel image sections",
            What::Fact => "facts",
            What::File => "files in layers",
        }
    }
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Change {
    /// What it is.
    pub what: What,
    /// Where: architecture and set, layer, disk; empty for the whole.
    pub place: String,
    /// Its name.
    pub name: String,
    /// Version, digest or value before; absent where it was added.
    pub old: Option<String>,
    /// Version, digest or value after; absent where it was removed.
    pub new: Option<String>,
    /// Its size before, where it has one.
    pub old_size: Option<Bytes>,
    /// Its size after, where it has one.
    pub new_size: Option<Bytes>,
}

impl Change {
    /// `+1.2 MiB`: how its size changed, where that is known.
    pub fn size_text(&self) -> Option<String> {
        let zero = Bytes(0);
        let (old, new) = (self.old_size.unwrap_or(zero), self.new_size.unwrap_or(zero));
        (self.old_size.is_some() || self.new_size.is_some())
            .then(|| delta(old, new))
            .filter(|_| old != zero || new != zero)
    }
}

/// What differs between two.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The name of the first.
    pub a: String,
    /// The name of the second.
    pub b: String,
    /// Changes, sorted by what they are, where, and name.
    #[serde(skip)]
    pub changes: Vec<Change>,
}

/// How many of one kind changed in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Only in the second.
    pub added: usize,
    /// Only in the first.
    pub removed: usize,
    /// In both, and different.
    pub changed: usize,
}

impl Difference {
    /// Counts by kind; only of kinds that differ.
    pub fn counts(&self) -> BTreeMap<What, Count> {
        let mut counts: BTreeMap<What, Count> = BTreeMap::new();
        for change in &self.changes {
            let count = counts.entry(change.what).or_default();
            match (&change.old, &change.new) {
                (None, _) => count.added += 1,
                (_, None) => count.removed += 1,
                _ => count.changed += 1,
            }
        }
        counts
    }

    /// One line: `packages +1 -0 ~3, files in layers +2 -0 ~9`.
    pub fn summary(&self) -> String {
        let counts = self.counts();
        let count = |(what, c): (&What, &Count)| {
            format!("{} +{} -{} ~{}", what.plural(), c.added, c.removed, c.changed)
        };
        match counts.is_empty() {
            true => "no differences".into(),
            false => counts.iter().map(count).collect::<Vec<_>>().join(", "),
        }
    }
}

/// A thing to compare: what tells it apart, and its size.
type Item = (String, Option<Bytes>);

#[derive(Default)]
struct Changes(Vec<Change>);

impl Changes {
    /// Compares what is called the same on both sides.
    fn items(&mut self, what: What, place: &str, a: &BTreeMap<String, Item>, b: &BTreeMap<String, Item>) {
        let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for name in names {
            let (old, new) = (a.get(name), b.get(name));
            if old.map(|i| &i.0) == new.map(|i| &i.0) {
                continue;
            }
            self.0.push(Change {
                what,
                place: place.into(),
                name: name.clone(),
                old: old.map(|i| i.0.clone()),
                new: new.map(|i| i.0.clone()),
                old_size: old.and_then(|i| i.1),
                new_size: new.and_then(|i| i.1),
            });
        }
    }
}

/// Compares `a` with `b`. File by file where both were read with
/// [`Detail::Files`](crate::contents::Detail::Files).
pub fn compare(a: &Inspected, b: &Inspected) -> Difference {
    let mut changes = Changes::default();
    let facts = |i: &Inspected| i.facts.iter().map(|(k, v)| (k.clone(), (v.clone(), None))).collect();
    changes.items(What::Fact, "", &facts(a), &facts(b));
    let files = |i: &Inspected| {
        i.files.iter().map(|f| (f.path.clone(), (f.digest.to_string(), Some(f.size)))).collect()
    };
    changes.items(What::ReleaseFile, "", &files(a), &files(b));
    packages(&mut changes, a, b);
    containers(&mut changes, a, b);
    layers(&mut changes, a, b);
    disks(&mut changes, a, b);
    kernels(&mut changes, a, b);
    let mut changes = changes.0;
    changes.sort_by(|x, y| (x.what, &x.place, &x.name).cmp(&(y.what, &y.place, &y.name)));
    Difference { a: a.name.clone(), b: b.name.clone(), changes }
}

fn packages(changes: &mut Changes, a: &Inspected, b: &Inspected) {
    let sets = |i: &Inspected| {
        let mut all: BTreeMap<String, BTreeMap<String, Item>> = BTreeMap::new();
        for (arch, sets) in &i.packages {
            for (set, packages) in sets {
                let items = packages.iter().map(|(n, p)| (n.clone(), (p.version.clone(), Some(p.size))));
                all.insert(format!("{arch}/{set}"), items.collect());
            }
        }
        all
    };
    by_place(changes, What::Package, &sets(a), &sets(b));
}

fn containers(changes: &mut Changes, a: &Inspected, b: &Inspected) {
    let images = |i: &Inspected| {
        let mut all: BTreeMap<String, BTreeMap<String, Item>> = BTreeMap::new();
        for (arch, images) in &i.containers {
            let items = images
                .iter()
                .map(|image| (image.names.join(", "), (image.digest.to_string(), Some(image.size))));
            all.insert(arch.clone(), items.collect());
        }
        all
    };
    by_place(changes, What::ContainerImage, &images(a), &images(b));
}

fn by_place(
    changes: &mut Changes,
    what: What,
    a: &BTreeMap<String, BTreeMap<String, Item>>,
    b: &BTreeMap<String, BTreeMap<String, Item>>,
) {
    let nothing = BTreeMap::new();
    let places: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    for place in places {
        changes.items(what, place, a.get(place).unwrap_or(&nothing), b.get(place).unwrap_or(&nothing));
    }
}

fn layers(changes: &mut Changes, a: &Inspected, b: &Inspected) {
    fn by_arch(i: &Inspected) -> BTreeMap<&str, BTreeMap<&str, &Layer>> {
        i.images
            .iter()
            .map(|image| (image.arch.as_str(), image.layers.iter().map(|l| (l.name.as_str(), l)).collect()))
            .collect()
    }
    let (a, b) = (by_arch(a), by_arch(b));
    let nothing = BTreeMap::new();
    let arches: BTreeSet<&str> = a.keys().chain(b.keys()).copied().collect();
    for arch in arches {
        let (a, b) = (a.get(arch).unwrap_or(&nothing), b.get(arch).unwrap_or(&nothing));
        let items = |layers: &BTreeMap<&str, &Layer>| {
            layers.iter().map(|(n, l)| (n.to_string(), (l.digest.to_string(), Some(l.size)))).collect()
        };
        changes.items(What::Layer, arch, &items(a), &items(b));
        for (name, old) in a {
            let Some(new) = b.get(name).filter(|new| new.digest != old.digest) else { continue };
            if let (Some(old), Some(new)) = (&old.contents, &new.contents) {
                let place = format!("{arch}/{name}");
                changes.items(What::File, &place, &entries(&old.entries), &entries(&new.entries));
            }
        }
    }
}

/// Files by path; a file whose attributes alone changed is told by them.
fn entries(files: &BTreeMap<String, FileState>) -> BTreeMap<String, Item> {
    let item = |f: &FileState| (format!("{} {}", f.content, f.attributes), Some(f.size));
    files.iter().map(|(path, f)| (format!("/{path}"), item(f))).collect()
}

fn disks(changes: &mut Changes, a: &Inspected, b: &Inspected) {
    let partitions = |i: &Inspected| {
        let mut all: BTreeMap<String, BTreeMap<String, Item>> = BTreeMap::new();
        for disk in &i.disks {
            // A release has one disk of an architecture and format; alone, a disk's name is the user's word for it.
            let place = if i.form == super::Form::Disk { String::new() } else { disk.name.clone() };
            let items = disk.partitions.iter().map(|p| (p.kind.clone(), (p.size.to_string(), Some(p.size))));
            all.insert(place, items.collect());
        }
        all
    };
    by_place(changes, What::Partition, &partitions(a), &partitions(b));
}

fn kernels(changes: &mut Changes, a: &Inspected, b: &Inspected) {
    for i in 0..a.kernels.len().max(b.kernels.len()) {
        let (old, new) = (a.kernels.get(i), b.kernels.get(i));
        // Named by the newer one: the name bears the version.
        let place = new.or(old).map(|k| k.name.clone()).unwrap_or_default();
        let arguments = |k: Option<&Kernel>| k.map(arguments).unwrap_or_default();
        changes.items(What::KernelArgument, &place, &arguments(old), &arguments(new));
        let sections = |k: Option<&Kernel>| {
            let sections = k.into_iter().flat_map(|k| &k.sections);
            sections.map(|s| (s.name.clone(), (s.digest.to_string(), Some(s.size)))).collect()
        };
        changes.items(What::Section, &place, &sections(old), &sections(new));
    }
}

/// The arguments of a command line by key; those of a key that comes again in their order.
fn arguments(kernel: &Kernel) -> BTreeMap<String, Item> {
    let mut all: BTreeMap<String, Item> = BTreeMap::new();
    for word in kernel.cmdline.split_ascii_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let item = all.entry(key.into()).or_default();
        if !item.0.is_empty() {
            item.0.push(' ');
        }
        item.0 += value;
    }
    all
}
