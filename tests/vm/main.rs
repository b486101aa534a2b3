//! Boots built disks in QEMU and looks at what a person would see: the console, and the ports of the device.
//!
//! A program of its own, because a boot takes a minute. The disk is the release that the integration tests look at, built
//! where it is not there yet; needs a network for that (`FORGE_TEST_NETWORK=1`).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program of tests"
)]

mod boots;
mod console;
mod fallback;
#[path = "../it/fixture.rs"]
mod fixture;
mod installs;
mod joins;
mod real;
mod secure;
mod shim;
mod vm;
