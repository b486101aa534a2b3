//! Bundles and seeds on what carries them to a box: a folder to copy, a FAT image for a stick or for the FORGE-ENROLL
//! partition, or a NoCloud seed.
//!
//! The folder is the same on all of them: [`bundle::DIRECTORY`]. NoCloud (label `CIDATA`) is there to pass through tools
//! that can write nothing else: its user-data only copies the folder, and what is in it is signed either way.

use crate::disk::fat::{self, FatSpec};
use crate::disk::{ENROLL_LABEL, ENROLL_SIZE};
use crate::enroll::bundle;
use crate::enroll::issue::Issued;
use crate::host::fs::{self, Durability, Staged};
use crate::model::Epoch;
use crate::seed::Emitted;
use crate::tree::{Node, Tree, TreePath};
use anyhow::Context as _;
use std::path::Path;

/// The volume label that NoCloud looks for.
const CIDATA: &str = "CIDATA";

/// What a bundle is carried by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Carrier {
    /// `NAME/forge-enroll/`, to copy onto a stick named FORGE-ENROLL
    Folder,
    /// `NAME.img`: a FAT volume, to write onto a stick or into the FORGE-ENROLL partition
    Image,
    /// `NAME.cidata.img`: a NoCloud seed that carries the folder
    Cidata,
}

/// The user-data of a NoCloud seed: takes the folder to where `forge-device` looks for it.
const USER_DATA: &str = "#cloud-config
# Carries an enrollment bundle. Its files are signed: nothing here is trusted.
bootcmd:
  - [mkdir, -p, /run/forge/cidata, /var/lib/forge]
  - [mount, -o, 'ro,nosuid,nodev,noexec', LABEL=CIDATA, /run/forge/cidata]
  - [cp, -r, /run/forge/cidata/forge-enroll, /var/lib/forge/]
  - [umount, /run/forge/cidata]
";

/// Writes `bundles` into the new directory `to`, which appears whole or not at all.
///
/// # Errors
/// When a bundle is larger than a volume, or the file system refuses.
pub fn write(bundles: &[Issued], carrier: Carrier, epoch: Epoch, to: &Path) -> anyhow::Result<()> {
    let staged = Staged::dir(to)?;
    for issued in bundles {
        match carrier {
            Carrier::Folder => folder(issued, staged.path()),
            Carrier::Image => volume(
                &tree(issued)?,
                ENROLL_LABEL,
                epoch,
                &staged.path().join(format!("{}.img", issued.name)),
            ),
            Carrier::Cidata => {
                let mut tree = tree(issued)?;
                tree.insert(TreePath::parse("user-data")?, Node::text(USER_DATA, 0o644))?;
                let meta = format!("instance-id: {}\n", issued.name);
                tree.insert(TreePath::parse("meta-data")?, Node::text(meta, 0o644))?;
                volume(&tree, CIDATA, epoch, &staged.path().join(format!("{}.cidata.img", issued.name)))
            }
        }
        .with_context(|| format!("writing the bundle of {}", issued.name))?;
    }
    staged.commit(Durability::Synced).with_context(|| format!("writing {}", to.display()))
}

/// Writes `seeds` into the new directory `to`, which appears whole or not at all: as `NAME/` with the files, or as FAT volumes
/// `NAME.img`. For this user alone.
///
/// # Errors
/// When a seed is larger than a volume, or the file system refuses.
pub fn write_seeds(seeds: &[(String, Emitted)], image: bool, epoch: Epoch, to: &Path) -> anyhow::Result<()> {
    let staged = Staged::dir(to)?;
    for (name, emitted) in seeds {
        let one = || -> anyhow::Result<()> {
            if image {
                let mut tree = Tree::new();
                for (path, file) in &emitted.files {
                    for (at, _) in path.match_indices('/') {
                        tree.insert(TreePath::parse(&path[..at])?, Node::dir(0o700))?;
                    }
                    tree.insert(TreePath::parse(path)?, Node::file(file.content.to_vec(), file.mode))?;
                }
                return volume(&tree, emitted.label, epoch, &staged.path().join(format!("{name}.img")));
            }
            for (path, file) in &emitted.files {
                let path = staged.path().join(name).join(path);
                if let Some(parent) = path.parent() {
                    fs::make_private_dir(parent)?;
                }
                fs::place(&path, file.mode, file.content.as_slice())?;
            }
            Ok(())
        };
        one().with_context(|| format!("writing the seed of {name}"))?;
    }
    staged.commit(Durability::Synced).with_context(|| format!("writing {}", to.display()))
}

fn folder(issued: &Issued, under: &Path) -> anyhow::Result<()> {
    let dir = under.join(&issued.name).join(bundle::DIRECTORY);
    fs::make_private_dir(&under.join(&issued.name))?;
    fs::make_private_dir(&dir)?;
    for (name, content) in &issued.files {
        fs::place(&dir.join(name), 0o600, content.as_slice())?;
    }
    Ok(())
}

fn tree(issued: &Issued) -> anyhow::Result<Tree> {
    let mut tree = Tree::new();
    let dir = TreePath::parse(bundle::DIRECTORY)?;
    tree.insert(dir.clone(), Node::dir(0o700))?;
    for (name, content) in &issued.files {
        tree.insert(TreePath::parse(&format!("{dir}/{name}"))?, Node::file(content.to_vec(), 0o600))?;
    }
    Ok(tree)
}

fn volume(tree: &Tree, label: &str, epoch: Epoch, path: &Path) -> anyhow::Result<()> {
    let file = fs::create_new(path)?;
    file.set_len(ENROLL_SIZE)?;
    let spec =
        FatSpec { size: ENROLL_SIZE, fat32: false, label: label.into(), volume_id: 0, hidden: 0, epoch };
    Ok(fat::write(tree, &spec, &file, 0)?)
}
