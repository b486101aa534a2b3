//! Integration tests, a file a stage.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests run programs, plant files and say what they skip"
)]

mod archive;
mod boot;
mod bootstrap;
mod dependencies;
mod disk;
mod golden;
mod layering;
mod oci;
mod podman;
mod profile;
mod support;
