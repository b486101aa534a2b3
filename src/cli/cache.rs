//! `forge cache info|prune`.

use super::Session;
use super::args::CacheVerb;
use crate::host::clock;
use crate::model::{Bytes, Epoch};

/// Runs a verb of the cache.
pub fn run(session: &Session, verb: CacheVerb) -> anyhow::Result<()> {
    match verb {
        CacheVerb::Info => info(session),
        CacheVerb::Prune { keep, older_than, dry_run } => prune(session, keep, older_than, dry_run),
    }
}

fn info(session: &Session) -> anyhow::Result<()> {
    let cache = session.cache()?;
    let steps = cache.entries()?;
    let size: Bytes = steps.iter().map(|s| s.size).sum();
    let mut human = format!("{}\n{} in {} steps\n", cache.root().display(), size, steps.len());
    for step in steps.iter().rev() {
        human += &format!("  {:>9}  {}  {}\n", step.size.to_string(), step.used.rfc3339(), step.step);
    }
    session.ui.result(
        "cache",
        &serde_json::json!({ "dir": cache.root(), "size": size, "steps": steps }),
        human,
    );
    Ok(())
}

fn prune(session: &Session, keep: Option<u64>, older_than: Option<u32>, dry_run: bool) -> anyhow::Result<()> {
    let cache = session.cache()?;
    let steps = cache.entries()?;
    let mut left: Bytes = steps.iter().map(|s| s.size).sum();
    let before = Epoch(clock::now().0 - i64::from(older_than.unwrap_or(0)) * 86_400);
    // With neither limit given, everything goes.
    let everything = keep.is_none() && older_than.is_none();
    let (mut freed, mut count) = (Bytes(0), 0);
    for step in &steps {
        session.cancel.check()?;
        if everything || keep.is_some_and(|k| left.0 > k) || (older_than.is_some() && step.used < before) {
            if !dry_run {
                cache.remove(step)?;
            }
            session.ui.detail(format!(
                "{} {} {}",
                if dry_run { "would remove" } else { "removed" },
                step.step,
                step.size
            ));
            left = Bytes(left.0 - step.size.0);
            freed = Bytes(freed.0 + step.size.0);
            count += 1;
        }
    }
    let human =
        format!("{} {count} steps, {freed}; {left} kept", if dry_run { "would remove" } else { "removed" });
    session.ui.result(
        "pruned",
        &serde_json::json!({ "steps": count, "freed": freed, "kept": left, "dry-run": dry_run }),
        human,
    );
    Ok(())
}
