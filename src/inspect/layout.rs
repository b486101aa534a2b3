//! An OCI layout → its images with their layers, and the signatures that hang on them.

use super::{Env, Form, Image, Inspected, Layer, Signature};
use crate::contents::{self, Contents};
use crate::model::{Bytes, Digest};
use crate::oci::layout::{Layout, ref_name};
use crate::oci::{Descriptor, Manifest, is_index, layer, referrer};
use crate::seal;
use crate::sign::bundle::Bundle;
use anyhow::Context as _;
use std::path::Path;

/// How the history of forge's images begins a layer's line.
const HISTORY: &str = "forge layer ";

/// Reads the layout in `path`.
pub fn open(path: &Path, name: &str, env: &Env<'_>) -> anyhow::Result<Inspected> {
    let mut found = Inspected::new(Form::Layout, name);
    read(path, &mut found, env)?;
    Ok(found)
}

/// Adds the images and signatures of the layout in `path` to `found`.
pub fn read(path: &Path, found: &mut Inspected, env: &Env<'_>) -> anyhow::Result<()> {
    let layout = Layout::open(path)?;
    for descriptor in seal::subjects(&layout)? {
        env.cancel.check()?;
        let digest = crate::oci::digest(&descriptor)?;
        if is_index(descriptor.media_type()) {
            found.fact("index", digest);
            continue;
        }
        let image = image(&layout, &descriptor, env).with_context(|| format!("reading image {digest}"))?;
        for contents in image.layers.iter().filter_map(|l| l.contents.as_ref()) {
            found.gather(&image.arch, contents);
        }
        found.images.push(image);
    }
    for entry in layout.entries().iter().filter(|e| referrer::may_refer(e)) {
        signatures(&layout, &layout.manifest(entry)?, found);
    }
    Ok(())
}

/// Digests of the layers that the images of the layout in `path` list.
pub fn digests(path: &Path) -> anyhow::Result<Vec<Digest>> {
    let layout = Layout::open(path)?;
    let mut found = vec![];
    for descriptor in seal::subjects(&layout)?.iter().filter(|d| !is_index(d.media_type())) {
        for layer in layout.manifest(descriptor)?.layers() {
            found.push(crate::oci::digest(layer)?);
        }
    }
    Ok(found)
}

fn image(layout: &Layout, descriptor: &Descriptor, env: &Env<'_>) -> anyhow::Result<Image> {
    let manifest = layout.manifest(descriptor)?;
    let config: serde_json::Value = layout.parse(manifest.config())?;
    let arch = config.get("architecture").and_then(|a| a.as_str()).unwrap_or_default();
    // Lines of the history that made no layer are passed over (image-spec, config.md §history).
    let history = config.get("history").and_then(|h| h.as_array()).into_iter().flatten();
    let history = history.filter(|h| h.get("empty_layer").and_then(|e| e.as_bool()) != Some(true));
    let mut lines = history.map(|h| h.get("created_by").and_then(|c| c.as_str()).unwrap_or_default());
    let mut layers = vec![];
    for (number, blob) in manifest.layers().iter().enumerate() {
        env.cancel.check()?;
        let name = lines.next().and_then(|line| line.strip_prefix(HISTORY));
        let digest = crate::oci::digest(blob)?;
        layers.push(Layer {
            name: name.map_or_else(|| format!("{}", number + 1), String::from),
            digest,
            size: Bytes(blob.size()),
            media_type: blob.media_type().to_string(),
            contents: look(layout, blob, digest, env).with_context(|| format!("reading layer {digest}"))?,
        });
    }
    let size = layers.iter().map(|l| l.size).sum::<Bytes>().0.saturating_add(manifest.config().size());
    let digest = crate::oci::digest(descriptor)?;
    let tag = layout.entries().iter().find(|e| e.digest() == descriptor.digest()).and_then(ref_name);
    Ok(Image { tag: tag.map(String::from), arch: arch.into(), digest, size: Bytes(size), layers })
}

fn look(
    layout: &Layout,
    blob: &Descriptor,
    digest: Digest,
    env: &Env<'_>,
) -> anyhow::Result<Option<Contents>> {
    let media_type = blob.media_type().to_string();
    let known = [layer::TAR, layer::TAR_GZIP, layer::TAR_ZSTD, layer::DOCKER_TAR_GZIP];
    if env.skip.contains(&digest) || !known.contains(&media_type.as_str()) {
        return Ok(None);
    }
    let file = layout.open_blob(blob)?;
    let tar = layer::decompress(&media_type, file, layer::uncompressed_limit(blob.size()))?;
    contents::of_tar(tar, env.detail).map(Some)
}

/// Lists what a manifest that hangs on an image claims; one that cannot be read is listed as that.
fn signatures(layout: &Layout, manifest: &Manifest, found: &mut Inspected) {
    if let Some(subject) = manifest.subject() {
        for layer in manifest.layers().iter().filter(|l| l.media_type().to_string() == referrer::BUNDLE) {
            let bundle = layout.read(layer).ok().and_then(|bytes| Bundle::parse(&bytes).ok());
            found.signatures.push(Signature {
                about: subject.digest().to_string(),
                form: if bundle.is_some() { "sigstore bundle" } else { "unreadable bundle" },
                key: bundle.and_then(|b| b.key_id()).map(|k| k.to_string()),
            });
        }
        return;
    }
    for (payload, _) in referrer::classic_layers(manifest) {
        let claimed = layout.read(payload).ok();
        let claimed = claimed.and_then(|bytes| crate::sign::simple_signing::claimed(&bytes).ok());
        found.signatures.push(Signature {
            about: claimed.map_or_else(|| "nothing readable".into(), |d| d.to_string()),
            form: "cosign image signature",
            key: None, // this form names no key
        });
    }
}
