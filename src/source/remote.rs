//! What a profile names by where it is, such as a model or a disk: an https URL or an OCI artifact in, files by digest out.
//!
//! [`pin`] asks once, at lock time. Of an artifact the manifest says what every file is; what a URL gives is fetched whole
//! to be known. [`fetch`] needs nothing but the digests. Files of an artifact are its layers, named by their titles, as
//! ORAS pushes them (image-spec v1.1, "Pre-Defined Annotation Keys"), or by the file path of a ModelPack (CNCF
//! model-spec v1, "Annotations"). Layers that are archives of files are told by their media type, or by the note that ORAS
//! leaves on directories.

use crate::error::{self, Kind, Mark as _};
use crate::host::cancel::Cancel;
use crate::host::http::{Client, Expect};
use crate::model::{Bytes, Digest};
use crate::oci::registry::{Fetched, Registry};
use crate::oci::{self, Descriptor, Index, Manifest, Reference, json};
use crate::source::blobs::Blobs;
use crate::source::oci::BlobStore as _;
use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// More than any model is cut into.
const MAX_FILES: usize = 4096;
/// The largest file, in bytes: what a URL may go on to give before it is cut off.
const MAX_FILE: u64 = 1 << 40;
/// The longest path of a file, in bytes.
const MAX_PATH: usize = 1024;
/// What a layer's file is called.
const TITLE: &str = "org.opencontainers.image.title";
/// The same, in a ModelPack.
const FILE_PATH: &str = "org.cncf.model.filepath";
/// ORAS' note on a directory that it has packed.
const UNPACK: &str = "io.deis.oras.content.unpack";
/// The layer of a Helm chart, which has no title.
pub const CHART: &str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";

/// A file that was named by where it is, pinned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PinnedPart {
    /// Its path among the others; of an archive the directory that its files go into, which may be empty.
    pub path: String,
    /// What the registry says that it is; empty for what came by URL.
    pub media_type: String,
    /// Whether it is an archive whose files are meant.
    pub unpack: bool,
    /// Its length.
    pub size: Bytes,
    /// Its digest.
    pub digest: Digest,
}

/// A place that was asked, and what it had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PinnedRemote {
    /// As the profile has it: `https://…` or `oci:REFERENCE`.
    pub source: String,
    /// The files, in the order of the manifest.
    pub files: Vec<PinnedPart>,
}

impl PinnedRemote {
    /// What the files take as they are fetched.
    pub fn size(&self) -> Bytes {
        self.files.iter().map(|f| f.size).sum()
    }
}

/// Asks what is at `source` now.
///
/// # Errors
/// [`Kind::Fetch`] when nothing answers or nothing is there; [`Kind::Verify`] for a manifest that names its files in a way
/// that no directory could hold them; [`Kind::Input`] for an index of many artifacts.
pub fn pin(source: &str, client: &Client, blobs: &Blobs, cancel: &Cancel) -> anyhow::Result<PinnedRemote> {
    let files = match source.strip_prefix("oci:") {
        Some(reference) => artifact(&reference.parse()?, client)?,
        None => {
            let (digest, length) = blobs.discover(client, source, MAX_FILE, cancel)?;
            let path = file_name(source);
            vec![PinnedPart { path, media_type: String::new(), unpack: false, size: Bytes(length), digest }]
        }
    };
    check(&files).with_context(|| format!("reading {source}")).kind(Kind::Verify)?;
    Ok(PinnedRemote { source: source.into(), files })
}

/// The last part of a URL's path, or `file`.
fn file_name(url: &str) -> String {
    let path =
        url.split(['?', '#']).next().unwrap_or_default().split_once("://").map_or("", |(_, rest)| rest);
    match path.rsplit_once('/') {
        Some((_, name)) if is_path(name) => name.into(),
        _ => "file".into(),
    }
}

fn artifact(reference: &Reference, client: &Client) -> anyhow::Result<Vec<PinnedPart>> {
    let registry = open(reference, client)?;
    let found = |reference: &Reference| -> anyhow::Result<Fetched> {
        registry
            .manifest(reference)?
            .ok_or_else(|| anyhow!("the registry has no {reference}"))
            .kind(Kind::Fetch)
    };
    let mut fetched = found(reference)?;
    if oci::is_index(fetched.descriptor.media_type()) {
        let index: Index = parse(reference, &fetched)?;
        let [only] = &index.manifests()[..] else {
            let why = anyhow!("{reference} is an index of {} artifacts", index.manifests().len());
            return Err(error::of(Kind::Input, why)).hint("name the one that is meant, by its digest");
        };
        fetched = found(&reference.with_digest(oci::digest(only).kind(Kind::Verify)?))?;
    }
    let manifest: Manifest = parse(reference, &fetched)?;
    parts(&manifest).with_context(|| format!("reading manifest {reference}")).kind(Kind::Verify)
}

fn parse<T: serde::de::DeserializeOwned>(reference: &Reference, fetched: &Fetched) -> anyhow::Result<T> {
    json::parse(&fetched.bytes).with_context(|| format!("reading manifest {reference}")).kind(Kind::Verify)
}

/// The files that a manifest names, whatever their number and paths.
///
/// # Errors
/// For a layer whose digest is none.
pub fn parts(manifest: &Manifest) -> anyhow::Result<Vec<PinnedPart>> {
    let part = |(number, layer): (usize, &Descriptor)| {
        let annotation = |name: &str| layer.annotations().as_ref().and_then(|a| a.get(name)).cloned();
        let media_type = layer.media_type().to_string();
        let unpack = annotation(UNPACK).is_some_and(|v| v == "true") || is_archive(&media_type);
        let path = match annotation(FILE_PATH).or_else(|| annotation(TITLE)) {
            Some(path) => path.trim_end_matches('/').to_string(),
            None if unpack => String::new(),
            None => format!("layer-{number}"),
        };
        // An archive's paths begin with the directory that it is named for, or are beside one another.
        let path = if unpack { String::new() } else { path };
        Ok(PinnedPart { path, media_type, unpack, size: Bytes(layer.size()), digest: oci::digest(layer)? })
    };
    manifest.layers().iter().enumerate().map(part).collect()
}

fn is_archive(media_type: &str) -> bool {
    let tar = ["tar", "tar+gzip", "tar+zstd", "tar.gzip"];
    let ends = |of: &str| tar.iter().any(|t| of.strip_suffix(t).is_some_and(|rest| rest.ends_with('.')));
    let known = ["application/vnd.oci.image.layer.", "application/vnd.cncf.model."];
    known.iter().any(|prefix| media_type.starts_with(prefix)) && ends(media_type)
}

/// Holds what a manifest says against what a directory can be.
///
/// # Errors
/// For no files or too many, for paths that lead out or are there twice.
pub fn check(files: &[PinnedPart]) -> anyhow::Result<()> {
    if files.is_empty() || files.len() > MAX_FILES {
        return Err(anyhow!("it has {} files, not 1 to {MAX_FILES}", files.len()));
    }
    let mut seen = BTreeSet::new();
    for file in files.iter().filter(|f| !f.unpack) {
        if !is_path(&file.path) {
            let shown: String = file.path.chars().take(200).collect();
            return Err(anyhow!("`{}` is no path of a file", shown.escape_debug()));
        }
        if !seen.insert(&file.path) {
            return Err(anyhow!("two files are called `{}`", file.path));
        }
        if file.size.0 > MAX_FILE {
            return Err(anyhow!("`{}` has {}, more than {}", file.path, file.size, Bytes(MAX_FILE)));
        }
    }
    Ok(())
}

fn is_path(path: &str) -> bool {
    let part = |p: &str| !p.is_empty() && p != "." && p != "..";
    path.len() <= MAX_PATH && path.split('/').all(part) && !path.chars().any(char::is_control)
}

fn open(reference: &Reference, client: &Client) -> anyhow::Result<Registry> {
    if client.is_offline() {
        let why = anyhow!("{reference} is not in the cache, and nothing is fetched offline");
        return Err(error::of(Kind::Fetch, why));
    }
    Registry::open(reference, false)
}

/// Brings the files of `remote` into the cache, as far as they are not here, by digest alone.
///
/// # Errors
/// [`Kind::Fetch`] when the place stays away or lacks one; [`Kind::Verify`] when it gives other bytes than were pinned.
pub fn fetch(
    remote: &PinnedRemote,
    client: &Client,
    blobs: &Blobs,
    progress: &(dyn Fn(u64) + Sync),
    cancel: &Cancel,
) -> anyhow::Result<()> {
    let missing: Vec<&PinnedPart> = remote.files.iter().filter(|f| !blobs.has(f.digest)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let context = || format!("fetching {}", remote.source);
    let Some(reference) = remote.source.strip_prefix("oci:") else {
        for file in missing {
            let expect = Expect { digest: file.digest, size: Some(file.size.0) };
            let from = [remote.source.clone()];
            blobs.fetch(client, &from, expect, progress, cancel).with_context(context)?;
        }
        return Ok(());
    };
    let registry = open(&reference.parse()?, client)?;
    for file in missing {
        cancel.check()?;
        // Of any type: what it is is known by its digest.
        let layer = oci::descriptor("application/octet-stream", file.digest, file.size.0);
        blobs.put(file.digest, &mut |out| registry.pull_blob(&layer, out)).with_context(context)?;
        progress(file.size.0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(media_type: &str, annotations: serde_json::Value) -> serde_json::Value {
        let digest = Digest::of(media_type).to_string();
        serde_json::json!({ "mediaType": media_type, "digest": digest, "size": 3, "annotations": annotations })
    }

    fn manifest(layers: &[serde_json::Value]) -> Manifest {
        let config = layer("application/vnd.oci.empty.v1+json", serde_json::json!({}));
        let text = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": layers });
        json::parse(text.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn files_of_oras_and_of_model_packs_have_their_names() {
        let parts = parts(&manifest(&[
            layer("application/octet-stream", serde_json::json!({ TITLE: "shelf.onnx" })),
            layer("application/vnd.cncf.model.weight.v1.raw", serde_json::json!({ FILE_PATH: "w/1.bin" })),
            layer("application/vnd.cncf.model.weight.v1.tar+zstd", serde_json::json!({ FILE_PATH: "w" })),
            layer(
                "application/vnd.oci.image.layer.v1.tar+gzip",
                serde_json::json!({ TITLE: "d", UNPACK: "true" }),
            ),
        ]))
        .unwrap();
        let told: Vec<_> = parts.iter().map(|p| (p.path.as_str(), p.unpack)).collect();
        assert_eq!(told, [("shelf.onnx", false), ("w/1.bin", false), ("", true), ("", true)]);
        check(&parts).unwrap();
    }

    #[test]
    fn paths_that_no_directory_could_hold_are_refused() {
        for (titles, told) in [
            (&["../x"][..], "`../x` is no path"),
            (&["/etc/passwd"], "is no path"),
            (&["a\nb"], "is no path"),
            (&["a", "a"], "two files are called `a`"),
            (&[], "it has 0 files"),
        ] {
            let layers: Vec<_> = titles
                .iter()
                .map(|t| layer("application/octet-stream", serde_json::json!({ TITLE: t })))
                .collect();
            let fault = check(&parts(&manifest(&layers)).unwrap()).unwrap_err().to_string();
            assert!(fault.contains(told), "{fault}");
        }
    }

    #[test]
    fn a_url_names_its_file() {
        for (url, name) in [
            ("https://models.example/shelf/3.onnx?x=1", "3.onnx"),
            ("https://models.example/", "file"),
            ("https://models.example", "file"),
        ] {
            assert_eq!(file_name(url), name);
        }
    }
}
