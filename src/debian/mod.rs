//! Debian and Ubuntu archives: from a suite's name to a configured tree.

pub mod bootstrap;
pub mod clean;
pub mod configure;
pub mod database;
pub mod deb;
pub mod rules;
pub mod unpack;
