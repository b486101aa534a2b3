//! The device's keys, and the hardware that they belong to.
//!
//! Keys are made once, here, and their public halves leave only after both and the hardware's fingerprint are durable.
//! Where one of the three is missing none was used, and all are made anew. A disk that wakes up in other hardware throws
//! its identity away: two boxes must never share one.

use crate::device::artefact::{self, Print, SavedFacts};
use crate::device::effects::{Effects, VaultError};
use crate::device::pause::Pause;
use crate::device::store::{MAX_ARTEFACT, Store};
use crate::enroll::DeviceId;
use crate::enroll::code::Code;
use crate::enroll::evidence::Facts;
use crate::enroll::grant::OpeningKey;
use crate::enroll::identity::words;
use crate::sign::{PrivateKey, Signer as _};
use std::path::Path;
use zeroize::Zeroizing;

/// Names the secrets to the vault.
const KEY_NAME: &str = "forge-device-key";
const ENC_NAME: &str = "forge-device-enc";

/// Who the device is.
#[derive(Debug)]
pub struct Identity {
    /// Follows from the key.
    pub id: DeviceId,
    /// Six words that stand for the key.
    pub words: String,
    /// Signs requests.
    pub key: PrivateKey,
    /// Opens grants.
    pub enc: OpeningKey,
}

/// What opening the identity came to.
#[derive(Debug)]
pub enum Opened {
    /// It is there.
    Here(Box<Identity>),
    /// It is there, and can never be opened in this box.
    Lost(String),
}

impl Identity {
    fn of(key: &[u8], enc: &[u8]) -> Option<Identity> {
        let key = Zeroizing::new(<[u8; 32]>::try_from(key).ok()?);
        let enc = Zeroizing::new(<[u8; 32]>::try_from(enc).ok()?);
        let key = PrivateKey::from_seed(&key).ok()?;
        let (id, words) = (DeviceId::of(key.public_key()), words(key.public_key()));
        Some(Identity { id, words, key, enc: OpeningKey::from_seed(&enc) })
    }
}

/// Makes keys and writes them, the hardware's fingerprint last. Keys that are there are kept: a fingerprint alone is
/// missing after a cut before anything was sent, or when a block of the disk broke.
pub fn make(io: &mut impl Effects, store: &mut Store) -> Result<(), Pause> {
    let unsealed = |e: anyhow::Error| Pause::trouble(Code::TpmTrouble, format!("{e:#}"));
    let secrets = [(ENC_NAME, artefact::ENC), (KEY_NAME, artefact::KEY)];
    let mut whole = true;
    for (_, path) in secrets {
        whole &= store.get(io, Path::new(path), MAX_ARTEFACT)?.is_some();
    }
    for (name, path) in secrets.into_iter().filter(|_| !whole) {
        let mut seed = Zeroizing::new([0; 32]);
        io.random(&mut *seed).map_err(unsealed)?;
        let sealed = Zeroizing::new(io.seal(name, &*seed).map_err(unsealed)?);
        store.put(io, Path::new(path), &sealed, 0o600)?;
    }
    let facts = io.facts();
    let print = Print { fingerprint: facts.fingerprint(), facts: SavedFacts::from(&facts) };
    store.put_json(io, Path::new(artefact::HW), &print)?;
    Ok(())
}

/// Opens the keys that [`make`] wrote.
pub fn open(io: &mut impl Effects, store: &mut Store) -> Result<Opened, Pause> {
    let mut seeds = vec![];
    for (name, path) in [(KEY_NAME, artefact::KEY), (ENC_NAME, artefact::ENC)] {
        let Some(sealed) = store.get(io, Path::new(path), MAX_ARTEFACT)? else {
            return Ok(Opened::Lost(format!("{path} is not whole")));
        };
        match io.unseal(name, &sealed) {
            Ok(seed) => seeds.push(seed),
            Err(VaultError::NotNow(why)) => return Err(Pause::trouble(Code::TpmTrouble, why)),
            Err(VaultError::Never(why)) => return Ok(Opened::Lost(why)),
        }
    }
    Ok(match Identity::of(&seeds[0], &seeds[1]) {
        Some(identity) => Opened::Here(Box::new(identity)),
        None => Opened::Lost("the sealed key is no key".into()),
    })
}

/// Whether `facts` can be of the hardware that `saved` is of. Ports come up late and cards are replaced, so an address
/// more or less is no other box; another serial is, and so are addresses of which none is left.
pub fn same_box(saved: &SavedFacts, facts: &SavedFacts) -> bool {
    let differ = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
    if differ(&saved.serial, &facts.serial) {
        return false;
    }
    let serial_fits = saved.serial.is_some() && saved.serial == facts.serial;
    if !serial_fits && differ(&saved.board_serial, &facts.board_serial) {
        return false;
    }
    saved.macs.is_empty() || facts.macs.is_empty() || facts.macs.iter().any(|mac| saved.macs.contains(mac))
}

/// Holds the hardware against the saved fingerprint, and writes down what is new of it. Whether the disk came from
/// another box.
pub fn is_foreign(io: &mut impl Effects, store: &mut Store, facts: &Facts) -> Result<bool, Pause> {
    let Some(saved) = store.peek_json::<Print>(io, Path::new(artefact::HW))? else { return Ok(false) };
    let now = SavedFacts::from(facts);
    if !same_box(&saved.facts, &now) {
        return Ok(true);
    }
    // Ports that were late when the identity was made.
    let mut all = saved.facts.clone();
    all.serial = all.serial.or(now.serial);
    all.board_serial = all.board_serial.or(now.board_serial);
    if all.macs.iter().all(|mac| now.macs.contains(mac)) {
        all.macs = now.macs;
    }
    if all != saved.facts {
        store.put_json(
            io,
            Path::new(artefact::HW),
            &Print { fingerprint: facts.fingerprint(), facts: all },
        )?;
    }
    Ok(false)
}

/// Throws away what makes the device itself: first what lets units start, then what a grant put in place, the notes, the
/// keys, and the fingerprint last, so that a cut anywhere begins it again.
pub fn wipe(io: &mut impl Effects, store: &mut Store) -> Result<(), Pause> {
    let trouble = |e: anyhow::Error| Pause::trouble(Code::DiskTrouble, format!("{e:#}"));
    store.delete(io, Path::new(artefact::APPLIED))?;
    io.deactivate().map_err(trouble)?;
    for generation in artefact::generations(io.list(Path::new(artefact::STAGES))?) {
        crate::device::install::take_back(io, store, generation)?;
        store.delete_dir(io, &artefact::stage(generation))?;
    }
    for generation in artefact::generations(io.list(Path::new(artefact::GRANTS))?) {
        let file = artefact::grant(generation);
        store.delete_dir(io, file.parent().unwrap_or(&file))?;
    }
    for generation in artefact::generations(io.list(Path::new(artefact::ACKED))?) {
        store.delete(io, &artefact::acked(generation))?;
    }
    let notes = [artefact::CLAIM, artefact::JOINED, artefact::SCRUBBED, artefact::REVOKED];
    for path in notes.into_iter().chain([artefact::CERTIFICATE_KEY, artefact::KEY, artefact::ENC]) {
        store.delete(io, Path::new(path))?;
    }
    io.forget_host().map_err(trouble)?;
    store.delete(io, Path::new(artefact::HW))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(serial: &str, macs: &[&str]) -> SavedFacts {
        let serial = (!serial.is_empty()).then(|| serial.to_string());
        SavedFacts { serial, macs: macs.iter().map(|m| m.to_string()).collect(), board_serial: None }
    }

    #[test]
    fn a_card_more_is_the_same_box_and_another_serial_is_not() {
        let (one, two) = ("02:00:00:00:00:01", "02:00:00:00:00:02");
        for (saved, now, same) in [
            (facts("S1", &[one]), facts("S1", &[one]), true),
            (facts("S1", &[one]), facts("S1", &[one, two]), true),
            (facts("S1", &[one, two]), facts("S1", &[two]), true),
            (facts("S1", &[one]), facts("S1", &[]), true),
            (facts("", &[]), facts("S1", &[one]), true),
            (facts("S1", &[one]), facts("S2", &[one]), false),
            (facts("S1", &[one]), facts("S1", &[two]), false),
            (facts("", &[one]), facts("", &[two]), false),
        ] {
            assert_eq!(same_box(&saved, &now), same, "{saved:?} {now:?}");
        }
        let board = |b: &str| SavedFacts { board_serial: Some(b.into()), ..facts("", &[]) };
        assert!(!same_box(&board("B1"), &board("B2")));
        let swapped = SavedFacts { serial: Some("S1".into()), ..board("B2") };
        assert!(same_box(&SavedFacts { serial: Some("S1".into()), ..board("B1") }, &swapped), "a new board");
    }
}
