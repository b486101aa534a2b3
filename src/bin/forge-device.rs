//! forge-device: what a box runs to join its fleet.

use std::process::ExitCode;

fn main() -> ExitCode {
    forge::device::program::main(std::env::args_os().skip(1))
}
