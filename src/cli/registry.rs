//! `forge push`, `forge pull`: images and their signatures to and from a registry.

use super::Session;
use crate::error::{Kind, Mark as _};
use crate::oci::layout::{Layout, ref_name};
use crate::oci::{Reference, is_index};
use crate::{publish, release};
use anyhow::{Context as _, anyhow};
use std::path::{Path, PathBuf};

/// Pushes a release or a layout.
pub fn push(session: &Session, path: &Path, reference: &str) -> anyhow::Result<()> {
    let to: Reference = reference.parse().kind(Kind::Input)?;
    let inner = path.join(release::LAYOUT);
    let layout: PathBuf = if inner.is_dir() { inner } else { path.into() };
    let opened = Layout::open(&layout).kind(Kind::Verify)?;
    let mut indices = opened.entries().iter().filter(|e| is_index(e.media_type()));
    let tag = indices
        .find_map(ref_name)
        .ok_or_else(|| anyhow!("{} holds no image index with a name", layout.display()))
        .kind(Kind::Input)?;
    let published =
        publish::push(&layout, tag, &to, false, None).with_context(|| format!("pushing to {to}"))?;
    let what = published.reference.to_string();
    let value =
        serde_json::json!({ "reference": what, "tag": published.tag, "referrers": published.referrers });
    session.ui.result("pushed", &value, format!("{what} as {}", published.tag));
    Ok(())
}

/// Pulls an image.
pub fn pull(session: &Session, reference: &str, path: &Path) -> anyhow::Result<()> {
    let from: Reference = reference.parse().kind(Kind::Input)?;
    let root = publish::pull(&from, path, false).with_context(|| format!("pulling {from}"))?;
    let digest = root.digest().to_string();
    let value = serde_json::json!({ "path": path, "digest": digest });
    session.ui.result("pulled", &value, format!("{} {digest}", path.display()));
    session.ui.note("signatures came along; `forge verify` checks them");
    Ok(())
}
