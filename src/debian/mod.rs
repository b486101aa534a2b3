//! Debian and Ubuntu archives: from a suite's name to a configured tree.

pub mod deb822;
pub mod openpgp;
pub mod packages;
pub mod relation;
pub mod version;
pub mod deb;
pub mod unpack;
