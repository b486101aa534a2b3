//! The edge of the house: every effect on the machine goes through here.
//!
//! Files ([`fs`]), processes ([`tool`]), the clock ([`clock`]), the environment ([`mod@env`]), HTTP (`http`, `rest`),
//! cancellation ([`cancel`]).
//! The lint configuration denies these effects everywhere else, with the name of what to call here.
#![allow(clippy::disallowed_methods)]

pub mod cancel;
pub mod clock;
#[cfg(feature = "cli")]
pub mod emulation;
pub mod env;
pub mod fs;
#[cfg(feature = "cli")]
pub mod http;
#[cfg(feature = "cli")]
pub mod probe;
#[cfg(feature = "cli")]
pub mod rest;
#[cfg(feature = "cli")]
pub mod sandbox;
pub mod tool;
