//! A board's firmware packages, unpacked and not installed → the files that its loader reads from the ESP.

use super::Kitchen;
use crate::board;
use crate::debian::deb::Deb;
use crate::error::{Kind, Mark as _};
use crate::plan::Firmware;
use crate::tree::{Node, NodeKind, Tree, TreePath};
use anyhow::{Context as _, ensure};
use std::io::Read as _;

/// The largest file of firmware, in bytes; the Pi's debugging firmware has 5 MB.
const MAX_FILE: u64 = 32 << 20;
/// The most that the files kept of one package may have together, in bytes.
const MAX_PACKAGE: u64 = 128 << 20;

/// Writes the ESP's files as a layer.
pub fn run(spec: &Firmware, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let board = board::named(&spec.board).with_context(|| format!("`{}` is no board", spec.board))?;
    let mut kept = Tree::new();
    for package in &spec.packages {
        unpack(&package.name, kitchen.blob(package.digest)?.reader(), board.kept, &mut kept)
            .with_context(|| format!("unpacking {} {}", package.name, package.version))
            .kind(Kind::Verify)?;
    }
    if let (Some(digest), Some(name)) = (spec.source, board.firmware) {
        unpack(name, kitchen.blob(digest)?.reader(), board.kept, &mut kept)
            .with_context(|| format!("unpacking `image.board-firmware`, {digest}"))
            .kind(Kind::Verify)
            .hint(format!("it has to be a .deb of the package {name}"))?;
    }
    let files = (board.esp)(&kept, &kitchen.tree(&spec.os)?)
        .with_context(|| format!("composing the boot files of board {}", board.name))?;
    kitchen.write_layer(&files)
}

/// What of the package `name` lies below `dirs`.
pub(super) fn unpack(
    name: &str,
    deb: impl std::io::Read,
    dirs: &[&str],
    kept: &mut Tree,
) -> anyhow::Result<()> {
    let (deb, control) = Deb::open(deb)?;
    let said = control.required("Package")?;
    ensure!(said == name, "it is the package {said}, not {name}");
    let dirs = dirs.iter().map(|dir| TreePath::parse(dir)).collect::<Result<Vec<_>, _>>()?;
    let (mut data, mut total) = (deb.data()?, 0);
    while let Some(entry) = data.next_entry()? {
        let NodeKind::File(_) = &entry.node.kind else { continue };
        if !dirs.iter().any(|dir| entry.path.is_below(dir)) {
            continue;
        }
        total += entry.size;
        ensure!(
            entry.size <= MAX_FILE && total <= MAX_PACKAGE,
            "/{} makes it larger than firmware is",
            entry.path
        );
        let mut bytes = vec![];
        (&mut data).take(entry.size).read_to_end(&mut bytes)?;
        ensure!(bytes.len() as u64 == entry.size, "/{} ends early", entry.path);
        kept.insert(entry.path, Node::file(bytes, 0o644))?;
    }
    Ok(())
}
