//! Threats 12, 13, 14 and 35: disks that are copied, brought back, or written by another version; boxes that look alike.

use super::*;
use forge::device::artefact;
use forge::enroll::bootstrap::Mode;
use forge::enroll::claim;
use forge::fleet::operator::Order;
use forge::model::Digest;

#[test]
fn threat_12_a_disk_that_was_copied_into_another_box() {
    let (fleet, sim) = one_box();
    let original = join(sim);
    let first = fleet.only();
    let mut copy = SimBox::new(&fleet, "S9", None);
    copy.disk = original.disk.clone();
    let (copy, codes) = codes_within(copy, 5 * HOUR);
    // The ticket is scrubbed: the copy is nobody, and says so.
    assert_eq!(codes, [Code::Cloned, Code::BundleNoTicket]);
    assert_eq!(copy.forgotten, 1, "machine-id and SSH keys are made anew");
    assert!(!copy.active, "nothing of the other box's runs");
    let token = Path::new("/etc/rancher/k3s/config.yaml.d/50-forge.yaml");
    assert_eq!(copy.disk.read(token, 1 << 20).unwrap(), None, "the other box's token is gone");
    assert_ne!(copy.last_view.as_ref().unwrap().device, Some(first.id.clone()));
    let (first, now) = (first.id.clone(), fleet.devices());
    assert_eq!(now.len(), 1);
    assert_eq!((&now[0].id, now[0].state), (&first, claim::State::Joined), "the original is left in peace");
}

#[test]
fn threat_12_a_copy_with_the_ticket_still_on_it_finds_it_taken() {
    let (fleet, sim) = one_box();
    let (original, end) = run(sim, HOUR, |sim, _| sim.active);
    assert_eq!(end, End::Reached);
    let mut copy = SimBox::new(&fleet, "S9", None);
    copy.disk = original.disk.clone();
    let original = join(original);
    // The row names the serial number S1, which is the first thing that does not fit.
    let (copy, codes) = codes_within(copy, 3 * HOUR);
    assert_eq!(codes[0], Code::Cloned);
    assert!(matches!(codes[1], Code::BundleOtherDevice | Code::NoMatch | Code::TicketTaken), "{codes:?}");
    assert!(!copy.active);
    assert_placed(&original, fleet.only().id.as_str());
}

#[test]
fn threat_12_a_wipe_that_is_cut_anywhere_is_done_in_the_end() {
    let (fleet, sim) = one_box();
    let original = join(sim);
    let first = fleet.only().id;
    let copied = || {
        let mut copy = SimBox::new(&fleet, "S9", None);
        copy.disk = original.disk.clone();
        copy
    };
    let (whole, _) = first_code(copied(), HOUR);
    let length = whole.ops;
    assert!(length > 20);
    for loss in Loss::ALL {
        for cut in 0..length {
            let mut copy = copied();
            copy.cut_at = Some(cut);
            let (mut copy, end) = run(copy, HOUR, |_, _| false);
            assert_eq!(end, End::Cut);
            copy.cut_at = None;
            copy.reboot(loss, cut);
            let (copy, _) = codes_within(copy, 3 * HOUR);
            let device = copy.last_view.as_ref().unwrap().device.clone();
            assert!(device.is_some() && device != Some(first.clone()), "cut at {cut}, {loss:?}");
            assert!(copy.forgotten >= 1 && !copy.active, "cut at {cut}, {loss:?}");
        }
    }
    println!("threat 12: {} cuts within a wipe", 3 * length);
}

#[test]
fn threat_12_a_key_that_another_tpm_sealed() {
    let fleet = SimFleet::new(Default::default());
    let mut sim = SimBox::new(&fleet, "S1", Some(files(&fleet.keys.own_bundle("store-042", "S1"))));
    sim.tpm = Some(1);
    let original = join(sim);
    let mut copy = SimBox::new(&fleet, "S1", None);
    (copy.disk, copy.tpm) = (original.disk.clone(), Some(2));
    let (copy, codes) = codes_within(copy, 3 * HOUR);
    assert_eq!(codes, [Code::Cloned, Code::BundleNoTicket]);
    assert_eq!(copy.forgotten, 1);
}

#[test]
fn threat_13_an_old_disk_brought_back() {
    let (fleet, sim) = one_box();
    let mut sim = join(sim);
    let backup = sim.disk.clone();
    // A second generation: the list of the first is lost to a broken block, with the note that the fleet knows.
    for lost in [artefact::stage(1).join(artefact::COMPLETE), artefact::acked(1)] {
        sim.disk.remove(&lost).unwrap();
    }
    sim.restart();
    let mut sim = join(sim);
    assert_joined_once(&fleet, &sim);
    assert_eq!(fleet.only().acked, 2);
    assert!(sim.disk.list(Path::new(artefact::STAGES)) == ["2"], "the first is pruned");
    sim.disk = backup;
    sim.restart();
    let (sim, codes) = codes_within(sim, 30 * HOUR);
    assert_eq!(codes, [Code::Quarantined]);
    assert_eq!(fleet.only().state, claim::State::Quarantined);
    assert!(sim.calls < 200, "{} calls in 30 hours", sim.calls);
}

#[test]
fn threat_14_boxes_with_one_uuid_and_no_serial() {
    let fleet = SimFleet::new(Default::default());
    let batch = fleet.keys.bundle("batch", Mode::Batch, 3, |_| {});
    fleet.order(Order::Window { minutes: 600, boxes: 3, batch: None });
    let mut ids = std::collections::BTreeSet::new();
    for n in 0..3 {
        let mut sim = SimBox::new(&fleet, &format!("unused-{n}"), Some(files(&batch)));
        sim.facts.serial = Some("Default string".into());
        sim.facts.smbios_uuid = Some("4c4c4544-0000-1000-8000-000000000001".into());
        let sim = join(sim);
        ids.insert(sim.last_view.unwrap().device.unwrap());
    }
    let devices = fleet.devices();
    assert_eq!((devices.len(), ids.len()), (3, 3));
    assert!(devices.iter().all(|d| d.state == claim::State::Joined), "none pushed another out");
    let names: std::collections::BTreeSet<_> = devices.iter().map(|d| d.node.clone()).collect();
    assert_eq!(names.len(), 3);
}

/// Every JSON artefact with members that this version does not know.
fn as_by_a_later_version(sim: &mut SimBox) -> usize {
    let mut changed = 0;
    for path in sim.disk.paths() {
        if !path.starts_with(artefact::ROOT) {
            continue;
        }
        let bytes = sim.disk.read(&path, 4 << 20).unwrap().unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((json, _)) = text.rsplit_once("\nsha256:") else { continue };
        let Ok(serde_json::Value::Object(mut members)) = serde_json::from_str(json) else { continue };
        if members.contains_key("payloadType") {
            continue; // signed: not the device's to change
        }
        members.insert("schema".into(), 2.into());
        members.insert("added_later".into(), serde_json::json!({ "deep": [1, 2] }));
        let json = serde_json::to_string(&members).unwrap();
        let text = format!("{json}\nsha256:{}\n", Digest::of(&json).hex());
        sim.disk.write(&path, text.as_bytes()).unwrap();
        sim.disk.sync_file(&path).unwrap();
        changed += 1;
    }
    changed
}

#[test]
fn threat_35_the_version_before_reads_what_the_later_one_wrote() {
    let mut changed = 0;
    for state in State::ALL {
        let (fleet, sim) = one_box();
        let (mut sim, _) = run(sim, HOUR, |sim, step| {
            finished(sim, step) || sim.last_view.as_ref().is_some_and(|v| v.state >= state)
        });
        changed += as_by_a_later_version(&mut sim);
        sim.restart();
        let sim = join(sim);
        assert_joined_once(&fleet, &sim);
        assert_eq!(fleet.count("SELECT count(*) FROM granted"), 1, "{state:?}: nothing was begun again");
    }
    assert!(changed > 40, "{changed}");
}
