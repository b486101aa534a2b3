//! What a running build tells the person before it.

use std::time::Duration;

/// Takes the events of a build, from any thread.
pub trait Observer: Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);
}

/// What happens in a build. Steps are named as in the plan: `amd64/os`.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A step began.
    Started {
        /// The step.
        step: &'a str,
        /// What it does, in a few words.
        what: &'a str,
    },
    /// A step turned to something else.
    Doing {
        /// The step.
        step: &'a str,
        /// What it does now.
        what: &'a str,
    },
    /// A step, or a download, came further.
    Progress {
        /// The step.
        step: &'a str,
        /// How much is done, in bytes or in pieces.
        done: u64,
        /// Out of how much; 0 where that is not known.
        total: u64,
    },
    /// A step ended well.
    Finished {
        /// The step.
        step: &'a str,
        /// Whether its outputs were in the cache.
        cached: bool,
        /// How long it took.
        took: Duration,
    },
    /// A word to the person, a line.
    Note(&'a str),
}

/// Drops every event.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event<'_>) {}
}
