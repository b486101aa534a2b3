//! Calls of a device that the fleet knows: where it stands, its grant, that it has it, and what befell it.

use super::{MOST_KEPT_EVENTS, Service, argument, line, numbers};
use crate::enroll::DeviceId;
use crate::enroll::claim::{Ack, Events, GrantRequest, MAX_EVENTS, MAX_WAIT_S, State};
use crate::enroll::code::Code;
use crate::fleet::claim::{Hearing, refusal};
use crate::fleet::exchange::{Next, Refused, Reply, Request, Stop};
use crate::fleet::limit;
use crate::fleet::record::Device;
use crate::model::Epoch;
use crate::sign::dsse::Envelope;
use rusqlite::{Connection, params};
use serde::de::DeserializeOwned;

impl Service {
    pub(super) fn standing(&self, id: &DeviceId, request: &Request, now: Epoch) -> Result<Next, Stop> {
        let load = |connection: &Connection| {
            let device = Device::load(connection, id)?;
            let open: bool = connection
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM opened WHERE until >= ?1 AND room > 0)")?
                .query_row([now.0], |row| row.get(0))?;
            Ok((device, open))
        };
        let (device, open) = self.store.read(load)?;
        let Some(device) = device else {
            return Err(Refused::without_code(404, "no such device: claim first").into());
        };
        let wait: u32 = argument(&request.query, "wait").and_then(|w| w.parse().ok()).unwrap_or(0);
        if !(open && device.state == State::Pending) {
            return Ok(standing_reply(&device, wait)??.into());
        }
        let settings = self.settings.clone();
        Ok(Next::Write(Box::new(move |connection| {
            // Read again: an operator may have said no in between.
            let mut device = Device::load(connection, &device.id)?.unwrap_or(device);
            Hearing { connection, settings: &settings, now }.through_window(&mut device)?;
            standing_reply(&device, wait)
        })))
    }

    /// A request that the device itself signed, and that its bucket has room for; and what is known of the device.
    pub(in crate::fleet) fn of_device<T: DeserializeOwned>(
        &self,
        id: &DeviceId,
        request: &Request,
        now: Epoch,
    ) -> Result<(T, Device), Stop> {
        let (value, signers) = self.open::<T>(request, now)?;
        let device = self.store.read(|c| Device::load(c, id))?;
        let Some(device) = device else {
            return Err(Refused::without_code(404, "no such device: claim first").into());
        };
        signers
            .include(&device.key)
            .map_err(|e| Refused::without_code(422, format!("not signed by the device: {e}")))?;
        if let Some(refused) = refusal(&device) {
            return Err(refused.into());
        }
        self.limiter
            .take(id.as_str(), limit::DEVICE, now)
            .map_err(|wait| Refused::later(429, "too many requests of this device", wait))?;
        Ok((value, device))
    }

    pub(super) fn grant(&self, id: &DeviceId, request: &Request, now: Epoch) -> Result<Next, Stop> {
        let (wanted, _) = self.of_device::<GrantRequest>(id, request, now)?;
        let material = self.material(id, &wanted, now)?;
        let (settings, signer, id) = (self.settings.clone(), self.grant_key.clone(), id.clone());
        Ok(Next::Write(Box::new(move |connection| {
            let hearing = Hearing { connection, settings: &settings, now };
            match hearing.grant(&id, &wanted, &material, &signer)? {
                Ok(envelope) => Ok(Ok(Reply::of(200, &envelope)?)),
                Err(refused) => Ok(Err(refused)),
            }
        })))
    }

    /// The grant that a device asks for, which signed its request, and no call brought it.
    pub(in crate::fleet) fn give(
        &self,
        id: &DeviceId,
        wanted: GrantRequest,
        now: Epoch,
    ) -> Result<Envelope, Stop> {
        let material = self.material(id, &wanted, now)?;
        let (settings, signer, id) = (self.settings.clone(), self.grant_key.clone(), id.clone());
        Ok(self.store.write(move |connection| {
            Hearing { connection, settings: &settings, now }.grant(&id, &wanted, &material, &signer)
        })??)
    }

    pub(super) fn ack(&self, id: &DeviceId, request: &Request, now: Epoch) -> Result<Next, Stop> {
        let (ack, _) = self.of_device::<Ack>(id, request, now)?;
        numbers(&[ack.generation])?;
        let (settings, id) = (self.settings.clone(), id.clone());
        Ok(Next::Write(Box::new(move |connection| {
            match (Hearing { connection, settings: &settings, now }).ack(&id, &ack)? {
                Ok(device) => Ok(Ok(Reply::of(200, &device.standing())?)),
                Err(refused) => Ok(Err(refused)),
            }
        })))
    }

    pub(super) fn events(&self, id: &DeviceId, request: &Request, now: Epoch) -> Result<Next, Stop> {
        let (Events { events }, _) = self.of_device(id, request, now)?;
        if events.len() > MAX_EVENTS {
            return Err(Refused::without_code(422, format!("{} events at once", events.len())).into());
        }
        numbers(&events.iter().map(|e| e.seq).collect::<Vec<_>>())?;
        let id = id.clone();
        Ok(Next::Write(Box::new(move |connection| {
            for event in &events {
                connection
                    .prepare_cached(
                        "INSERT INTO event VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
                    )?
                    .execute(params![
                        id.as_str(),
                        event.seq as i64,
                        event.at.0,
                        now.0,
                        line(&event.kind, 64),
                        event.code.map(Code::id),
                        line(&event.detail, 400)
                    ])?;
            }
            if let Some(last) = events.iter().map(|e| e.seq).max() {
                connection
                    .prepare_cached("DELETE FROM event WHERE device = ?1 AND seq < ?2")?
                    .execute(params![id.as_str(), last.saturating_sub(MOST_KEPT_EVENTS) as i64])?;
            }
            let Some(mut device) = Device::load(connection, &id)? else {
                return Ok(Err(Refused::without_code(404, "no such device: claim first")));
            };
            device.last_seen = now;
            device.save(connection)?;
            Ok(Ok(Reply::of(200, &device.standing())?))
        })))
    }
}

/// Where `device` stands, for one that would wait for `wait` seconds.
fn standing_reply(device: &Device, wait: u32) -> anyhow::Result<Result<Reply, Refused>> {
    if matches!(device.state, State::Denied | State::Revoked)
        && let Some(refused) = refusal(device)
    {
        return Ok(Err(refused));
    }
    let mut reply = Reply::of(200, &device.standing())?;
    if device.state == State::Pending {
        reply.retry_after_s = Some(if wait > 0 { 1 } else { 30 });
        reply.hold = (wait > 0).then(|| (device.id.clone(), wait.min(MAX_WAIT_S)));
    }
    Ok(Ok(reply))
}
