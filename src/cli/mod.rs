//! The command line: arguments in, stages called, results told. Each file holds a group of verbs.

mod args;
mod beside;
mod build;
mod cache;
mod compose;
mod device;
mod doctor;
mod enroll;
mod export;
mod flash;
mod fleet;
mod init;
mod inspect;
mod key;
mod registry;
mod run;
mod shell;
mod trial;
pub mod ui;
mod verify;

use crate::build::cache::Cache;
use crate::error::{self, Kind};
use crate::host::{self, cancel::Cancel};
use anyhow::Context as _;
use args::{Cli, Verb};
use clap::Parser as _;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use ui::Ui;

/// What every verb is given: the settings of this run, from arguments and environment, in one place.
struct Session {
    ui: Ui,
    cancel: Cancel,
    cache_dir: PathBuf,
}

impl Session {
    fn cache(&self) -> anyhow::Result<Cache> {
        Cache::open(&self.cache_dir)
            .with_context(|| format!("opening the cache {}", self.cache_dir.display()))
    }
}

/// Parses `arguments` (the program's name first), runs the verb, tells its result; the exit code of the contract.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are results; everything else is wrong usage.
            let code = if error.use_stderr() { Kind::Input.exit_code() } else { 0 };
            let _ = error.print(); // a closed pipe is no failure
            return ExitCode::from(code);
        }
    };
    let global = cli.global;
    let ui = Ui::new(
        global.json,
        global.quiet,
        global.verbose > 0,
        global.color,
        host::env::var("NO_COLOR").is_some(),
    );
    let outcome = session(ui, global.cache_dir).map_err(|(ui, error)| {
        ui.error(&error);
        error::kind(&error).exit_code()
    });
    let session = match outcome {
        Ok(session) => session,
        Err(code) => return ExitCode::from(code),
    };
    match dispatch(&session, cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            session.ui.error(&error);
            // However a cancelled piece of work failed, the person who pressed Ctrl-C knows why.
            let kind = if session.cancel.is_cancelled() && error::kind(&error) == Kind::Unexpected {
                Kind::Interrupted
            } else {
                error::kind(&error)
            };
            ExitCode::from(kind.exit_code())
        }
    }
}

fn session(ui: Ui, cache_dir: Option<PathBuf>) -> Result<Session, (Ui, anyhow::Error)> {
    let Some(cache_dir) = cache_dir.or_else(host::env::cache_dir) else {
        return Err((
            ui,
            error::of(Kind::Input, anyhow::anyhow!("neither --cache-dir nor HOME says where the cache is")),
        ));
    };
    match Cancel::on_signals() {
        Ok(cancel) => Ok(Session { ui, cancel, cache_dir }),
        Err(e) => Err((ui, anyhow::Error::from(e).context("installing signal handlers"))),
    }
}

fn dispatch(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Check { profiles, set, secrets } => {
            compose::check(session, &profiles, &set)?;
            inspect::secrets(session, &secrets)
        }
        Verb::Lock { profile, set, update } => compose::lock(session, &profile, &set, update.as_deref()),
        Verb::Plan { profiles, selection } => compose::plan(session, &profiles, &selection),
        Verb::Build { profiles, selection, options } => build::run(session, &profiles, &selection, &options),
        Verb::Verify { path, key } => verify::run(session, &path, &key),
        Verb::Inspect { subject } => inspect::inspect(session, &subject),
        Verb::Diff { a, b, html } => inspect::diff(session, &a, &b, html.as_deref()),
        Verb::Key { verb } => key::run(session, verb),
        Verb::Push { path, reference } => registry::push(session, &path, &reference),
        Verb::Pull { reference, path } => registry::pull(session, &reference, &path),
        Verb::Enroll { verb } => enroll::run(session, verb),
        Verb::Fleet { verb } => fleet::run(session, verb),
        Verb::Test(args) => trial::run(session, &args),
        Verb::Explain { code } => enroll::explain(session, code.as_deref()),
        Verb::Flash(args) => flash::run(session, &args),
        Verb::Run { path, options } => run::run(session, &path, &options),
        Verb::Init { dir, template } => init::run(session, &dir, &template),
        Verb::Schema => init::schema(session),
        Verb::Cache { verb } => cache::run(session, verb),
        Verb::Doctor => doctor::run(session),
        Verb::Completions { shell } => shell::completions(session, shell),
        Verb::Man { dir } => shell::man(session, &dir),
    }
}
