//! Carriers → a bundle that is this fleet's, for this image and this box, and not older than any before; copied to the disk.
//!
//! Of several the highest serial is taken; among equals a stick, which somebody just plugged in, before the box's own
//! partition. The copy is verified again each time it is read.

use crate::device::artefact::{self, CarrierWord, Floor, Rotated, Verified};
use crate::device::effects::{Carrier, Effects, Image};
use crate::device::pause::Pause;
use crate::device::store::Store;
use crate::enroll::bootstrap::{Bootstrap, MAX_BOOTSTRAP, Rejected, Trust};
use crate::enroll::bundle::{self, BadBundle, Bundle};
use crate::enroll::code::Code;
use crate::enroll::evidence::Facts;
use crate::model::Digest;
use crate::sign::PrivateKey;
use base64::Engine as _;
use std::path::Path;
use zeroize::Zeroizing;

/// The bundle that the device goes by.
#[derive(Debug)]
pub struct Held {
    /// The document.
    pub bootstrap: Bootstrap,
    /// Its envelope's bytes, which a claim brings along.
    pub envelope: Vec<u8>,
    /// Of those.
    pub sha256: Digest,
    /// The ticket, until it is scrubbed.
    pub ticket: Option<PrivateKey>,
    /// What carried it.
    kind: CarrierWord,
}

/// What `trust` would have to say to be another's.
fn roots_digest(trust: &Trust) -> Digest {
    let ids: Vec<String> = trust.roots.iter().map(|key| key.key_id().to_string()).collect();
    Digest::of(format!("{} of {}", trust.threshold, ids.join(" ")))
}

/// Whom new bundles have to be signed by: the image's roots, or those that took their place; and whom before.
fn trust(io: &mut impl Effects, store: &mut Store, image: &Image) -> Result<(Trust, Trust), Pause> {
    let rotated: Option<Rotated> = store.get_json(io, Path::new(artefact::ROOTS))?;
    Ok(match rotated {
        Some(next) if next.of == roots_digest(&image.trust) => (
            Trust { roots: next.roots, threshold: next.threshold },
            Trust { roots: next.before, threshold: next.before_threshold },
        ),
        _ => (image.trust.clone(), image.trust.clone()),
    })
}

/// The copy on the disk, verified again.
pub fn held(io: &mut impl Effects, store: &mut Store, image: &Image) -> Result<Option<Held>, Pause> {
    let Some(verified) = store.get_json::<Verified>(io, Path::new(artefact::VERIFIED))? else {
        return Ok(None);
    };
    let copy = artefact::bootstrap(verified.sha256);
    let Some(envelope) = store.get(io, &copy, MAX_BOOTSTRAP)? else { return Ok(None) };
    let sha256 = Digest::of(&*envelope);
    if sha256 != verified.sha256 {
        return Ok(None);
    }
    let (next, before) = trust(io, store, image)?;
    let (opened, by_next) = match Bootstrap::open(&envelope, &next) {
        Ok(opened) => (opened, true),
        // The bundle that named the next roots is signed by the ones before.
        Err(_) => match Bootstrap::open(&envelope, &before) {
            Ok(opened) => (opened, false),
            Err(_) => return Ok(None),
        },
    };
    let bootstrap = opened.into_inner();
    if let Some(named) = &bootstrap.trust_next
        && by_next
        && named.roots != next.roots
    {
        let rotated = Rotated {
            of: roots_digest(&image.trust),
            roots: named.roots.clone(),
            threshold: named.threshold,
            before: next.roots,
            before_threshold: next.threshold,
        };
        store.put_json(io, Path::new(artefact::ROOTS), &rotated)?;
    }
    let ticket = match &bootstrap.ticket {
        Some(wanted) => {
            let seed = store.get(io, &artefact::ticket(sha256), 256)?;
            seed.and_then(|seed| read_seed(&seed))
                .filter(|key| crate::sign::Signer::public_key(key) == &wanted.r#pub)
        }
        None => None,
    };
    Ok(Some(Held { bootstrap, envelope: envelope.to_vec(), sha256, ticket, kind: verified.kind }))
}

fn read_seed(text: &[u8]) -> Option<PrivateKey> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim_ascii());
    let seed = Zeroizing::new(<[u8; 32]>::try_from(&Zeroizing::new(bytes.ok()?)[..]).ok()?);
    PrivateKey::from_seed(&seed).ok()
}

/// Why a carrier's bundle is not taken.
struct Unfit {
    code: Code,
    why: String,
}

impl From<Rejected> for Unfit {
    fn from(rejected: Rejected) -> Unfit {
        let code = match &rejected {
            Rejected::Foreign(_) => Code::BundleForeign,
            Rejected::RolledBack { .. } => Code::BundleRolledBack,
            Rejected::OtherImage { .. } => Code::BundleOtherImage,
            Rejected::OtherDevice { .. } => Code::BundleOtherDevice,
            _ => Code::BundleUnreadable,
        };
        Unfit { code, why: rejected.to_string() }
    }
}

/// What `carrier` has, when the device may go by it.
fn fit(
    carrier: &Carrier,
    trust: &Trust,
    floor: Floor,
    image: &Image,
    facts: &Facts,
    has_tpm: bool,
) -> Result<Held, Unfit> {
    let opened = Bundle::open(&carrier.files, trust).map_err(|bad| match bad {
        BadBundle::Rejected(rejected) => rejected.into(),
        BadBundle::Ticket(_) => Unfit { code: Code::BundleNoTicket, why: bad.to_string() },
        _ => Unfit { code: Code::BundleUnreadable, why: bad.to_string() },
    })?;
    let bootstrap = opened.bootstrap.into_inner();
    bootstrap.check_serial(floor.serial)?;
    bootstrap.check_image(&image.profile, image.root_hash)?;
    bootstrap.row_of(facts)?;
    if bootstrap.policy.require_tpm && !has_tpm {
        let why = "the bundle asks for a TPM, and this box has none";
        return Err(Unfit { code: Code::NoMatch, why: why.into() });
    }
    let envelope = carrier.files.get(bundle::BOOTSTRAP).map(|bytes| bytes.to_vec()).unwrap_or_default();
    let (sha256, kind) = (Digest::of(&envelope), carrier.kind.into());
    Ok(Held { bootstrap, envelope, sha256, ticket: opened.ticket, kind })
}

/// Which of two bundles comes first.
fn rank(held: &Held) -> (u64, CarrierWord, Digest) {
    (held.bootstrap.serial, held.kind, held.sha256)
}

/// Looks at all carriers; the bundle that is to take the place of `current`, copied and durable. `None` where there is no
/// better one.
///
/// # Errors
/// What is wrong with the bundle that is there, where the device has none to go by.
pub fn adopt(
    io: &mut impl Effects,
    store: &mut Store,
    image: &Image,
    facts: &Facts,
    current: Option<&Held>,
) -> Result<Option<Held>, Pause> {
    let names: Vec<(String, usize)> = bundle::FILES.iter().map(|(n, most)| (n.to_string(), *most)).collect();
    let carriers = io.bundles(&names);
    let has_tpm = io.has_tpm();
    let (trust, _) = trust(io, store, image)?;
    let floor: Floor = store.get_json(io, Path::new(artefact::FLOOR))?.unwrap_or_default();
    let mut best: Option<(Held, Zeroizing<Vec<u8>>)> = None;
    let mut worst: Option<Unfit> = None;
    for carrier in carriers.iter().filter(|c| c.files.contains_key(bundle::BOOTSTRAP)) {
        match fit(carrier, &trust, floor, image, facts, has_tpm) {
            Ok(found) => {
                let better = best.as_ref().is_none_or(|(best, _)| rank(&found) > rank(best));
                if better {
                    let ticket = carrier.files.get(bundle::TICKET).cloned().unwrap_or_default();
                    best = Some((found, ticket));
                }
            }
            // The one that got furthest says most: a foreign stick beside the right partition is no news.
            Err(unfit) => {
                let unfit = Unfit { why: format!("{}: {}", carrier.place, unfit.why), ..unfit };
                worst = Some(worst.filter(|w| depth(w.code) >= depth(unfit.code)).unwrap_or(unfit));
            }
        }
    }
    let better = best.filter(|(found, _)| {
        current.is_none_or(|current| {
            let again = found.sha256 == current.sha256;
            // The same one once more, of which the ticket was lost to a broken disk.
            let restored = again && current.ticket.is_none() && found.ticket.is_some();
            restored || !again && rank(found) > rank(current)
        })
    });
    match (better, current, worst) {
        (Some((found, ticket)), ..) => keep(io, store, found, &ticket).map(Some),
        (None, Some(_), _) => Ok(None),
        (None, None, Some(unfit)) => Err(Pause::trouble(unfit.code, unfit.why)),
        (None, None, None) => Err(Pause::trouble(Code::NoBundle, "no partition, stick or firmware has one")),
    }
}

const fn depth(code: Code) -> u8 {
    match code {
        Code::BundleUnreadable => 0,
        Code::BundleForeign => 1,
        Code::BundleNoTicket => 2,
        Code::BundleRolledBack => 3,
        Code::BundleOtherImage => 4,
        Code::BundleOtherDevice => 5,
        _ => 6,
    }
}

/// Writes the copy beside the one in use, and then switches over in one step: a cut leaves the one or the other.
fn keep(io: &mut impl Effects, store: &mut Store, held: Held, ticket: &[u8]) -> Result<Held, Pause> {
    store.put(io, &artefact::bootstrap(held.sha256), &held.envelope, 0o600)?;
    if held.ticket.is_some() {
        store.put(io, &artefact::ticket(held.sha256), ticket, 0o600)?;
        // Another ticket has to be scrubbed anew.
        store.delete(io, Path::new(artefact::SCRUBBED))?;
    }
    raise_floor(io, store, held.bootstrap.serial)?;
    let verified = Verified { sha256: held.sha256, serial: held.bootstrap.serial, kind: held.kind };
    store.put_json(io, Path::new(artefact::VERIFIED), &verified)?;
    for name in io.list(Path::new(artefact::BUNDLES))? {
        let path = Path::new(artefact::BUNDLES).join(&name);
        if path != Path::new(artefact::VERIFIED) && !name.starts_with(&held.sha256.hex()) {
            shred(io, store, &path)?;
        }
    }
    Ok(held)
}

/// Overwrites and removes a file with a secret. Flash keeps copies: what rests on it is tidiness, not safety.
pub fn shred(io: &mut impl Effects, store: &mut Store, path: &Path) -> Result<(), Pause> {
    if io.read(path, MAX_BOOTSTRAP + 1024)?.is_some() {
        io.overwrite(path)?;
        io.sync_file(path)?;
    }
    store.delete(io, path)?;
    Ok(())
}

/// Lets no bundle below `serial` be taken any more.
pub fn raise_floor(io: &mut impl Effects, store: &mut Store, serial: u64) -> Result<(), Pause> {
    let floor: Floor = store.get_json(io, Path::new(artefact::FLOOR))?.unwrap_or_default();
    if floor.serial < serial {
        store.put_json(io, Path::new(artefact::FLOOR), &Floor { serial })?;
    }
    Ok(())
}
