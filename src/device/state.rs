//! How far a device is: S0 to S12 of the enrollment contract, C6.
//!
//! A state is derived from what lies whole on the disk, never from a note of it, so that a power cut at any instant leaves
//! some earlier state and no false one.

use serde::{Deserialize, Serialize};

/// How far a device is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// S0: nothing is there.
    #[default]
    Fresh,
    /// S1: a verified bundle was copied.
    Bundle,
    /// S2: the keys and the hardware's fingerprint are durable.
    Keyed,
    /// S3: the network is as the bundle wants it.
    Net,
    /// S4: the fleet answered, and the clock is not behind it.
    Time,
    /// S5: a claim was sent.
    Claimed,
    /// S6: the fleet lets it in.
    Approved,
    /// S7: a grant is there, sealed.
    Granted,
    /// S8: its files are rendered beside their places.
    Staged,
    /// S9: they are in their places.
    Applied,
    /// S10: the fleet knows.
    Acked,
    /// S11: the node is ready.
    Joined,
    /// S12: the ticket is gone.
    Scrubbed,
}

impl State {
    /// All of them, in order.
    pub const ALL: [State; 13] = [
        State::Fresh,
        State::Bundle,
        State::Keyed,
        State::Net,
        State::Time,
        State::Claimed,
        State::Approved,
        State::Granted,
        State::Staged,
        State::Applied,
        State::Acked,
        State::Joined,
        State::Scrubbed,
    ];

    /// The large word on the screen, while no person is needed.
    pub const fn word(self) -> &'static str {
        match self {
            State::Fresh => "LOOKING FOR BUNDLE",
            State::Bundle | State::Keyed => "STARTING",
            State::Net | State::Time => "CONNECTING",
            State::Claimed => "WAITING FOR APPROVAL",
            State::Approved | State::Granted | State::Staged => "JOINING",
            State::Applied | State::Acked => "JOINING",
            State::Joined | State::Scrubbed => "JOINED",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_stand_in_the_order_of_the_way() {
        assert!(State::ALL.is_sorted());
        assert!(State::ALL.iter().all(|s| s.word().len() <= 20), "a word that is too long for large letters");
    }
}
