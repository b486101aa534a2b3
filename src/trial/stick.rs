//! A stick that a person carries between a box without a network and its fleet.

use crate::disk::fat::foreign::Foreign;
use crate::disk::fat::{self, FatSpec};
use crate::enroll::offline::request_name;
use crate::enroll::{DeviceId, MAX_BODY, bundle};
use crate::host::fs;
use crate::model::Epoch;
use crate::tree::{Node, Tree, TreePath};
use anyhow::Context as _;
use std::fs::File;
use std::path::Path;
use zeroize::Zeroizing;

/// What a volume is called that takes requests along: FAT's labels have eleven letters.
const LABEL: &str = "FORGE-RW";
/// A small stick.
const SIZE: u64 = 64 << 20;

/// Makes the stick `path` with nothing on it but `answer`, a grant for the device.
///
/// # Errors
/// When the disk is full.
pub fn format(path: &Path, answer: Option<(&DeviceId, Vec<u8>)>, now: Epoch) -> anyhow::Result<()> {
    let mut tree = Tree::new();
    if let Some((device, grant)) = answer {
        let name = format!("{}/{}", bundle::DIRECTORY, bundle::grant_name(device));
        for dir in TreePath::parse(&name)?.ancestors() {
            tree.insert(dir, Node::dir(0o755))?;
        }
        tree.insert(TreePath::parse(&name)?, Node::file(grant, 0o644))?;
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    let file = fs::create_new(path)?;
    file.set_len(SIZE)?;
    let spec = FatSpec { size: SIZE, fat32: false, label: LABEL.into(), volume_id: 1, hidden: 0, epoch: now };
    fat::write(&tree, &spec, &file, 0).context("formatting a stick")
}

/// The request of the device, once it lies on the stick `path`.
///
/// # Errors
/// When the stick cannot be opened. What is being written may be unreadable for a moment, and is then not there yet.
pub fn request(path: &Path, device: &DeviceId) -> anyhow::Result<Option<Zeroizing<Vec<u8>>>> {
    let file = File::open(path)?;
    let read = Foreign::open(&file).and_then(|volume| volume.read(&request_name(device), MAX_BODY));
    Ok(read.ok().flatten())
}
