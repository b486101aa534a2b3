//! Integration tests, a file a stage.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "tests run programs, plant files and say what they skip"
)]

mod archive;
mod boot;
mod bootstrap;
mod dependencies;
mod disk;
mod golden;
mod inspect;
mod layering;
mod oci;
mod podman;
mod profile;
mod support;
mod tamper;
