//! The machine's clock: for the age of caches and for durations on the screen, never for what goes into an artifact.

use crate::model::Epoch;
use std::time::SystemTime;

/// The wall clock; 1970 where the machine believes in an earlier time.
pub fn now() -> Epoch {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Epoch(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// A name of this boot of the machine, new at every start; `None` where the kernel does not tell.
pub fn boot_id() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|s| s.trim().to_string())
}
