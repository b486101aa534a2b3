//! A claim, whose signatures hold → where its device stands. Runs inside one transaction, so that it happened or did not.
//!
//! First claim binds: a ticket's slot is inserted under a primary key, and whoever is second finds it taken. The answer to
//! a claim may be lost, and the claim come again; it may come from a thief first, or from a copy of the disk.

use crate::enroll::DeviceId;
use crate::enroll::bootstrap::{Bootstrap, Mode};
use crate::enroll::claim::{Claim, State};
use crate::enroll::code::Code;
use crate::enroll::policy::{Case, Decision, Endorsement};
use crate::fleet::audit;
use crate::fleet::exchange::Refused;
use crate::fleet::record::{self, Device, NameHeld};
use crate::fleet::service::Settings;
use crate::model::Epoch;
use crate::sign::KeyId;
use rusqlite::{Connection, OptionalExtension as _, params};

/// Devices that may wait for each row of a bundle without a ticket.
const WAITING_PER_ROW: u32 = 4;

/// A bundle whose signatures hold under the fleet's roots.
#[derive(Debug)]
pub struct Known {
    /// The document.
    pub bootstrap: Bootstrap,
    /// The root that signed it.
    pub signer: KeyId,
}

impl Known {
    /// What boxes with this bundle bind themselves to: the ticket's key, or where there is none the bundle.
    pub fn ticket_key(&self) -> String {
        match &self.bootstrap.ticket {
            Some(ticket) => ticket.r#pub.key_id().to_string(),
            None => format!("bundle:{}", self.bootstrap.bundle_id),
        }
    }

    /// How many boxes may.
    pub fn slots(&self) -> u32 {
        let rows = u32::try_from(self.bootstrap.devices.len()).unwrap_or(u32::MAX);
        match (&self.bootstrap.ticket, self.bootstrap.mode) {
            (Some(_), Mode::Device) => 1,
            (Some(ticket), _) => ticket.max_claims,
            (None, _) => rows.max(1).saturating_mul(WAITING_PER_ROW),
        }
    }
}

/// What was decided on a claim.
#[derive(Debug)]
pub struct Judged {
    /// 201 for a device that is new, else 200 or 202.
    pub status: u16,
    /// The device as it stands now.
    pub device: Device,
}

/// A claim on its way through the rules.
pub struct Hearing<'a> {
    /// The transaction.
    pub connection: &'a Connection,
    /// What the operator set.
    pub settings: &'a Settings,
    /// The fleet's clock.
    pub now: Epoch,
}

impl Hearing<'_> {
    /// Judges `claim`, which device and ticket signed, with the bundle `known`.
    ///
    /// # Errors
    /// What the database says. A refusal is a result, for what it changed has to be committed.
    pub fn claim(&self, claim: &Claim, known: &Known) -> anyhow::Result<Result<Judged, Refused>> {
        let id = DeviceId::of(&claim.device_pub);
        if let Some(refused) = self.barred("device", id.as_str(), 403, Code::Revoked)? {
            return Ok(Err(refused));
        }
        match Device::load(self.connection, &id)? {
            Some(device) => self.again(device, claim, known),
            None => self.first(id, claim, known),
        }
    }

    /// A device that the fleet knows.
    fn again(
        &self,
        mut device: Device,
        claim: &Claim,
        known: &Known,
    ) -> anyhow::Result<Result<Judged, Refused>> {
        let facts = claim.facts.clone().cleaned();
        let fingerprint = facts.fingerprint();
        if let (Some(found), Some(had)) = (fingerprint, device.fingerprint)
            && found != had
            && device.state != State::Revoked
        {
            self.alarm(&mut device, "one key in two boxes: the disk was copied")?;
            return Ok(Err(held(&device)));
        }
        if let Err(refused) = self.generation(&mut device, claim.generation)? {
            return Ok(Err(refused));
        }
        if let (Some(found), Some(proved)) = (facts.ek_sha256, device.ek)
            && found != proved
            && device.state != State::Revoked
        {
            self.alarm(&mut device, "one key, and another TPM than the one that was proved")?;
            return Ok(Err(held(&device)));
        }
        device.enc = claim.enc_pub;
        device.facts = facts;
        device.ek_cert = claim.ek_cert.clone().or(device.ek_cert);
        device.fingerprint = fingerprint.or(device.fingerprint);
        device.agent.clone_from(&claim.agent);
        device.boots = claim.boot_count;
        device.last_seen = self.now;
        let waiting = matches!(device.state, State::Pending);
        if waiting {
            if let Some(refused) = self.unusable(known)? {
                return Ok(Err(refused));
            }
            if known.ticket_key() != device.ticket {
                // It came back with another bundle before anybody let it in.
                if let Err(refused) = self.bind(&device.id, known)? {
                    return Ok(Err(refused.into_refused()));
                }
            }
            carry(&mut device, known);
            let fits = match self.fit(&mut device, known)? {
                Ok(fits) => fits,
                Err(refused) => return Ok(Err(refused)),
            };
            if let Some(holder) = self.holder(&device, known)? {
                // It was waited for the proof that it is the ticket's box.
                return self.second(holder, device, known);
            }
            self.judge(&mut device, known, fits)?;
        }
        device.save(self.connection)?;
        Ok(stands(device, false))
    }

    /// A device that says it has the grant `claimed`. A lower one than it acknowledged is an old disk come back; a higher
    /// one than was granted says that this database is an older copy, which then learns.
    ///
    /// # Errors
    /// What the database says; inside it the refusal.
    pub fn generation(&self, device: &mut Device, claimed: u64) -> anyhow::Result<Result<(), Refused>> {
        if claimed < device.acked && device.state != State::Revoked {
            let why = format!("an old disk: it has generation {claimed}, and had {}", device.acked);
            self.alarm(device, &why)?;
            return Ok(Err(held(device)));
        }
        if claimed > device.generation {
            let detail =
                format!("generation {} became {claimed}: this database is an older copy", device.generation);
            audit::note(self.connection, self.now, "device", "catch-up", Some(&device.id), &detail)?;
            device.generation = claimed;
            device.acked = claimed;
        }
        Ok(Ok(()))
    }

    /// A device that the fleet does not know.
    fn first(&self, id: DeviceId, claim: &Claim, known: &Known) -> anyhow::Result<Result<Judged, Refused>> {
        if let Some(refused) = self.unusable(known)? {
            return Ok(Err(refused));
        }
        let facts = claim.facts.clone().cleaned();
        let fingerprint = facts.fingerprint();
        for hardware in [fingerprint, facts.ek_sha256].into_iter().flatten() {
            if let Some(refused) = self.barred("hardware", &hardware.to_string(), 403, Code::Revoked)? {
                return Ok(Err(refused));
            }
        }
        let mut device = Device {
            id: id.clone(),
            key: claim.device_pub.clone(),
            enc: claim.enc_pub,
            state: State::Pending,
            code: None,
            reason: String::new(),
            ticket: String::new(),
            bundle: String::new(),
            serial: 0,
            mode: known.bootstrap.mode,
            batch: None,
            profile: String::new(),
            r#ref: None,
            points: 0,
            fits: vec![],
            facts,
            labels: [].into(),
            fingerprint,
            node: None,
            former: None,
            generation: claim.generation,
            acked: claim.generation,
            successor: false,
            agent: claim.agent.clone(),
            boots: claim.boot_count,
            first_seen: self.now,
            last_seen: self.now,
            endorsement: Endorsement::None,
            ek: None,
            ek_cert: claim.ek_cert.clone(),
        };
        carry(&mut device, known);
        let fits = match self.fit(&mut device, known)? {
            Ok(fits) => fits,
            Err(refused) => return Ok(Err(refused)),
        };
        match self.bind(&id, known)? {
            Ok(()) => {}
            Err(Unbound::Full(reason)) => return Ok(Err(Refused::new(410, Code::TicketRevoked, reason))),
            Err(Unbound::Taken(holder)) => return self.second(*holder, device, known),
        }
        self.judge(&mut device, known, fits)?;
        let detail = format!("{}: {}", device.state.as_str(), device.reason);
        audit::note(self.connection, self.now, "device", "claim", Some(&id), &detail)?;
        device.save(self.connection)?;
        Ok(stands(device, true))
    }

    /// Why the bundle admits nobody any more.
    fn unusable(&self, known: &Known) -> anyhow::Result<Option<Refused>> {
        let bootstrap = &known.bootstrap;
        if let Err(old) = bootstrap.check_serial(self.settings.min_bundle_serial) {
            return Ok(Some(Refused::new(422, Code::BundleRolledBack, old.to_string())));
        }
        let ticket = bootstrap.ticket.as_ref().map(|t| t.id.as_str());
        let ids = [
            ("bundle", Some(bootstrap.bundle_id.clone())),
            ("ticket", ticket.map(str::to_string)),
            ("ticket", Some(known.ticket_key())),
            ("signer", Some(known.signer.to_string())),
        ];
        for (kind, id) in ids {
            if let Some(id) = id
                && let Some(refused) = self.barred(kind, &id, 410, Code::TicketRevoked)?
            {
                return Ok(Some(refused));
            }
        }
        Ok(None)
    }

    /// Whether nobody may use `id` again.
    ///
    /// # Errors
    /// What the database says.
    pub fn is_barred(&self, kind: &str, id: &str) -> anyhow::Result<bool> {
        Ok(self.barred(kind, id, 403, Code::Revoked)?.is_some())
    }

    pub(super) fn barred(
        &self,
        kind: &str,
        id: &str,
        status: u16,
        code: Code,
    ) -> anyhow::Result<Option<Refused>> {
        let mut query =
            self.connection.prepare_cached("SELECT reason FROM barred WHERE kind = ?1 AND id = ?2")?;
        let reason: Option<String> = query.query_row([kind, id], |row| row.get(0)).optional()?;
        Ok(reason.map(|reason| Refused::new(status, code, format!("{kind} revoked: {reason}"))))
    }

    /// Finds the bundle's row that the device fits. A bundle with rows is for no other box, so nothing is bound then.
    /// Whether it fits by what is proved: a row may ask for an endorsement key that is only said so far.
    fn fit(&self, device: &mut Device, known: &Known) -> anyhow::Result<Result<bool, Refused>> {
        match known.bootstrap.row_of(&device.facts) {
            Err(other) => Ok(Err(Refused::new(403, Code::NoMatch, other.to_string()))),
            Ok(None) => Ok(Ok(false)),
            Ok(Some((row, mut score))) => {
                if score.endorsed && device.ek.is_some() && device.ek == row.r#match.ek_sha256 {
                    score.prove();
                    device.endorsement = Endorsement::Known; // whoever signed the bundle knows the key
                }
                device.r#ref = Some(row.r#ref.clone());
                device.labels.clone_from(&row.labels);
                device.points = score.points;
                device.fits = score.fits;
                Ok(Ok(score.points >= row.min_score))
            }
        }
    }

    /// Binds `id` to the bundle's ticket.
    fn bind(&self, id: &DeviceId, known: &Known) -> anyhow::Result<Result<(), Unbound>> {
        let (key, slots) = (known.ticket_key(), known.slots());
        self.connection
            .prepare_cached("INSERT INTO ticket VALUES (?1, ?2, ?3, ?4, ?5, 0, 0) ON CONFLICT DO NOTHING")?
            .execute(params![
                key,
                ticket_name(known),
                known.bootstrap.bundle_id,
                known.bootstrap.batch,
                slots
            ])?;
        // A newer bundle may widen a ticket, and never narrows it below what it has let in.
        let slot: Option<i64> = self
            .connection
            .prepare_cached(
                "UPDATE ticket SET claims = claims + 1, slots = max(slots, ?2) \
                 WHERE key = ?1 AND claims < ?2 RETURNING claims - 1",
            )?
            .query_row(params![key, slots], |row| row.get(0))
            .optional()?;
        if let Some(slot) = slot {
            let inserted = self
                .connection
                .prepare_cached("INSERT INTO binding VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?
                .execute(params![key, slot, id.as_str()])?;
            anyhow::ensure!(
                inserted == 1,
                "slot {slot} of ticket {key} is taken, and its count does not say so"
            );
            return Ok(Ok(()));
        }
        if slots == 1
            && let Some(holder) =
                Device::first(self.connection, "id = (SELECT device FROM binding WHERE ticket = ?1)", &key)?
        {
            return Ok(Err(Unbound::Taken(Box::new(holder))));
        }
        let alarms: i64 = self.connection.query_row(
            "UPDATE ticket SET alarms = alarms + 1 WHERE key = ?1 RETURNING alarms",
            [&key],
            |row| row.get(0),
        )?;
        let reason = format!("the ticket {} has let in all {slots} boxes that it may", ticket_name(known));
        if (alarms as u64).is_power_of_two() {
            let detail = format!("{reason}; {alarms} came after");
            audit::note(self.connection, self.now, "device", "alarm", None, &detail)?;
        }
        Ok(Err(Unbound::Full(reason)))
    }

    /// Asks the policy, and gives the name where it lets the device in.
    fn judge(&self, device: &mut Device, known: &Known, fits: bool) -> anyhow::Result<()> {
        let ticket = known.bootstrap.ticket.as_ref();
        let window = window(self.connection, device.batch.as_deref(), self.now)?;
        let case = Case {
            mode: device.mode,
            row_fits: fits,
            points: device.points,
            endorsement: device.endorsement,
            barred: false, // those did not get this far
            claims: 1,     // nor did those
            window: false,
            now: self.now,
            not_before: ticket.map(|t| t.not_before),
            not_after: ticket.map(|t| t.not_after),
            require_tpm: known.bootstrap.policy.require_tpm,
        };
        let alone = self.settings.policy.decide(&case);
        let (decision, used) = match window {
            Some(id) if alone.state == State::Pending => {
                let decision = self.settings.policy.decide(&Case { window: true, ..case });
                let used = (decision.state == State::Approved).then_some(id);
                (decision, used)
            }
            _ => (alone, None),
        };
        self.settle(device, &decision)?;
        if let (Some(id), State::Approved) = (used, device.state) {
            self.connection
                .prepare_cached("UPDATE opened SET room = room - 1 WHERE id = ?1")?
                .execute([id])?;
        }
        Ok(())
    }

    fn settle(&self, device: &mut Device, decision: &Decision) -> anyhow::Result<()> {
        if decision.state == State::Approved
            && let Err(error) = record::name(self.connection, device)
        {
            let held = error.downcast::<NameHeld>()?;
            device.put(State::Pending, Some(Code::AwaitsApproval), held.to_string());
            return Ok(());
        }
        let known_before = device.acked > 0 && decision.state == State::Approved;
        let state = if known_before { State::Joined } else { decision.state };
        device.put(state, decision.code, decision.reason);
        Ok(())
    }

    /// Lets a waiting device in when an operator opened a window since it claimed.
    ///
    /// # Errors
    /// What the database says.
    pub fn through_window(&self, device: &mut Device) -> anyhow::Result<bool> {
        let Some(id) = window(self.connection, device.batch.as_deref(), self.now)? else { return Ok(false) };
        // One that has still to prove that it is its ticket's box has no place in any window.
        let bound: bool = self
            .connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM binding WHERE ticket = ?1 AND device = ?2)")?
            .query_row([&*device.ticket, device.id.as_str()], |row| row.get(0))?;
        if device.state != State::Pending || !bound || record::name(self.connection, device).is_err() {
            return Ok(false);
        }
        self.connection.prepare_cached("UPDATE opened SET room = room - 1 WHERE id = ?1")?.execute([id])?;
        device.put(State::Approved, None, "an operator's window was open");
        audit::note(self.connection, self.now, "policy", "approve", Some(&device.id), &device.reason)?;
        device.save(self.connection)?;
        Ok(true)
    }

    /// Holds `device` back for a person, and says why.
    ///
    /// # Errors
    /// What the database says.
    pub fn alarm(&self, device: &mut Device, why: &str) -> anyhow::Result<()> {
        if device.state == State::Quarantined && device.reason == why {
            return Ok(()); // said already
        }
        device.put(State::Quarantined, Some(Code::Quarantined), why);
        self.sound(device, why)?;
        device.save(self.connection)
    }

    pub(super) fn sound(&self, device: &Device, why: &str) -> anyhow::Result<()> {
        audit::note(self.connection, self.now, "device", "alarm", Some(&device.id), why)
    }
}

/// Why a device was not bound.
enum Unbound {
    /// One box may, and this one has.
    Taken(Box<Device>),
    /// As many as may have.
    Full(String),
}

impl Unbound {
    fn into_refused(self) -> Refused {
        match self {
            Unbound::Taken(holder) => Refused::new(
                409,
                Code::TicketTaken,
                format!("another box used this ticket first: {}", holder.id),
            ),
            Unbound::Full(reason) => Refused::new(410, Code::TicketRevoked, reason),
        }
    }
}

/// The answer to a device that is held back, denied or revoked; `None` for all others.
pub fn refusal(device: &Device) -> Option<Refused> {
    match device.state {
        State::Pending | State::Approved | State::Joined => None,
        State::Denied => Some(Refused::new(403, device.code.unwrap_or(Code::Denied), &device.reason)),
        State::Revoked => Some(Refused::new(403, Code::Revoked, &device.reason)),
        State::Quarantined => Some(held(device)),
    }
}

fn held(device: &Device) -> Refused {
    Refused::new(409, device.code.unwrap_or(Code::Quarantined), &device.reason)
}

pub(super) fn stands(device: Device, new: bool) -> Result<Judged, Refused> {
    match refusal(&device) {
        Some(refused) => Err(refused),
        None => {
            let status = match device.state {
                State::Pending => 202,
                _ if new => 201,
                _ => 200,
            };
            Ok(Judged { status, device })
        }
    }
}

/// Writes down with which bundle the device came.
fn carry(device: &mut Device, known: &Known) {
    let bootstrap = &known.bootstrap;
    device.ticket = known.ticket_key();
    device.bundle.clone_from(&bootstrap.bundle_id);
    device.serial = bootstrap.serial;
    device.mode = bootstrap.mode;
    device.batch.clone_from(&bootstrap.batch);
    device.profile.clone_from(&bootstrap.image.profile);
}

pub(super) fn ticket_name(known: &Known) -> &str {
    known.bootstrap.ticket.as_ref().map_or(known.bootstrap.bundle_id.as_str(), |t| t.id.as_str())
}

/// A window that is open for the batch and has room.
fn window(connection: &Connection, batch: Option<&str>, now: Epoch) -> anyhow::Result<Option<i64>> {
    let mut query = connection.prepare_cached(
        "SELECT id FROM opened WHERE until >= ?1 AND room > 0 AND (batch IS NULL OR batch = ?2) ORDER BY id LIMIT 1",
    )?;
    Ok(query.query_row(params![now.0, batch], |row| row.get(0)).optional()?)
}
