//! Debian and Ubuntu archives: from a suite's name to a configured tree.

pub mod deb;
pub mod unpack;
