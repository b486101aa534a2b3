//! The outer loop: steps and waits. It never ends, and never spins: whatever goes wrong, there is a wait between two tries
//! that grows to its bound.

use crate::device::advance::advance;
use crate::device::agent::{Device, Step};
use crate::device::effects::{Effects, Woken};
use crate::device::pause::{Pause, Until};
use crate::device::state::State;
use crate::enroll::code::Code;
use std::time::Duration;

/// Steps in a row after which a wait is due, whatever they say: the way from nothing to joined has some thirty.
const MAX_STEPS: u32 = 200;
/// The least between two tries when cables and sticks come and go.
const LEAST: Duration = Duration::from_secs(1);

/// Counts tries, so that waits grow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pacer {
    attempt: u32,
    steps: u32,
    last: Option<(State, Until, Option<Code>)>,
}

impl Pacer {
    /// The repeat that a wait in `state` for `pause` is: from 0 again where it is another state, or another trouble.
    fn attempt(&mut self, state: State, pause: &Pause) -> u32 {
        let now = Some((state, pause.until, pause.code));
        self.attempt = if self.last == now { self.attempt.saturating_add(1) } else { 0 };
        self.last = now;
        self.attempt
    }
}

/// Runs `device` for ever.
pub fn run<E: Effects>(device: &mut Device<E>) -> ! {
    let mut pacer = Pacer::default();
    loop {
        turn(device, &mut pacer);
    }
}

/// One step, and the wait that it asks for.
pub fn turn<E: Effects>(device: &mut Device<E>, pacer: &mut Pacer) -> Step {
    let mut step = advance(device);
    let status = device.state().word();
    device.io.beat(status);
    pacer.steps += 1;
    if step == Step::Went {
        if pacer.steps < MAX_STEPS {
            let view = device.view(None, None);
            device.io.show(&view);
            return step;
        }
        // Steps that each went well and led nowhere: a fault of this program, and no reason to burn the box's power.
        step = Step::Wait(Pause::trouble(Code::DiskTrouble, "the same steps came again and again"));
    }
    pacer.steps = 0;
    if let Step::Wait(pause) = &step {
        let attempt = pacer.attempt(device.state(), pause);
        let random = device.dice();
        let delay = pause.until.delay(attempt, pause.retry_after, random);
        let changed = wait(device, pause, delay);
        if changed && pause.until == Until::Trouble {
            pacer.attempt = 0;
        }
        device.resume(pause, changed);
    }
    step
}

/// Waits for `delay`. What comes or goes at the box ends a wait for trouble, for it may be the remedy; a wait that the fleet
/// asked for only another bundle does. Whether something changed.
fn wait<E: Effects>(device: &mut Device<E>, pause: &Pause, delay: Duration) -> bool {
    let start = device.io.monotonic();
    let mut changed = false;
    loop {
        let spent = device.io.monotonic().saturating_sub(start);
        let least = if changed { LEAST } else { delay };
        let left = least.min(delay).saturating_sub(spent);
        if left.is_zero() {
            return changed;
        }
        let view = device.view(Some(pause), Some(left));
        device.io.show(&view);
        let woken = device.io.wait(left);
        if woken == Woken::Elapsed {
            return changed;
        }
        match pause.until {
            Until::Trouble if pause.retry_after.is_none() => changed = true,
            Until::Refused if device.look_for_bundle() => return true,
            _ => {}
        }
    }
}
