//! What is in a device's grant, and its way to the device: material → sealed, numbered, signed, kept for a day.
//!
//! The same question gets the same answer, byte for byte, because it was stored with its commit: a device that lost an
//! answer in a power cut asks again and is where it was.

use crate::enroll::claim::{Ack, Csr, GrantRequest, State};
use crate::enroll::code::Code;
use crate::enroll::envelope::Nonce;
use crate::enroll::grant::{Binding, File, Grant, Item, Material, SCHEMA, is_grantable};
use crate::enroll::{DeviceId, MAX_BODY};
use crate::fleet::audit;
use crate::fleet::claim::Hearing;
use crate::fleet::exchange::{Refused, Stop};
use crate::fleet::record::Device;
use crate::fleet::service::{Service, numbers};
use crate::host::fs;
use crate::model::{Digest, Epoch};
use crate::sign::PrivateKey;
use crate::sign::dsse::Envelope;
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::{Connection, OptionalExtension as _, params};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// How long a grant is kept for its device, in seconds.
const KEPT_S: i64 = 86_400;
/// The most bytes of files in a grant: in base64, sealed, and in base64 twice more they have to fit a body.
const MOST_MATERIAL: u64 = (MAX_BODY as u64) / 4;
/// Files in a grant.
const MOST_FILES: usize = 256;
/// Certificates that a device asks for at once.
const MOST_REQUESTS: usize = 4;
/// What the audit calls a request that cannot be granted.
const NO_GRANT: &str = "no grant";

/// Where the contents of grants come from: files that the operator put in place, a cluster that makes join tokens.
pub trait GrantSource: Send + Sync {
    /// What `device` gets at `now`, with the certificates that it asks for in `csrs`. It may be asked again for the same
    /// device, and what it gave first may never arrive.
    ///
    /// # Errors
    /// [`Unfit`] for what the device must not ask for; anything else when it cannot be had now: the device asks again later.
    fn material(&self, device: &Device, csrs: &[Csr], now: Epoch) -> anyhow::Result<Material>;
}

/// What a request cannot be granted for: the device's fault, and no trouble of the fleet's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub String);

/// Several sources, one after the other.
impl GrantSource for Vec<Box<dyn GrantSource>> {
    fn material(&self, device: &Device, csrs: &[Csr], now: Epoch) -> anyhow::Result<Material> {
        let mut all = Material::default();
        for source in self {
            all.items.extend(source.material(device, csrs, now)?.items);
        }
        Ok(all)
    }
}

/// Nothing: a device that joins without material still gets its name and labels.
impl GrantSource for () {
    fn material(&self, _: &Device, _: &[Csr], _: Epoch) -> anyhow::Result<Material> {
        Ok(Material::default())
    }
}

/// Files of the operator's: `all/` for every device, then `profile/PROFILE/`, `node/NAME/` and `device/ID/`, of which a
/// later one replaces an earlier one's file. Below each lies the path on the device: `all/etc/forge/motd`. Only paths that
/// [`is_grantable`] allows; permission bits go along, of which others get none.
pub struct Files {
    /// The directory.
    pub dir: PathBuf,
}

impl GrantSource for Files {
    fn material(&self, device: &Device, _: &[Csr], _: Epoch) -> anyhow::Result<Material> {
        let mut places = vec![self.dir.join("all"), self.dir.join("profile").join(plain(&device.profile)?)];
        places.extend(device.node.as_deref().map(|name| self.dir.join("node").join(name)));
        places.push(self.dir.join("device").join(device.id.as_str()));
        let mut files: Vec<File> = vec![];
        let mut left = MOST_MATERIAL;
        for place in places {
            if place.is_dir() {
                gather(&place, Path::new("/"), &mut files, &mut left)?;
            }
        }
        let items = if files.is_empty() { vec![] } else { vec![Item::Files { files }] };
        Ok(Material { items })
    }
}

/// `name` as one component of a path.
fn plain(name: &str) -> anyhow::Result<&str> {
    anyhow::ensure!(
        !name.is_empty() && !name.starts_with('.') && !name.contains('/'),
        "`{name}` is no file's name"
    );
    Ok(name)
}

fn gather(dir: &Path, at: &Path, files: &mut Vec<File>, left: &mut u64) -> anyhow::Result<()> {
    let mut entries = std::fs::read_dir(dir)
        .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
        .with_context(|| format!("reading {}", dir.display()))?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (from, to) = (entry.path(), at.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            gather(&from, &to, files, left)?;
            continue;
        }
        let path = to.to_str().with_context(|| format!("{} is not UTF-8", from.display()))?;
        anyhow::ensure!(is_grantable(path), "{} would be {path}, where no grant may write", from.display());
        let reading = || format!("reading {}", from.display());
        let mut file = fs::open_regular(&from).with_context(reading)?;
        let mode = file.metadata().with_context(reading)?.permissions().mode() & 0o770;
        let mut bytes = Zeroizing::new(vec![]);
        file.by_ref().take(*left + 1).read_to_end(&mut bytes).with_context(reading)?;
        *left = left
            .checked_sub(bytes.len() as u64)
            .with_context(|| format!("{}: more than {MOST_MATERIAL} bytes in a grant", from.display()))?;
        files.retain(|file| file.path != path);
        anyhow::ensure!(files.len() < MOST_FILES, "more than {MOST_FILES} files in a grant");
        files.push(File { path: path.into(), mode, content: Zeroizing::new(STANDARD.encode(&*bytes)) });
    }
    Ok(())
}

impl Service {
    /// What a grant would have in it. Outside of the transaction, for a source may ask a cluster; who is let in is looked
    /// at again inside.
    pub(super) fn material(
        &self,
        id: &DeviceId,
        wanted: &GrantRequest,
        now: Epoch,
    ) -> Result<Material, Stop> {
        numbers(&[wanted.have_generation])?;
        if wanted.csrs.len() > MOST_REQUESTS {
            return Err(
                Refused::without_code(422, "more requests for certificates than a box has keys").into()
            );
        }
        let known =
            self.store().read(|c| Ok((Device::load(c, id)?, kept(c, id, &wanted.nonce, now)?.is_some())))?;
        match known {
            (Some(device), false) if matches!(device.state, State::Approved | State::Joined) => {
                self.source.material(&device, &wanted.csrs, now).map_err(|e| match e.downcast::<Unfit>() {
                    Ok(unfit) => self.unfit(id, &unfit, now),
                    Err(trouble) => Stop::Trouble(trouble),
                })
            }
            _ => Ok(Material::default()),
        }
    }

    /// The refusal of what `id` must not ask for. Who approved it sees why nothing comes of that: once, for a box asks again
    /// every hour.
    fn unfit(&self, id: &DeviceId, unfit: &Unfit, now: Epoch) -> Stop {
        let (id, why) = (id.clone(), unfit.to_string());
        let noted = self.store().write(move |connection| {
            let last = audit::newest(connection, Some(&id), 1)?;
            if last.first().is_some_and(|entry| entry.action == NO_GRANT && entry.detail == why) {
                return Ok(());
            }
            audit::note(connection, now, "device", NO_GRANT, Some(&id), &why)
        });
        match noted {
            Ok(()) => Refused::new(422, Code::CertificateRefused, unfit.to_string()).into(),
            Err(trouble) => Stop::Trouble(trouble),
        }
    }
}

/// The envelope that answered `nonce` before, where it is kept: nothing new is to be made for its answer.
fn kept(connection: &Connection, id: &DeviceId, nonce: &Nonce, now: Epoch) -> anyhow::Result<Option<String>> {
    let mut query = connection.prepare_cached(
        "SELECT envelope FROM granted WHERE device = ?1 AND nonce = ?2 AND issued > ?3 AND envelope IS NOT NULL \
         ORDER BY generation DESC LIMIT 1",
    )?;
    let wanted = params![id.as_str(), nonce.as_str(), now.0 - KEPT_S];
    Ok(query.query_row(wanted, |row| row.get(0)).optional()?)
}

impl Hearing<'_> {
    /// The grant that `device` asks for: the one that answered the same nonce, else a new one with `material`.
    ///
    /// # Errors
    /// What the database says; inside it the refusal.
    pub fn grant(
        &self,
        id: &DeviceId,
        request: &GrantRequest,
        material: &Material,
        signer: &PrivateKey,
    ) -> anyhow::Result<Result<Envelope, Refused>> {
        let mut device = match self.admitted(id)? {
            Ok(device) => device,
            Err(refused) => return Ok(Err(refused)),
        };
        if let Err(refused) = self.generation(&mut device, request.have_generation)? {
            return Ok(Err(refused));
        }
        if let Some(kept) = kept(self.connection, id, &request.nonce, self.now)? {
            return Ok(Ok(serde_json::from_str(&kept)?));
        }
        let generation = device.generation + 1;
        let binding = Binding { device: id, generation, nonce: &request.nonce };
        let (enc, sealed) = match material.seal(&device.enc, &binding) {
            Ok(sealed) => sealed,
            Err(_) => {
                return Ok(Err(Refused::without_code(422, "nothing can be sealed to the device's key")));
            }
        };
        let grant = Grant {
            schema: SCHEMA,
            grant_id: format!("{id}-{generation}"),
            device: id.clone(),
            generation,
            nonce: request.nonce.clone(),
            issued_at: self.now,
            node_name: device.node.clone().unwrap_or_else(|| id.to_string()),
            labels: device.labels.clone(),
            enc,
            sealed,
        };
        let envelope = grant.sign(signer)?;
        let text = serde_json::to_string(&envelope)?;
        self.connection
            .prepare_cached("UPDATE granted SET envelope = NULL WHERE device = ?1 AND envelope IS NOT NULL")?
            .execute([id.as_str()])?;
        self.connection.prepare_cached("INSERT INTO granted VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(
            params![
                grant.grant_id,
                id.as_str(),
                i64::try_from(generation).unwrap_or(i64::MAX),
                request.nonce.as_str(),
                Digest::of(&text).to_string(),
                self.now.0,
                text
            ],
        )?;
        device.generation = generation;
        device.last_seen = self.now;
        device.save(self.connection)?;
        audit::note(
            self.connection,
            self.now,
            "device",
            "grant",
            Some(id),
            &format!("generation {generation}"),
        )?;
        Ok(Ok(envelope))
    }

    /// Takes note that a grant is on the device's disk. Repeating it changes nothing; a grant that this database does not
    /// know, of a generation beyond its own, is of a time that an older copy has lost.
    ///
    /// # Errors
    /// What the database says; inside it the refusal.
    pub fn ack(&self, id: &DeviceId, ack: &Ack) -> anyhow::Result<Result<Device, Refused>> {
        let mut device = match self.admitted(id)? {
            Ok(device) => device,
            Err(refused) => return Ok(Err(refused)),
        };
        let known: Option<(i64, String)> = self
            .connection
            .prepare_cached("SELECT generation, sha256 FROM granted WHERE id = ?1 AND device = ?2")?
            .query_row([ack.grant_id.as_str(), id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match known {
            Some((generation, sha256))
                if generation as u64 == ack.generation && sha256 == ack.sha256.to_string() => {}
            Some(_) => {
                let why = "what it acknowledges is not what was granted";
                audit::note(self.connection, self.now, "device", "alarm", Some(id), why)?;
                return Ok(Err(Refused::new(422, Code::GrantRefused, why)));
            }
            None if ack.generation >= device.generation => {
                if let Err(refused) = self.generation(&mut device, ack.generation)? {
                    return Ok(Err(refused));
                }
            }
            None => return Ok(Err(Refused::new(422, Code::GrantRefused, "no such grant"))),
        }
        if ack.generation > device.acked || device.state != State::Joined {
            device.acked = device.acked.max(ack.generation);
            device.put(State::Joined, None, "its grant is on its disk");
            device.last_seen = self.now;
            device.save(self.connection)?;
            let detail = format!("generation {}", ack.generation);
            audit::note(self.connection, self.now, "device", "ack", Some(id), &detail)?;
        }
        Ok(Ok(device))
    }

    /// The device `id`, when it is let in.
    fn admitted(&self, id: &DeviceId) -> anyhow::Result<Result<Device, Refused>> {
        let Some(device) = Device::load(self.connection, id)? else {
            return Ok(Err(Refused::without_code(404, "no such device: claim first")));
        };
        if let Some(refused) = super::claim::refusal(&device) {
            return Ok(Err(refused));
        }
        if device.state == State::Pending {
            return Ok(Err(Refused::new(403, Code::AwaitsApproval, &device.reason)));
        }
        Ok(Ok(device))
    }
}
