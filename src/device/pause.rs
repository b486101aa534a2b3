//! Why a device waits, what a person reads meanwhile, and for how long.

use crate::enroll::backoff::{self, Wait};
use crate::enroll::code::Code;
use std::io;
use std::time::Duration;

/// How long it waits, before the dice are thrown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Something failed: seconds at first, then minutes.
    Trouble,
    /// A person has to approve, beside the long poll.
    Approval,
    /// The fleet said no: an hour. Nothing at the box but a new bundle makes it shorter.
    Refused,
    /// All is done: an hour until it looks again.
    Steady,
    /// That long, whatever happens meanwhile.
    Exactly(Duration),
}

impl Until {
    /// How long, for the repeat `attempt` and the fleet's own word.
    pub fn delay(self, attempt: u32, retry_after: Option<Duration>, random: u32) -> Duration {
        let wait = match self {
            Until::Trouble => Wait::Trouble,
            Until::Approval => Wait::Approval,
            Until::Refused | Until::Steady => Wait::Refused,
            Until::Exactly(time) => return time,
        };
        backoff::delay(wait, attempt, retry_after, random)
    }
}

/// Nothing can be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// How long.
    pub until: Until,
    /// For the screen; `None` where all is as it should be.
    pub code: Option<Code>,
    /// What happened, in a line without secrets.
    pub detail: String,
    /// What the fleet asked for.
    pub retry_after: Option<Duration>,
}

impl Pause {
    /// Something failed.
    pub fn trouble(code: Code, detail: impl Into<String>) -> Pause {
        Pause { until: Until::Trouble, code: Some(code), detail: line(detail), retry_after: None }
    }

    /// Somebody said no.
    pub fn refused(code: Code, detail: impl Into<String>) -> Pause {
        Pause { until: Until::Refused, code: Some(code), detail: line(detail), retry_after: None }
    }

    /// A wait that is no fault.
    pub fn plain(until: Until, detail: impl Into<String>) -> Pause {
        Pause { until, code: None, detail: line(detail), retry_after: None }
    }
}

/// The disk is in trouble. What it says names paths, never contents.
impl From<io::Error> for Pause {
    fn from(error: io::Error) -> Pause {
        Pause::trouble(Code::DiskTrouble, error.to_string())
    }
}

/// One line that a screen and a log can hold, whoever wrote it.
fn line(text: impl Into<String>) -> String {
    text.into().chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}
