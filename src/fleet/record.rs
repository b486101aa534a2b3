//! A device as the fleet remembers it: one row, read and written whole.

use crate::enroll::DeviceId;
use crate::enroll::bootstrap::Mode;
use crate::enroll::claim::{Standing, State};
use crate::enroll::code::Code;
use crate::enroll::evidence::Facts;
use crate::enroll::grant::SealingKey;
use crate::enroll::policy::Endorsement;
use crate::model::{Digest, Epoch};
use crate::sign::PublicKey;
use anyhow::Context as _;
use rusqlite::{Connection, OptionalExtension as _, Row, named_params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Larger numbers of a device are nonsense: they are whole in every language's JSON, and in SQLite's integers.
pub const MOST: u64 = 1 << 53;

/// What the fleet knows of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Follows from its key.
    pub id: DeviceId,
    /// Its identity.
    pub key: PublicKey,
    /// What its grants are sealed to.
    pub enc: SealingKey,
    /// Whether it is let in.
    pub state: State,
    /// Why, for its screen.
    pub code: Option<Code>,
    /// Why, for people.
    pub reason: String,
    /// The ticket that it claimed: the SHA-256 of its key, or `bundle:ID`.
    pub ticket: String,
    /// The bundle that it came with.
    pub bundle: String,
    /// The bundle's serial.
    pub serial: u64,
    /// What admits it.
    pub mode: Mode,
    /// The bundle's batch.
    pub batch: Option<String>,
    /// The image's profile.
    pub profile: String,
    /// The row of the bundle that fits.
    pub r#ref: Option<String>,
    /// How well, in points of [`crate::enroll::evidence`].
    pub points: u32,
    /// What fits, in words.
    pub fits: Vec<String>,
    /// What it says of its hardware.
    pub facts: Facts,
    /// Labels of the node, of the bundle's row.
    pub labels: BTreeMap<String, String>,
    /// What tells its hardware from other.
    pub fingerprint: Option<Digest>,
    /// The node's name, once it is let in.
    pub node: Option<String>,
    /// The name that it had before another took its place.
    pub former: Option<String>,
    /// The newest generation that was granted; 0 for none.
    pub generation: u64,
    /// The newest generation that it said it has on its disk; 0 for none.
    pub acked: u64,
    /// Whether the next box with its ticket takes its place.
    pub successor: bool,
    /// The version of its `forge-device`.
    pub agent: String,
    /// How often it had booted.
    pub boots: u64,
    /// Its first claim.
    pub first_seen: Epoch,
    /// Its newest signed request.
    pub last_seen: Epoch,
    /// What its TPM proved.
    pub endorsement: Endorsement,
    /// SHA-256 of the endorsement key that answered its challenge.
    pub ek: Option<Digest>,
    /// The certificate of an endorsement key that its claim brought, DER in base64; verified when the key is proved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ek_cert: Option<String>,
}

const COLUMNS: &str = "id, key, enc, state, code, reason, ticket, bundle, serial, mode, batch, profile, ref, points, fits, \
     facts, labels, fingerprint, node, former, generation, acked, successor, agent, boots, first_seen, last_seen, \
     endorsement, ek, ek_cert";

impl Device {
    /// The device `id`, where there is one.
    ///
    /// # Errors
    /// What the database says.
    pub fn load(connection: &Connection, id: &DeviceId) -> anyhow::Result<Option<Device>> {
        Device::first(connection, "id = ?1", id.as_str())
    }

    /// The first device for which the SQL condition `of` holds with `?1` set to `value`.
    ///
    /// # Errors
    /// What the database says.
    pub fn first(connection: &Connection, of: &str, value: &str) -> anyhow::Result<Option<Device>> {
        let mut query =
            connection.prepare_cached(&format!("SELECT {COLUMNS} FROM device WHERE {of} LIMIT 1"))?;
        query.query_row([value], |row| Ok(Device::of(row))).optional()?.transpose()
    }

    /// All devices that the SQL after `FROM device` gives.
    ///
    /// # Errors
    /// What the database says.
    pub fn select(
        connection: &Connection,
        rest: &str,
        parameters: impl rusqlite::Params,
    ) -> anyhow::Result<Vec<Device>> {
        let mut query = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM device {rest}"))?;
        let rows = query.query_map(parameters, |row| Ok(Device::of(row)))?;
        rows.map(|row| row?).collect()
    }

    fn of(row: &Row<'_>) -> anyhow::Result<Device> {
        let number = |name: &str| -> anyhow::Result<u64> {
            u64::try_from(row.get::<_, i64>(name)?).context("reading a count that is negative")
        };
        Ok(Device {
            id: word(row.get("id")?)?,
            key: word(row.get("key")?)?,
            enc: word(row.get("enc")?)?,
            state: word(row.get("state")?)?,
            code: row.get::<_, Option<String>>("code")?.map(word).transpose()?,
            reason: row.get("reason")?,
            ticket: row.get("ticket")?,
            bundle: row.get("bundle")?,
            serial: number("serial")?,
            mode: word(row.get("mode")?)?,
            batch: row.get("batch")?,
            profile: row.get("profile")?,
            r#ref: row.get("ref")?,
            points: u32::try_from(number("points")?).unwrap_or(u32::MAX),
            fits: serde_json::from_str(&row.get::<_, String>("fits")?)?,
            facts: serde_json::from_str(&row.get::<_, String>("facts")?)?,
            labels: serde_json::from_str(&row.get::<_, String>("labels")?)?,
            fingerprint: row.get::<_, Option<String>>("fingerprint")?.map(word).transpose()?,
            node: row.get("node")?,
            former: row.get("former")?,
            generation: number("generation")?,
            acked: number("acked")?,
            successor: number("successor")? != 0,
            agent: row.get("agent")?,
            boots: number("boots")?,
            first_seen: Epoch(row.get("first_seen")?),
            last_seen: Epoch(row.get("last_seen")?),
            endorsement: word(row.get("endorsement")?)?,
            ek: row.get::<_, Option<String>>("ek")?.map(word).transpose()?,
            ek_cert: row.get("ek_cert")?,
        })
    }

    /// Writes the row, over the one of the same id.
    ///
    /// # Errors
    /// What the database says; among it that another device holds the node's name.
    pub fn save(&self, connection: &Connection) -> anyhow::Result<()> {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        connection
            .prepare_cached(
                "INSERT INTO device VALUES (:id, :key, :enc, :state, :code, :reason, :ticket, :bundle, :serial, :mode, \
                 :batch, :profile, :ref, :points, :fits, :facts, :labels, :fingerprint, :node, :former, :generation, \
                 :acked, :successor, :agent, :boots, :first_seen, :last_seen, :endorsement, :ek, :ek_cert) \
                 ON CONFLICT (id) DO UPDATE SET enc = :enc, state = :state, code = :code, reason = :reason, \
                 ticket = :ticket, bundle = :bundle, serial = :serial, mode = :mode, batch = :batch, \
                 profile = :profile, ref = :ref, points = :points, fits = :fits, facts = :facts, labels = :labels, \
                 fingerprint = :fingerprint, node = :node, former = :former, generation = :generation, \
                 acked = :acked, successor = :successor, agent = :agent, boots = :boots, last_seen = :last_seen, \
                 endorsement = :endorsement, ek = :ek, ek_cert = :ek_cert",
            )?
            .execute(named_params! {
                ":id": self.id.as_str(),
                ":key": spelled(&self.key)?,
                ":enc": spelled(&self.enc)?,
                ":state": self.state.as_str(),
                ":code": self.code.map(Code::id),
                ":reason": self.reason,
                ":ticket": self.ticket,
                ":bundle": self.bundle,
                ":serial": number(self.serial),
                ":mode": spelled(&self.mode)?,
                ":batch": self.batch,
                ":profile": self.profile,
                ":ref": self.r#ref,
                ":points": self.points,
                ":fits": serde_json::to_string(&self.fits)?,
                ":facts": serde_json::to_string(&self.facts)?,
                ":labels": serde_json::to_string(&self.labels)?,
                ":fingerprint": self.fingerprint.map(|d| d.to_string()),
                ":node": self.node,
                ":former": self.former,
                ":generation": number(self.generation),
                ":acked": number(self.acked),
                ":successor": self.successor,
                ":agent": self.agent,
                ":boots": number(self.boots),
                ":first_seen": self.first_seen.0,
                ":last_seen": self.last_seen.0,
                ":endorsement": spelled(&self.endorsement)?,
                ":ek": self.ek.map(|d| d.to_string()),
                ":ek_cert": self.ek_cert,
            })?;
        Ok(())
    }

    /// What the device is told.
    pub fn standing(&self) -> Standing {
        Standing {
            device: self.id.clone(),
            state: self.state,
            code: self.code,
            reason: self.reason.clone(),
            node_name: self.node.clone(),
            generation: self.generation,
        }
    }

    /// Puts the device into `state`, and says why.
    pub fn put(&mut self, state: State, code: Option<Code>, reason: impl Into<String>) {
        self.state = state;
        self.code = code;
        self.reason = reason.into();
    }
}

/// A value that JSON spells as a string, as that string.
fn spelled(value: &impl Serialize) -> anyhow::Result<String> {
    match serde_json::to_value(value)? {
        serde_json::Value::String(text) => Ok(text),
        other => anyhow::bail!("{other} is no word"),
    }
}

/// And back.
fn word<T: DeserializeOwned>(text: String) -> anyhow::Result<T> {
    Ok(serde_json::from_value(serde_json::Value::String(text))?)
}

/// Gives `device` the node's name: that of its row, else one that follows from its key, so that a database which was
/// restored from an older copy gives the same box the same name again.
///
/// # Errors
/// [`NameHeld`] when another device holds the row's name; what the database says.
pub fn name(connection: &Connection, device: &mut Device) -> anyhow::Result<()> {
    if device.node.is_some() {
        return Ok(());
    }
    if let Some(name) = device.r#ref.as_deref().and_then(label) {
        if let Some(holder) = holder(connection, &name)? {
            return Err(NameHeld { name, holder }.into());
        }
        device.node = Some(name);
        return Ok(());
    }
    // Forty bits of the key's digest, and more where two boxes of a large fleet share them.
    let letters = device.id.as_str().trim_start_matches("fd-");
    for length in 8..=letters.len() {
        let name = format!("box-{}", &letters[..length]);
        if holder(connection, &name)?.is_none() {
            device.node = Some(name);
            return Ok(());
        }
    }
    anyhow::bail!("every name for {} is taken", device.id)
}

/// Another device holds the name that the inventory has for this one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name {name} is held by {holder}")]
pub struct NameHeld {
    /// The name.
    pub name: String,
    /// Who holds it.
    pub holder: DeviceId,
}

fn holder(connection: &Connection, name: &str) -> anyhow::Result<Option<DeviceId>> {
    let mut query = connection.prepare_cached("SELECT id FROM device WHERE node = ?1")?;
    let found: Option<String> = query.query_row([name], |row| row.get(0)).optional()?;
    Ok(found.map(|id| id.parse()).transpose()?)
}

/// `text` as a label of RFC 1123, which a Kubernetes node's name has to be; nothing where nothing is left.
fn label(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let plain: String =
        lower.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    let plain = plain.trim_matches('-');
    (!plain.is_empty()).then(|| plain.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels() {
        for (text, expected) in [
            ("Store 042", Some("store-042")),
            ("store-042", Some("store-042")),
            ("-é-", None),
            ("", None),
            ("../x", Some("x")),
        ] {
            assert_eq!(label(text).as_deref(), expected, "{text}");
        }
        assert_eq!(label(&"a".repeat(99)).map(|l| l.len()), Some(63));
    }
}
