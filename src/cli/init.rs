//! `forge init`, `forge schema`.

use super::{Session, key};
use crate::error::{self, Kind, Mark as _};
use crate::host::fs;
use crate::profile::{self, Template};
use anyhow::{Context as _, anyhow};
use std::path::Path;

/// Writes the template's files and a development key into `dir`. Nothing that is there is overwritten.
pub fn run(session: &Session, dir: &Path, template: &str) -> anyhow::Result<()> {
    let template: Template =
        template.parse().map_err(|_| anyhow!("there is no template `{template}`")).kind(Kind::Input)?;
    let files = profile::init_files(template);
    if let Some((path, _)) = files.iter().find(|(path, _)| fs::exists(&dir.join(path))) {
        return Err(error::of(Kind::Input, anyhow!("{} is there already", dir.join(path).display())));
    }
    for (path, content) in &files {
        let path = dir.join(path);
        fs::write_atomic(&path, content.as_bytes(), 0o644)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    let key_path = dir.join("keys/release.key");
    if !fs::exists(&key_path) {
        key::generate(session, &key_path, true)?;
    }
    let profile = dir.join(profile::PROFILE);
    let written: Vec<_> = files.iter().map(|(path, _)| *path).collect();
    let human = format!("{}\nnext: forge build {}", profile.display(), profile.display());
    session.ui.result("init", &serde_json::json!({ "profile": profile, "files": written }), human);
    Ok(())
}

/// Prints the schema.
pub fn schema(session: &Session) -> anyhow::Result<()> {
    session.ui.stdout(profile::schema_text().as_bytes());
    Ok(())
}
