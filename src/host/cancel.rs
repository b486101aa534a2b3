//! Cancellation: Ctrl-C is a flag that work looks at between pieces, so that everything unwinds and cleans up.
//!
//! A second Ctrl-C ends the program at once, as a person expects of a program that seems stuck; what is left then is
//! temporary files, which no later run takes for anything else.

use crate::error::{self, Kind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that says "stop"; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

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
                cancel.0.clone(),
            )?;
            signal_hook::flag::register(signal, cancel.0.clone())?;
        }
        Ok(cancel)
    }

    /// Raises the flag.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the flag is up.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
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
