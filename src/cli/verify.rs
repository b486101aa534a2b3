//! `forge verify`.

use super::{Session, key};
use crate::error::{Kind, Mark as _};
use crate::model::Digest;
use crate::release::{self, verify::Held};
use crate::seal;
use crate::sign::key::PublicKey;
use anyhow::Context as _;
use std::fs::File;
use std::path::Path;

/// Verifies a release, a layout or a file, and says PASS, or names what did not hold.
pub fn run(session: &Session, path: &Path, key: &Path) -> anyhow::Result<()> {
    let public = key::public(&key.to_string_lossy())
        .with_context(|| format!("reading the public key {}", key.display()))?;
    let told = |held: &Held| session.ui.result("held", held, format!("ok    {}  {}", held.what, held.how));
    let done = if path.join(release::SUMS).exists() || path.join(release::MANIFEST).exists() {
        let work = session.cache_dir.join("work");
        release::verify::release(path, &public, &work, &session.cancel, &told).map(drop)
    } else if path.is_dir() {
        layout(path, &public, &told)
    } else {
        file(path, &public, &told)
    };
    done.with_context(|| format!("verifying {}", path.display()))?;
    let human = format!("PASS  {} under key {}", path.display(), public.key_id());
    session.ui.result("verified", &serde_json::json!({ "path": path, "key": public.key_id() }), human);
    Ok(())
}

fn layout(path: &Path, public: &PublicKey, told: &dyn Fn(&Held)) -> anyhow::Result<()> {
    let report = seal::verify::layout(path, public).kind(Kind::Verify)?;
    let how = format!("{} images signed, {} blobs, {}", report.images.len(), report.blobs, report.size);
    told(&Held { what: path.display().to_string(), how });
    Ok(())
}

fn file(path: &Path, public: &PublicKey, told: &dyn Fn(&Held)) -> anyhow::Result<()> {
    let (digest, _) = Digest::of_reader(File::open(path)?)?;
    let mut beside = path.as_os_str().to_os_string();
    beside.push(seal::BUNDLE_EXTENSION);
    let bundle = std::fs::read(&beside)
        .with_context(|| format!("reading {}", Path::new(&beside).display()))
        .kind(Kind::Verify)?;
    seal::verify::file(&path.display().to_string(), digest, &bundle, public).kind(Kind::Verify)?;
    told(&Held { what: path.display().to_string(), how: format!("signed, {digest}") });
    Ok(())
}
