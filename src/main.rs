//! forge: parse, dispatch, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    forge::cli::run(std::env::args_os())
}
