//! Threats 3 and 4: clocks that are wrong, and time that somebody else tells.

use super::*;
use crate::fleet::boxes::START;

#[test]
fn threat_03_a_clock_at_1970_in_the_past_or_far_ahead() {
    let day = 86_400;
    for clock in [0, 283_996_800, START.0 - day, START.0 + 10 * 365 * day, 2_200_000_000, 4_200_000_000] {
        let (fleet, mut sim) = one_box();
        sim.boot_clock = clock;
        let mut sim = join(sim);
        assert_joined_once(&fleet, &sim);
        let now = forge::device::effects::Clock::now(&mut sim);
        assert!(now >= fleet.now(), "clock {clock}: it is behind the fleet");
        // Without a battery, and with no network either: not before what was seen.
        sim.restart();
        sim.boot_clock = 0;
        sim.weather = Box::new(|_, _| Fate::Fails(NetError::NoLink));
        let (mut sim, _) = codes_within(sim, HOUR);
        let now = forge::device::effects::Clock::now(&mut sim);
        assert!(now.0 >= START.0 && now.0 < START.0 + 30 * day, "clock {clock}: {now:?} after the restart");
    }
}

#[test]
fn threat_03_a_foreign_certificate_stays_foreign_with_a_good_clock() {
    let (fleet, mut sim) = one_box();
    sim.boot_clock = START.0;
    sim.weather = Box::new(|_, _| Fate::Fails(NetError::ForeignCertificate("another key".into())));
    let (sim, codes) = codes_within(sim, 3 * HOUR);
    assert_eq!(codes, [Code::ForeignCertificate]);
    assert!(fleet.devices().is_empty());
    assert_never_spun(&sim);
}

#[test]
fn threat_04_an_old_answer_is_not_believed() {
    let (fleet, sim) = one_box();
    let sim = join(sim);
    let heard = sim.heard.clone();
    // The same box starts anew, and everything that the fleet ever told it is played back.
    let calls = heard.borrow().len();
    assert!(calls >= 4);
    for n in 0..calls {
        let (_, mut fresh) = one_box();
        let recorded = heard.borrow()[n].1.clone();
        fresh.weather = Box::new(move |_, _| Fate::Answered(200, recorded.clone()));
        let before = fresh.boot_clock;
        let (mut fresh, codes) = codes_within(fresh, HOUR);
        assert_eq!(codes, [Code::Portal], "answer {n}");
        let now = forge::device::effects::Clock::now(&mut fresh);
        let passed = fresh.time.as_secs() as i64;
        assert!(before == 0 && now.0 <= START.0 + passed, "it took the recording's time");
    }
    assert_joined_once(&fleet, &sim);
}
