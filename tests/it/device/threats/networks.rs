//! Threats 2, 15, 19 and 34: answers that are lost, somebody else's, from the second endpoint, or without end.

use super::*;
use crate::fleet::boxes::row;
use forge::enroll::bootstrap::{Endpoint, Mode};
use forge::model::Digest;

#[test]
fn threat_02_lost_answers_cost_nothing() {
    let (fleet, sim) = one_box();
    let calls = join(sim).calls;
    assert_eq!(fleet.only().generation, 1);
    let mut runs = 0;
    for lost in [Fate::AnswerLost, Fate::RequestLost] {
        for n in 0..calls {
            let (fleet, mut sim) = one_box();
            let fate = lost.clone();
            sim.weather = Box::new(move |call, _| if call == n { fate.clone() } else { Fate::Through });
            let sim = join(sim);
            assert_joined_once(&fleet, &sim);
            assert_eq!(fleet.count("SELECT count(*) FROM granted"), 1, "call {n}: one grant");
            runs += 1;
        }
        for k in 2..6 {
            let (fleet, mut sim) = one_box();
            let fate = lost.clone();
            sim.weather =
                Box::new(move |call, _| if call % k == k - 1 { fate.clone() } else { Fate::Through });
            let sim = join(sim);
            assert_joined_once(&fleet, &sim);
            assert_eq!(fleet.count("SELECT count(*) FROM granted"), 1, "every {k}th");
            runs += 1;
        }
    }
    // A link that loses three of four calls, one way or the other.
    for seed in 0..40 {
        let (fleet, mut sim) = one_box();
        let mut dice = Dice(seed);
        sim.weather = Box::new(move |_, _| match dice.below(8) {
            0 | 1 => Fate::Through,
            2..5 => Fate::AnswerLost,
            _ => Fate::RequestLost,
        });
        let sim = join(sim);
        assert_joined_once(&fleet, &sim);
        assert_eq!(fleet.count("SELECT count(*) FROM granted"), 1, "seed {seed}");
        assert_never_spun(&sim);
        runs += 1;
    }
    println!("threat 2: {runs} runs with lost requests and answers");
}

#[test]
fn threat_15_a_captive_portal() {
    let page = b"<html><title>Welcome</title></html>".to_vec();
    for (what, fate, code) in [
        ("a page", Fate::Answered(200, page.clone()), Code::Portal),
        ("a redirect", Fate::Answered(302, vec![]), Code::Portal),
        ("a login", Fate::Answered(511, page.clone()), Code::Portal),
        ("a proxy's page", Fate::Answered(503, page.clone()), Code::Portal),
        ("JSON of something else", Fate::Answered(200, b"{\"ok\":true}".to_vec()), Code::Portal),
        ("no TLS", Fate::Fails(NetError::Portal("it does not speak TLS".into())), Code::Portal),
        (
            "self-signed",
            Fate::Fails(NetError::ForeignCertificate("self-signed".into())),
            Code::ForeignCertificate,
        ),
    ] {
        // From the beginning, and from the middle of the way.
        for from in [0, 1, 2, 3] {
            let (fleet, mut sim) = one_box();
            let stuck = fate.clone();
            sim.weather = Box::new(move |call, _| if call >= from { stuck.clone() } else { Fate::Through });
            let (mut sim, codes) = codes_within(sim, 3 * HOUR);
            assert_eq!(codes, [code], "{what} from call {from}");
            let state = sim.last_view.as_ref().unwrap().state;
            assert!(state < State::Acked, "{what} from call {from}: {state:?}");
            assert_never_spun(&sim);
            assert!(sim.calls < 120, "{what}: {} calls in three hours", sim.calls);
            // The portal lets it through in the end: it goes on by itself.
            sim.weather = Box::new(|_, _| Fate::Through);
            assert_joined_once(&fleet, &join(sim));
        }
    }
}

#[test]
fn threat_16_an_answer_changed_by_a_byte_is_refused() {
    let (_, sim) = one_box();
    let calls = join(sim).calls;
    for n in 0..calls {
        for at in [0, 17, 100, 333, 700, 1001] {
            let (fleet, mut sim) = one_box();
            sim.weather = Box::new(move |call, _| if call == n { Fate::Tampered(at) } else { Fate::Through });
            let sim = join(sim);
            assert_joined_once(&fleet, &sim);
            assert_eq!(fleet.count("SELECT count(*) FROM granted"), 1, "call {n}, byte {at}");
        }
    }
}

#[test]
fn threat_19_the_first_endpoint_is_dead() {
    let fleet = SimFleet::new(Default::default());
    let bundle = fleet.keys.bundle("two", Mode::Device, 1, |b| {
        b.devices = vec![row("store-042", "S1")];
        let second = Endpoint {
            url: "https://192.0.2.7:8443".into(),
            spki_sha256: vec![Digest::of("key")],
            ca_pem: None,
            priority: 1,
        };
        b.endpoints.push(second);
    });
    let dead = |url: &'static str, error: NetError, except_hello: bool| {
        let weather: sim::Weather = Box::new(move |_, call| {
            let spared = except_hello && call.target.starts_with("/v1/hello");
            if call.endpoint.url.contains(url) && !spared {
                Fate::Fails(error.clone())
            } else {
                Fate::Through
            }
        });
        weather
    };
    for error in [
        NetError::NameUnknown("no such name".into()),
        NetError::Unreachable("refused".into()),
        NetError::TimedOut("nothing".into()),
        NetError::Portal("a page".into()),
        NetError::ForeignCertificate("another key".into()),
        NetError::Proxy("407".into()),
    ] {
        for (url, except_hello) in [("fleet.example", false), ("192.0.2.7", false), ("fleet.example", true)] {
            let fleet = SimFleet::new(Default::default());
            let mut sim = SimBox::new(&fleet, "S1", Some(files(&bundle)));
            sim.weather = dead(url, error.clone(), except_hello);
            assert_joined_once(&fleet, &join(sim));
        }
        // Both dead: what is shown is what got furthest.
        let mut sim = SimBox::new(&fleet, "S1", Some(files(&bundle)));
        let (one, code) = (error.clone(), error.code());
        sim.weather = Box::new(move |_, call| {
            let name = call.endpoint.url.contains("fleet.example");
            Fate::Fails(if name { one.clone() } else { NetError::Unreachable("refused".into()) })
        });
        let expected = if error.depth() < 3 { Code::Unreachable } else { code };
        assert_eq!(codes_within(sim, HOUR).1, [expected], "{error:?}");
    }
}

#[test]
fn no_cable_and_no_address_are_told_apart_and_a_cable_ends_the_wait() {
    let (fleet, mut sim) = one_box();
    let link = sim.links[0].clone();
    sim.weather = Box::new(|_, _| Fate::Fails(NetError::Unreachable("network is unreachable".into())));
    sim.links[0].carrier = false;
    let (mut sim, codes) = codes_within(sim, HOUR);
    assert_eq!(codes, [Code::NoLink]);
    (sim.links[0].carrier, sim.links[0].addresses) = (true, vec![]);
    let (mut sim, codes) = codes_within(sim, HOUR);
    assert_eq!(codes, [Code::NoAddress]);
    sim.links = vec![link];
    let (mut sim, codes) = codes_within(sim, HOUR);
    assert_eq!(codes, [Code::Unreachable]);
    sim.weather = Box::new(|_, _| Fate::Through);
    assert_joined_once(&fleet, &join(sim));
}

#[test]
fn threat_34_answers_without_end_and_nonsense() {
    let deep = [vec![b'['; 500_000], vec![b']'; 500_000]].concat();
    let by = format!("{{\"key\":\"{}\",\"sig\":\"x\"}},", "A".repeat(43) + "=");
    let many =
        format!("{{\"payload\":\"\",\"nonce\":\"0123456789abcdef\",\"signatures\":[{}]}}", by.repeat(9));
    for (what, fate) in [
        ("more than a mebibyte", Fate::Answered(200, vec![b' '; (1 << 20) + 1])),
        ("deep", Fate::Answered(200, deep)),
        ("many signatures", Fate::Answered(200, many.into_bytes())),
        ("empty", Fate::Answered(200, vec![])),
        ("no text", Fate::Answered(200, vec![0xff; 4096])),
    ] {
        let (fleet, mut sim) = one_box();
        sim.weather = Box::new(move |call, _| if call < 20 { fate.clone() } else { Fate::Through });
        let (sim, code) = first_code(sim, HOUR);
        assert_eq!(code, Some(Code::Portal), "{what}");
        assert_joined_once(&fleet, &join(sim));
    }
    let (_, mut sim) = one_box();
    sim.weather = Box::new(|_, call| {
        assert!(call.patience <= Duration::from_secs(120), "every call has an end");
        Fate::Fails(NetError::TimedOut("a byte a minute".into()))
    });
    assert_eq!(codes_within(sim, HOUR).1, [Code::Unreachable]);
}
