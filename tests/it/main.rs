//! Integration tests, a file a stage.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "tests run programs, plant files and say what they skip"
)]

mod archive;
mod board;
mod boot;
mod bootstrap;
mod build;
mod bundle;
mod cluster;
mod dependencies;
mod device;
mod disk;
mod export;
mod fixture;
mod flash;
mod fleet;
mod formats;
mod golden;
mod helm;
mod inspect;
mod kubeedge;
mod kubernetes;
mod layering;
mod oci;
mod podman;
mod profile;
mod release;
mod secrets;
mod shim;
mod support;
mod tamper;
mod token;
mod tpm;
mod user;
mod workloads;
