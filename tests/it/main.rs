//! Integration tests, a file a stage.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run programs and plant files")]
mod dependencies;
mod layering;

mod disk;
mod oci;

mod podman;

mod archive;
mod support;
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests run programs, plant files and say what they skip"
)]

mod golden;
mod profile;
