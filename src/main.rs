//! forge: parse, dispatch, exit code.

use forge::debian::bootstrap;
use forge::{cli, host::sandbox, lock::render};
use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all, while there is one thread: this may be the inside of a sandbox.
    if let Some(code) = sandbox::entry(&[bootstrap::JOB, bootstrap::REMOVE, render::JOB]) {
        return code;
    }
    cli::run(std::env::args_os())
}
