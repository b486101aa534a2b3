//! Two keys for the place of one box → which of them has it.
//!
//! A second key is a box that was flashed again, a replacement that an operator announced, or a thief. Whoever cannot be
//! told from a thief waits for a person, and so does the first one as long as it has nothing yet.

use crate::enroll::claim::State;
use crate::enroll::code::Code;
use crate::fleet::audit;
use crate::fleet::claim::{Hearing, Judged, Known, stands, ticket_name};
use crate::fleet::exchange::Refused;
use crate::fleet::record::{self, Device};
use crate::model::Epoch;
use rusqlite::{Connection, params};

/// Devices that are remembered of those that came second for a ticket: enough for a person to see what goes on, and no
/// way to fill the disk with a stolen ticket.
const MOST_CONTENDERS: i64 = 8;
impl Hearing<'_> {
    /// A second key for a ticket of one box.
    pub(super) fn second(
        &self,
        mut holder: Device,
        mut device: Device,
        known: &Known,
    ) -> anyhow::Result<Result<Judged, Refused>> {
        let same_box = holder.fingerprint.is_some() && holder.fingerprint == device.fingerprint;
        let fits = device.r#ref.is_some() && device.points > 0 && device.r#ref == holder.r#ref;
        let allowed = holder.successor && (same_box || fits);
        // A box whose first flash failed comes again with a new key; once, and not unless the operator wants it.
        let moved = self.settings.rebind_unacked
            && same_box
            && holder.acked == 0
            && matches!(holder.state, State::Pending | State::Approved)
            && Device::first(self.connection, "state = 'revoked' AND ticket = ?1", &device.ticket)?.is_none();
        if allowed || moved {
            succeed(self.connection, &mut holder, &mut device, self.now, "policy")?;
            rebind(self.connection, &device)?;
            device.put(State::Approved, None, format!("takes the place of {}", holder.id));
            device.save(self.connection)?;
            return Ok(stands(device, true));
        }
        let same_tpm = holder.ek.is_some() && holder.ek == device.facts.ek_sha256;
        if self.settings.policy.auto_reenroll && same_tpm && self.waiting_beside(&device)? < MOST_CONTENDERS {
            // It says that it is the holder's box with a new disk, and can prove it. Until then it has nothing.
            let why = format!("says that it is the box of {}: its TPM has to prove it", holder.id);
            device.put(State::Pending, Some(Code::AwaitsApproval), why);
            device.save(self.connection)?;
            return Ok(stands(device, true));
        }
        let alarms: i64 = self.connection.query_row(
            "UPDATE ticket SET alarms = alarms + 1 WHERE key = ?1 RETURNING alarms",
            [&device.ticket],
            |row| row.get(0),
        )?;
        if alarms <= MOST_CONTENDERS {
            device.put(
                State::Quarantined,
                Some(Code::TicketTaken),
                format!("another box used this ticket first: {}", holder.id),
            );
            self.sound(&device, "a second key for the ticket of one box")?;
            device.save(self.connection)?;
        } else if (alarms as u64).is_power_of_two() {
            self.sound(&device, &format!("{alarms} keys for the ticket of one box"))?;
        }
        if holder.state == State::Pending || holder.state == State::Approved && holder.acked == 0 {
            // Nobody can tell which of the two is the thief.
            self.alarm(&mut holder, &format!("another box used the same ticket: {}", device.id))?;
        }
        let reason = format!("another box used the ticket {} first", ticket_name(known));
        Ok(Err(Refused::new(409, Code::TicketTaken, reason)))
    }

    /// Who has the ticket of one box that `device` came with, where that is another.
    pub(super) fn holder(&self, device: &Device, known: &Known) -> anyhow::Result<Option<Device>> {
        if known.slots() != 1 {
            return Ok(None);
        }
        let of = format!("id = (SELECT device FROM binding WHERE ticket = ?1) AND id <> '{}'", device.id);
        Device::first(self.connection, &of, &device.ticket)
    }

    /// How many devices wait with the ticket of `device` and have no place of it.
    fn waiting_beside(&self, device: &Device) -> anyhow::Result<i64> {
        let mut query = self.connection.prepare_cached(
            "SELECT count(*) FROM device WHERE ticket = ?1 AND id <> ?2 AND state = 'pending' \
             AND id NOT IN (SELECT device FROM binding WHERE ticket = ?1)",
        )?;
        Ok(query.query_row([&*device.ticket, device.id.as_str()], |row| row.get(0))?)
    }
}

/// Puts `new` in the place of `old`: its name and its row of generations, of which the next is granted. The old key is
/// worth nothing from then on.
///
/// # Errors
/// What the database says.
pub fn succeed(
    connection: &Connection,
    old: &mut Device,
    new: &mut Device,
    now: Epoch,
    actor: &str,
) -> anyhow::Result<()> {
    old.former = old.node.take().or(old.former.take());
    old.successor = false;
    old.put(State::Revoked, Some(Code::Revoked), format!("replaced by {}", new.id));
    old.save(connection)?;
    connection.execute(
        "INSERT INTO barred VALUES ('device', ?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![old.id.as_str(), now.0, old.reason],
    )?;
    new.node.clone_from(&old.former);
    new.r#ref = new.r#ref.take().or(old.r#ref.clone());
    new.labels.clone_from(&old.labels);
    new.generation = new.generation.max(old.generation);
    audit::note(connection, now, actor, "replace", Some(&new.id), &format!("takes the place of {}", old.id))?;
    record::name(connection, new)
}

/// Moves the one slot of `device`'s ticket to it.
///
/// # Errors
/// What the database says.
pub fn rebind(connection: &Connection, device: &Device) -> anyhow::Result<()> {
    connection.execute(
        "UPDATE binding SET device = ?2 WHERE ticket = ?1 AND slot = 0 \
         AND (SELECT slots FROM ticket WHERE key = ?1) = 1",
        params![device.ticket, device.id.as_str()],
    )?;
    Ok(())
}
