//! Boxes that say which TPM they have, and cannot prove it; the one that can.

use super::*;
use crate::tpm::Simulator;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use forge::enroll::claim::{Answer, Attest, Challenge};
use forge::enroll::policy::Endorsement;
use forge::tpm;

/// One step of the proof.
fn attest(
    one: &mut Box,
    end: &End,
    keys: &(Vec<u8>, Vec<u8>),
    secret: Option<&[u8]>,
) -> Answer<serde_json::Value> {
    let attest = Attest {
        ek_public: STANDARD.encode(&keys.0),
        ak_public: STANDARD.encode(&keys.1),
        secret: secret.map(|secret| STANDARD.encode(secret)),
    };
    let path = path(&one.id(), "attest");
    one.call(&mut end.send(), "POST", &path, Some(serde_json::to_vec(&attest).unwrap()))
}

#[test]
fn whoever_only_names_a_tpm_gets_nothing_by_it() {
    let Some(chip) = Simulator::start() else { return };
    let mut chip = chip.connect();
    let (ek, ak) = (chip.endorsement_key().unwrap(), chip.attestation_key().unwrap());
    let keys = (ek.public().to_vec(), ak.public().to_vec());
    let digest = tpm::digest(&keys.0);
    let fleet = Fleet::of_seed(1);
    let end = End::new(&fleet);
    let bundle = fleet.own_bundle("a", "SN1");
    let mut first = Box::new("first", &fleet, &bundle, hardware("SN1"));
    first.facts.ek_sha256 = Some(digest);
    first.join(&mut end.send()).unwrap();

    // A guess, and keys that are none.
    let guess = attest(&mut first, &end, &keys, Some(&[7; 32]));
    assert_eq!(guess.status, 422);
    assert_eq!(end.count("unproved"), 1);
    let mut cut = keys.clone();
    cut.0.pop();
    assert_eq!(attest(&mut first, &end, &cut, None).status, 422);
    let mut other = keys.clone();
    let last = other.0.len() - 1;
    other.0[last] ^= 2;
    assert_eq!(attest(&mut first, &end, &other, None).status, 422, "another key than the claim's");
    assert_eq!((end.device(&first).endorsement, end.device(&first).ek), (Endorsement::None, None));

    // The chip itself, twice: a lost answer costs nothing.
    let asked = attest(&mut first, &end, &keys, None);
    let challenge: Challenge = serde_json::from_value(asked.body).unwrap();
    let part = |text: Option<String>| STANDARD.decode(text.unwrap()).unwrap();
    let (blob, hidden) = (part(challenge.credential_blob), part(challenge.encrypted_secret));
    let secret = chip.activate(&ek, &ak, &blob, &hidden).unwrap();
    for _ in 0..2 {
        let told = attest(&mut first, &end, &keys, Some(&secret));
        assert_eq!((told.status, told.body["proved"].as_bool()), (200, Some(true)));
    }
    assert_eq!(end.count("proved"), 1);
    assert_eq!((end.device(&first).endorsement, end.device(&first).ek), (Endorsement::Proved, Some(digest)));

    // Thieves of the ticket who read the key's digest off the box: they wait, a few of them, in no window and at no place.
    end.operate(operator::Order::Window { minutes: 60, boxes: 50, batch: None }).unwrap();
    for n in 0..12 {
        let mut thief = Box::new(&format!("thief {n}"), &fleet, &bundle, hardware("SN1"));
        thief.facts.ek_sha256 = Some(digest);
        let (status, _) = thief.claim(&mut end.send());
        assert_eq!(status, if n < 8 { 202 } else { 409 }, "thief {n}");
        if n < 8 {
            assert_eq!(thief.ask(&mut end.send()), (200, Some(State::Pending)), "thief {n}");
            // Another device's secret is not this one's.
            assert_eq!(attest(&mut thief, &end, &keys, Some(&secret)).status, 422);
            assert_eq!(thief.grant(&mut end.send()), Err(403));
        }
    }
    let mut again = Box::new("thief 0", &fleet, &bundle, hardware("SN1"));
    again.facts.ek_sha256 = Some(digest);
    assert_eq!(again.claim(&mut end.send()).0, 202, "nor by claiming again");
    assert_sound(&end.devices());
    assert_eq!(end.device(&first).state, State::Joined, "the first has kept its place");
    assert_eq!(first.claim(&mut end.send()).0, 200);
}

#[test]
fn boxes_of_a_database_from_before_tpms_stay_joined() {
    let fleet = Fleet::of_seed(1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fleet.db");
    let end = || End {
        service: service(&fleet, Arc::new(Store::open(&path).unwrap()), Settings::default()),
        now: START,
    };
    let mut one = Box::new("one", &fleet, &fleet.own_bundle("a", "SN1"), hardware("SN1"));
    assert_eq!(one.join(&mut end().send()).unwrap(), "a");
    // What the second version added, taken away again.
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(
        "DROP INDEX device_ek; ALTER TABLE device DROP COLUMN endorsement; ALTER TABLE device DROP COLUMN ek; \
         ALTER TABLE device DROP COLUMN ek_cert; PRAGMA user_version = 1;",
    )
    .unwrap();
    drop(old);
    let end = end();
    let device = end.device(&one);
    assert_eq!((device.state, device.endorsement, device.ek), (State::Joined, Endorsement::None, None));
    assert_eq!(one.claim(&mut end.send()).0, 200);
}
