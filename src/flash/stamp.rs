//! An enrollment bundle's folder and the image that it is to go onto → the FORGE-ENROLL volume, if that image will take it.
//!
//! The image itself says whom it believes (`/usr/lib/forge/trust.d`) and what it was made from: a bundle of another fleet or
//! for another profile would be refused by the box, far away, and is refused here. Only on this machine's clock nothing
//! depends but the times of the volume's files.

use super::image::root_partition;
use crate::disk::gpt::{Partition, PartitionType};
use crate::disk::{DiskImage, erofs};
use crate::enroll::bootstrap::Bootstrap;
use crate::enroll::{Bundle, Trust};
use crate::host::fs;
use crate::model::{Digest, Epoch};
use crate::run::bundle;
use crate::sign::{PublicKey, Verified};
use crate::tree::{Content, NodeKind, Tree, TreePath};
use anyhow::{Context as _, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Where an image has the roots that it trusts, and the profile that it was made from.
const TRUST: &str = "usr/lib/forge/trust.d/";
const PROFILE: &str = "usr/lib/forge/profile.json";
/// More than a key or a resolved profile has, in bytes.
const MAX_TEXT: u64 = 4 << 20;

/// A bundle that the image takes.
pub struct Stamp {
    tree: Tree,
    bootstrap: Verified<Bootstrap>,
}

impl Stamp {
    /// Reads the bundle in `dir` and holds it against the image on `disk`.
    ///
    /// # Errors
    /// When there is no bundle, the image trusts no fleet, or it would refuse the bundle.
    pub fn open(dir: &Path, disk: &DiskImage) -> anyhow::Result<Stamp> {
        let tree = bundle::read(dir)?;
        let mut files = BTreeMap::new();
        for (path, node) in tree.iter() {
            if let NodeKind::File(content) = &node.kind {
                files.insert(path.name().to_string(), Zeroizing::new(content.to_vec(MAX_TEXT)?));
            }
        }
        let believes = believes(disk).context("reading what the image believes")?;
        let opened = Bundle::open(&files, &believes.trust)?;
        opened.bootstrap.get().check_image(&believes.profile, Some(believes.root_hash))?;
        Ok(Stamp { tree, bootstrap: opened.bootstrap })
    }

    /// What the fleet says to the box.
    pub fn bootstrap(&self) -> &Bootstrap {
        self.bootstrap.get()
    }

    /// The bytes of the volume for `place`, whose files have the time `epoch`; room for them is made in `work`.
    ///
    /// # Errors
    /// When the partition is too small, or the volume cannot be written.
    pub fn volume(&self, place: &Partition, epoch: Epoch, work: &Path) -> anyhow::Result<Vec<u8>> {
        let file = fs::anonymous(work)?;
        file.set_len(place.length)?; // what lies behind the volume is zero, whatever it was
        bundle::format(&self.tree, place, epoch, &file, 0)?;
        Ok(Content::of_file(Arc::new(file))?.to_vec(place.length)?)
    }
}

/// The partition that a bundle goes into.
///
/// # Errors
/// When the image has none, or several.
pub fn place(disk: &DiskImage) -> anyhow::Result<&Partition> {
    Ok(disk.only(PartitionType::Enroll)?.0)
}

struct Believes {
    trust: Trust,
    profile: String,
    root_hash: Digest,
}

/// What an image says of itself: read from its root as the box will read it.
fn believes(disk: &DiskImage) -> anyhow::Result<Believes> {
    let (root, tree, content) = root_partition(disk)?;
    let system = erofs::Image::open(content).and_then(|image| image.walk())?;
    let text = |entry: &erofs::Entry| -> anyhow::Result<String> {
        use std::io::Read as _;
        ensure!(entry.len() <= MAX_TEXT, "it has {} bytes", entry.len());
        let mut text = String::new();
        entry.reader().read_to_string(&mut text)?;
        Ok(text)
    };
    let mut roots = vec![];
    for (path, entry) in &system {
        if path.as_str().starts_with(TRUST) && path.as_str().ends_with(".pub") {
            let key = text(entry).and_then(|pem| PublicKey::from_pem(&pem));
            roots.push(key.with_context(|| format!("reading /{path}"))?);
        }
    }
    ensure!(!roots.is_empty(), "the image trusts no fleet: there is no key in /{TRUST}");
    let profile = system.get(&TreePath::parse(PROFILE)?).context("the image has no profile")?;
    let profile: serde_json::Value =
        serde_json::from_str(&text(profile)?).with_context(|| format!("reading /{PROFILE}"))?;
    let site = profile["site"]["name"].as_str().context("the image's profile names no site")?;
    // UAPI.2: the root partition and its tree are named by the two halves of the root hash.
    let halves = format!("{}{}", root.guid, tree.guid).replace('-', "");
    let root_hash = format!("sha256:{halves}").parse().context("reading the root hash")?;
    Ok(Believes { trust: Trust::any(roots), profile: site.into(), root_hash })
}
