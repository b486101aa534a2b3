//! Who is let in without a person: rules over what a claim proved, first match wins.
//!
//! What a device says of itself in labels or names is never looked at.

use crate::enroll::bootstrap::Mode;
use crate::enroll::claim::State;
use crate::enroll::code::Code;
use crate::model::Epoch;
use serde::{Deserialize, Serialize};

/// What is known of a claim when it is judged.
#[derive(Clone, Debug)]
pub struct Case {
    /// What admits the device.
    pub mode: Mode,
    /// Whether the bundle names boxes, and this is one of them with enough points.
    pub row_fits: bool,
    /// The points of the best row.
    pub points: u32,
    /// Whether an endorsement key answered its challenge, and how well it is known.
    pub endorsement: Endorsement,
    /// Whether the device, its ticket or its bundle was revoked or denied before.
    pub barred: bool,
    /// How many boxes have claimed the ticket, this one included.
    pub claims: u32,
    /// Whether an operator opened a window for this fleet that has room.
    pub window: bool,
    /// The fleet's clock.
    pub now: Epoch,
    /// The ticket's first instant.
    pub not_before: Option<Epoch>,
    /// The ticket's last instant.
    pub not_after: Option<Epoch>,
    /// Whether the bundle asks for a TPM.
    pub require_tpm: bool,
}

/// What a TPM proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Endorsement {
    /// Nothing.
    None,
    /// It holds the key that it named. Anyone can make such a key in software.
    Proved,
    /// And the key is on the bundle's list, or its certificate chains to a maker that the fleet trusts.
    Known,
}

/// What the fleet lets in by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Boxes whose endorsement key is known and proved.
    pub auto_endorsed: bool,
    /// A new key (a new disk, a TPM whose owner was cleared) of a box whose endorsement key was proved before: under the
    /// name that it had.
    pub auto_reenroll: bool,
    /// Boxes with a ticket of their own that fit their row, within the ticket's time.
    pub auto_device_ticket: bool,
    /// Boxes of a batch that fit a row.
    pub auto_batch_row: bool,
    /// How many points a row has to give before it counts, whatever the bundle says.
    pub min_score: u32,
}

impl Default for Policy {
    /// Proof of hardware, or a ticket of its own on the expected box: anything else waits for a person.
    fn default() -> Policy {
        Policy {
            auto_endorsed: true,
            auto_reenroll: true,
            auto_device_ticket: true,
            auto_batch_row: false,
            min_score: 0,
        }
    }
}

/// What is decided, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Where the device stands.
    pub state: State,
    /// For the screen.
    pub code: Option<Code>,
    /// For people.
    pub reason: &'static str,
}

impl Policy {
    /// Judges a claim.
    pub fn decide(&self, case: &Case) -> Decision {
        let approved = |reason| Decision { state: State::Approved, code: None, reason };
        let pending = |reason| Decision { state: State::Pending, code: Some(Code::AwaitsApproval), reason };
        if case.barred {
            return Decision { state: State::Denied, code: Some(Code::Denied), reason: "denied before" };
        }
        if self.auto_endorsed && case.endorsement == Endorsement::Known {
            return approved("endorsement key known and proved");
        }
        if case.require_tpm && case.endorsement == Endorsement::None {
            return pending("the bundle asks for a TPM, and none was proved");
        }
        let in_time = case.not_before.is_none_or(|first| case.now >= first)
            && case.not_after.is_none_or(|last| case.now <= last);
        let fits = case.row_fits && case.points >= self.min_score;
        if self.auto_device_ticket && case.mode == Mode::Device && fits && case.claims <= 1 && in_time {
            return approved("ticket of its own, hardware fits");
        }
        if self.auto_batch_row && case.mode == Mode::Batch && fits && case.points > 0 && in_time {
            return approved("batch ticket, hardware fits a row");
        }
        if case.window {
            return approved("an operator's window was open");
        }
        match case.endorsement {
            Endorsement::Proved => pending("endorsement key proved, but its maker is not known"),
            _ if !in_time => pending("outside the ticket's time"),
            _ if !case.row_fits && case.mode == Mode::Batch => {
                pending("a batch's box: a person has to approve")
            }
            _ if !fits => pending("no row of the bundle fits well enough"),
            _ => pending("a person has to approve"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case() -> Case {
        Case {
            mode: Mode::Device,
            row_fits: true,
            points: 40,
            endorsement: Endorsement::None,
            barred: false,
            claims: 1,
            window: false,
            now: Epoch(10),
            not_before: Some(Epoch(5)),
            not_after: Some(Epoch(20)),
            require_tpm: false,
        }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = Policy::default();
        let batch = Case { mode: Mode::Batch, ..case() };
        for (what, case, state) in [
            ("own ticket, right box", case(), State::Approved),
            ("own ticket, wrong box", Case { row_fits: false, ..case() }, State::Pending),
            ("own ticket, too late", Case { now: Epoch(21), ..case() }, State::Pending),
            ("own ticket, too early", Case { now: Epoch(4), ..case() }, State::Pending),
            ("a TPM asked for", Case { require_tpm: true, window: true, ..case() }, State::Pending),
            (
                "a TPM asked for, and known",
                Case { require_tpm: true, endorsement: Endorsement::Known, ..case() },
                State::Approved,
            ),
            ("own ticket, second box", Case { claims: 2, ..case() }, State::Pending),
            (
                "barred, whatever it proves",
                Case { barred: true, endorsement: Endorsement::Known, ..case() },
                State::Denied,
            ),
            ("batch", batch.clone(), State::Pending),
            ("batch, window open", Case { window: true, ..batch.clone() }, State::Approved),
            (
                "batch, known endorsement",
                Case { endorsement: Endorsement::Known, ..batch.clone() },
                State::Approved,
            ),
            (
                "batch, software endorsement",
                Case { endorsement: Endorsement::Proved, ..batch.clone() },
                State::Pending,
            ),
        ] {
            assert_eq!(policy.decide(&case).state, state, "{what}");
        }
        let rows = Policy { auto_batch_row: true, ..policy };
        assert_eq!(rows.decide(&batch).state, State::Approved);
        assert_eq!(
            rows.decide(&Case { points: 0, ..batch }).state,
            State::Pending,
            "a row that asks nothing proves nothing"
        );
    }
}
