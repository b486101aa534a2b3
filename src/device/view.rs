//! What a person at the box is told: facts of the moment, without layout. Never a secret: the QR code has the device's name
//! and its six words, which are made of its public key.

use crate::device::effects::Link;
use crate::device::state::State;
use crate::enroll::DeviceId;
use crate::enroll::code::Code;
use crate::model::Epoch;
use std::time::Duration;

/// A screenful.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// How far the box is.
    pub state: State,
    /// Why it does not go on; `None` while it does.
    pub code: Option<Code>,
    /// What happened, in a line.
    pub detail: String,
    /// The bundle's words for whoever needs help.
    pub support: String,
    /// The device's name, once it has a key.
    pub device: Option<DeviceId>,
    /// Six words that stand for the key.
    pub words: Option<String>,
    /// The node's name, once the fleet gave one.
    pub node: Option<String>,
    /// The system's serial number.
    pub serial: Option<String>,
    /// The network's ports.
    pub links: Vec<Link>,
    /// Where the fleet should answer.
    pub endpoints: Vec<String>,
    /// The clock.
    pub now: Epoch,
    /// What a QR code leads to: `PORTAL/e#DEVICE.WORDS`. The part behind `#` reaches no server's log.
    pub qr: Option<String>,
    /// Where the box's own page is.
    pub page: Option<String>,
    /// In how long it tries again; `None` while it works.
    pub again_in: Option<Duration>,
}

impl View {
    /// The large word. A box that has its grant works without anybody answering, and must not call for help in the night.
    pub fn word(&self) -> &'static str {
        match self.code {
            Some(code) if self.state >= State::Applied && code.is_of_the_network() => "WORKING OFFLINE",
            Some(Code::AwaitsApproval) => State::Claimed.word(),
            Some(code) if code.needs_a_person() => "HELP NEEDED",
            _ => self.state.word(),
        }
    }
}
