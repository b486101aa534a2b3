//! Threats 29 and 30: TPMs that are cleared, changed, silent, or made by nobody whom the fleet knows. The chips are
//! software TPMs, so the keys and the proofs are real.

use super::*;
use crate::tpm::Simulator;
use forge::enroll::bootstrap::Mode;
use forge::enroll::policy::Endorsement;
use forge::fleet::makers::Makers;
use forge::fleet::{Store, operator::Order};
use forge::tpm;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, PublicKeyData,
};
use std::sync::Arc;

/// A maker of TPMs.
struct Maker {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Maker {
    fn new(name: &str) -> Maker {
        let key = KeyPair::generate().unwrap();
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Maker { issuer: Issuer::new(params, key), pem }
    }

    fn makers(&self) -> Makers {
        let mut makers = Makers::default();
        makers.add(self.pem.as_bytes()).unwrap();
        makers
    }

    /// What it burns into the chip with that key.
    fn certificate(&self, ek_public: &[u8]) -> Vec<u8> {
        let key = Rsa::of(&tpm::endorsement_modulus(ek_public).unwrap());
        named("").signed_by(&key, &self.issuer).unwrap().der().to_vec()
    }
}

/// RSAPublicKey (RFC 8017, A.1.1) of a chip's key.
struct Rsa(Vec<u8>);

impl Rsa {
    fn of(modulus: &[u8; 256]) -> Rsa {
        let head = [0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00];
        Rsa([&head[..], modulus, &[0x02, 0x03, 0x01, 0x00, 0x01]].concat())
    }
}

impl PublicKeyData for Rsa {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

fn believing(makers: Makers) -> Rc<SimFleet> {
    let store = Arc::new(Store::in_memory().unwrap());
    SimFleet::believing(Default::default(), store, Box::new(sim::fleet::Tokens), makers)
}

/// A box of a batch with that chip.
fn with_chip(fleet: &Rc<SimFleet>, serial: &str, chip: &Simulator) -> SimBox {
    let batch = fleet.keys.bundle("batch", Mode::Batch, 8, |_| {});
    let mut sim = SimBox::new(fleet, serial, Some(files(&batch)));
    (sim.tpm, sim.chip) = (Some(1), Some(chip.connect()));
    sim
}

fn ek_of(chip: &Simulator) -> Vec<u8> {
    let mut tpm = chip.connect();
    let ek = tpm.endorsement_key().unwrap();
    let public = ek.public().to_vec();
    tpm.flush(ek).unwrap();
    public
}

#[test]
fn threat_30_a_tpm_of_no_known_maker_waits_for_a_person_and_one_of_a_known_maker_does_not() {
    let Some(chip) = Simulator::start() else { return };
    let ek = ek_of(&chip);
    let (maker, forger) = (Maker::new("A Maker"), Maker::new("A Maker"));
    let others = Maker::new("B Maker").certificate(&ek);
    let other_key = {
        let mut public = ek.clone();
        let last = public.len() - 1;
        public[last] ^= 2;
        maker.certificate(&public)
    };
    for (what, certificate) in [
        ("none", None),
        ("another maker's", Some(others)),
        ("signed by one of the same name", Some(forger.certificate(&ek))),
        ("of another key", Some(other_key)),
        ("no certificate", Some(b"burnt".to_vec())),
    ] {
        let fleet = believing(maker.makers());
        let mut sim = with_chip(&fleet, "S1", &chip);
        sim.certificate = certificate;
        let (sim, codes) = codes_within(sim, HOUR);
        let device = fleet.only();
        assert_eq!(
            (device.state, device.endorsement),
            (claim::State::Pending, Endorsement::Proved),
            "{what}"
        );
        assert_eq!((codes, device.ek), (vec![Code::AwaitsApproval], Some(tpm::digest(&ek))), "{what}");
        assert!(device.reason.contains("its maker is not known"), "{what}: {}", device.reason);
        fleet.order(Order::Approve { device: device.id.clone() });
        let sim = join(sim);
        assert_placed(&sim, device.id.as_str());
    }

    let fleet = believing(maker.makers());
    let mut sim = with_chip(&fleet, "S1", &chip);
    // As a TPM's storage has it: what is behind the certificate is not its.
    sim.certificate = Some([maker.certificate(&ek), vec![0xff; 40]].concat());
    let (sim, end) = run(sim, HOUR, finished);
    assert_eq!(end, End::Reached, "{:?}", sim.last_view);
    let device = fleet.only();
    assert_eq!((device.state, device.endorsement), (claim::State::Joined, Endorsement::Known));
}

#[test]
fn threat_30_a_key_on_the_bundles_list_counts_once_it_is_proved() {
    let (Some(chip), Some(other)) = (Simulator::start(), Simulator::start()) else { return };
    let ek = tpm::digest(&ek_of(&chip));
    let listed = |fleet: &Rc<SimFleet>| {
        let bundle = fleet.keys.bundle("list", Mode::IdentityOnly, 1, |document| {
            let mut row = crate::fleet::boxes::row("store-042", "");
            (row.r#match.serial, row.r#match.ek_sha256) = (None, Some(ek));
            document.devices = vec![row];
        });
        SimBox::new(fleet, "S1", Some(files(&bundle)))
    };
    let fleet = believing(Makers::default());
    let mut sim = listed(&fleet);
    (sim.tpm, sim.chip) = (Some(1), Some(chip.connect()));
    join(sim);
    let device = fleet.only();
    assert_eq!((device.endorsement, device.points), (Endorsement::Known, 100));
    assert_eq!((device.state, device.node.as_deref()), (claim::State::Joined, Some("store-042")));

    // Who says that it has the key and cannot prove it waits; who has another is another box.
    let fleet = believing(Makers::default());
    let mut liar = listed(&fleet);
    liar.facts.ek_sha256 = Some(ek);
    codes_within(liar, HOUR);
    assert_eq!((fleet.only().state, fleet.only().points), (claim::State::Pending, 0));
    let mut foreign = listed(&fleet);
    (foreign.tpm, foreign.chip) = (Some(1), Some(other.connect()));
    assert_eq!(first_code(foreign, HOUR).1, Some(Code::BundleOtherDevice));
}

#[test]
fn threat_29_a_cleared_tpm_costs_the_key_and_not_the_name() {
    let (Some(chip), Some(new_chip)) = (Simulator::start(), Simulator::start()) else { return };
    let (fleet, mut sim) = one_box();
    let carton = sim.carriers.clone();
    (sim.tpm, sim.chip) = (Some(1), Some(chip.connect()));
    let sim = join(sim);
    let first = fleet.only();
    assert_eq!((first.state, first.endorsement), (claim::State::Joined, Endorsement::Proved));

    // The owner's seed is another: what was sealed is lost. The endorsement seed stays.
    let mut sim = sim;
    sim.tpm = Some(2);
    sim.carriers = carton.clone();
    sim.restart();
    let sim = join(sim);
    assert_never_spun(&sim);
    assert_eq!(sim.forgotten, 1, "made anew once");
    let stands = |id: &forge::enroll::DeviceId| fleet.devices().into_iter().find(|d| d.id == *id).unwrap();
    let old = stands(&first.id);
    let second = fleet.devices().into_iter().find(|d| d.id != first.id).unwrap();
    assert_eq!((old.state, old.node), (claim::State::Revoked, None));
    assert_eq!((second.state, second.node.as_deref()), (claim::State::Joined, Some("store-042")));
    assert!(second.generation > first.generation);
    assert_placed(&sim, second.id.as_str());

    // Another TPM altogether is another box with the same ticket: a person has to say, and nothing spins.
    let mut sim = sim;
    (sim.tpm, sim.chip) = (Some(3), Some(new_chip.connect()));
    sim.carriers = carton;
    (sim.calls, sim.waits) = (0, vec![]);
    sim.restart();
    let (sim, codes) = codes_within(sim, 30 * HOUR);
    assert_eq!(codes, [Code::Cloned, Code::TicketTaken]);
    assert_eq!(sim.forgotten, 2);
    assert!(sim.calls < 200, "{} calls in 30 hours", sim.calls);
    assert_never_spun(&sim);
    assert_eq!(stands(&second.id).state, claim::State::Joined, "the one before keeps its place");
}

#[test]
fn threat_29_a_silent_tpm_keeps_no_box_out_that_needs_none() {
    let (fleet, mut sim) = one_box();
    sim.tpm = Some(1); // and no chip behind it
    let sim = join(sim);
    assert_joined_once(&fleet, &sim);
    assert_eq!(fleet.only().endorsement, Endorsement::None);
    assert!(sim.time < HOUR, "{:?}", sim.time);
}

#[test]
fn threat_02_a_proof_whose_answers_are_lost_is_made_once() {
    let Some(chip) = Simulator::start() else { return };
    let maker = Maker::new("A Maker");
    let certificate = maker.certificate(&ek_of(&chip));
    let sim = |fleet: &Rc<SimFleet>| {
        let mut sim = with_chip(fleet, "S1", &chip);
        sim.certificate = Some(certificate.clone());
        sim
    };
    let fleet = believing(maker.makers());
    let calls = join(sim(&fleet)).calls;
    for lost in [Fate::AnswerLost, Fate::RequestLost] {
        for n in 0..calls {
            let fleet = believing(maker.makers());
            let mut sim = sim(&fleet);
            let fate = lost.clone();
            sim.weather = Box::new(move |call, _| if call == n { fate.clone() } else { Fate::Through });
            let sim = join(sim);
            let device = fleet.only();
            assert_eq!((device.state, device.generation), (claim::State::Joined, 1), "call {n}");
            assert_eq!(device.endorsement, Endorsement::Known, "call {n}");
            assert_placed(&sim, device.id.as_str());
            let proofs = "SELECT count(*) FROM audit WHERE action = 'proved'";
            assert_eq!(fleet.count(proofs), 1, "call {n}");
        }
    }
}

#[test]
fn threat_01_the_power_goes_anywhere_on_the_way_of_a_box_with_a_tpm() {
    let Some(chip) = Simulator::start() else { return };
    let maker = Maker::new("A Maker");
    let certificate = maker.certificate(&ek_of(&chip));
    let start = || {
        let fleet = believing(maker.makers());
        let mut sim = with_chip(&fleet, "S1", &chip);
        sim.certificate = Some(certificate.clone());
        (fleet, sim)
    };
    let length = join(start().1).ops;
    for cut in 0..length {
        let (fleet, mut sim) = start();
        sim.cut_at = Some(cut);
        let (mut sim, end) = run(sim, 200 * HOUR, finished);
        assert_eq!(end, End::Cut, "cut at {cut}");
        sim.cut_at = None;
        sim.reboot(Loss::ALL[(cut % 3) as usize], cut);
        let sim = join(sim);
        let device = fleet.only();
        assert_eq!(
            (device.state, device.endorsement),
            (claim::State::Joined, Endorsement::Known),
            "cut at {cut}"
        );
        assert_eq!(fleet.count("SELECT count(*) FROM binding"), 1, "cut at {cut}");
        assert_placed(&sim, device.id.as_str());
    }
    println!("{length} operations with a TPM, a cut at each");
}
