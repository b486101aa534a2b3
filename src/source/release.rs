//! Releases of Kubernetes distributions, agents and Helm: a product and a version in, files by digest out.
//!
//! The layout is upstream's: `BASE/VERSION/FILE`, with one file of SHA-256 sums an architecture (k3s, RKE2) or one of a
//! SHA-512 sum a file (KubeEdge); Helm's is `BASE/FILE`, a file of a SHA-256 sum beside each. [`pin`] reads the sums, fetches what they name and holds it against them, so that what the
//! lock says has been seen whole; [`fetch`] needs nothing but a place that has the same bytes. A place is an https URL or a `file:` URL of a directory, and either holds
//! versions or is itself the directory of one; or it is an OCI artifact with the same files. Sums come the same way as
//! what they sum up: they guard against a damaged place, the lock against one that changes later.

mod artifact;

use crate::error::{self, Kind, Mark as _};
use crate::host::cancel::Cancel;
use crate::host::http::{Client, Expect};
use crate::model::digest::hex;
use crate::model::{Arch, Bytes, Digest};
use crate::oci::Reference;
use crate::source::blobs::Blobs;
use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha512};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The largest file of sums, in bytes; RKE2's has 4 KiB.
const MAX_SUMS: u64 = 1 << 20;
/// The largest file that is known by a SHA-512 sum alone, in bytes: it is in memory until its own digest, by which the
/// cache keeps it, is known. KubeEdge's archive has some 150 MiB.
const MAX_FILE: u64 = 1 << 30;

/// What is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Product {
    /// k3s.
    K3s,
    /// RKE2.
    Rke2,
    /// KubeEdge.
    Kubeedge,
    /// Helm, by which charts are rendered.
    Helm,
}

impl Product {
    /// The name, as versions and directories have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Product::K3s => "k3s",
            Product::Rke2 => "rke2",
            Product::Kubeedge => "kubeedge",
            Product::Helm => "helm",
        }
    }

    /// Upstream's own place.
    pub fn upstream(self) -> &'static str {
        match self {
            Product::K3s => "https://github.com/k3s-io/k3s/releases/download",
            Product::Rke2 => "https://github.com/rancher/rke2/releases/download",
            Product::Kubeedge => "https://github.com/kubeedge/kubeedge/releases/download",
            Product::Helm => "https://get.helm.sh",
        }
    }

    /// The file with the program: of k3s the program itself, of the others a tar.gz around it.
    pub fn program(self, version: &str, arch: Arch) -> String {
        match (self, arch) {
            (Product::K3s, Arch::Amd64) => "k3s".into(),
            (Product::K3s, Arch::Arm64) => "k3s-arm64".into(),
            (Product::Rke2, _) => format!("rke2.linux-{arch}.tar.gz"),
            (Product::Kubeedge | Product::Helm, _) => format!("{self}-{version}-linux-{arch}.tar.gz"),
        }
    }

    /// The archive of the container images that the product itself runs, where it is released with one.
    pub fn images(self, arch: Arch) -> Option<String> {
        match self {
            Product::K3s => Some(format!("k3s-airgap-images-{arch}.tar.zst")),
            Product::Rke2 => Some(format!("rke2-images.linux-{arch}.tar.zst")),
            Product::Kubeedge | Product::Helm => None,
        }
    }

    /// The file that says what `file` should be: SHA-256 sums of all of an architecture's, of Helm the one's alone, of
    /// KubeEdge the one's SHA-512.
    pub fn sums(self, file: &str, arch: Arch) -> String {
        match self {
            Product::K3s | Product::Rke2 => format!("sha256sum-{arch}.txt"),
            Product::Kubeedge => format!("checksum_{file}.txt"),
            Product::Helm => format!("{file}.sha256sum"),
        }
    }

    fn url(self, place: &str, version: &str, file: &str) -> String {
        match self {
            Product::Helm => format!("{}/{file}", place.trim_end_matches('/')),
            _ => url(place, version, file),
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a release is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A URL that [`url`] takes.
    Url(String),
    /// An OCI artifact.
    Artifact(Reference),
}

/// Where releases are, if not at upstream's own places.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Of a Kubernetes distribution or agent, of which an image has one, by its architecture.
    pub by_arch: BTreeMap<Arch, Place>,
    /// Of Helm.
    pub helm: Option<Place>,
}

impl Places {
    /// Where `product` is.
    pub fn of(&self, product: Product, arch: Arch) -> Place {
        let named = match product {
            Product::Helm => self.helm.as_ref(),
            Product::K3s | Product::Rke2 | Product::Kubeedge => self.by_arch.get(&arch),
        };
        named.cloned().unwrap_or_else(|| Place::Url(product.upstream().into()))
    }
}

/// What is asked of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Of what.
    pub product: Product,
    /// Which version, `v1.34.2+k3s1`.
    pub version: String,
    /// For which architecture.
    pub arch: Arch,
    /// Which files.
    pub files: Vec<String>,
}

impl Wanted {
    fn read_sums(&self, url: &str, client: &Client, cancel: &Cancel) -> anyhow::Result<Vec<u8>> {
        let Wanted { product, version, arch, .. } = self;
        let or = match product {
            Product::Helm => "; without `helm.version` charts are read, not rendered",
            Product::K3s | Product::Rke2 | Product::Kubeedge => "",
        };
        let hint = format!("see that {product} {version} is there, and for {arch}{or}");
        client.get(url, MAX_SUMS, cancel).hint(hint)
    }

    fn pinned(&self, file: &str, size: Bytes, digest: Digest) -> PinnedFile {
        let Wanted { product, version, arch, .. } = self;
        PinnedFile {
            product: *product,
            version: version.clone(),
            arch: *arch,
            file: file.into(),
            size,
            digest,
        }
    }
}

/// A file of a release, pinned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedFile {
    /// Of what.
    pub product: Product,
    /// Of which version.
    pub version: String,
    /// For which architecture.
    pub arch: Arch,
    /// Its name in the release.
    pub file: String,
    /// Its length.
    pub size: Bytes,
    /// Its digest.
    pub digest: Digest,
}

impl PinnedFile {
    /// Whether it is what `wanted` asks for under `file`.
    pub fn answers(&self, wanted: &Wanted, file: &str) -> bool {
        (self.product, self.version.as_str(), self.arch, self.file.as_str())
            == (wanted.product, wanted.version.as_str(), wanted.arch, file)
    }
}

impl fmt::Display for PinnedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} {}", self.file, self.product, self.version)
    }
}

/// The URL of `file`, below a place that holds versions, or that is the directory of this one.
pub fn url(place: &str, version: &str, file: &str) -> String {
    let place = place.trim_end_matches('/');
    // In a path a `+` stands for itself (RFC 3986 §3.3), but what serves GitHub's releases takes it for a space.
    let encoded = version.replace('+', "%2B");
    match place.rsplit('/').next() {
        Some(last) if last == version || last.eq_ignore_ascii_case(&encoded) => {
            format!("{}{encoded}/{file}", &place[..place.len() - last.len()])
        }
        _ => format!("{place}/{encoded}/{file}"),
    }
}

/// Reads the sums of a release at `place`, fetches the files and holds them against the sums.
///
/// # Errors
/// [`Kind::Fetch`] when the place stays away or lacks something; [`Kind::Verify`] when the sums do not name a file, or the
/// file is not what they say; what the file system says.
pub fn pin(
    wanted: &Wanted,
    place: &Place,
    client: &Client,
    blobs: &Blobs,
    cancel: &Cancel,
) -> anyhow::Result<Vec<PinnedFile>> {
    match place {
        Place::Url(place) if wanted.product == Product::Kubeedge => {
            pin_each(wanted, place, client, blobs, cancel)
        }
        Place::Url(place) => pin_by_sums(wanted, place, client, blobs, cancel),
        Place::Artifact(reference) => artifact::pin(wanted, reference, client, blobs, cancel),
    }
}

fn pin_by_sums(
    wanted: &Wanted,
    place: &str,
    client: &Client,
    blobs: &Blobs,
    cancel: &Cancel,
) -> anyhow::Result<Vec<PinnedFile>> {
    let Wanted { product, version, arch, .. } = wanted;
    let first = wanted.files.first().map_or("", String::as_str);
    let sums_url = product.url(place, version, &product.sums(first, *arch));
    let bytes = wanted.read_sums(&sums_url, client, cancel)?;
    let sums = Sums::parse(&bytes).with_context(|| format!("reading {sums_url}")).kind(Kind::Verify)?;
    let pinned = |file: &String| {
        let digest = sums.get(file).with_context(|| format!("reading {sums_url}")).kind(Kind::Verify)?;
        let from = [product.url(place, version, file)];
        let path = blobs.fetch(client, &from, Expect { digest, size: None }, &|_| {}, cancel)?;
        Ok(wanted.pinned(file, length(&path)?, digest))
    };
    wanted.files.iter().map(pinned).collect()
}

/// Files that each have a SHA-512 sum beside them.
fn pin_each(
    wanted: &Wanted,
    place: &str,
    client: &Client,
    blobs: &Blobs,
    cancel: &Cancel,
) -> anyhow::Result<Vec<PinnedFile>> {
    let pinned = |file: &String| {
        let sums_url = url(place, &wanted.version, &wanted.product.sums(file, wanted.arch));
        let sums = wanted.read_sums(&sums_url, client, cancel)?;
        let right = sha512(&sums).with_context(|| format!("reading {sums_url}")).kind(Kind::Verify)?;
        let from = url(place, &wanted.version, file);
        let bytes = client.get(&from, MAX_FILE, cancel)?;
        let found = hex(&Sha512::digest(&bytes));
        if found != right {
            let why = anyhow!("{from} has the SHA-512 {found}, and should have {right}");
            return Err(error::of(Kind::Verify, why));
        }
        Ok(wanted.pinned(file, Bytes(bytes.len() as u64), blobs.insert_bytes(&bytes)?))
    };
    wanted.files.iter().map(pinned).collect()
}

fn length(path: &Path) -> anyhow::Result<Bytes> {
    let found = std::fs::metadata(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(Bytes(found.len()))
}

/// The sum in a file that has nothing else; perhaps with a name behind it, as `sha512sum` writes it.
fn sha512(bytes: &[u8]) -> anyhow::Result<String> {
    let text = std::str::from_utf8(bytes).context("it is no text")?;
    let sum = text.split_ascii_whitespace().next().unwrap_or_default();
    let is_sum = sum.len() == 128 && sum.bytes().all(|b| b.is_ascii_hexdigit());
    if is_sum { Ok(sum.to_ascii_lowercase()) } else { Err(anyhow!("it has no SHA-512 sum")) }
}

/// Brings a pinned file into the cache, from `place`, when it is not here.
///
/// # Errors
/// [`Kind::Fetch`] when the place stays away or lacks it; [`Kind::Verify`] when it gives other bytes than were pinned.
pub fn fetch(
    file: &PinnedFile,
    place: &Place,
    client: &Client,
    blobs: &Blobs,
    progress: &(dyn Fn(u64) + Sync),
    cancel: &Cancel,
) -> anyhow::Result<()> {
    let expect = Expect { digest: file.digest, size: Some(file.size.0) };
    let fetched = match place {
        Place::Url(place) => {
            let from = [file.product.url(place, &file.version, &file.file)];
            blobs.fetch(client, &from, expect, progress, cancel).map(drop)
        }
        Place::Artifact(reference) => artifact::fetch(file, reference, client, blobs),
    };
    fetched.with_context(|| format!("fetching {file} for {}", file.arch))
}

/// The text of `sha256sum`: a digest in hex, two spaces (or a space and `*`), a name.
struct Sums(Vec<(String, Digest)>);

impl Sums {
    fn parse(bytes: &[u8]) -> anyhow::Result<Sums> {
        let text = std::str::from_utf8(bytes).context("it is no text")?;
        let line = |(number, line): (usize, &str)| {
            let parsed = line.split_once(' ').and_then(|(hex, name)| {
                let name = name.strip_prefix([' ', '*'])?;
                Some((name.to_string(), format!("sha256:{hex}").parse().ok()?))
            });
            parsed.ok_or_else(|| anyhow!("line {} is no sum of a file", number + 1))
        };
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        Ok(Sums(lines.map(line).collect::<anyhow::Result<_>>()?))
    }

    fn get(&self, file: &str) -> anyhow::Result<Digest> {
        let mut found: Vec<Digest> =
            self.0.iter().filter(|(name, _)| name == file).map(|(_, d)| *d).collect();
        found.dedup();
        match found[..] {
            [digest] => Ok(digest),
            [] => Err(error::of(Kind::Verify, anyhow!("it has no sum of {file}"))),
            _ => Err(error::of(Kind::Verify, anyhow!("it has two sums of {file}"))),
        }
    }
}

#[cfg(test)]
mod tests;
