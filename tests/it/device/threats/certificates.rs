//! Threats 25 and 26: a box of KubeEdge's, whose certificate the fleet has signed by a cluster over TLS.

use super::*;
use crate::cluster::Cluster;
use crate::fleet::boxes::START;
use forge::enroll::csr::CertificateKey;
use forge::fleet::Store;
use forge::model::Digest;
use std::sync::Arc;
use x509_parser::pem::parse_x509_pem;

const KEY: &str = "/etc/kubeedge/certs/server.key";
const CERTIFICATE: &str = "/etc/kubeedge/certs/server.crt";
const DAY: Duration = Duration::from_secs(86_400);

/// A box of KubeEdge's before its fleet and its cluster.
fn edge_box() -> (Rc<SimFleet>, Cluster, SimBox) {
    let cluster = Cluster::start();
    let clusters = cluster.describe("store", "kubeedge");
    let fleet = SimFleet::with(Default::default(), Arc::new(Store::in_memory().unwrap()), Box::new(clusters));
    let bundle = fleet.keys.own_bundle("store-042", "S1");
    let mut sim = SimBox::new(&fleet, "S1", Some(files(&bundle)));
    sim.image.edgecore = true;
    (fleet, cluster, sim)
}

fn read(sim: &SimBox, path: &str) -> Vec<u8> {
    sim.disk.read(Path::new(path), 1 << 20).unwrap().unwrap_or_else(|| panic!("{path} is missing"))
}

/// Key and certificate belong to each other and to the node; the certificate's last instant.
fn assert_certified(sim: &SimBox) -> i64 {
    let (_, key) = parse_x509_pem(&read(sim, KEY)).unwrap();
    let key = CertificateKey::from_pkcs8(&key.contents).unwrap();
    let pem = read(sim, CERTIFICATE);
    let (_, pem) = parse_x509_pem(&pem).unwrap();
    let certificate = pem.parse_x509().unwrap();
    assert_eq!(Digest::of(certificate.public_key().raw), key.spki_sha256());
    let name = certificate.subject().iter_common_name().next().unwrap().as_str().unwrap().to_string();
    assert_eq!(name, "system:node:store-042");
    certificate.validity().not_after.timestamp()
}

/// Whether the box has the grant of that generation, and nothing more to do.
fn settled(fleet: &Rc<SimFleet>, generation: u64) -> impl FnMut(&mut SimBox, &Step) -> bool {
    let fleet = fleet.clone();
    move |sim, step| finished(sim, step) && fleet.only().acked == generation
}

#[test]
fn threat_26_a_certificate_that_lapsed_while_the_box_was_off_is_made_anew() {
    let (fleet, cluster, sim) = edge_box();
    let sim = join(sim);
    let first = (read(&sim, KEY), assert_certified(&sim));
    assert_eq!((fleet.only().generation, sim.rereads), (1, 1));
    // In a steady life it is asked for when sixty of a hundred of its days are over, and not before.
    let (sim, end) = run(sim, 200 * DAY, settled(&fleet, 2));
    assert_eq!(end, End::TooLate, "{:?}", fleet.only().generation);
    let at = |days: i64| START.0 + days * 86_400;
    cluster.state.lock().unwrap().now = at(220);
    let (sim, end) = run(sim, 30 * DAY, settled(&fleet, 2));
    assert_eq!(end, End::Reached);
    let second = (read(&sim, KEY), assert_certified(&sim));
    assert!(second.0 == first.0 && second.1 > first.1);
    assert_eq!(sim.rereads, 2, "EdgeCore reads the new one");

    // Switched off for longer than it is valid; the clock starts at 1970, and the site comes up before the network.
    let mut sim = sim;
    sim.time += 400 * DAY;
    cluster.state.lock().unwrap().now = at(660);
    sim.restart();
    let begin = sim.time;
    sim.weather = Box::new(|_, _| Fate::Fails(NetError::NoLink));
    let (mut sim, _) = run(sim, HOUR, |sim, _| sim.active);
    assert!(sim.active && sim.time - begin < HOUR, "what was granted starts with no link");
    sim.weather = Box::new(|_, _| Fate::Through);
    let (sim, end) = run(sim, 3 * HOUR, settled(&fleet, 3));
    assert_eq!(end, End::Reached, "{:?}", sim.last_view);
    assert!(assert_certified(&sim) > at(660 + 300), "valid for a year from now");
    assert_eq!(cluster.state.lock().unwrap().signed.len(), 3);
    assert_never_spun(&sim);
}

#[test]
fn threat_26_a_clock_that_is_years_ahead_asks_for_nothing_and_a_short_life_is_no_loop() {
    let (fleet, _cluster, mut sim) = edge_box();
    sim.boot_clock = START.0 + 20 * 365 * 86_400;
    let sim = join(sim);
    let (_sim, end) = run(sim, 5 * DAY, settled(&fleet, 2));
    assert_eq!((end, fleet.only().generation), (End::TooLate, 1));

    let (fleet, cluster, sim) = edge_box();
    cluster.state.lock().unwrap().now = START.0 - 370 * 86_400; // CloudCore's clock is a year behind
    let sim = join(sim);
    let before = fleet.only().generation;
    let (sim, _) = run(sim, 10 * HOUR, |_, _| false);
    assert!(fleet.only().generation - before <= 12, "once an hour at most");
    assert_never_spun(&sim);
}

#[test]
fn threat_26_every_cut_on_the_way_to_a_certificate_leaves_one_that_fits() {
    let (fleet, _cluster, sim) = edge_box();
    let operations = join(sim).ops;
    assert_eq!(fleet.only().generation, 1);
    for n in 0..24 {
        // Spread over the way; another box each time, and another loss.
        let (fleet, _cluster, mut sim) = edge_box();
        sim.cut_at = Some(operations * n / 24);
        let (mut sim, end) = run(sim, 200 * HOUR, finished);
        assert_eq!(end, End::Cut);
        sim.cut_at = None;
        sim.reboot(Loss::ALL[n as usize % Loss::ALL.len()], n);
        let sim = join(sim);
        assert_certified(&sim);
        let device = fleet.only();
        assert_eq!((device.state, device.generation == device.acked), (claim::State::Joined, true));
    }
}

#[test]
fn threat_25_the_boxs_key_leaves_it_in_no_call_and_goes_with_its_identity() {
    let (_fleet, cluster, sim) = edge_box();
    let sim = join(sim);
    let pem = String::from_utf8(read(&sim, KEY)).unwrap();
    let body: String = pem.lines().filter(|l| !l.starts_with('-')).collect();
    for output in &sim.outputs {
        assert!(!output.contains(&body[40..]) && !output.contains("PRIVATE KEY"), "{output}");
    }
    assert_eq!(cluster.state.lock().unwrap().signed.len(), 1);
    // The disk in another box: key and certificate are gone with what made the first one itself.
    let mut sim = sim;
    sim.facts.serial = Some("S2".into());
    sim.facts.macs = vec!["02:00:00:ff:ff:ff".into()];
    sim.restart();
    let (sim, codes) = codes_within(sim, HOUR);
    assert!(codes.contains(&Code::Cloned), "{codes:?}");
    for path in [KEY, CERTIFICATE] {
        assert!(sim.disk.read(Path::new(path), 1 << 20).unwrap().is_none(), "{path} is there");
    }
}
