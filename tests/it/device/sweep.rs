//! The power goes at every operation, on disk and network, under each model of what is lost (threat 1).

use super::*;

/// What a run left, to compare.
fn outcome(fleet: &SimFleet, sim: &SimBox) {
    assert_joined_once(fleet, sim);
    assert_eq!(fleet.only().generation, 1, "one grant for one question");
    assert_eq!(fleet.count("SELECT count(*) FROM granted"), 1);
}

/// How many operations lead from the carton to joined.
fn length() -> u64 {
    let (fleet, sim) = one_box();
    let sim = join(sim);
    outcome(&fleet, &sim);
    sim.ops
}

/// Cuts at each of `cuts` in turn, counted from the start of the box, and then lets it join.
fn with_cuts(cuts: &[(u64, Option<Loss>)], seed: u64) -> (Rc<SimFleet>, SimBox, u32) {
    let (fleet, mut sim) = one_box();
    let mut fallen = 0;
    for (n, (cut, loss)) in cuts.iter().enumerate() {
        sim.cut_at = Some(*cut);
        let (back, end) = run(sim, 200 * HOUR, finished);
        sim = back;
        sim.cut_at = None;
        if end == End::Cut {
            fallen += 1;
            match loss {
                Some(loss) => sim.reboot(*loss, seed + n as u64),
                None => sim.restart(),
            }
        }
    }
    let sim = join(sim);
    (fleet, sim, fallen)
}

#[test]
fn crash_sweep_singles() {
    let length = length();
    let mut runs = 0;
    for loss in Loss::ALL.map(Some).into_iter().chain([None]) {
        for cut in 0..length {
            let (fleet, sim, fallen) = with_cuts(&[(cut, loss)], cut);
            assert_eq!(fallen, 1, "cut at {cut}");
            outcome(&fleet, &sim);
            runs += 1;
        }
    }
    println!(
        "crash_sweep: {length} operations, {runs} single cuts (3 models of loss, and a kill without loss)"
    );
}

#[test]
fn crash_sweep_pairs() {
    // Sampled with a seed; more of them with FORGE_TEST_PAIRS.
    let pairs: u64 = std::env::var("FORGE_TEST_PAIRS").ok().and_then(|n| n.parse().ok()).unwrap_or(600);
    let length = length();
    let mut dice = Dice(0xf0f9e);
    let mut both = 0;
    for n in 0..pairs {
        let first = dice.below(length);
        let second = first + 1 + dice.below(length);
        // A kill first is the interesting half: what a process finds then need not be durable.
        let loss = |d: &mut Dice| {
            [None, Some(Loss::Drop), Some(Loss::Garbage), Some(Loss::Reorder)][d.below(4) as usize]
        };
        let cuts = [(first, loss(&mut dice)), (second, Some(Loss::ALL[dice.below(3) as usize]))];
        let (fleet, sim, fallen) = with_cuts(&cuts, n * 7);
        both += u32::from(fallen == 2);
        let context = format!("{cuts:?}");
        assert_eq!(fleet.devices().len(), 1, "{context}");
        outcome(&fleet, &sim);
    }
    println!("crash_sweep: {pairs} pairs of cuts, of which both fell in {both}");
}

#[test]
fn crash_sweep_kill_then_cut() {
    // Killed with the power on, the program starts again on what need not be durable yet; then the power goes.
    let length = length();
    let mut dice = Dice(0x2b1d);
    let mut runs = 0;
    for kill in 0..length {
        for distance in [30 + dice.below(30), 60 + dice.below(length)] {
            let (fleet, sim, _) = with_cuts(&[(kill, None), (kill + distance, Some(Loss::Drop))], kill);
            assert_eq!(fleet.devices().len(), 1, "killed at {kill}, cut {distance} later: a second key");
            outcome(&fleet, &sim);
            runs += 1;
        }
    }
    println!("crash_sweep: {runs} kills followed by a cut");
}

#[test]
fn a_block_that_rots_is_noticed() {
    let (_, sim) = one_box();
    let (_, whole) = (0, join(sim));
    let ours = |sim: &SimBox| -> Vec<std::path::PathBuf> {
        sim.disk.paths().into_iter().filter(|p| p.starts_with(artefact::ROOT)).collect()
    };
    let mut again = 0;
    for path in ours(&whole) {
        for harm in 0..4 {
            let (fleet, sim) = one_box();
            let mut sim = join(sim);
            let mut bytes = sim.disk.read(&path, 4 << 20).unwrap().unwrap();
            let middle = bytes.len() / 3;
            match harm {
                0 => bytes.clear(),
                1 => bytes.fill(0),
                2 => bytes.truncate(middle),
                _ => bytes[middle] ^= 1,
            }
            sim.disk.write(&path, &bytes).unwrap();
            sim.disk.sync_file(&path).unwrap();
            sim.restart();
            let (sim, end) = run(sim, 5 * HOUR, finished);
            // Only the key itself cannot be had again, once the ticket is gone: that takes a person, who is told.
            let key = path.starts_with("/var/lib/forge/id");
            if end == End::Reached {
                assert_joined_once(&fleet, &sim);
                again += 1;
            } else {
                let code = sim.last_view.as_ref().unwrap().code;
                let told = code.is_some_and(|c| c.needs_a_person());
                assert!(told && (key || path.starts_with(artefact::BUNDLES)), "{path:?} {harm}: {code:?}");
            }
            assert!(key || sim.active, "{path:?} {harm}");
            assert_eq!(fleet.devices().len(), 1, "{path:?} {harm}");
        }
    }
    println!(
        "rot: {} artefacts, {again} of {} runs joined again by themselves",
        ours(&whole).len(),
        4 * ours(&whole).len()
    );
}
