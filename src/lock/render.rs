//! A chart → the container images of what it makes, told by Helm itself.
//!
//! Templates are a language of their own, and only Helm speaks it whole: it is an input like any other, locked by digest,
//! and runs in a [`sandbox`] that has the chart, its values and nothing else, no network among it. What `lookup` would
//! ask a cluster for is empty, as in every `helm template`. Pods of `helm test` are left out: no device runs them.
//! Helm 3, `helm template --help`.

use super::Rendering;
use super::resolve::Env;
use crate::error::{self, Kind, Mark as _};
use crate::host::{env, fs, sandbox};
use crate::layer::workload::manifest;
use crate::layer::workload::name::ImageName;
use crate::model::Arch;
use crate::oci::layer::{TAR_GZIP, decompress, uncompressed_limit};
use crate::source::release::{self, PinnedFile};
use crate::tree::{TreePath, tar};
use anyhow::{Context as _, anyhow, bail};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Seek as _};
use std::path::{Path, PathBuf};

/// For [`sandbox::entry`].
pub const JOB: sandbox::Job = ("render-chart", inside);

/// What Helm may take. The largest public charts render in seconds and some hundred MiB; of address space its runtime
/// reserves more than it uses.
const LIMITS: sandbox::Limits = sandbox::Limits { memory: 4 << 30, seconds: 120, file: 32 << 20 };
/// The most bytes of all that a chart makes.
const MAX_RENDERED: u64 = 64 << 20;

/// What to do when Helm refuses.
const REFUSED: &str =
    "see that the profile's values have what the chart demands; `helm template` says the same";

/// A chart with its values.
pub(super) struct Source<'a> {
    /// As the profile has it.
    pub name: &'a str,
    /// A tar.gz.
    pub package: &'a [u8],
    /// YAML; may be empty.
    pub values: &'a [u8],
}

#[derive(Serialize, Deserialize)]
struct Order {
    root: PathBuf,
    rendering: Vec<String>,
}

/// The images of all that `source` makes; `releases` has the Helm for this machine.
///
/// # Errors
/// [`Kind::Input`] when Helm refuses the chart or its values, with its words, and when no object is of a kind that a field
/// is named of; as [`release::fetch`], for Helm.
pub(super) fn images(
    source: &Source<'_>,
    rendering: &Rendering,
    releases: &[PinnedFile],
    env: &Env<'_>,
) -> anyhow::Result<BTreeSet<ImageName>> {
    let rendered = render(source, rendering, releases, env)
        .with_context(|| format!("rendering chart {} with helm {}", source.name, rendering.helm))?;
    let (mut images, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for (path, text) in &rendered {
        let file = format!("chart {}: {path}", source.name);
        let parsed = manifest::parse_with(&file, text.as_bytes(), &rendering.fields)
            .map_err(|faults| anyhow!(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))
            .kind(Kind::Input)?;
        images.extend(parsed.images().map(|image| image.name.clone()));
        kinds.extend(parsed.objects.into_iter().map(|object| object.kind));
    }
    match rendering.fields.iter().find(|field| !kinds.contains(&field.kind)) {
        Some(field) => {
            let why = anyhow!(
                "workload `{}`: `image-paths` names the kind `{}`, which chart {} does not make",
                rendering.name,
                field.kind,
                source.name
            );
            Err(error::of(Kind::Input, why))
        }
        None => Ok(images),
    }
}

/// Files of objects by their path in the chart.
fn render(
    source: &Source<'_>,
    rendering: &Rendering,
    releases: &[PinnedFile],
    env: &Env<'_>,
) -> anyhow::Result<BTreeMap<String, String>> {
    let work = tempfile::Builder::new().prefix(fs::TEMPORARY).tempdir_in(made(env.work)?)?;
    let root = work.path().join("root");
    std::fs::create_dir(&root)?;
    program(rendering, releases, env, &root.join("helm"))?;
    fs::place(&root.join("chart.tgz"), 0o644, source.package)?;
    fs::place(&root.join("values.yaml"), 0o644, source.values)?;
    let words = [
        "template",
        &rendering.name,
        "/chart.tgz",
        "--values=/values.yaml",
        &format!("--namespace={}", rendering.namespace),
        &format!("--kube-version={}", rendering.kubernetes),
        "--include-crds",
        "--skip-tests",
        "--output-dir=/out",
    ];
    let order = Order { root: root.clone(), rendering: words.map(String::from).to_vec() };
    let mut out = fs::anonymous(work.path())?;
    sandbox::run(&sandbox::Call {
        program: &env::program()?,
        name: JOB.0,
        job: &serde_json::to_vec(&order)?,
        out: Some(&out),
        own_users: false,
        cancel: env.cancel,
        progress: &|_| {},
    })?;
    out.rewind()?;
    serde_json::from_reader(BufReader::new(out)).context("reading the sandbox's answer")
}

fn made(dir: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir.canonicalize()?)
}

/// Puts the Helm for this machine at `to`.
fn program(rendering: &Rendering, releases: &[PinnedFile], env: &Env<'_>, to: &Path) -> anyhow::Result<()> {
    let host = Arch::host().ok_or_else(|| anyhow!("there is no Helm for this machine's architecture"))?;
    let wanted = rendering.releases().find(|wanted| wanted.arch == host);
    let locked = |r: &&PinnedFile| wanted.iter().any(|w| w.files.iter().any(|file| r.answers(w, file)));
    let locked = releases.iter().find(locked).context("Helm is not locked")?;
    let place = env.places.of(locked.product, host);
    release::fetch(locked, &place, env.client, env.blobs, &|_| {}, env.cancel)?;
    let path = env.blobs.get(locked.digest)?.with_context(|| format!("{locked} is gone from the cache"))?;
    let unpacked = || -> anyhow::Result<()> {
        let mut tar = fs::anonymous(env.work)?;
        let limit = uncompressed_limit(locked.size.0);
        std::io::copy(&mut decompress(TAR_GZIP, File::open(&path)?, limit)?, &mut tar)?;
        let within = TreePath::parse(&format!("linux-{host}/helm"))?;
        let tree = tar::index(tar)?;
        let program = tree.file(&within).with_context(|| format!("it has no {within}"))?;
        Ok(fs::place(to, 0o755, program.reader())?)
    };
    unpacked().with_context(|| format!("unpacking {locked}")).kind(Kind::Verify)
}

fn inside(order: &[u8]) -> anyhow::Result<String> {
    let Order { root, rendering } = serde_json::from_slice(order)?;
    sandbox::enter(&root)?;
    sandbox::limit(&LIMITS)?;
    let words: Vec<&str> = rendering.iter().map(String::as_str).collect();
    sandbox::call("/helm", &words, &[("HOME", "/tmp")], |_| {}).kind(Kind::Input).hint(REFUSED)?;
    let (mut files, mut total) = (BTreeMap::new(), 0);
    gather(Path::new("/out"), &mut files, &mut total)?;
    serde_json::to_writer(std::io::BufWriter::new(sandbox::product()?), &files)?;
    Ok(String::new())
}

/// Files below `dir` by their path below `/out/CHART`.
fn gather(dir: &Path, files: &mut BTreeMap<String, String>, total: &mut u64) -> anyhow::Result<()> {
    if !dir.is_dir() {
        return Ok(()); // a chart that makes nothing
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            gather(&path, files, total)?;
            continue;
        }
        *total = total.saturating_add(entry.metadata()?.len());
        if *total > MAX_RENDERED {
            bail!("it makes more than {} MiB of objects", MAX_RENDERED >> 20);
        }
        let below: PathBuf = path.components().skip(3).collect();
        files.insert(below.display().to_string(), std::fs::read_to_string(&path)?);
    }
    Ok(())
}
