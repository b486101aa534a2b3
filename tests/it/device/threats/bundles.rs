//! Threats 5, 6, 7 and 32: bundles that are changed, old, for others, or of the next roots.

use super::*;
use crate::fleet::boxes::{Bundle, Fleet, row};
use forge::device::artefact::BUNDLES;
use forge::enroll::bootstrap::{Bootstrap, Mode, TrustNext};
use forge::enroll::bundle;
use forge::fleet::Settings;
use forge::model::Digest;
use zeroize::Zeroizing;

fn refuses(sim: SimBox, code: Code, what: &str) {
    let (sim, found) = first_code(sim, HOUR);
    assert_eq!(found, Some(code), "{what}: {:?}", sim.last_view);
    assert_eq!((sim.calls, sim.last_view.as_ref().unwrap().state), (0, State::Fresh), "{what}");
    assert!(sim.disk.list(Path::new(BUNDLES)).is_empty(), "{what}: nothing of it is kept");
}

#[test]
fn threat_05_a_flipped_bit_anywhere_fails_closed() {
    let (fleet, _) = one_box();
    let good = files(&fleet.keys.own_bundle("store-042", "S1"));
    let length = good[bundle::BOOTSTRAP].len();
    let mut refused = 0;
    for bit in (0..length * 8).step_by(3) {
        let mut bad = good.clone();
        bad.get_mut(bundle::BOOTSTRAP).unwrap()[bit / 8] ^= 1 << (bit % 8);
        let (fleet, _) = one_box();
        let sim = SimBox::new(&fleet, "S1", Some(bad));
        let (sim, code) = first_code(sim, Duration::from_secs(1));
        match code {
            // The envelope's key id is a hint, and nothing is behind it.
            None => assert!(sim.calls > 0),
            Some(code) => {
                assert!([Code::BundleForeign, Code::BundleUnreadable].contains(&code), "bit {bit}: {code}");
                assert_eq!(sim.calls, 0, "bit {bit}");
                refused += 1;
            }
        }
    }
    assert!(refused > length * 8 / 3 * 9 / 10, "{refused} of {}", length * 8 / 3);
    println!("threat 5: {refused} flipped bits refused");
}

#[test]
fn threat_05_cut_short_a_swapped_ticket_and_extra_files() {
    let (fleet, _) = one_box();
    let good = files(&fleet.keys.own_bundle("store-042", "S1"));
    let other = files(&fleet.keys.own_bundle("store-043", "S2"));
    let with = |name: &str, bytes: Option<Vec<u8>>| {
        let mut files = good.clone();
        match bytes {
            Some(bytes) => files.insert(name.into(), Zeroizing::new(bytes)),
            None => files.remove(name),
        };
        let (fleet, _) = one_box();
        SimBox::new(&fleet, "S1", Some(files))
    };
    let half = good[bundle::BOOTSTRAP][..500].to_vec();
    refuses(with(bundle::BOOTSTRAP, Some(half)), Code::BundleUnreadable, "cut short");
    refuses(with(bundle::BOOTSTRAP, Some(vec![])), Code::BundleUnreadable, "empty");
    refuses(with(bundle::BOOTSTRAP, None), Code::NoBundle, "none");
    refuses(
        with(bundle::BOOTSTRAP, Some(vec![b'x'; 2 << 20])),
        Code::NoBundle,
        "too large to be read at all",
    );
    refuses(with(bundle::TICKET, None), Code::BundleNoTicket, "no ticket");
    let swapped = other[bundle::TICKET].to_vec();
    refuses(with(bundle::TICKET, Some(swapped)), Code::BundleNoTicket, "another bundle's ticket");
    join(with("autorun.inf", Some(b"[autorun]".to_vec())));
    join(with("../../etc/passwd", Some(b"root::0:0".to_vec())));
}

#[test]
fn threat_06_an_older_bundle_is_refused() {
    let (fleet, _) = one_box();
    let bundle_of = |serial: u64| {
        let change = |b: &mut Bootstrap| (b.serial, b.devices) = (serial, vec![row("store-042", "S1")]);
        fleet.keys.bundle(&format!("serial-{serial}"), Mode::Device, 1, change)
    };
    let (new, old) = (bundle_of(8), bundle_of(7));
    // On a stick beside the new one in use: not looked at further.
    let mut sim = SimBox::new(&fleet, "S1", Some(files(&new)));
    sim.plug = Some((Duration::ZERO, stick(&old)));
    let sim = join(sim);
    assert_eq!(fleet.only().serial, 8);
    // In the place of the new one, which is lost: the floor is kept apart from it.
    let mut sim = sim;
    for name in sim.disk.list(Path::new(BUNDLES)) {
        sim.disk.remove(&Path::new(BUNDLES).join(name)).unwrap();
    }
    sim.restart();
    sim.carriers = vec![stick(&old)];
    let (sim, code) = first_code(sim, HOUR);
    assert_eq!(code, Some(Code::BundleRolledBack));
    // The same serial again is no older one.
    let mut sim = sim;
    sim.carriers = vec![stick(&new)];
    join(sim);
}

#[test]
fn threat_06_a_bundle_below_the_fleets_least_serial() {
    let fleet = SimFleet::new(Settings { min_bundle_serial: 9, ..Settings::default() });
    let sim = SimBox::new(&fleet, "S1", Some(files(&fleet.keys.own_bundle("store-042", "S1"))));
    let (mut sim, code) = first_code(sim, HOUR);
    assert_eq!(code, Some(Code::BundleRolledBack));
    assert!(fleet.devices().is_empty(), "it claimed nothing");
    // A newer one on a stick is taken at once, within the hour of the refusal.
    let newer = fleet
        .keys
        .bundle("newer", Mode::Device, 1, |b| (b.serial, b.devices) = (9, vec![row("store-042", "S1")]));
    let plugged = sim.time + Duration::from_secs(60);
    sim.plug = Some((plugged, stick(&newer)));
    let (sim, end) = run(sim, HOUR, |_, step| matches!(step, Step::Wait(p) if p.code.is_none()));
    assert_eq!(end, End::Reached);
    assert!(sim.time < plugged + Duration::from_secs(60));
    assert_eq!(fleet.only().serial, 9);
}

#[test]
fn threat_07_a_bundle_for_another_fleet_image_or_box() {
    let (fleet, _) = one_box();
    let bundle = |change: fn(&mut Bootstrap)| fleet.keys.bundle("b", Mode::Device, 1, change);
    let foreign = Fleet::of_seed(40).own_bundle("store-042", "S1");
    let mut half = fleet.image();
    half.trust.roots.push(Fleet::of_seed(40).root_key());
    half.trust.threshold = 2;
    let cases: Vec<(&str, Bundle, Code)> = vec![
        ("another fleet's root", foreign, Code::BundleForeign),
        ("another profile", bundle(|b| b.image.profile = "warehouse".into()), Code::BundleOtherImage),
        (
            "another root hash",
            bundle(|b| b.image.root_hashes = vec![Digest::of("x")]),
            Code::BundleOtherImage,
        ),
        ("another box", bundle(|b| b.devices = vec![row("store-043", "S2")]), Code::BundleOtherDevice),
        ("a TPM is asked for", bundle(|b| b.policy.require_tpm = true), Code::NoMatch),
    ];
    for (what, bundle, code) in &cases {
        refuses(SimBox::new(&fleet, "S1", Some(files(bundle))), *code, what);
    }
    let mut sim = SimBox::new(&fleet, "S1", Some(files(&fleet.keys.own_bundle("store-042", "S1"))));
    sim.image = half;
    refuses(sim, Code::BundleForeign, "one root of two signed");
    // The right one on a stick beside all the wrong ones.
    let mut sim = SimBox::new(&fleet, "S1", None);
    sim.carriers = cases.iter().map(|(_, bundle, _)| stick(bundle)).collect();
    sim.carriers.push(stick(&fleet.keys.own_bundle("store-042", "S1")));
    assert_joined_once(&fleet, &join(sim));
}

#[test]
fn threat_32_roots_are_handed_on_and_the_old_ones_are_done_with() {
    let (fleet, _) = one_box();
    let next = Fleet::of_seed(60);
    let document = |serial: u64, next: Option<TrustNext>| {
        move |b: &mut Bootstrap| {
            (b.serial, b.devices, b.trust_next) = (serial, vec![row("store-042", "S1")], next);
        }
    };
    let named = TrustNext { roots: vec![next.root_key()], threshold: 1 };
    let first = fleet.keys.bundle("one", Mode::Device, 1, document(7, Some(named)));
    let answers = fleet.keys.bundle("keys", Mode::Device, 1, |_| {});
    let grant_keys = serde_json::from_slice::<serde_json::Value>(
        &forge::sign::dsse::open(&answers.envelope, &fleet.keys.root_key()).unwrap().into_inner(),
    )
    .unwrap()["signers"]
        .clone();
    let second = next.bundle("two", Mode::Device, 1, |b| {
        document(8, None)(b);
        b.signers = serde_json::from_value(grant_keys).unwrap();
    });
    let third = fleet.keys.bundle("three", Mode::Device, 1, document(9, None));
    // Straight to the second: the image knows nothing of those roots.
    refuses(SimBox::new(&fleet, "S1", Some(files(&second))), Code::BundleForeign, "no hand-over");
    let sim = join(SimBox::new(&fleet, "S1", Some(files(&first))));
    let verified = |sim: &SimBox| {
        let bytes =
            sim.disk.read(Path::new("/var/lib/forge/enroll/bundle/VERIFIED"), 1 << 20).unwrap().unwrap();
        String::from_utf8(bytes).unwrap()
    };
    assert!(verified(&sim).contains("\"serial\":7"));
    for (bundle, serial) in [(&third, 7), (&second, 8), (&third, 8)] {
        let mut again = SimBox::new(&fleet, "S1", None);
        again.carriers = vec![stick(bundle)];
        again.disk = sim.disk.clone();
        if serial == 8 {
            // Over a restart each, for the hand-over has to last.
            again.carriers = vec![stick(&second)];
            let (back, _) = codes_within(again, HOUR);
            again = back;
            again.restart();
            again.carriers = vec![stick(bundle)];
        }
        let (again, _) = codes_within(again, HOUR);
        assert!(verified(&again).contains(&format!("\"serial\":{serial}")), "{}", verified(&again));
    }
}
