//! A layout on disk to a repository of a registry, and back.
//!
//! The order of a push is what makes it safe to break off at any point: blobs, then the manifests that need them, then
//! what hangs on those, then the index, and the tag last. Whoever asks for the tag gets the old release or the whole new
//! one with its signatures. distribution-spec v1.1, §Push, §Referrers tag schema.

use crate::error::{Kind, Mark as _};
use crate::host::fs::Durability;
use crate::model::Digest;
use crate::oci::layout::{Layout, LayoutWriter, ref_name};
use crate::oci::registry::{Fetched, Registry};
use crate::oci::{Descriptor, Index, Manifest, Reference, is_index, json, referrer};
use anyhow::{Context as _, anyhow, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Where, by digest.
    pub reference: Reference,
    /// The tag that points there.
    pub tag: String,
    /// How many signatures and other referrers went along.
    pub referrers: usize,
}

/// Pushes the image named `tag` of the layout in `dir`, and all that hangs on it, to `to`. The tag there is that of
/// `to`, else `tag`. Blobs that `mount_from` has are not sent again.
///
/// # Errors
/// When the layout is damaged; [`Kind::Fetch`] when the registry refuses or stays away.
pub fn push(
    dir: &Path,
    tag: &str,
    to: &Reference,
    insecure: bool,
    mount_from: Option<&Reference>,
) -> anyhow::Result<Published> {
    let layout = Layout::open(dir)?;
    let root = layout.named(tag)?;
    let to_tag = to.tag().unwrap_or(tag);
    let mut image = Graph::default();
    image.collect(&layout, root)?;
    let referrers = hanging(&layout, &image)?;
    let mut blobs = image.blobs.clone();
    for (_, _, graph) in &referrers {
        blobs.extend(graph.blobs.clone());
    }
    let registry = Registry::open(to, insecure)?;
    let files = blobs.into_iter().map(|(digest, d)| (d, layout.blob_path(digest))).collect();
    registry.push_blobs(files, mount_from)?;

    let put = |d: &Descriptor, tag: Option<&str>| {
        registry.push_manifest(d.media_type().as_ref(), &layout.read(d)?, tag)
    };
    let (last, children) = image.manifests.split_last().context("an empty image")?;
    for child in children {
        put(child, None)?;
    }
    let mut by_subject: BTreeMap<Digest, Vec<Descriptor>> = BTreeMap::new();
    for (subject, entry, _) in &referrers {
        let classic = referrer::classic_tag(*subject);
        let classic = (ref_name(entry) == Some(&classic)).then_some(classic);
        put(entry, classic.as_deref())?;
        if classic.is_none() {
            by_subject.entry(*subject).or_default().push(entry.clone());
        }
    }
    for (subject, entries) in by_subject {
        // A registry with the referrers API lists them itself.
        if registry.referrers(subject)?.is_none() {
            extend_fallback(&registry, subject, entries)?;
        }
    }
    put(last, None)?;
    put(last, Some(to_tag))?;
    let digest = crate::oci::digest(last)?;
    Ok(Published { reference: to.with_digest(digest), tag: to_tag.into(), referrers: referrers.len() })
}

/// Adds `entries` to the fallback index of `subject`, which may list other people's already.
fn extend_fallback(registry: &Registry, subject: Digest, entries: Vec<Descriptor>) -> anyhow::Result<()> {
    let tag = referrer::fallback_tag(subject);
    let old = registry.manifest(&registry.reference().with_tag(&tag)?)?;
    let mut all: Vec<Descriptor> = match &old {
        Some(fetched) => json::parse::<Index>(&fetched.bytes)
            .with_context(|| format!("reading {tag}"))?
            .manifests()
            .clone(),
        None => vec![],
    };
    for entry in entries {
        if !all.iter().any(|d| d.digest() == entry.digest()) {
            all.push(entry);
        }
    }
    let index = referrer::fallback_index(&all)?;
    registry.push_manifest(crate::oci::INDEX, &index.bytes, Some(&tag))
}

/// What an image is made of, in the order in which a registry takes it.
#[derive(Debug, Default)]
struct Graph {
    blobs: BTreeMap<Digest, Descriptor>,
    /// Children before their index; the root last.
    manifests: Vec<Descriptor>,
}

impl Graph {
    fn collect(&mut self, layout: &Layout, root: &Descriptor) -> anyhow::Result<()> {
        if is_index(root.media_type()) {
            for child in layout.index(root)?.manifests() {
                if is_index(child.media_type()) {
                    bail!("index {} is nested in another", child.digest());
                }
                self.collect(layout, child)?;
            }
        } else {
            let manifest = layout.manifest(root)?;
            for blob in std::iter::once(manifest.config()).chain(manifest.layers()) {
                self.blobs.insert(crate::oci::digest(blob)?, blob.clone());
            }
        }
        self.manifests.push(root.clone());
        Ok(())
    }
}

/// The entries of a layout that hang on the manifests of `image`, each with its subject.
fn hanging(layout: &Layout, image: &Graph) -> anyhow::Result<Vec<(Digest, Descriptor, Graph)>> {
    let mut found = vec![];
    let subjects = image.manifests.iter().map(crate::oci::digest).collect::<Result<BTreeSet<_>, _>>()?;
    for entry in layout.entries().iter().filter(|e| referrer::may_refer(e)) {
        let subject = match layout.manifest(entry)?.subject() {
            Some(subject) => crate::oci::digest(subject).ok(),
            None => subjects.iter().copied().find(|s| ref_name(entry) == Some(&referrer::classic_tag(*s))),
        };
        if let Some(subject) = subject.filter(|s| subjects.contains(s)) {
            let mut graph = Graph::default();
            graph.collect(layout, entry)?;
            found.push((subject, entry.clone(), graph));
        }
    }
    Ok(found)
}

/// Fetches the image `from` with all architectures and all signatures into the layout `dir`, named by the tag of `from`
/// (`latest` where it has none). Everything is checked against its digest; whether a signature holds is for
/// `seal::verify` to say.
///
/// # Errors
/// [`Kind::Fetch`] when the registry refuses or stays away or has no such image; [`Kind::Verify`] when it sends other
/// bytes than were asked for.
pub fn pull(from: &Reference, dir: &Path, insecure: bool) -> anyhow::Result<Descriptor> {
    let registry = Registry::open(from, insecure)?;
    let mut pull = Pull { registry: &registry, writer: LayoutWriter::create(dir)?, taken: BTreeSet::new() };
    let root = registry.manifest(from)?;
    let root = root.ok_or_else(|| anyhow!("the registry has no {from}")).kind(Kind::Fetch)?;
    let mut subjects = pull.take(&root)?;
    if is_index(root.descriptor.media_type()) {
        for child in json::parse::<Index>(&root.bytes).with_context(|| format!("reading {from}"))?.manifests()
        {
            let fetched = pull.fetch(child)?;
            if is_index(child.media_type()) {
                bail!("index {} is nested in another", child.digest());
            }
            subjects.extend(pull.take(&fetched)?);
        }
    }
    pull.writer.entry(root.descriptor.clone(), Some(from.tag().unwrap_or("latest")));
    for subject in subjects {
        pull.referrers(subject)?;
    }
    pull.writer.commit(Durability::Synced)?;
    Ok(root.descriptor)
}

struct Pull<'a> {
    registry: &'a Registry,
    writer: LayoutWriter,
    taken: BTreeSet<Digest>,
}

impl Pull<'_> {
    fn fetch(&self, descriptor: &Descriptor) -> anyhow::Result<Fetched> {
        let place = self.registry.reference().with_digest(crate::oci::digest(descriptor)?);
        let fetched = self.registry.manifest(&place)?;
        fetched.ok_or_else(|| anyhow!("the registry has no {place}")).kind(Kind::Fetch)
    }

    /// Writes a manifest and its blobs; the digest of it.
    fn take(&mut self, fetched: &Fetched) -> anyhow::Result<Vec<Digest>> {
        let digest = self.writer.bytes(&fetched.bytes)?;
        if !is_index(fetched.descriptor.media_type()) {
            let manifest: Manifest =
                json::parse(&fetched.bytes).with_context(|| format!("reading manifest {digest}"))?;
            for blob in std::iter::once(manifest.config()).chain(manifest.layers()) {
                let name = crate::oci::digest(blob)?;
                if self.taken.insert(name) {
                    self.writer.fill(name, |out| self.registry.pull_blob(blob, out))?;
                }
            }
        }
        Ok(vec![digest])
    }

    /// Takes what hangs on `subject`: by the referrers API or its fallback tag, and under the classic tag.
    fn referrers(&mut self, subject: Digest) -> anyhow::Result<()> {
        let here = self.registry.reference();
        let listed = match self.registry.referrers(subject)? {
            Some(index) => Some(index),
            None => self.registry.manifest(&here.with_tag(&referrer::fallback_tag(subject))?)?,
        };
        if let Some(index) = listed {
            let index: Index =
                json::parse(&index.bytes).with_context(|| format!("reading the referrers of {subject}"))?;
            for entry in index.manifests() {
                let fetched = self.fetch(entry)?;
                self.take(&fetched)?;
                self.writer.entry(entry.clone(), None);
            }
        }
        let tag = referrer::classic_tag(subject);
        if let Some(classic) = self.registry.manifest(&here.with_tag(&tag)?)? {
            self.take(&classic)?;
            self.writer.entry(classic.descriptor, Some(&tag));
        }
        Ok(())
    }
}
