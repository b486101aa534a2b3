//! `forge inspect`, `forge diff`: what is in a release, a layout, an image of a registry, a disk, a kernel or a lock.

use super::Session;
use crate::contents::Detail;
use crate::error::{Kind, Mark as _};
use crate::host::fs::{Staged, write_atomic};
use crate::inspect::{self, Inspected, diff, page, text};
use crate::model::Digest;
use crate::oci::Reference;
use crate::publish;
use crate::secret;
use anyhow::{Context as _, anyhow};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Something to look at: where it is, and what keeps it there.
struct Subject {
    name: String,
    path: PathBuf,
    /// A pulled layout, removed when dropped.
    _pulled: Option<Staged>,
}

impl Subject {
    /// `name` is a path where there is one of it, else a reference to be pulled.
    fn find(session: &Session, name: &str) -> anyhow::Result<Subject> {
        if Path::new(name).exists() {
            return Ok(Subject { name: name.into(), path: name.into(), _pulled: None });
        }
        let reference: Reference = name
            .parse()
            .map_err(|e| anyhow!("there is no {name}, and as a reference {e}"))
            .kind(Kind::Input)
            .hint("name a path, or an image as registry.example/repository:tag")?;
        let staged = Staged::dir(&work(session).join("inspected")).context("making room for the image")?;
        let path = staged.path().join("oci");
        session.ui.detail(format!("pulling {reference}"));
        publish::pull(&reference, &path, false).with_context(|| format!("pulling {reference}"))?;
        Ok(Subject { name: name.into(), path, _pulled: Some(staged) })
    }

    fn look(&self, session: &Session, detail: Detail, skip: &BTreeSet<Digest>) -> anyhow::Result<Inspected> {
        let work = work(session);
        let env = inspect::Env { work: &work, cancel: &session.cancel, detail, skip };
        inspect::open(&self.path, &self.name, &env).with_context(|| format!("inspecting {}", self.name))
    }
}

fn work(session: &Session) -> PathBuf {
    session.cache_dir.join("work")
}

/// Shows what `name` is made of.
pub fn inspect(session: &Session, name: &str) -> anyhow::Result<()> {
    let found = Subject::find(session, name)?.look(session, Detail::Summary, &BTreeSet::new())?;
    session.ui.result("inspected", &found, text::tree(&found));
    Ok(())
}

/// Searches what is at `paths` for secrets.
pub fn secrets(session: &Session, paths: &[PathBuf]) -> anyhow::Result<()> {
    let work = work(session);
    let env = inspect::Env {
        work: &work,
        cancel: &session.cancel,
        detail: Detail::Summary,
        skip: &BTreeSet::new(),
    };
    let mut found = 0;
    for path in paths {
        let name = path.display().to_string();
        let searched = inspect::secrets::search(path, &name, &env)
            .with_context(|| format!("searching {name} for secrets"))?;
        for finding in &searched.findings {
            let words = format!("{}: {} at byte {}", finding.place, finding.what, finding.offset);
            session.ui.result("secret", finding, words);
        }
        for unread in &searched.unread {
            session.ui.note(format!("not searched to its end: {unread}"));
        }
        let counts = serde_json::json!({
            "path": name, "files": searched.files, "size": searched.size,
            "secrets": searched.findings.len(), "packaged": searched.packaged, "unread": searched.unread,
        });
        let words = match searched.findings.len() {
            0 => format!("no secret in {} files of {name}, {} unpacked", searched.files, searched.size),
            _ => String::new(),
        };
        session.ui.result("searched", &counts, words);
        found += searched.findings.len();
    }
    match found {
        0 => Ok(()),
        1 => Err(anyhow!("there is a secret in what may be published")),
        n => Err(anyhow!("there are {n} secrets in what may be published")),
    }
    .kind(Kind::Verify)
    .hint(secret::HELP)
}

/// Shows what differs between `a` and `b`; with `html` also writes it as a page.
pub fn diff(session: &Session, a: &str, b: &str, html: Option<&Path>) -> anyhow::Result<()> {
    let (a, b) = (Subject::find(session, a)?, Subject::find(session, b)?);
    let (names_a, names_b) = (digests(&a)?, digests(&b)?);
    // What both have need not be looked into.
    let both: BTreeSet<Digest> = names_a.intersection(&names_b).copied().collect();
    let (old, new) = (a.look(session, Detail::Files, &both)?, b.look(session, Detail::Files, &both)?);
    if old.form != new.form {
        let what = anyhow!("{} and {} are of different kinds", old.name, new.name);
        return Err(what).kind(Kind::Input).hint("compare two releases, two images, two disks or two locks");
    }
    let difference = diff::compare(&old, &new);
    if let Some(path) = html {
        let page = page::difference(&difference);
        write_atomic(path, page.as_bytes(), 0o644).with_context(|| format!("writing {}", path.display()))?;
    }
    let counts = serde_json::json!({ "a": difference.a, "b": difference.b, "counts": difference.counts() });
    session.ui.result("difference", &counts, text::difference(&difference));
    if session.ui.is_json() {
        for change in &difference.changes {
            session.ui.result("change", change, "");
        }
    }
    Ok(())
}

/// Digests of all that a subject lists, without looking into any of it.
fn digests(subject: &Subject) -> anyhow::Result<BTreeSet<Digest>> {
    inspect::digests(&subject.path).with_context(|| format!("inspecting {}", subject.name))
}
