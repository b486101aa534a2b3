//! The program: arguments in, the state machine over the real box, never back.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

/// What `--help` says.
const HELP: &str = "\
forge-device: joins this box to its fleet. Started by systemd; a person never has to.

Usage: forge-device [--version | --help]
";

/// Runs the program with its arguments, the name not among them.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let words: Vec<&str> = arguments.iter().filter_map(|a| a.to_str()).collect();
    let text = match words[..] {
        ["--version"] => format!("forge-device {}\n", env!("CARGO_PKG_VERSION")),
        ["--help"] => HELP.to_string(),
        _ => {
            let _ = std::io::stderr().write_all(HELP.as_bytes()); // nobody to tell
            return ExitCode::from(crate::error::Kind::Input.exit_code());
        }
    };
    let _ = std::io::stdout().write_all(text.as_bytes()); // a closed pipe is no failure
    ExitCode::SUCCESS
}
