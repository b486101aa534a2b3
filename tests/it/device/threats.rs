//! Rows of the threat table that are the device's, a test each, named for the threat.

mod bundles;
mod certificates;
mod clocks;
mod copies;
mod leaks;
mod networks;
mod noes;
mod tpms;

use super::*;
use forge::device::effects::{Carrier, CarrierKind, NetError};
use forge::device::pause::Pause;
use forge::enroll::Code;
use sim::Fate;

/// What a person reads at the first wait that has a code.
fn first_code(sim: SimBox, at_most: Duration) -> (SimBox, Option<Code>) {
    let mut code = None;
    let (sim, _) = run(sim, at_most, |_, step| {
        code = match step {
            Step::Wait(Pause { code: Some(code), .. }) => Some(*code),
            _ => None,
        };
        code.is_some()
    });
    (sim, code)
}

/// Runs for that long, whatever happens; the codes that were shown, each run of the same one once.
fn codes_within(sim: SimBox, time: Duration) -> (SimBox, Vec<Code>) {
    let mut codes: Vec<Code> = vec![];
    let (sim, end) = run(sim, time, |_, step| {
        if let Step::Wait(Pause { code: Some(code), .. }) = step
            && codes.last() != Some(code)
        {
            codes.push(*code);
        }
        false
    });
    assert_eq!(end, End::TooLate);
    (sim, codes)
}

fn stick(of: &crate::fleet::boxes::Bundle) -> Carrier {
    Carrier { kind: CarrierKind::Stick, place: "sdb1".into(), files: files(of) }
}

/// No wait is shorter than what keeps a processor idle.
fn assert_never_spun(sim: &SimBox) {
    let short = sim.waits.iter().filter(|w| **w < Duration::from_millis(200)).count();
    assert_eq!(short, 0, "waits that are none");
}
