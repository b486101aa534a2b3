//! Times one stage alone: the packages in a directory → a tree as one deterministic tar.
//!
//! `bench-unpack DIRECTORY WORK TAR [unpacked|os|container]`; prints digest and length. With FORGE_BENCH_PROGRESS set,
//! says what begins when.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for measuring, not the product's surface"
)]
#![allow(clippy::disallowed_methods, reason = "its tar goes where the caller says, finished or not")]

use anyhow::{Context as _, bail};
use forge::debian::bootstrap::{self, Env, Package, Spec, Variant};
use forge::debian::deb::Deb;
use forge::host::{cancel::Cancel, env, sandbox};
use forge::model::{Arch, Digest, Epoch};
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> anyhow::Result<ExitCode> {
    if let Some(code) = sandbox::entry(&[bootstrap::JOB, bootstrap::REMOVE]) {
        return Ok(code);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (packages, work, out, variant) = match &arguments[..] {
        [packages, work, out] => (packages, work, out, "unpacked"),
        [packages, work, out, variant] => (packages, work, out, variant.as_str()),
        _ => bail!("usage: bench-unpack DIRECTORY WORK TAR [unpacked|os|container]"),
    };
    let variant = match variant {
        "unpacked" => Variant::Unpacked,
        "os" => Variant::Os,
        "container" => Variant::Container,
        other => bail!("`{other}` is no variant"),
    };
    let packages = read(Path::new(packages))?;
    let spec = Spec { arch: Arch::Amd64, epoch: Epoch(1_795_305_600), packages, variant };
    let start = Instant::now();
    let loud = env::var("FORGE_BENCH_PROGRESS").is_some();
    let progress = |what: &str| {
        if loud {
            eprintln!("{:8.3} {what}", start.elapsed().as_secs_f64());
        }
    };
    let env = Env {
        program: &env::program()?,
        work: Path::new(work),
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        emulator: None,
        cancel: &Cancel::default(),
        progress: &progress,
    };
    let written = bootstrap::run(&spec, &env, &File::create(out)?)?;
    progress("done");
    println!("{} {}", written.diff_id, written.length);
    Ok(ExitCode::SUCCESS)
}

/// The packages that lie in `directory`. Their digests, which a lock would say, are kept beside them after the first
/// run, so that hashing them here is no part of what is timed.
fn read(directory: &Path) -> anyhow::Result<Vec<Package>> {
    let memory = directory.join("bench.json");
    if let Ok(bytes) = std::fs::read(&memory) {
        return Ok(serde_json::from_slice(&bytes)?);
    }
    let mut packages = vec![];
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "deb") {
            continue;
        }
        let read = || -> anyhow::Result<Package> {
            let (_, control) = Deb::open(File::open(&path)?)?;
            Ok(Package {
                name: control.required("Package")?.into(),
                version: control.required("Version")?.into(),
                sha256: Digest::of_reader(File::open(&path)?)?.0,
                path: path.clone(),
                automatic: false,
            })
        };
        packages.push(read().with_context(|| path.display().to_string())?);
    }
    std::fs::write(&memory, serde_json::to_vec(&packages)?)?;
    Ok(packages)
}
