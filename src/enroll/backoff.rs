//! When to try again: full jitter, so that ten thousand boxes that start with the shop's lights do not come in step.
//!
//! Pure: randomness comes in as a number, time goes out as a duration.

use std::time::Duration;

/// The first step.
const BASE: Duration = Duration::from_secs(2);

/// Why the device waits, which decides how long at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Something failed: up to 5 minutes.
    Trouble,
    /// A person has to approve: up to a minute, beside the long poll.
    Approval,
    /// Refused: an hour, because the answer may change and nothing may spin.
    Refused,
}

impl Wait {
    const fn cap(self) -> Duration {
        match self {
            Wait::Trouble => Duration::from_secs(300),
            Wait::Approval => Duration::from_secs(60),
            Wait::Refused => Duration::from_secs(3600),
        }
    }
}

/// How long to wait before try `attempt` (0 for the first repeat): uniform in 0 to min(cap, 2 s · 2^attempt), and never
/// under a tenth of that bound. `random` is uniform over all of `u32`. A fleet's `retry_after` is obeyed, give or take a
/// fifth, and bounded: a wrong header must not silence a box for a year.
pub fn delay(wait: Wait, attempt: u32, retry_after: Option<Duration>, random: u32) -> Duration {
    let part = f64::from(random) / f64::from(u32::MAX);
    if let Some(asked) = retry_after {
        let asked = asked.clamp(Duration::from_millis(500), Duration::from_secs(3600));
        return asked.mul_f64(0.8 + 0.4 * part);
    }
    let bound = match wait {
        Wait::Refused => wait.cap(),
        _ => BASE.saturating_mul(1 << attempt.min(16)).min(wait.cap()),
    };
    // Refused boxes keep their hour: only its last fifth is drawn.
    let least = if wait == Wait::Refused { 0.8 } else { 0.1 };
    bound.mul_f64(least + (1.0 - least) * part)
}

/// When the first request is sent: uniform in the fleet's splay.
pub fn splay(splay_s: u32, random: u32) -> Duration {
    Duration::from_secs(u64::from(splay_s.min(86_400))).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wait() -> impl Strategy<Value = Wait> {
        prop_oneof![Just(Wait::Trouble), Just(Wait::Approval), Just(Wait::Refused)]
    }

    proptest! {
        #[test]
        fn no_wait_spins_and_none_is_for_ever(
            wait in wait(),
            attempt: u32,
            asked in proptest::option::of(any::<u64>()),
            random: u32,
        ) {
            let asked = asked.map(Duration::from_secs);
            let waited = delay(wait, attempt, asked, random);
            prop_assert!(waited >= Duration::from_millis(200) && waited <= Duration::from_secs(4320), "{waited:?}");
            if asked.is_none() {
                prop_assert!(waited <= wait.cap());
                // More dice, more time; never less for a later try.
                prop_assert!(delay(wait, attempt, None, random / 2) <= waited);
                prop_assert!(delay(wait, attempt.saturating_add(1), None, random) >= waited);
            }
        }

        #[test]
        fn dice_spread_over_the_whole_wait(wait in wait(), attempt in 0..40_u32) {
            let (least, most) = (delay(wait, attempt, None, 0), delay(wait, attempt, None, u32::MAX));
            prop_assert!(most >= least.mul_f64(1.24), "{least:?} to {most:?} is lockstep");
        }

        #[test]
        fn a_splay_is_within_its_bound(splay_s: u32, random: u32) {
            prop_assert!(splay(splay_s, random) <= Duration::from_secs(u64::from(splay_s.min(86_400))));
        }
    }

    #[test]
    fn waits_grow_to_their_cap_and_never_reach_nothing() {
        for attempt in 0..40 {
            for random in [0, u32::MAX / 2, u32::MAX] {
                let trouble = delay(Wait::Trouble, attempt, None, random);
                assert!(trouble >= Duration::from_millis(200) && trouble <= Duration::from_secs(300));
                assert!(delay(Wait::Approval, attempt, None, random) <= Duration::from_secs(60));
                assert!(delay(Wait::Refused, attempt, None, random) >= Duration::from_secs(2880));
            }
        }
        assert_eq!(delay(Wait::Trouble, 30, None, u32::MAX), Duration::from_secs(300));
    }

    #[test]
    fn a_fleets_word_is_obeyed_within_reason() {
        let asked = |s, random| delay(Wait::Trouble, 0, Some(Duration::from_secs(s)), random);
        assert!(asked(100, 0) >= Duration::from_secs(79) && asked(100, u32::MAX) <= Duration::from_secs(121));
        assert!(asked(u64::MAX, u32::MAX) <= Duration::from_secs(4321));
        assert!(asked(0, 0) >= Duration::from_millis(400), "nothing spins");
        assert!(splay(600, u32::MAX) <= Duration::from_secs(600));
        assert_eq!(splay(0, u32::MAX), Duration::ZERO);
    }
}
