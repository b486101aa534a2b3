//! A chart that is asked for → where it is, what it is by digest, and the images that it needs.

use super::resolve::Env;
use super::{Lock, LockedChart, WantedChart, render};
use crate::error::{self, Kind, Mark as _};
use crate::layer::workload::chart::{self, MAX_INDEX, MAX_PACKAGE};
use crate::layer::workload::name::ImageName;
use crate::model::{Bytes, Digest};
use crate::source::release::PinnedFile;
use crate::source::remote::{self, PinnedPart, PinnedRemote};
use anyhow::{Context as _, anyhow};
use std::path::Path;

/// Resolves one chart; a remote one that is locked already stays as it is.
pub(super) fn resolve(
    wanted: &WantedChart,
    keep: Option<&Lock>,
    releases: &[PinnedFile],
    env: &Env<'_>,
) -> anyhow::Result<LockedChart> {
    if let Some(kept) = keep.and_then(|lock| lock.charts.iter().find(|c| c.answers(wanted))) {
        return Ok(kept.clone());
    }
    let reading = || format!("reading chart {} for {}", wanted.source, wanted.arch);
    let (from, package) = match &wanted.package {
        Some(package) => (String::new(), package.clone()),
        None => fetched(wanted, env).with_context(reading)?,
    };
    env.blobs.insert_bytes(&package)?;
    let found = chart::read(&package, &wanted.values).with_context(reading).kind(Kind::Verify)?;
    if let Some(version) = wanted.version.as_ref().filter(|v| **v != found.version) {
        let why = anyhow!("{} is version {}, not {version}", wanted.source, found.version);
        return Err(error::of(Kind::Verify, why));
    }
    let (images, images_from) = match &wanted.rendering {
        Some(rendering) => {
            let source = render::Source { name: &wanted.source, package: &package, values: &wanted.values };
            (render::images(&source, rendering, releases, env)?, vec!["rendered"])
        }
        None => (found.images, found.images_from),
    };
    let own = |name: &ImageName| wanted.own.contains(&name.local().to_string());
    let images = images.iter().filter(|name| !own(name)).map(ToString::to_string);
    Ok(LockedChart {
        source: wanted.source.clone(),
        arch: wanted.arch,
        version: found.version,
        values: Digest::of(&wanted.values),
        from,
        size: Bytes(package.len() as u64),
        digest: Digest::of(&package),
        images: images.collect(),
        images_from: images_from.iter().map(ToString::to_string).collect(),
        rendered: wanted.rendering.as_ref().map(ToString::to_string).unwrap_or_default(),
    })
}

/// Where a remote chart's package is, and the package.
fn fetched(wanted: &WantedChart, env: &Env<'_>) -> anyhow::Result<(String, Vec<u8>)> {
    let (from, expected) = match wanted.source.strip_prefix("oci:") {
        Some(reference) => (chart::tagged(reference, wanted.version.as_deref()), None),
        None => listed(wanted, env)?,
    };
    let pinned =
        remote::pin(&format!("{}{from}", scheme(&wanted.source)), env.client, env.blobs, env.cancel)?;
    let part = only_chart(&pinned)?;
    if let Some(digest) = expected.filter(|digest| *digest != part.digest) {
        let why = anyhow!("{} is {}, not {digest} as its index says", pinned.source, part.digest);
        return Err(error::of(Kind::Verify, why));
    }
    if part.size.0 > MAX_PACKAGE {
        let why = anyhow!("{} has {}, more than {}", pinned.source, part.size, Bytes(MAX_PACKAGE));
        return Err(error::of(Kind::Verify, why)).hint(chart::TOO_LARGE);
    }
    remote::fetch(&pinned, env.client, env.blobs, &|_| {}, env.cancel)?;
    let path = env.blobs.get(part.digest)?.with_context(|| format!("{} was not fetched", part.digest))?;
    Ok((pinned.source.clone(), read(&path)?))
}

fn scheme(source: &str) -> &'static str {
    if source.starts_with("oci:") { "oci:" } else { "" }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// The one file that is the chart: by its media type in an artifact, whose other layer may be its provenance.
fn only_chart(pinned: &PinnedRemote) -> anyhow::Result<&PinnedPart> {
    let is_chart = |p: &&PinnedPart| p.media_type == remote::CHART || p.media_type.is_empty();
    let found: Vec<&PinnedPart> = pinned.files.iter().filter(is_chart).collect();
    match found[..] {
        [only] => Ok(only),
        _ => Err(anyhow!("{} has {} layers of type {}", pinned.source, found.len(), remote::CHART))
            .kind(Kind::Verify),
    }
}

/// What a repository's index says of the chart: its URL, and its digest where the index has one.
fn listed(wanted: &WantedChart, env: &Env<'_>) -> anyhow::Result<(String, Option<Digest>)> {
    if wanted.source.ends_with(".tgz") {
        return Ok((wanted.source.clone(), None));
    }
    let (repository, name) = wanted.source.rsplit_once('/').unwrap_or_default();
    let url = format!("{repository}/index.yaml");
    let bytes = env.client.get(&url, MAX_INDEX, env.cancel)?;
    let version = wanted.version.as_deref().unwrap_or_default();
    let entry =
        chart::listed(&bytes, name, version).with_context(|| format!("reading {url}")).kind(Kind::Verify)?;
    let location = match entry.url.contains("://") {
        true => entry.url,
        false => format!("{repository}/{}", entry.url),
    };
    let same_or_tls = location.starts_with("https://") || wanted.source.starts_with("http://");
    if !same_or_tls {
        return Err(error::of(Kind::Verify, anyhow!("{url} leads to {location}, out of TLS")));
    }
    Ok((location, entry.digest))
}
