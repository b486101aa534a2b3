//! The fleet's endpoint against simulated boxes: who gets in, who does not, and what a crash at any commit leaves.

pub mod boxes;
mod clusters;
mod k3s;
mod page;
mod serve;
mod tpms;
pub mod wire;

use boxes::{Box, Fleet, START, hardware, row};
use forge::enroll::bootstrap::Mode;
use forge::enroll::claim::{MAX_EVENTS, State, path};
use forge::enroll::code::Code;
use forge::enroll::evidence::Facts;
use forge::fleet::{
    Device, GrantSource, Identity, Request, Response, Service, Settings, Store, audit, operator,
};
use forge::model::Epoch;
use forge::sign::PrivateKey;
use std::collections::BTreeSet;
use std::sync::Arc;

/// An endpoint in this process, and its clock.
struct End {
    service: Service,
    now: Epoch,
}

fn service(fleet: &Fleet, store: Arc<Store>, settings: Settings) -> Service {
    service_with(fleet, store, settings, std::boxed::Box::new(()))
}

fn service_with(
    fleet: &Fleet,
    store: Arc<Store>,
    settings: Settings,
    source: std::boxed::Box<dyn GrantSource>,
) -> Service {
    let identity = Identity {
        fleet: "shops".into(),
        trust: fleet.trust(),
        grant_key: PrivateKey::from_seed(&fleet.grant_key.to_seed()).unwrap(),
        nonce_secret: [9; 32],
    };
    Service::new(identity, settings, store, source).unwrap()
}

impl End {
    fn new(fleet: &Fleet) -> End {
        End::with(fleet, Settings::default())
    }

    fn with(fleet: &Fleet, settings: Settings) -> End {
        End { service: service(fleet, Arc::new(Store::in_memory().unwrap()), settings), now: START }
    }

    fn send(&self) -> impl FnMut(&Request) -> Response + '_ {
        |request| self.service.handle(request, self.now)
    }

    fn device(&self, of: &Box) -> Device {
        self.service.store().read(|c| Device::load(c, &of.id())).unwrap().unwrap()
    }

    fn devices(&self) -> Vec<Device> {
        self.service.store().read(|c| Device::select(c, "ORDER BY id", [])).unwrap()
    }

    fn count(&self, action: &str) -> usize {
        let entries = self.service.store().read(|c| audit::newest(c, None, 100_000)).unwrap();
        entries.iter().filter(|e| e.action == action).count()
    }

    fn operate(&self, order: operator::Order) -> anyhow::Result<()> {
        operator::carry_out(self.service.store(), order, "operator", self.now).map(drop)
    }
}

/// No two devices have one name, and no ticket of one box has two that are let in.
fn assert_sound(devices: &[Device]) {
    let mut names = BTreeSet::new();
    let mut tickets = BTreeSet::new();
    for device in devices {
        if let Some(name) = &device.node {
            assert!(names.insert(name.clone()), "the name {name} twice");
        }
        if device.mode == Mode::Device && matches!(device.state, State::Approved | State::Joined) {
            assert!(tickets.insert(device.ticket.clone()), "a ticket of one box let two in");
        }
    }
}

#[test]
fn a_box_with_its_own_ticket_joins_and_every_answer_may_be_lost() {
    let fleet = Fleet::of_seed(1);
    let mut end = End::new(&fleet);
    let mut one = Box::new("one", &fleet, &fleet.own_bundle("store-042", "SN1"), hardware("SN1"));
    let (status, standing) = one.claim(&mut end.send());
    let standing = standing.unwrap();
    assert_eq!((status, standing.state), (201, State::Approved), "{standing:?}");
    assert_eq!(standing.node_name.as_deref(), Some("store-042"));
    assert_eq!(one.claim(&mut end.send()).0, 200, "the same key again");
    let grant = one.grant(&mut end.send()).unwrap();
    end.now = Epoch(START.0 + 86_000);
    assert_eq!(one.grant(&mut end.send()).unwrap(), grant, "byte for byte for a day");
    let (opened, _) = one.open(&grant);
    assert_eq!((opened.generation, opened.node_name.as_str()), (1, "store-042"));
    assert_eq!(opened.labels["site"], "store-042");
    assert_eq!(one.ack(&mut end.send(), &grant), 200);
    assert_eq!(one.ack(&mut end.send(), &grant), 200, "as often as it likes");
    assert_eq!(end.device(&one).state, State::Joined);
    assert_eq!(one.ask(&mut end.send()), (200, Some(State::Joined)));
    assert_eq!(end.devices().len(), 1);
}

#[test]
fn an_old_nonce_is_answered_with_a_new_one_and_nothing_else_is_believed() {
    let fleet = Fleet::of_seed(1);
    let mut end = End::new(&fleet);
    let mut one = Box::new("one", &fleet, &fleet.own_bundle("a", "SN1"), hardware("SN1"));
    one.call(&mut end.send(), "GET", "/v1/hello", None);
    let body = one.signed("POST", "/v1/enroll", &one.claim_payload());
    end.now = Epoch(START.0 + 601);
    let request = |path: &str, body: &[u8]| Request {
        method: "POST".into(),
        path: path.into(),
        query: "nonce=0123456789abcdef".into(),
        body: body.to_vec(),
    };
    assert_eq!(end.service.handle(&request("/v1/enroll", &body), end.now).status, 401);
    assert_eq!(one.claim(&mut end.send()).0, 201, "and the box signs again by itself");
    // A body that was made for one call is worth nothing for another.
    let body = one.signed("POST", "/v1/enroll", &one.claim_payload());
    assert_eq!(end.service.handle(&request("/v1/reenroll", &body), end.now).status, 422);
    let plain =
        end.service.handle(&Request { query: String::new(), ..request("/v1/enroll", &body) }, end.now);
    assert_eq!(plain.status, 400);
}

#[test]
fn a_stolen_ticket_in_every_order() {
    // Who claims first, and how far it got before the other came.
    for thief_first in [false, true] {
        for acked in [false, true] {
            let fleet = Fleet::of_seed(1);
            let end = End::new(&fleet);
            let bundle = fleet.own_bundle("store-042", "SN1");
            let mut real = Box::new("real", &fleet, &bundle, hardware("SN1"));
            let mut thief = Box::new("thief", &fleet, &bundle, hardware("SN1"));
            let (first, second) = if thief_first { (&mut thief, &mut real) } else { (&mut real, &mut thief) };
            if acked {
                first.join(&mut end.send()).unwrap();
            } else {
                first.claim(&mut end.send());
            }
            assert_eq!(second.claim(&mut end.send()).0, 409);
            assert_eq!(second.claim(&mut end.send()).0, 409, "and again");
            assert_eq!(second.grant(&mut end.send()), Err(409));
            assert!(end.count("alarm") >= 1);
            let state = if acked { State::Joined } else { State::Quarantined };
            assert_eq!(end.device(first).state, state, "thief first: {thief_first}, acked: {acked}");
            assert_eq!(end.device(second).state, State::Quarantined);
            assert_eq!(end.device(second).code, Some(Code::TicketTaken));
            if !acked {
                assert_eq!(first.grant(&mut end.send()), Err(409), "a person decides");
                // A person knows which is the real one.
                end.operate(operator::Order::Approve { device: real.id() }).unwrap();
                assert_eq!(real.claim(&mut end.send()).0, 200);
                assert_eq!(real.join(&mut end.send()).unwrap(), "store-042");
                assert!([403, 409].contains(&thief.claim(&mut end.send()).0));
            }
            assert_sound(&end.devices());
        }
    }
}

#[test]
fn a_leaked_batch_ticket_lets_nobody_in_by_itself() {
    let fleet = Fleet::of_seed(1);
    let end = End::new(&fleet);
    let bundle = fleet.bundle("spring", Mode::Batch, 20, |_| {});
    let mut statuses = std::collections::BTreeMap::new();
    for n in 0..1000 {
        let mut rogue = Box::new(&format!("rogue {n}"), &fleet, &bundle, hardware(&format!("R{n}")));
        *statuses.entry(rogue.claim(&mut end.send()).0).or_insert(0) += 1;
    }
    let devices = end.devices();
    assert_eq!(devices.iter().filter(|d| d.state == State::Pending).count(), 20);
    assert_eq!(devices.len(), 20, "no row for those that came after");
    assert_eq!(statuses[&202], 20);
    assert_eq!(statuses[&202] + statuses[&410] + statuses[&429], 1000, "{statuses:?}");
    assert!(statuses[&429] > 900, "the ticket's bucket is empty: {statuses:?}");
    assert!((1..20).contains(&end.count("alarm")), "told, and not a thousand times");
}

#[test]
fn a_ticket_that_was_used_lets_nobody_else_in() {
    let fleet = Fleet::of_seed(1);
    let end = End::new(&fleet);
    let bundle = fleet.own_bundle("a", "SN1");
    let mut real = Box::new("real", &fleet, &bundle, hardware("SN1"));
    real.join(&mut end.send()).unwrap();
    for n in 0..50 {
        let status = Box::new(&format!("t{n}"), &fleet, &bundle, hardware("SN1")).claim(&mut end.send()).0;
        assert!([409, 429].contains(&status), "{status}");
    }
    assert!(end.devices().len() <= 9, "a stolen ticket cannot fill the disk");
    assert_eq!(end.device(&real).state, State::Joined);
}

#[test]
fn a_revoked_box_stays_revoked_whatever_it_brings() {
    let fleet = Fleet::of_seed(1);
    let end = End::new(&fleet);
    let mut stolen = Box::new("stolen", &fleet, &fleet.own_bundle("a", "SN1"), hardware("SN1"));
    stolen.join(&mut end.send()).unwrap();
    end.operate(operator::Order::Revoke { device: stolen.id(), reason: "stolen".into() }).unwrap();
    let envelope_before = stolen.grant(&mut end.send());
    assert_eq!(envelope_before, Err(403));
    for call in ["grant", "ack", "events"] {
        let status =
            stolen.call(&mut end.send(), "POST", &path(&stolen.id(), call), Some(b"{}".to_vec())).status;
        assert!([403, 422].contains(&status), "{call}: {status}");
    }
    assert_eq!(stolen.ask(&mut end.send()).0, 403);
    assert_eq!(stolen.claim(&mut end.send()).0, 403);
    // With a batch's ticket, which is valid; with a window open; and with a new key on the same hardware.
    end.operate(operator::Order::Window { minutes: 30, boxes: 10, batch: None }).unwrap();
    stolen.bundle = fleet.bundle("spring", Mode::Batch, 100, |_| {});
    assert_eq!(stolen.claim(&mut end.send()).0, 403);
    let mut wiped = Box::new("wiped", &fleet, &stolen.bundle, hardware("SN1"));
    assert_eq!(wiped.claim(&mut end.send()).0, 403);
    let mut other = Box::new("other", &fleet, &stolen.bundle, hardware("SN2"));
    assert_eq!(other.claim(&mut end.send()).0, 201, "the batch itself is well");
    assert!(end.operate(operator::Order::Approve { device: stolen.id() }).is_err());
}

#[test]
fn a_copied_disk_and_an_old_one_are_held_back() {
    let fleet = Fleet::of_seed(1);
    let mut end = End::new(&fleet);
    let mut one = Box::new("one", &fleet, &fleet.own_bundle("a", "SN1"), hardware("SN1"));
    one.join(&mut end.send()).unwrap();
    // A second generation, then the disk of the first comes back.
    one.grant_nonce = forge::enroll::envelope::Nonce::from_random([5; 16]);
    let grant = one.grant(&mut end.send()).unwrap();
    assert_eq!(one.ack(&mut end.send(), &grant), 200);
    assert_eq!((one.generation, end.device(&one).acked), (2, 2));
    one.generation = 1;
    assert_eq!(one.grant(&mut end.send()), Err(409));
    assert_eq!(end.device(&one).state, State::Quarantined);
    assert!(end.device(&one).reason.contains("old disk"), "{}", end.device(&one).reason);
    one.generation = 2;
    end.operate(operator::Order::Approve { device: one.id() }).unwrap();
    end.now = Epoch(START.0 + 60);
    assert_eq!(one.claim(&mut end.send()).0, 200);
    // The same key in another box.
    one.facts = hardware("SN2");
    assert_eq!(one.claim(&mut end.send()).0, 409);
    assert_eq!(end.device(&one).state, State::Quarantined);
    assert!(end.count("alarm") >= 2);
}

#[test]
fn boards_with_one_uuid_are_several_boxes() {
    let fleet = Fleet::of_seed(1);
    let end = End::new(&fleet);
    let bundle = fleet.bundle("spring", Mode::Batch, 10, |_| {});
    end.operate(operator::Order::Window { minutes: 30, boxes: 10, batch: None }).unwrap();
    let mut names = BTreeSet::new();
    for n in 0..3 {
        let facts = Facts {
            serial: Some("Default string".into()),
            smbios_uuid: Some("03000200-0400-0500-0006-000700080009".into()),
            ..Facts::default()
        };
        names.insert(Box::new(&format!("b{n}"), &fleet, &bundle, facts).join(&mut end.send()).unwrap());
    }
    assert_eq!(names.len(), 3);
    assert_eq!(end.devices().iter().filter(|d| d.state == State::Joined).count(), 3);
}

#[test]
fn a_denied_box_is_let_in_when_the_operator_changes_his_mind() {
    let fleet = Fleet::of_seed(1);
    let mut end = End::new(&fleet);
    let bundle = fleet.bundle("spring", Mode::Batch, 10, |_| {});
    let mut one = Box::new("one", &fleet, &bundle, hardware("SN1"));
    assert_eq!(one.claim(&mut end.send()).0, 202);
    end.operate(operator::Order::Deny { device: one.id(), reason: "not ours".into() }).unwrap();
    for minute in 0..60 {
        end.now = Epoch(START.0 + minute * 60);
        assert_eq!(one.ask(&mut end.send()).0, 403);
    }
    assert_eq!(one.claim(&mut end.send()).0, 403);
    let before = end.service.changes(0).unwrap().last;
    end.operate(operator::Order::Approve { device: one.id() }).unwrap();
    assert_eq!(end.service.changes(before).unwrap().devices, [one.id()], "who waits is woken");
    assert_eq!(one.ask(&mut end.send()), (200, Some(State::Approved)));
    assert!(one.join(&mut end.send()).unwrap().starts_with("box-"));
}

#[test]
fn an_unproved_endorsement_key_waits_for_a_person() {
    let fleet = Fleet::of_seed(1);
    let end = End::new(&fleet);
    let bundle = fleet.bundle("tpm", Mode::Device, 1, |document| {
        document.devices = vec![row("a", "SN1")];
        document.policy.require_tpm = true;
    });
    let mut one = Box::new("one", &fleet, &bundle, hardware("SN1"));
    one.facts.ek_sha256 = Some(forge::model::Digest::of("made in software"));
    let (status, standing) = one.claim(&mut end.send());
    assert_eq!((status, standing.unwrap().state), (202, State::Pending));
}

#[test]
fn a_bundle_that_is_foreign_old_withdrawn_or_for_others_admits_nobody() {
    let fleet = Fleet::of_seed(1);
    let foreign = Fleet::of_seed(50);
    let end = End::with(
        &fleet,
        Settings { min_bundle_serial: 7, min_agent: Some("0.1.0".into()), ..Settings::default() },
    );
    let claim = |bundle: &boxes::Bundle, name: &str| {
        let mut one = Box::new(name, &fleet, bundle, hardware("SN1"));
        one.claim(&mut end.send()).0
    };
    assert_eq!(claim(&foreign.own_bundle("f", "SN1"), "f"), 422);
    assert_eq!(claim(&fleet.bundle("o", Mode::Device, 1, |b| b.serial = 6), "o"), 422);
    assert_eq!(claim(&fleet.bundle("g", Mode::Device, 1, |b| b.fleet = "other".into()), "g"), 422);
    assert_eq!(claim(&fleet.own_bundle("n", "SN2"), "n"), 403, "another box, and the ticket is not spent");
    let mut right = Box::new("right", &fleet, &fleet.own_bundle("n", "SN2"), hardware("SN2"));
    assert_eq!(right.claim(&mut end.send()).0, 201);
    for (kind, id) in [("ticket", "t-w"), ("bundle", "b-x")] {
        end.operate(operator::Order::Bar { kind: kind.into(), id: id.into(), reason: "lost".into() })
            .unwrap();
    }
    assert_eq!(claim(&fleet.own_bundle("w", "SN1"), "w"), 410);
    assert_eq!(claim(&fleet.own_bundle("x", "SN1"), "x"), 410);
    let mut old = Box::new("old", &fleet, &fleet.own_bundle("y", "SN1"), hardware("SN1"));
    old.agent = "0.0.9".into();
    assert_eq!(old.claim(&mut end.send()).0, 426);
    // Without the ticket's signature, and with another ticket's.
    let mut bare = Box::new("bare", &fleet, &fleet.own_bundle("z", "SN1"), hardware("SN1"));
    bare.bundle.ticket_seed = None;
    assert_eq!(bare.claim(&mut end.send()).0, 422);
    bare.bundle.ticket_seed = Some([7; 32]);
    assert_eq!(bare.claim(&mut end.send()).0, 422);
    assert_eq!(end.devices().len(), 1);
}

#[test]
fn a_replaced_box_gives_its_name_away_and_nothing_else() {
    let fleet = Fleet::of_seed(1);
    let end = End::new(&fleet);
    let bundle = fleet.own_bundle("store-042", "SN1");
    let mut old = Box::new("old", &fleet, &bundle, hardware("SN1"));
    old.join(&mut end.send()).unwrap();
    // A new disk in the same box, for which the operator gave leave once.
    end.operate(operator::Order::Replace { old: old.id(), new: None }).unwrap();
    let mut new = Box::new("new disk", &fleet, &bundle, hardware("SN1"));
    assert_eq!(new.join(&mut end.send()).unwrap(), "store-042");
    assert_eq!((new.generation, old.claim(&mut end.send()).0), (2, 403));
    assert_eq!(Box::new("third", &fleet, &bundle, hardware("SN1")).claim(&mut end.send()).0, 409, "once");
    // Another box altogether, which waits with a batch's ticket.
    let mut spare =
        Box::new("spare", &fleet, &fleet.bundle("spares", Mode::Batch, 5, |_| {}), hardware("SN9"));
    assert_eq!(spare.claim(&mut end.send()).0, 202);
    end.operate(operator::Order::Replace { old: new.id(), new: Some(spare.id()) }).unwrap();
    assert_eq!(spare.join(&mut end.send()).unwrap(), "store-042");
    assert_eq!((spare.generation, new.ask(&mut end.send()).0), (3, 403));
    assert_sound(&end.devices());
}

#[test]
fn a_box_that_was_flashed_twice_comes_again_once_where_the_operator_wants_it() {
    let fleet = Fleet::of_seed(1);
    let bundle = fleet.own_bundle("store-042", "SN1");
    let settings = Settings { rebind_unacked: true, ..Settings::default() };
    for (settings, statuses) in [(settings, [201, 201, 409]), (Settings::default(), [201, 409, 409])] {
        let end = End::with(&fleet, settings);
        let claims = ["first flash", "second flash", "third"]
            .map(|name| Box::new(name, &fleet, &bundle, hardware("SN1")).claim(&mut end.send()).0);
        assert_eq!(claims, statuses);
        assert_sound(&end.devices());
    }
}

#[test]
fn a_bundle_without_a_ticket_lets_nobody_in_unproved() {
    let fleet = Fleet::of_seed(1);
    let end = End::new(&fleet);
    let bundle = fleet.bundle("known", Mode::IdentityOnly, 0, |b| b.devices = vec![row("a", "SN1")]);
    let statuses: Vec<u16> = (0..8)
        .map(|n| Box::new(&format!("{n}"), &fleet, &bundle, hardware("SN1")).claim(&mut end.send()).0)
        .collect();
    assert_eq!(statuses, [202, 202, 202, 202, 410, 410, 410, 410], "and few may wait");
    assert_eq!(Box::new("x", &fleet, &bundle, hardware("SN2")).claim(&mut end.send()).0, 403);
}

#[test]
fn two_rows_of_one_name_are_never_two_nodes() {
    let fleet = Fleet::of_seed(1);
    let end = End::new(&fleet);
    let mut one = Box::new("one", &fleet, &fleet.own_bundle("store-042", "SN1"), hardware("SN1"));
    let bundle = fleet.bundle("again", Mode::Device, 1, |b| b.devices = vec![row("Store 042", "SN2")]);
    let mut two = Box::new("two", &fleet, &bundle, hardware("SN2"));
    one.join(&mut end.send()).unwrap();
    let (status, standing) = two.claim(&mut end.send());
    assert_eq!(status, 202);
    assert!(standing.unwrap().reason.contains("store-042 is held by"), "says who has it");
    assert!(end.operate(operator::Order::Approve { device: two.id() }).is_err());
    assert_sound(&end.devices());
}

#[test]
fn events_are_taken_once() {
    let fleet = Fleet::of_seed(1);
    let end = End::new(&fleet);
    let mut one = Box::new("one", &fleet, &fleet.own_bundle("a", "SN1"), hardware("SN1"));
    one.claim(&mut end.send());
    let send = |one: &mut Box, from: u64, to: u64| {
        let events: Vec<_> = (from..to)
            .map(|seq| serde_json::json!({ "seq": seq, "at": 5, "kind": "config-error", "code": "E-NET-03", "detail": "a\u{7}b" }))
            .collect();
        let payload = serde_json::to_vec(&serde_json::json!({ "events": events })).unwrap();
        let path = path(&one.id(), "events");
        one.call(&mut end.send(), "POST", &path, Some(payload)).status
    };
    assert_eq!((send(&mut one, 0, 3), send(&mut one, 1, 5)), (200, 200));
    assert_eq!(send(&mut one, 0, MAX_EVENTS as u64 + 1), 422);
    let shown = operator::show(end.service.store(), one.id().as_str()).unwrap();
    assert_eq!(shown.events.iter().map(|e| e.seq).collect::<Vec<_>>(), [4, 3, 2, 1, 0]);
    assert_eq!(shown.events[0].detail, "a b");
}

#[test]
fn a_crash_at_any_commit_and_an_older_database_never_double() {
    let fleet = Fleet::of_seed(1);
    let bundles: Vec<_> = (0..4).map(|n| fleet.own_bundle(&format!("s{n}"), &format!("SN{n}"))).collect();
    let fresh = || -> Vec<Box> {
        (0..4).map(|n| Box::new(&format!("{n}"), &fleet, &bundles[n], hardware(&format!("SN{n}")))).collect()
    };
    let dir = tempfile::tempdir().unwrap();
    let mut sweeps = 0;
    // The request at which the endpoint dies, before its commit or after it; then an older copy, or none, takes over.
    for cut in 0..18 {
        for (after, restored) in [(false, false), (true, false), (false, true), (true, true)] {
            sweeps += 1;
            let path = dir.path().join(format!("{cut}-{after}-{restored}.db"));
            let copy = dir.path().join(format!("{cut}-{after}-{restored}.old.db"));
            let mut store = Arc::new(Store::open(&path).unwrap());
            let mut end = End { service: service(&fleet, store.clone(), Settings::default()), now: START };
            let mut boxes = fresh();
            let mut requests = 0;
            for (turn, one) in boxes.iter_mut().enumerate() {
                if turn == 1 && restored {
                    store.copy_to(&copy).unwrap();
                }
                // A box that gets no answer stops here, as if its power had gone with the endpoint's.
                let joined = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    one.join(&mut |request| {
                        requests += 1;
                        if requests - 1 == cut && !after {
                            std::panic::resume_unwind(std::boxed::Box::new("cut before the commit"));
                        }
                        let response = end.service.handle(request, end.now);
                        if requests - 1 == cut {
                            std::panic::resume_unwind(std::boxed::Box::new("cut after the commit"));
                        }
                        response
                    })
                }));
                if joined.is_err() {
                    drop(end);
                    drop(store);
                    let at = if restored && copy.exists() { &copy } else { &path };
                    store = Arc::new(Store::open(at).unwrap());
                    end = End { service: service(&fleet, store.clone(), Settings::default()), now: START };
                }
            }
            // Everybody goes on from what it has: claims again, as a box does at every start.
            let mut names = BTreeSet::new();
            for one in &mut boxes {
                let (status, standing) = one.claim(&mut end.send());
                let held = end.device(one).state == State::Quarantined;
                assert!(held || [200, 201].contains(&status), "cut {cut}: {status} {standing:?}");
                let name = if held { continue } else { one.join(&mut end.send()).unwrap() };
                assert!(names.insert(name), "a name twice");
            }
            assert_eq!(names.len(), 4, "cut {cut} after {after} restored {restored}");
            assert_sound(&end.devices());
            assert_eq!(end.devices().len(), 4);
        }
    }
    assert_eq!(sweeps, 72);
}

#[test]
fn malformed_bodies_are_answered_and_never_a_panic() {
    let fleet = Fleet::of_seed(1);
    let end = End::new(&fleet);
    let mut one = Box::new("one", &fleet, &fleet.own_bundle("a", "SN1"), hardware("SN1"));
    one.claim(&mut end.send());
    let good = one.claim_payload();
    let body = one.signed("POST", "/v1/enroll", &good);
    let id = one.id();
    let mut seed = 1u64;
    let mut random = move || {
        // xorshift64: the same bodies every time.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let paths = [
        "/v1/enroll".into(),
        "/v1/reenroll".into(),
        path(&id, "grant"),
        path(&id, "ack"),
        path(&id, "events"),
        path(&id, "x"),
        "/v1/enroll/".into(),
        "/v1/enroll//grant".into(),
        "/".into(),
        String::new(),
    ];
    for n in 0..4000 {
        let path = &paths[random() as usize % paths.len()];
        let mut payload = good.clone();
        for _ in 0..=random() % 4 {
            let at = random() as usize % payload.len();
            match random() % 3 {
                0 => payload[at] = random() as u8,
                1 => payload.truncate(at.max(1)),
                _ => payload.insert(at, b"{}[]\",:0"[random() as usize % 8]),
            }
        }
        // Signed nonsense goes deep; unsigned nonsense stops early.
        let body = match n % 3 {
            0 => one.signed("POST", path, &payload),
            1 => payload,
            _ => {
                let mut body = body.clone();
                let at = random() as usize % body.len();
                body[at] ^= 1 << (random() % 8);
                body
            }
        };
        let request = Request {
            method: "POST".into(),
            path: path.clone(),
            query: format!("nonce={:016x}", random()),
            body,
        };
        let response = end.service.handle(&request, end.now);
        assert!((200..=503).contains(&response.status));
        assert_eq!(response.trouble, None, "{path}: {}", response.status);
    }
    let deep = Request {
        method: "POST".into(),
        path: "/v1/enroll".into(),
        query: "nonce=0123456789abcdef".into(),
        body: [vec![b'['; 1 << 20], vec![]].concat(),
    };
    assert_eq!(end.service.handle(&deep, end.now).status, 422);
    let large = Request { body: vec![b'x'; (1 << 20) + 1], ..deep };
    assert_eq!(end.service.handle(&large, end.now).status, 413);
    assert_eq!(end.devices().len(), 1);
}
