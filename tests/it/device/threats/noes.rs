//! Threats 11, 22 and 23: boxes that are not let in, thrown out, or given what is not theirs; disks that refuse.

use super::*;
use crate::fleet::boxes::START;
use forge::device::effects::Call;
use forge::enroll::bootstrap::Bootstrap;
use forge::enroll::claim::{self, Answer};
use forge::enroll::envelope::{Context, Direction, Nonce, seal};
use forge::enroll::grant::{Binding, File, Grant, Item, Material, OpeningKey};
use forge::enroll::offline::{OfflineRequest, request_name};
use forge::enroll::{DeviceId, bundle};
use forge::fleet::operator::Order;
use forge::model::Epoch;
use forge::sign::PrivateKey;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

#[test]
fn threat_22_denied_for_days_then_approved() {
    let fleet = SimFleet::new(Default::default());
    let batch = fleet.keys.bundle("batch", forge::enroll::bootstrap::Mode::Batch, 5, |_| {});
    let sim = SimBox::new(&fleet, "S1", Some(files(&batch)));
    fleet.at(Duration::from_secs(600), |fleet| {
        let device = fleet.only().id;
        fleet.order(Order::Deny { device, reason: "who is this".into() });
    });
    let approved = 50 * HOUR;
    fleet.at(approved, |fleet| {
        let device = fleet.only().id;
        fleet.order(Order::Approve { device });
    });
    let mut codes = vec![];
    let (sim, end) = run(sim, 60 * HOUR, |sim, step| {
        if let Step::Wait(Pause { code: Some(code), .. }) = step
            && codes.last() != Some(code)
        {
            codes.push(*code);
        }
        finished(sim, step)
    });
    assert_eq!(end, End::Reached);
    assert_eq!(codes, [Code::AwaitsApproval, Code::Denied]);
    // One poll is at most an hour and a fifth after the approval.
    assert!(sim.time < approved + HOUR.mul_f64(1.2) + Duration::from_secs(300), "{:?}", sim.time - approved);
    let hourly = sim.waits.iter().filter(|w| **w > HOUR / 2).count();
    assert!((40..70).contains(&hourly), "{hourly} slow polls in two days");
    assert!(sim.calls < 300, "{} calls", sim.calls);
    assert_never_spun(&sim);
    assert_eq!(fleet.only().boots, 1, "it never had to start again");
}

#[test]
fn a_person_approves_within_the_long_poll() {
    let fleet = SimFleet::new(Default::default());
    let batch = fleet.keys.bundle("batch", forge::enroll::bootstrap::Mode::Batch, 5, |_| {});
    let sim = SimBox::new(&fleet, "S1", Some(files(&batch)));
    let at = Duration::from_secs(3333);
    fleet.at(at, |fleet| {
        let device = fleet.only().id;
        fleet.order(Order::Approve { device });
    });
    let (sim, end) = run(sim, 2 * HOUR, |sim, _| sim.active);
    assert_eq!(end, End::Reached);
    assert!(sim.time < at + Duration::from_secs(5), "{:?} after the approval", sim.time - at);
    let view = sim.last_view.unwrap();
    assert_eq!(view.words.unwrap().split(' ').count(), 6);
}

#[test]
fn threat_11_a_revoked_box_stands_down_and_asks_once_an_hour() {
    let (fleet, sim) = one_box();
    let sim = join(sim);
    let device = fleet.only().id;
    fleet.order(Order::Revoke { device, reason: "stolen".into() });
    let calls = sim.calls;
    let (mut sim, codes) = codes_within(sim, 48 * HOUR);
    assert_eq!(codes, [Code::Revoked]);
    assert!(!sim.active, "what the fleet gave it has stopped");
    assert!(
        sim.disk.read_link(Path::new(artefact::APPLIED)).is_none(),
        "and does not start at the next boot"
    );
    assert!(sim.calls - calls < 200, "{} calls in two days", sim.calls - calls);
    // Nor offline.
    sim.restart();
    sim.weather = Box::new(|_, _| Fate::Fails(NetError::NoLink));
    let (sim, _) = codes_within(sim, 5 * HOUR);
    assert!(!sim.active);
    assert_never_spun(&sim);
}

/// An answer that the fleet's own key signed, as a fleet that lost its mind would.
fn answered(key: &PrivateKey, call: &Call<'_>, body: serde_json::Value) -> Fate {
    let (path, query) = call.target.split_once('?').unwrap();
    let nonce = query.split('&').find_map(|p| p.strip_prefix("nonce=")).unwrap();
    let nonce = Nonce::parse(nonce).unwrap();
    let answer =
        Answer { status: 200, now: START, nonce: Nonce::from_random([5; 16]), retry_after_s: None, body };
    let context = Context { direction: Direction::Answer, method: call.method, path, nonce: &nonce };
    Fate::Answered(200, seal(&[key], &context, &serde_json::to_vec(&answer).unwrap()).unwrap())
}

#[test]
fn threat_23_a_grant_for_another_changed_or_played_back() {
    let seed = SimFleet::new(Default::default()).keys.grant_key.to_seed();
    let key = || PrivateKey::from_seed(&seed).unwrap();
    let stranger = PrivateKey::from_seed(&[77; 32]).unwrap();
    let other = DeviceId::of(forge::sign::Signer::public_key(&stranger));
    let sealed_to = OpeningKey::from_seed(&[78; 32]).sealing_key();
    let nonce = Nonce::from_random([1; 16]);
    let foreign = |device: &DeviceId, signer: &PrivateKey| {
        let binding = Binding { device, generation: 1, nonce: &nonce };
        let (enc, sealed) = Material::default().seal(&sealed_to, &binding).unwrap();
        let grant = Grant {
            schema: 1,
            grant_id: "g".into(),
            device: device.clone(),
            generation: 1,
            nonce: nonce.clone(),
            issued_at: Epoch(0),
            node_name: "n".into(),
            labels: BTreeMap::new(),
            enc,
            sealed,
        };
        serde_json::to_value(grant.sign(signer).unwrap()).unwrap()
    };
    for (what, body, code) in [
        ("another device's", foreign(&other, &key()), Code::GrantRefused),
        ("signed by somebody", foreign(&other, &stranger), Code::GrantRefused),
        (
            "no grant",
            serde_json::json!({ "payload": "", "payloadType": "x", "signatures": [] }),
            Code::GrantRefused,
        ),
        ("no envelope", serde_json::json!([1, 2]), Code::Portal),
    ] {
        let (fleet, mut sim) = one_box();
        let signer = key();
        let mut times = 0;
        sim.weather = Box::new(move |_, call| {
            if call.target.contains("/grant?") && times < 3 {
                times += 1;
                return answered(&signer, call, body.clone());
            }
            Fate::Through
        });
        let (sim, found) = first_code(sim, HOUR);
        assert_eq!(found, Some(code), "{what}");
        assert!(sim.disk.list(Path::new(artefact::GRANTS)).is_empty(), "{what}: nothing of it is kept");
        let sim = join(sim);
        assert_placed(&sim, fleet.only().id.as_str());
    }
}

#[test]
fn threat_23_the_grant_before_is_not_taken_again() {
    let (fleet, sim) = one_box();
    let mut sim = join(sim);
    let old = artefact::grant(1);
    let first = sim.disk.read(&old, 1 << 20).unwrap().unwrap();
    for lost in [artefact::stage(1).join(artefact::COMPLETE), artefact::acked(1)] {
        sim.disk.remove(&lost).unwrap();
    }
    sim.restart();
    // The new question is answered with the old grant.
    let text = String::from_utf8(first).unwrap();
    let body: serde_json::Value = serde_json::from_str(text.rsplit_once("\nsha256:").unwrap().0).unwrap();
    let key = PrivateKey::from_seed(&fleet.keys.grant_key.to_seed()).unwrap();
    let mut times = 0;
    sim.weather = Box::new(move |_, call| {
        if call.target.contains("/grant?") && times < 2 {
            times += 1;
            return answered(&key, call, body.clone());
        }
        Fate::Through
    });
    let (sim, code) = first_code(sim, HOUR);
    assert_eq!(code, Some(Code::GrantRefused));
    assert!(sim.active, "what was in place goes on");
    let sim = join(sim);
    assert_eq!(fleet.only().acked, 2);
    assert_joined_once(&fleet, &sim);
}

#[test]
fn a_disk_that_takes_no_writes_is_said_and_got_over() {
    let (fleet, sim) = one_box();
    let (mut sim, _) =
        run(sim, HOUR, |sim, _| sim.last_view.as_ref().is_some_and(|v| v.state >= State::Claimed));
    sim.disk.broken = true;
    let (mut sim, codes) = codes_within(sim, 2 * HOUR);
    assert_eq!(codes, [Code::DiskTrouble]);
    assert_never_spun(&sim);
    sim.disk.broken = false;
    assert_joined_once(&fleet, &join(sim));
}

#[test]
fn a_site_without_its_network_works_and_says_so() {
    let (fleet, sim) = one_box();
    let mut sim = join(sim);
    sim.restart();
    sim.weather = Box::new(|_, _| Fate::Fails(NetError::Unreachable("no route".into())));
    let (sim, _) = codes_within(sim, 5 * HOUR);
    assert!(sim.active, "its services run without anybody answering");
    assert_eq!(sim.last_view.as_ref().unwrap().word(), "WORKING OFFLINE");
    assert_eq!(fleet.only().state, claim::State::Joined);
}

#[test]
fn a_node_that_is_slow_to_get_ready() {
    let (fleet, mut sim) = one_box();
    sim.node = false;
    let (mut sim, codes) = codes_within(sim, HOUR);
    assert_eq!(codes, [Code::NotJoined]);
    assert_eq!(sim.last_view.as_ref().unwrap().state, State::Acked, "the ticket is not scrubbed yet");
    sim.node = true;
    assert_joined_once(&fleet, &join(sim));
}

#[test]
fn a_joined_site_opens_with_a_broken_disk_a_silent_tpm_or_a_lost_bundle() {
    let broken = |sim: &mut SimBox| sim.disk.broken = true;
    let silent = |sim: &mut SimBox| sim.silent = true;
    let lost = |sim: &mut SimBox| {
        for name in sim.disk.list(Path::new(artefact::BUNDLES)) {
            sim.disk.remove(&Path::new(artefact::BUNDLES).join(name)).unwrap();
        }
        sim.carriers.clear();
    };
    let blind = |sim: &mut SimBox| sim.image.trust.roots.clear();
    type Harm = fn(&mut SimBox);
    for (harm, code) in [
        (broken as Harm, Code::DiskTrouble),
        (silent, Code::TpmTrouble),
        (lost, Code::NoBundle),
        (blind, Code::BundleForeign),
    ] {
        let (fleet, sim) = one_box();
        let mut sim = join(sim);
        sim.restart();
        harm(&mut sim);
        let device = fleet.only().id;
        let (mut sim, codes) = codes_within(sim, 5 * HOUR);
        assert_eq!(codes, [code]);
        assert!(sim.active, "{code}");
        assert_never_spun(&sim);
        if code == Code::DiskTrouble || code == Code::TpmTrouble {
            (sim.disk.broken, sim.silent) = (false, false);
            assert_joined_once(&fleet, &join(sim));
            assert_eq!(fleet.only().id, device, "its identity is not thrown away for that");
        }
    }
}

#[test]
fn a_box_that_no_network_ever_reaches_joins_by_stick() {
    let (fleet, mut sim) = one_box();
    sim.weather = Box::new(|_, _| Fate::Fails(NetError::NoLink));
    let (sim, codes) = codes_within(sim, HOUR);
    assert_eq!(codes, [Code::NoLink]);
    let (name, request) = sim.left.iter().next().expect("its request is on the stick");
    // The answer, as `forge enroll answer` makes it.
    let (request, signers) = OfflineRequest::open(request).unwrap();
    let id = DeviceId::of(&request.claim.device_pub);
    assert_eq!(*name, request_name(&id));
    let opened = Bootstrap::open(&serde_json::to_vec(&request.claim.bootstrap).unwrap(), &fleet.keys.trust());
    signers.include(&opened.unwrap().get().ticket.as_ref().unwrap().r#pub).unwrap();
    let granted = |generation: u64, nonce: &Nonce| {
        let binding = Binding { device: &id, generation, nonce };
        let file =
            File { path: "/etc/forge/token".into(), mode: 0o600, content: Zeroizing::new("dG9rZW4=".into()) };
        let material = Material { items: vec![Item::Files { files: vec![file] }] };
        let (enc, sealed) = material.seal(&request.claim.enc_pub, &binding).unwrap();
        let grant = Grant {
            schema: 1,
            grant_id: "by-stick".into(),
            device: id.clone(),
            generation,
            nonce: nonce.clone(),
            issued_at: START,
            node_name: "store-042".into(),
            labels: BTreeMap::new(),
            enc,
            sealed,
        };
        let envelope = serde_json::to_vec(&grant.sign(&fleet.keys.grant_key).unwrap()).unwrap();
        let files = BTreeMap::from([(bundle::grant_name(&id), Zeroizing::new(envelope))]);
        Carrier { kind: CarrierKind::Stick, place: "sdb1".into(), files }
    };
    // The answer to another question is left where it is.
    let mut sim = sim;
    sim.plug = Some((sim.time, granted(1, &Nonce::from_random([8; 16]))));
    let (mut sim, _) = codes_within(sim, HOUR);
    assert!(!sim.active);
    let start = sim.time;
    sim.plug = Some((start, granted(1, &request.grant.nonce)));
    let (mut sim, end) = run(sim, HOUR, |sim, _| sim.active);
    assert_eq!(end, End::Reached);
    assert!(sim.time < start + Duration::from_secs(400));
    let token = sim.disk.read(Path::new("/etc/forge/token"), 99).unwrap();
    assert_eq!(token.as_deref(), Some(&b"token"[..]));
    // Should a network come after all, the fleet learns of it.
    let (back, _) = codes_within(sim, HOUR);
    sim = back;
    assert_eq!(sim.last_view.as_ref().unwrap().word(), "WORKING OFFLINE");
    sim.weather = Box::new(|_, _| Fate::Through);
    let (_, end) = run(sim, 3 * HOUR, finished);
    assert_eq!(end, End::Reached);
    assert_eq!((fleet.only().state, fleet.only().acked), (claim::State::Joined, 1));
}
