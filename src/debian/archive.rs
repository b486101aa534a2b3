//! Suites of an archive, over HTTP: sources → signed and checked lists → an index; packages → verified blobs.
//!
//! ```text
//! URI/dists/SUITE/InRelease                     signed by a key of the keyring
//!   └ SHA256 → COMPONENT/binary-ARCH/Packages.xz   fetched under its digest (by-hash)
//!       └ SHA256 → pool/…/x.deb                    fetched into the blob cache
//! ```
//!
//! Everything lands in the blob cache under its digest. A [`ReleaseInfo`] in a lock is enough to have the same index again
//! without a network ([`Archive::reopen`]), and a locked package needs no index at all.

use super::openpgp::{Keyring, Refused};
use super::packages::{Index, Listing, Package};
use super::release::{BadRelease, Release};
use super::sources::{Distribution, SuiteSource};
use crate::error::{Kind, Mark as _};
use crate::host::cancel::Cancel;
use crate::host::http::{Client, Expect};
use crate::model::{Arch, Digest, Epoch};
use crate::source::blobs::Blobs;
use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::io::Read as _;
use std::path::PathBuf;

/// The largest InRelease that is read; Debian's are 200 KiB.
const INRELEASE_LIMIT: u64 = 16 << 20;
/// The largest list unpacked of which the release does not tell the size; Debian's largest has 60 MB.
const LIST_LIMIT: u64 = 1 << 30;
/// Memory that xz may take for one list; its highest preset asks for 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;

/// The packages of some suites, and what they were read from.
pub struct Archive {
    /// Every package.
    pub index: Index,
    /// One for each source, in their order.
    pub releases: Vec<ReleaseInfo>,
}

/// Which state of a suite was read; names no mirror, so that a lock is true everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReleaseInfo {
    /// `Origin`: who made it.
    pub origin: String,
    /// The suite as it was asked for.
    pub suite: String,
    /// `Codename`.
    pub codename: String,
    /// `Date`.
    pub date: Epoch,
    /// The InRelease file, as it was signed.
    pub inrelease: Digest,
    /// The lists of packages.
    pub lists: Vec<ListInfo>,
}

/// A list of packages of a suite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListInfo {
    /// Its path under the suite, with compression suffix.
    pub path: String,
    /// Its digest as stored.
    pub sha256: Digest,
    /// Its size in bytes as stored.
    pub size: u64,
}

/// The keys that sign the archives of a distribution, which forge carries.
///
/// # Errors
/// When what is embedded is no keyring, which a test excludes.
pub fn keyring(distribution: Distribution) -> anyhow::Result<Keyring> {
    let bytes = crate::template::KEYRINGS.iter().find(|(name, _)| *name == distribution.as_str());
    let (_, bytes) = bytes.ok_or_else(|| anyhow!("no keyring for {}", distribution.as_str()))?;
    Keyring::parse(bytes).with_context(|| format!("reading the keyring of {}", distribution.as_str()))
}

impl Archive {
    /// Fetches and verifies the state of `sources` at the time `now`.
    ///
    /// # Errors
    /// [`Kind::Fetch`] when something is not there, [`Kind::Verify`] when a signature, date, name or digest does not
    /// hold, [`Kind::Input`] when a suite has no such component or architecture; each names the URL.
    pub fn open(
        client: &Client,
        blobs: &Blobs,
        sources: &[SuiteSource],
        arch: Arch,
        keyring: &Keyring,
        now: Epoch,
        cancel: &Cancel,
    ) -> anyhow::Result<Archive> {
        let read = client.each(sources, cancel, |source| {
            let url = format!("{}/dists/{}/InRelease", source.uri, source.suite);
            let bytes = client.get(&url, INRELEASE_LIMIT, cancel)?;
            let release = verify(&bytes, keyring, &source.suite, Some(now))
                .with_context(|| format!("verifying {url}"))?;
            let lists =
                lists(&release, &source.components, arch).with_context(|| format!("reading {url}"))?;
            for list in &lists {
                let expect = Expect { digest: list.sha256, size: Some(list.size) };
                let urls = list_urls(source, &release, list);
                blobs.fetch(client, &urls, expect, &|_| {}, cancel)?;
            }
            let info = ReleaseInfo {
                origin: release.origin.clone(),
                suite: source.suite.clone(),
                codename: release.codename.clone(),
                date: release.date,
                inrelease: blobs.insert_bytes(&bytes)?,
                lists,
            };
            Ok((info, release))
        })?;
        load(blobs, read, arch, cancel)
    }

    /// The same state again from the cache. Signatures are checked, dates are not: that was done when it was locked.
    ///
    /// # Errors
    /// [`Kind::Fetch`] when a file is not in the cache, [`Kind::Verify`] when one does not hold.
    pub fn reopen(
        blobs: &Blobs,
        releases: &[ReleaseInfo],
        arch: Arch,
        keyring: &Keyring,
        cancel: &Cancel,
    ) -> anyhow::Result<Archive> {
        let mut read = vec![];
        for info in releases {
            let what = || format!("InRelease of {} ({})", info.suite, info.inrelease);
            let path = blobs.get(info.inrelease)?;
            let path = path.ok_or_else(|| anyhow!("{} is not in the cache", what())).kind(Kind::Fetch)?;
            let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let release = verify(&bytes, keyring, &info.suite, None)
                .with_context(|| format!("verifying {}", what()))?;
            for list in &info.lists {
                let signed = release.index(&list.path).kind(Kind::Verify).with_context(what)?;
                if signed != (list.sha256, list.size) {
                    return Err(anyhow!("{} of {} is not the one that was signed", list.path, info.suite))
                        .kind(Kind::Verify);
                }
            }
            read.push((info.clone(), release));
        }
        load(blobs, read, arch, cancel)
    }
}

/// The release that `file` says, when a key of `keyring` signed it, it is of `suite`, and `now` is within its time.
///
/// # Errors
/// [`Kind::Verify`].
pub fn verify(file: &[u8], keyring: &Keyring, suite: &str, now: Option<Epoch>) -> anyhow::Result<Release> {
    // Where the time does not matter, the end of a key must not either: the signature's own time stands for it.
    let at = match now {
        Some(now) => now,
        None => unverified_date(file).kind(Kind::Verify)?,
    };
    let verified = keyring.verify_cleartext(file, at);
    let verified = match &verified {
        Err(Refused::Unusable { .. }) => {
            let hint = format!("this machine's clock says {}; set it if it is wrong", at.rfc3339());
            verified.kind(Kind::Verify).hint(hint)?
        }
        Err(Refused::UnknownKeys { .. }) => verified
            .kind(Kind::Verify)
            .hint("name the keyring of this archive, or look at who answers for this mirror")?,
        _ => verified.kind(Kind::Verify)?,
    };
    let release = Release::parse(&verified.text).kind(Kind::Verify)?;
    let checked = release.check(suite, at);
    match &checked {
        Err(BadRelease::Expired { .. }) => checked
            .kind(Kind::Verify)
            .hint("the mirror has stopped being updated, or this machine's clock is wrong")?,
        Err(BadRelease::NotYet { .. }) => {
            checked.kind(Kind::Verify).hint("this machine's clock is behind; set it")?;
        }
        _ => checked.kind(Kind::Verify)?,
    }
    Ok(release)
}

/// The `Date` of a file that is not verified yet; only to be used as the time at which to verify that very file.
fn unverified_date(file: &[u8]) -> Result<Epoch, BadRelease> {
    let text = String::from_utf8_lossy(file);
    let body = text.split_once("\n\n").map_or("", |(_, body)| body);
    Release::parse(body).map(|release| release.date)
}

fn lists(release: &Release, components: &[String], arch: Arch) -> anyhow::Result<Vec<ListInfo>> {
    let mut lists = vec![];
    for component in components {
        for path in release.lists(component, arch).kind(Kind::Input)? {
            // xz is the smallest, gzip is what everybody has.
            let found = [".xz", ".gz", ""].iter().find_map(|suffix| {
                let path = format!("{path}{suffix}");
                let (sha256, size) = release.index(&path).ok()?;
                Some(ListInfo { path, sha256, size })
            });
            lists.push(found.ok_or(BadRelease::NoIndex(path)).kind(Kind::Verify)?);
        }
    }
    Ok(lists)
}

/// Under its digest first: while a mirror is being updated the plain name may already be the next one's.
fn list_urls(source: &SuiteSource, release: &Release, list: &ListInfo) -> Vec<String> {
    let base = format!("{}/dists/{}", source.uri, source.suite);
    let dir = list.path.rsplit_once('/').map_or("", |(dir, _)| dir);
    let by_hash = format!("{base}/{dir}/by-hash/SHA256/{}", list.sha256.hex());
    let plain = format!("{base}/{}", list.path);
    if release.by_hash { vec![by_hash, plain] } else { vec![plain] }
}

fn load(
    blobs: &Blobs,
    read: Vec<(ReleaseInfo, Release)>,
    arch: Arch,
    cancel: &Cancel,
) -> anyhow::Result<Archive> {
    let (mut files, mut releases) = (vec![], vec![]);
    for (origin, (info, release)) in read.into_iter().enumerate() {
        for list in &info.lists {
            cancel.check()?;
            let what = || format!("{} of {}", list.path, info.suite);
            let path = blobs.get(list.sha256)?;
            let path = path.ok_or_else(|| anyhow!("{} is not in the cache", what())).kind(Kind::Fetch)?;
            let plain = list.path.trim_end_matches(".xz").trim_end_matches(".gz");
            let limit = release.index(plain).map_or(LIST_LIMIT, |(_, size)| size.min(LIST_LIMIT));
            let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let text = unpack(&list.path, &bytes, limit).with_context(|| format!("unpacking {}", what()))?;
            let suites = vec![info.suite.clone(), release.suite.clone(), release.codename.clone()];
            files.push((Listing { origin, suites, pin: release.pin }, text));
        }
        releases.push(info);
    }
    let index = Index::build(arch, files).kind(Kind::Verify).context("reading the lists of packages")?;
    Ok(Archive { index, releases })
}

/// The text of a list, at most `limit` bytes of it.
fn unpack(path: &str, bytes: &[u8], limit: u64) -> anyhow::Result<String> {
    let mut text = vec![];
    if path.ends_with(".xz") {
        let flags = liblzma::stream::CONCATENATED;
        let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, flags)?;
        liblzma::read::XzDecoder::new_stream(bytes, stream).take(limit + 1).read_to_end(&mut text)
    } else if path.ends_with(".gz") {
        flate2::read::MultiGzDecoder::new(bytes).take(limit + 1).read_to_end(&mut text)
    } else {
        bytes.take(limit + 1).read_to_end(&mut text)
    }
    .kind(Kind::Verify)?;
    if text.len() as u64 > limit {
        return Err(anyhow!("it has more than the {limit} bytes that the release tells")).kind(Kind::Verify);
    }
    String::from_utf8(text).kind(Kind::Verify)
}

/// Fetches packages into the cache, the largest first; their paths, in the order of `packages`. `progress` is told bytes:
/// over all calls the sum of the packages' sizes, when nothing has to be fetched twice.
///
/// # Errors
/// As [`Blobs::fetch`], with the package's name.
pub fn fetch_packages(
    client: &Client,
    blobs: &Blobs,
    sources: &[SuiteSource],
    packages: &[Package],
    progress: &(dyn Fn(u64) + Sync),
    cancel: &Cancel,
) -> anyhow::Result<Vec<PathBuf>> {
    let mut order: Vec<usize> = (0..packages.len()).collect();
    order.sort_by_key(|i| Reverse(packages[*i].size));
    let fetched = client.each(&order, cancel, |i| {
        let package = &packages[*i];
        let expect = Expect { digest: package.sha256, size: Some(package.size) };
        if let Some(path) = blobs.get(package.sha256)? {
            progress(package.size);
            return Ok((*i, path));
        }
        // Another machine's sources may be in another order than those that were locked: the digest decides.
        let own = sources.get(package.origin).into_iter();
        let mut urls: Vec<String> =
            own.chain(sources).map(|s| format!("{}/{}", s.uri, package.filename)).collect();
        let mut seen = std::collections::BTreeSet::new();
        urls.retain(|url| seen.insert(url.clone()));
        let path = blobs
            .fetch(client, &urls, expect, progress, cancel)
            .with_context(|| format!("fetching package {} {}", package.name, package.version))?;
        Ok((*i, path))
    });
    let mut fetched = fetched?;
    fetched.sort_unstable();
    Ok(fetched.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests;
