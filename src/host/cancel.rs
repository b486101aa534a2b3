//! Cancellation: Ctrl-C is a flag that work looks at between pieces, so that everything unwinds and cleans up.
//!
//! A second Ctrl-C ends the program at once, as a person expects of a program that seems stuck; what is left then is
//! temporary files, which no later run takes for anything else.

use crate::error::{self, Kind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that says "stop"; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    own: Arc<AtomicBool>,
    /// What stops this piece of work with more around it.
    above: Option<Arc<Cancel>>,
}

impl Cancel {
    /// A flag that SIGINT, SIGTERM and SIGHUP raise; the second signal ends the process with exit code 130.
    ///
    /// # Errors
    /// When the kernel refuses a signal handler.
    #[cfg(feature = "cli")]
    pub fn on_signals() -> std::io::Result<Cancel> {
        let cancel = Cancel::default();
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
        {
            // Registered first, so that the flag is still down at the first signal.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                i32::from(Kind::Interrupted.exit_code()),
                cancel.own.clone(),
            )?;
            signal_hook::flag::register(signal, cancel.own.clone())?;
        }
        Ok(cancel)
    }

    /// A flag for a part of the work: up when this one is, and raised without raising this one.
    pub fn for_part(&self) -> Cancel {
        Cancel { own: Arc::default(), above: Some(Arc::new(self.clone())) }
    }

    /// Raises the flag.
    pub fn cancel(&self) {
        self.own.store(true, Ordering::Relaxed);
    }

    /// Whether the flag, or one above it, is up.
    pub fn is_cancelled(&self) -> bool {
        self.own.load(Ordering::Relaxed) || self.above.as_ref().is_some_and(|above| above.is_cancelled())
    }

    /// To be asked between pieces of work.
    ///
    /// # Errors
    /// [`Kind::Interrupted`] when the flag is up.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.is_cancelled() {
            Err(error::of(Kind::Interrupted, anyhow::anyhow!("interrupted")))
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_stops_with_the_whole_and_not_the_other_way_round() {
        let whole = Cancel::default();
        let (part, other) = (whole.for_part(), whole.for_part());
        part.cancel();
        assert!(part.check().is_err());
        assert!(whole.check().is_ok() && other.check().is_ok());
        whole.cancel();
        assert!(other.clone().for_part().check().is_err());
    }
}
