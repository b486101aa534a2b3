//! The machine's clock, which may start at 1970: read, set forward, and remembered over a power cut.

use crate::host::{clock, fs};
use crate::model::Epoch;
use anyhow::Context as _;
use std::io::Read as _;
use std::path::Path;

/// The most bytes of the file that remembers.
const MAX_SAVED: u64 = 32;

/// What the clock says.
pub fn now() -> Epoch {
    clock::now()
}

/// Sets the clock to `at` where it says less; whether it did. Never back: an answer from the past must not bring back
/// certificates that have lapsed.
///
/// # Errors
/// When the kernel does not let it.
pub fn raise(at: Epoch) -> anyhow::Result<bool> {
    if now() >= at {
        return Ok(false);
    }
    let time = rustix::time::Timespec { tv_sec: at.0, tv_nsec: 0 };
    rustix::time::clock_settime(rustix::time::ClockId::Realtime, time)
        .with_context(|| format!("setting the clock to {}", at.rfc3339()))?;
    Ok(true)
}

/// Remembers `at` in `file`, so that the clock does not start before it.
///
/// # Errors
/// What the file system says.
pub fn save(file: &Path, at: Epoch) -> std::io::Result<()> {
    fs::write_atomic(file, format!("{}\n", at.0).as_bytes(), 0o644)
}

/// What was remembered; `None` where nothing was, or a power cut left half of it.
pub fn saved(file: &Path) -> Option<Epoch> {
    let mut text = String::new();
    fs::open_regular(file).ok()?.take(MAX_SAVED).read_to_string(&mut text).ok()?;
    text.strip_suffix('\n')?.parse().ok().map(Epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_whole_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("clock");
        assert_eq!(saved(&file), None);
        save(&file, Epoch(1_795_305_600)).unwrap();
        assert_eq!(saved(&file), Some(Epoch(1_795_305_600)));
        for torn in ["", "17953", "x\n", &"9".repeat(40)] {
            fs::write_atomic(&file, torn.as_bytes(), 0o644).unwrap();
            assert_eq!(saved(&file), None, "{torn}");
        }
    }

    #[test]
    fn the_clock_is_never_set_back() {
        assert!(!raise(Epoch(0)).unwrap());
    }
}
