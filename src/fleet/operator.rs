//! What operators see and say. The page and the command line both come here, each with a name for the audit.
//!
//! An order works on the database, which two processes may share: the command line needs no running endpoint, and a
//! running one sees what was ordered by looking into the audit.

use crate::enroll::DeviceId;
use crate::enroll::claim::{Event, State};
use crate::enroll::code::Code;
use crate::enroll::identity::words;
use crate::fleet::Store;
use crate::fleet::audit::{self, Entry};
use crate::fleet::record::{self, Device};
use crate::fleet::succession::{rebind, succeed};
use crate::model::Epoch;
use anyhow::{Context as _, bail, ensure};
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The longest window, in minutes: a day's work.
const LONGEST_WINDOW: u32 = 24 * 60;

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// Let a device in, whatever holds it back; of two with one ticket, this one.
    Approve {
        /// Which.
        device: DeviceId,
    },
    /// Do not let a device in. Can be taken back by approving it.
    Deny {
        /// Which.
        device: DeviceId,
        /// Why, for its screen.
        #[serde(default)]
        reason: String,
    },
    /// Throw a device out for good: its key, and its hardware with any other key.
    Revoke {
        /// Which.
        device: DeviceId,
        /// Why, for its screen.
        #[serde(default)]
        reason: String,
    },
    /// Put another box in a device's place, under the same name; the old key is worth nothing from then on.
    Replace {
        /// Which.
        old: DeviceId,
        /// A box that has claimed; without one, the next that comes with the same ticket on the hardware of its row.
        new: Option<DeviceId>,
    },
    /// Let boxes in that come now.
    Window {
        /// For how long.
        minutes: u32,
        /// How many.
        boxes: u32,
        /// Of which batch; any where absent.
        #[serde(default)]
        batch: Option<String>,
    },
    /// Withdraw a ticket, a bundle, or all bundles of a signer: who has joined with it stays.
    Bar {
        /// `ticket`, `bundle` or `signer`.
        kind: String,
        /// Which.
        id: String,
        /// Why, for screens.
        #[serde(default)]
        reason: String,
    },
}

/// Does what `actor` orders: in words, what was done.
///
/// # Errors
/// When it makes no sense, with what to do instead; what the database says.
pub fn carry_out(store: &Store, order: Order, actor: &str, now: Epoch) -> anyhow::Result<String> {
    let actor = actor.to_string();
    store.write(move |connection| match order {
        Order::Approve { device } => approve(connection, &device, &actor, now),
        Order::Deny { device, reason } => {
            let mut device = find(connection, &device)?;
            ensure!(device.state != State::Revoked, "{} is revoked already", device.id);
            ensure!(device.state != State::Joined, "{} has joined: revoke it", device.id);
            device.put(State::Denied, Some(Code::Denied), said(&reason, "an operator said no"));
            done(connection, &device, &actor, "deny", now)
        }
        Order::Revoke { device, reason } => revoke(connection, &device, &reason, &actor, now),
        Order::Replace { old, new } => replace(connection, &old, new.as_ref(), &actor, now),
        Order::Window { minutes, boxes, batch } => {
            ensure!((1..=LONGEST_WINDOW).contains(&minutes), "a window is of 1 to {LONGEST_WINDOW} minutes");
            ensure!(boxes > 0, "a window for no box");
            let until = Epoch(now.0 + i64::from(minutes) * 60);
            connection.execute(
                "INSERT INTO opened (batch, until, room) VALUES (?1, ?2, ?3)",
                params![batch, until.0, boxes],
            )?;
            let of = batch.map(|b| format!(" of batch {b}")).unwrap_or_default();
            let words = format!("open until {} for {boxes} boxes{of}", until.rfc3339());
            audit::note(connection, now, &actor, "window", None, &words)?;
            Ok(words)
        }
        Order::Bar { kind, id, reason } => {
            ensure!(["ticket", "bundle", "signer"].contains(&kind.as_str()), "`{kind}` cannot be withdrawn");
            bar(connection, &kind, &id, &said(&reason, "withdrawn by an operator"), now)?;
            audit::note(connection, now, &actor, "bar", None, &format!("{kind} {id}"))?;
            Ok(format!("{kind} {id} is withdrawn"))
        }
    })
}

fn approve(connection: &Connection, id: &DeviceId, actor: &str, now: Epoch) -> anyhow::Result<String> {
    let mut device = find(connection, id)?;
    match device.state {
        State::Approved | State::Joined => return Ok(format!("{id} is let in already")),
        State::Revoked => bail!("{id} is revoked, and stays so"),
        State::Pending | State::Denied | State::Quarantined => {}
    }
    let sql = "id = (SELECT device FROM binding JOIN ticket ON key = ticket WHERE ticket = ?1 AND slots = 1)";
    if let Some(mut holder) = Device::first(connection, sql, &device.ticket)?
        && holder.id != device.id
    {
        ensure!(
            !matches!(holder.state, State::Joined | State::Revoked),
            "{} has the ticket and is {}: replace it by this one",
            holder.id,
            holder.state.as_str()
        );
        holder.node = None;
        holder.put(
            State::Denied,
            Some(Code::Denied),
            format!("an operator chose {} for this ticket", device.id),
        );
        done(connection, &holder, actor, "deny", now)?;
        rebind(connection, &device)?;
    }
    record::name(connection, &mut device)?;
    let state = if device.acked > 0 { State::Joined } else { State::Approved };
    device.put(state, None, "approved by an operator");
    done(connection, &device, actor, "approve", now)
}

fn revoke(
    connection: &Connection,
    id: &DeviceId,
    reason: &str,
    actor: &str,
    now: Epoch,
) -> anyhow::Result<String> {
    let mut device = find(connection, id)?;
    let reason = said(reason, "revoked by an operator");
    bar(connection, "device", id.as_str(), &reason, now)?;
    for hardware in [device.fingerprint, device.ek].into_iter().flatten() {
        bar(connection, "hardware", &hardware.to_string(), &reason, now)?;
    }
    device.successor = false;
    device.put(State::Revoked, Some(Code::Revoked), reason);
    // What was granted and not fetched is not fetched any more.
    connection.execute("UPDATE granted SET envelope = NULL WHERE device = ?1", [id.as_str()])?;
    done(connection, &device, actor, "revoke", now)
}

fn replace(
    connection: &Connection,
    old: &DeviceId,
    new: Option<&DeviceId>,
    actor: &str,
    now: Epoch,
) -> anyhow::Result<String> {
    let mut old = find(connection, old)?;
    let Some(new) = new else {
        old.successor = true;
        old.save(connection)?;
        let words = format!("the next box with the ticket of {} and its hardware takes its place", old.id);
        audit::note(connection, now, actor, "allow", Some(&old.id), &words)?;
        return Ok(words);
    };
    let mut new = find(connection, new)?;
    ensure!(new.id != old.id, "a device cannot replace itself");
    ensure!(
        !matches!(new.state, State::Joined | State::Revoked),
        "{} is {}, and takes nobody's place",
        new.id,
        new.state.as_str()
    );
    ensure!(old.node.is_some() || old.former.is_some(), "{} has no name to give", old.id);
    if old.ticket == new.ticket {
        rebind(connection, &new)?;
    }
    succeed(connection, &mut old, &mut new, now, actor)?;
    new.put(State::Approved, None, format!("takes the place of {}", old.id));
    done(connection, &new, actor, "approve", now)
}

fn find(connection: &Connection, id: &DeviceId) -> anyhow::Result<Device> {
    Device::load(connection, id)?.with_context(|| format!("looking for {id}: there is no such device"))
}

fn done(
    connection: &Connection,
    device: &Device,
    actor: &str,
    action: &str,
    now: Epoch,
) -> anyhow::Result<String> {
    device.save(connection)?;
    audit::note(connection, now, actor, action, Some(&device.id), &device.reason)?;
    Ok(format!("{} is {}: {}", device.id, device.state.as_str(), device.reason))
}

fn bar(connection: &Connection, kind: &str, id: &str, reason: &str, now: Epoch) -> anyhow::Result<()> {
    connection.execute(
        "INSERT INTO barred VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        params![kind, id, now.0, reason],
    )?;
    Ok(())
}

fn said(reason: &str, otherwise: &str) -> String {
    let line: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
    if line.trim().is_empty() { otherwise.into() } else { line }
}

/// Which devices are wanted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Wanted {
    /// Only in this state.
    pub state: Option<State>,
    /// Only where id, name, ticket, serial number, address, words or reason contain this.
    pub q: String,
    /// Skips that many.
    pub offset: u32,
    /// At most that many; 0 for 100.
    pub limit: u32,
}

/// A device in a list.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// All that is known.
    #[serde(flatten)]
    pub device: Device,
    /// What a person at the box reads from its screen.
    pub words: String,
}

/// A page of devices.
#[derive(Clone, Debug, Serialize)]
pub struct Listing {
    /// The fleet's clock.
    pub now: Epoch,
    /// How many devices are in each state, whatever is wanted.
    pub counts: BTreeMap<&'static str, u64>,
    /// How many are wanted, on all pages.
    pub total: u64,
    /// This page: those that wait for a person first, then by the newest request.
    pub devices: Vec<Row>,
}

/// The devices that are `wanted`.
///
/// # Errors
/// What the database says.
pub fn list(store: &Store, wanted: &Wanted, now: Epoch) -> anyhow::Result<Listing> {
    const CONDITION: &str = "WHERE (?1 IS NULL OR state = ?1) AND (?2 = '' OR instr(lower(id || ' ' || \
         coalesce(node, '') || ' ' || coalesce(ref, '') || ' ' || coalesce(batch, '') || ' ' || facts || ' ' || reason), ?2) > 0)";
    let q = wanted.q.trim().to_lowercase();
    let limit = if wanted.limit == 0 { 100 } else { wanted.limit.min(1000) };
    store.read(|connection| {
        let counts = counts(connection)?;
        let state = wanted.state.map(State::as_str);
        let total: i64 = connection
            .prepare_cached(&format!("SELECT count(*) FROM device {CONDITION}"))?
            .query_row(params![state, q], |row| row.get(0))?;
        let devices = Device::select(
            connection,
            &format!(
                "{CONDITION} ORDER BY CASE state WHEN 'quarantined' THEN 0 WHEN 'pending' THEN 1 ELSE 2 END, \
                 last_seen DESC, id LIMIT ?3 OFFSET ?4"
            ),
            params![state, q, limit, wanted.offset],
        )?;
        let devices = devices.into_iter().map(|device| Row { words: words(&device.key), device }).collect();
        Ok(Listing { now, counts, total: total as u64, devices })
    })
}

/// How many devices are in each state.
///
/// # Errors
/// What the database says.
pub fn counts(connection: &Connection) -> anyhow::Result<BTreeMap<&'static str, u64>> {
    let mut counts: BTreeMap<_, _> = State::ALL.iter().map(|state| (state.as_str(), 0)).collect();
    let mut query = connection.prepare_cached("SELECT state, count(*) FROM device GROUP BY state")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (state, count): (String, i64) = (row.get(0)?, row.get(1)?);
        if let Some(known) = State::ALL.iter().find(|s| s.as_str() == state) {
            counts.insert(known.as_str(), count as u64);
        }
    }
    Ok(counts)
}

/// All about one device.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// The row.
    #[serde(flatten)]
    pub row: Row,
    /// What it told; newest first.
    pub events: Vec<Event>,
    /// What happened to it; newest first.
    pub audit: Vec<Entry>,
}

/// The device that `name` means: an id, the beginning of one that no other has, or a node's name.
///
/// # Errors
/// When there is none, or more than one; what the database says.
pub fn show(store: &Store, name: &str) -> anyhow::Result<Shown> {
    store.read(|connection| {
        let device = meant(connection, name)?;
        let mut query = connection.prepare_cached(
            "SELECT seq, at, kind, code, detail FROM event WHERE device = ?1 ORDER BY seq DESC LIMIT 200",
        )?;
        let events = query.query_map([device.id.as_str()], |row| {
            Ok(Event {
                seq: row.get::<_, i64>(0)? as u64,
                at: Epoch(row.get(1)?),
                kind: row.get(2)?,
                code: row.get::<_, Option<String>>(3)?.and_then(|code| code.parse().ok()),
                detail: row.get(4)?,
            })
        })?;
        let events = events.collect::<Result<_, _>>()?;
        let audit = audit::newest(connection, Some(&device.id), 200)?;
        Ok(Shown { row: Row { words: words(&device.key), device }, events, audit })
    })
}

fn meant(connection: &Connection, name: &str) -> anyhow::Result<Device> {
    if let Some(device) = Device::first(connection, "node = ?1", name)? {
        return Ok(device);
    }
    let begun = format!("{}%", name.replace(['%', '_'], ""));
    let mut found = Device::select(connection, "WHERE id LIKE ?1 ORDER BY id LIMIT 2", [begun])?;
    match (found.pop(), found.pop()) {
        (Some(device), None) if name.len() >= 6 => Ok(device),
        (Some(_), _) => bail!("`{name}` is the beginning of several ids: say more of it"),
        (None, _) => bail!("there is no device `{name}`"),
    }
}
