//! The device's state machine on simulated boxes, before the real endpoint in the same process.

mod herd;
mod sim;
mod sweep;
mod threats;

use forge::device::state::State;
use forge::device::{Step, artefact};
use forge::enroll::claim;
use sim::disk::{Dice, Loss};
use sim::fleet::{SimFleet, files};
use sim::{End, SimBox, run};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// A fleet, and a box with a ticket of its own in front of it.
fn one_box() -> (Rc<SimFleet>, SimBox) {
    let fleet = SimFleet::new(Default::default());
    let bundle = fleet.keys.own_bundle("store-042", "S1");
    let sim = SimBox::new(&fleet, "S1", Some(files(&bundle)));
    (fleet, sim)
}

/// Whether the box is through: joined, its ticket scrubbed.
fn finished(sim: &mut SimBox, step: &Step) -> bool {
    matches!(step, Step::Wait(pause) if pause.code.is_none() && pause.until == forge::device::pause::Until::Steady)
        && sim.last_view.as_ref().is_some_and(|view| view.state == State::Scrubbed)
}

/// Runs until the box is through.
fn join(sim: SimBox) -> SimBox {
    let (sim, end) = run(sim, 200 * HOUR, finished);
    assert_eq!(end, End::Reached, "{:?}", sim.last_view);
    sim
}

/// What has to be so at the end, however it went: one row, one claim, one name; what was granted is in place.
fn assert_joined_once(fleet: &SimFleet, sim: &SimBox) {
    let device = fleet.only();
    assert_eq!(device.state, claim::State::Joined);
    assert_eq!(device.node.as_deref(), Some("store-042"));
    assert_eq!(fleet.count("SELECT sum(claims) FROM ticket"), 1);
    assert_eq!(fleet.count("SELECT count(*) FROM binding"), 1);
    assert_eq!(device.generation, device.acked);
    assert_placed(sim, device.id.as_str());
}

fn assert_placed(sim: &SimBox, id: &str) {
    let read = |path: &str| {
        let bytes = sim.disk.read(Path::new(path), 1 << 20).unwrap();
        String::from_utf8(bytes.unwrap_or_else(|| panic!("{path} is missing"))).unwrap()
    };
    let token = format!("token: {}{id}\n", sim::fleet::TOKEN);
    assert_eq!(read("/etc/rancher/k3s/config.yaml.d/50-forge.yaml"), token);
    assert_eq!(read("/etc/rancher/node/password"), format!("{}password\n", sim::fleet::TOKEN));
    assert!(sim.active, "its services run");
    assert!(sim.disk.read_link(Path::new(artefact::APPLIED)).is_some());
}

#[test]
fn a_box_joins_from_its_carton() {
    let (fleet, sim) = one_box();
    let sim = join(sim);
    assert_joined_once(&fleet, &sim);
    assert_eq!(fleet.only().generation, 1);
    let view = sim.last_view.unwrap();
    assert_eq!((view.word(), view.node.as_deref()), ("JOINED", Some("store-042")));
    // The steps are the contract's, in order, none twice.
    let words: Vec<String> = fleet.outputs().into_iter().filter(|o| o.contains("generation 1")).collect();
    assert!(!words.is_empty());
}
