//! Boots built disks in QEMU and looks at what a person would see: the console, and the ports of the device.
//!
//! A program of its own, because a boot takes a minute. It needs what a build leaves behind, named by the environment:
//!
//! | variable | what |
//! |---|---|
//! | `FORGE_TEST_DISK` | a disk, raw or `.raw.zst`, of a profile with `console=ttyS0` |
//! | `FORGE_TEST_TOOLS` | unpacked packages of [`forge::run::packages`] |
//! | `FORGE_TEST_NEXT` | likewise, a disk of the same site and a newer version, with other workloads |
//! | `FORGE_TEST_ARCH` | the disk's architecture; default: this machine's |
//! | `FORGE_TEST_HTTP` | a port on which a workload of the disk answers HTTP, where one does |
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program of tests")]

mod boots;
mod console;
mod fallback;
mod vm;
