//! What a shell and a manual reader want: `forge completions`, `forge man`.

use super::Session;
use super::args::Cli;
use crate::host::fs;
use anyhow::Context as _;
use clap::CommandFactory as _;
use std::path::Path;

/// Prints a completion script.
pub fn completions(session: &Session, shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = vec![];
    clap_complete::generate(shell, &mut Cli::command(), "forge", &mut script);
    session.ui.stdout(&script);
    Ok(())
}

/// Writes `forge.1` and a page for each verb.
pub fn man(session: &Session, dir: &Path) -> anyhow::Result<()> {
    let mut pages = vec![];
    collect(Cli::command(), "forge".into(), &mut pages);
    for (name, command) in &pages {
        let mut page = vec![];
        clap_mangen::Man::new(command.clone()).render(&mut page)?;
        let path = dir.join(format!("{name}.1"));
        fs::write_atomic(&path, &page, 0o644).with_context(|| format!("writing {}", path.display()))?;
    }
    session.ui.result(
        "man",
        &serde_json::json!({ "pages": pages.len() }),
        format!("{} pages in {}", pages.len(), dir.display()),
    );
    Ok(())
}

fn collect(command: clap::Command, name: String, pages: &mut Vec<(String, clap::Command)>) {
    for verb in command.get_subcommands().filter(|v| !v.is_hide_set()) {
        collect(verb.clone(), format!("{name}-{}", verb.get_name()), pages);
    }
    pages.push((name.clone(), command.name(name)));
}
