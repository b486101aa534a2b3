//! Nonces that nobody has to remember: the time of making and a keyed hash over it.
//!
//! A request is fresh when it is signed with a nonce that this fleet made within the last ten minutes. Nothing is stored,
//! so a million calls of `hello` cost no memory, and a restart forgets nothing. A request that is repeated within the ten
//! minutes is taken again, which is safe because every call is idempotent.

use crate::enroll::envelope::Nonce;
use crate::model::{Epoch, digest::hex};
use aws_lc_rs::hmac;

/// How long a nonce is fresh, in seconds: a slow proxy and a person's pause, not a night.
const FRESH_S: i64 = 600;
/// How far the clock may have been put back since a nonce was made, in seconds.
const BACKWARDS_S: i64 = 60;
/// Bytes of the hash that travel: 96 bits cannot be guessed within the ten minutes.
const MAC_LEN: usize = 12;

/// The secret behind a fleet's nonces.
pub struct Nonces(hmac::Key);

impl Nonces {
    /// Nonces under `secret`, which outlives restarts.
    pub fn new(secret: &[u8; 32]) -> Nonces {
        Nonces(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// A nonce of `now`.
    pub fn make(&self, now: Epoch) -> Nonce {
        self.of(now.0)
    }

    /// Whether this fleet made `nonce` not long before `now`.
    pub fn is_fresh(&self, nonce: &Nonce, now: Epoch) -> bool {
        let Some(made) = nonce.as_str().get(..16).and_then(|t| i64::from_str_radix(t, 16).ok()) else {
            return false;
        };
        let expected = self.of(made);
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(
            expected.as_str().as_bytes(),
            nonce.as_str().as_bytes(),
        );
        same.is_ok() && (-BACKWARDS_S..=FRESH_S).contains(&now.0.saturating_sub(made))
    }

    fn of(&self, made: i64) -> Nonce {
        let tag = hmac::sign(&self.0, format!("forge-nonce-v1|{made}").as_bytes());
        let mut raw = [0; 16];
        raw[..MAC_LEN].copy_from_slice(&tag.as_ref()[..MAC_LEN]);
        // Sixteen digits of time, then the tag: `Nonce` has no constructor from two parts, and this text always parses.
        let text = format!("{made:016x}{}", hex(&raw[..MAC_LEN]));
        Nonce::parse(&text).unwrap_or_else(|_| Nonce::from_random(raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_fresh_for_ten_minutes_under_its_own_secret() {
        let ours = Nonces::new(&[1; 32]);
        let nonce = ours.make(Epoch(1_000));
        assert!(ours.is_fresh(&nonce, Epoch(1_000)) && ours.is_fresh(&nonce, Epoch(1_600)));
        assert!(!ours.is_fresh(&nonce, Epoch(1_601)), "too old");
        assert!(ours.is_fresh(&nonce, Epoch(940)) && !ours.is_fresh(&nonce, Epoch(939)), "of the future");
        assert!(!Nonces::new(&[2; 32]).is_fresh(&nonce, Epoch(1_000)), "of another fleet");
        assert!(Nonces::new(&[1; 32]).is_fresh(&nonce, Epoch(1_000)), "a restart forgets nothing");
        let later = nonce.as_str().replacen("3e8", "4e8", 1);
        assert!(!ours.is_fresh(&Nonce::parse(&later).unwrap(), Epoch(1_256)), "put forward");
        for foreign in ["zzzzzzzzzzzzzzzzzzzz", "-000000000000001aaaa", "ffffffffffffffffffff"] {
            assert!(!ours.is_fresh(&Nonce::parse(foreign).unwrap(), Epoch(1_000)), "{foreign}");
        }
    }
}
