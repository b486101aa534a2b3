//! How many requests are taken: token buckets for the whole endpoint and by ticket or device, never by address.
//!
//! A shop's boxes come from one address, and a thief's from thousands. A ticket's bucket is only drawn from once the
//! ticket's own key has signed, so that nobody can spend another's.

use crate::model::Epoch;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// How many buckets are remembered; beyond it the full ones, which say nothing, are dropped.
const MOST_BUCKETS: usize = 65_536;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests a second.
    pub per_s: f64,
    /// Requests at once.
    pub burst: f64,
}

impl Rate {
    /// The rate of a ticket for `boxes` boxes: each box claims, loses the answer, and claims again.
    pub fn of_ticket(boxes: u32) -> Rate {
        let boxes = f64::from(boxes);
        Rate { per_s: (boxes / 60.0).max(0.2), burst: 2.0 * boxes + 16.0 }
    }
}

/// Grants and events of one device: a box asks for a grant once a generation.
pub const DEVICE: Rate = Rate { per_s: 0.2, burst: 30.0 };

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Epoch,
    rate: Rate,
}

impl Bucket {
    fn fill(&mut self, now: Epoch) {
        let passed = now.0.saturating_sub(self.at.0).max(0) as f64;
        self.left = (self.left + passed * self.rate.per_s).min(self.rate.burst);
        self.at = now;
    }
}

/// Buckets by key.
#[derive(Debug, Default)]
pub struct Limiter(Mutex<HashMap<String, Bucket>>);

impl Limiter {
    /// Takes one request from the bucket `key`, which holds `rate` from its first use on.
    ///
    /// # Errors
    /// The seconds until there is one.
    pub fn take(&self, key: &str, rate: Rate, now: Epoch) -> Result<(), u32> {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MOST_BUCKETS && !buckets.contains_key(key) {
            buckets.retain(|_, bucket| {
                bucket.fill(now);
                bucket.left < bucket.rate.burst
            });
        }
        let bucket = buckets.entry(key.into()).or_insert(Bucket { left: rate.burst, at: now, rate });
        bucket.rate = rate;
        bucket.fill(now);
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Ok(());
        }
        Err(((1.0 - bucket.left) / rate.per_s).ceil().clamp(1.0, 3600.0) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills() {
        let limiter = Limiter::default();
        let rate = Rate { per_s: 0.5, burst: 2.0 };
        assert_eq!(limiter.take("t", rate, Epoch(0)), Ok(()));
        assert_eq!(limiter.take("t", rate, Epoch(0)), Ok(()));
        assert_eq!(limiter.take("t", rate, Epoch(0)), Err(2));
        assert_eq!(limiter.take("other", rate, Epoch(0)), Ok(()), "each has its own");
        assert_eq!(limiter.take("t", rate, Epoch(2)), Ok(()));
        assert_eq!(limiter.take("t", rate, Epoch(-100)), Err(2), "a clock put back gives nothing away");
    }
}
