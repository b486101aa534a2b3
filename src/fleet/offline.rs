//! Requests that sticks bring from boxes without a network (C8): claim and grant in one, by the rules of the endpoint and in
//! its database, whether it runs or not.

use super::exchange::{Refused, Stop};
use super::service::Service;
use crate::enroll::DeviceId;
use crate::enroll::claim::State;
use crate::enroll::offline::OfflineRequest;
use crate::model::Epoch;
use crate::sign::dsse::Envelope;
use anyhow::anyhow;

/// What becomes of a request.
#[derive(Debug)]
pub struct Answered {
    /// The device that asks.
    pub device: DeviceId,
    /// Where it stands.
    pub state: State,
    /// Six words, as on its screen.
    pub words: String,
    /// Why, for people.
    pub reason: String,
    /// Its grant, when it is let in; for the file that [`crate::enroll::bundle::grant_name`] names.
    pub grant: Option<Envelope>,
}

impl Service {
    /// Answers the request in `bytes`. A device that a person has to let in first gets its grant when the same request is
    /// answered again.
    ///
    /// # Errors
    /// When it is no request, its signatures do not hold, or the fleet refuses it.
    pub fn answer_offline(&self, bytes: &[u8], now: Epoch) -> anyhow::Result<Answered> {
        let (request, signers) = OfflineRequest::open(bytes)?;
        let OfflineRequest { claim, grant } = request;
        let words = crate::enroll::identity::words(&claim.device_pub);
        let nonce = grant.nonce.clone();
        let told = |stop| match stop {
            Stop::Refused(Refused { reason, .. }) => anyhow!("{reason}"),
            Stop::Trouble(error) => error,
        };
        let judged = self.admit(claim, &signers, &nonce, now).map_err(told)?;
        let device = judged.device;
        let let_in = matches!(device.state, State::Approved | State::Joined);
        let grant = if let_in { Some(self.give(&device.id, grant, now).map_err(told)?) } else { None };
        Ok(Answered { device: device.id, state: device.state, words, reason: device.reason, grant })
    }
}
