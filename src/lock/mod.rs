//! The lock: every input of a profile, by digest.
