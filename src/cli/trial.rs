//! `forge test`: boots what ships against a fleet on this machine.

use super::Session;
use super::args::TestArgs;
use super::compose::Workshop;
use super::key;
use super::run::{manifest, newest, only_disk};
use crate::error::{self, Kind, Mark as _};
use crate::host::fs;
use crate::model::Digest;
use crate::run;
use crate::trial::{self, Case, Outcome, Trial, proof};
use anyhow::{Context as _, anyhow};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Tries the cases, tells each outcome, attests them where a key is given.
pub fn run(session: &Session, args: &TestArgs) -> anyhow::Result<()> {
    let release = newest(&args.path);
    let manifest = manifest(&release)?;
    let (disk, arch) = only_disk(&release, &manifest, args.arch)?;
    let root = key::named(&args.root)?;
    let signer = args.sign.as_deref().map(key::named).transpose()?;
    let shop = Workshop::open(session, false)?;
    let tools = shop.tools(session, run::packages(arch))?;
    let installer = disk.with_file_name("installer.iso");
    let installer = fs::exists(&installer).then_some(installer);
    let tried = |case: &Case| !case.needs_installer() || installer.is_some();
    let cases = match &args.case[..] {
        [] => Case::ALL.iter().copied().filter(tried).collect(),
        named => named.to_vec(),
    };
    if let Some(case) = cases.iter().find(|case| !tried(case)) {
        return Err(error::of(Kind::Input, anyhow!("{case} needs an installer, and the release has none")))
            .hint("add \"iso\" to `image.artifacts` in the profile");
    }
    let scratch = tempfile::Builder::new().prefix(fs::TEMPORARY).tempdir_in(&session.cache_dir)?;
    let raw = scratch.path().join("disk.raw");
    run::disk::unpack(&disk, &raw, trial::DISK).kind(Kind::Input)?;
    let sealed = run::disk::is_sealed(&raw).kind(Kind::Input)?;
    let with_tpm = sealed || cases.iter().any(|case| case.needs_tpm());
    let tpm_tools = with_tpm.then(|| shop.tools(session, run::tpm::PACKAGES)).transpose()?;
    let with_wire = cases.iter().any(|case| case.needs_wire());
    let wire_tools = with_wire.then(|| shop.tools(session, run::wire::PACKAGES)).transpose()?;
    let work = args.keep.clone().unwrap_or_else(|| scratch.path().into());
    fs::make_private_dir(&work)?;
    let (_, empty) = run::qemu::firmware(arch, false);
    let variables = scratch.path().join("probe.vars");
    std::fs::copy(tools.file(empty)?, &variables)?;
    let acceleration =
        run::acceleration(&tools, arch, &variables, &session.cache_dir.join("run"), &session.cancel)?;
    let trial = Trial {
        disk: &raw,
        sealed,
        installer: installer.as_deref(),
        arch,
        site: &manifest.site,
        root: &*root,
        tools: &tools,
        tpm_tools: tpm_tools.as_ref(),
        wire_tools: wire_tools.as_ref(),
        acceleration,
        patience: Duration::from_secs(args.patience),
        cuts: args.cuts,
        cancel: &session.cancel,
        say: &|words| session.ui.note(words),
    };
    let mut outcomes = vec![];
    for case in cases {
        let place = work.join(case.as_str());
        fs::make_private_dir(&place)?;
        let outcome = trial.run(case, &place).with_context(|| format!("trying {case}"))?;
        tell(session, &outcome);
        if args.keep.is_none() {
            std::fs::remove_dir_all(&place)?; // gigabytes
        }
        outcomes.push(outcome);
    }
    if let Some(signer) = signer {
        let (digest, _) = Digest::of_reader(std::fs::File::open(&disk)?)?;
        let name = disk.strip_prefix(&release).unwrap_or(&disk).to_string_lossy();
        let envelope = proof::attest(digest, &name, &outcomes, &*signer)?;
        let path = beside(&release);
        fs::write_atomic(&path, &serde_json::to_vec(&envelope)?, 0o644)?;
        session.ui.result("proof", &serde_json::json!({ "path": path }), path.display());
    }
    let failed = outcomes.iter().filter(|o| o.failure.is_some()).count();
    if failed == 0 {
        return Ok(());
    }
    Err(error::of(Kind::Verify, anyhow!("{failed} of {} cases failed", outcomes.len())))
        .hint("--keep DIR keeps consoles, disks and the fleet's database")
}

fn tell(session: &Session, outcome: &Outcome) {
    let Outcome { case, seconds, failure, .. } = outcome;
    let human = match failure {
        None => format!("PASS  {case:<14} {seconds:>4} s  {}", case.about()),
        Some(why) => format!("FAIL  {case:<14} {seconds:>4} s  {why}"),
    };
    let json = serde_json::json!({ "case": case.as_str(), "passed": failure.is_none(), "seconds": seconds,
        "failure": failure });
    session.ui.result("case", &json, human);
}

/// `dist/store/2026.11.22.proof.dsse.json`: beside the release, which is signed as a whole and not touched.
fn beside(release: &Path) -> PathBuf {
    let mut name = release.file_name().unwrap_or_default().to_os_string();
    name.push(".proof.dsse.json");
    release.with_file_name(name)
}
