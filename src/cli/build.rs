//! `forge build`: profile → lock → plan → steps → release.

use super::Session;
use super::args::{BuildOptions, ProfileArgs, Selection};
use super::compose::{self, LockMode, Workshop};

/// Builds every profile.
pub fn run(
    session: &Session,
    args: &ProfileArgs,
    selection: &Selection,
    options: &BuildOptions,
) -> anyhow::Result<()> {
    let shop = Workshop::open(session, options.offline)?;
    let mode = if options.locked { LockMode::Locked } else { LockMode::Mend };
    for path in &args.profiles {
        let profile = compose::load(session, path, &args.set, selection)?;
        let lock = compose::locked(session, path, &profile, &shop, mode)?;
        let plan = compose::planned(&profile, &lock)?;
        compose::made(session, &profile, &lock, &plan, &shop, options.jobs)?;
    }
    Ok(())
}
