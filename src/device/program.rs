//! The program `forge-device`: arguments in, the machine run over the real box, for ever.

use super::agent::Device;
use super::host::machine::Machine;
use super::{imaging, run};
use crate::error::Kind;
use crate::host::fs::FileLock;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

/// What `--help` says.
const HELP: &str = "\
forge-device: joins this box to its fleet. Started by systemd; a person never has to.

Usage: forge-device [install | --version | --help]

  install  what an installer runs: its disk image onto this box's disk
";

/// Held while the program runs: two would write over each other.
const LOCK: &str = "/run/forge/device.lock";

/// Runs the program with its arguments, the name not among them.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let words: Option<Vec<&str>> = arguments.iter().map(|a| a.to_str()).collect();
    let text = match words.as_deref() {
        Some([]) => match FileLock::try_acquire(Path::new(LOCK)) {
            Ok(Some(_lock)) => run(&mut Device::new(Machine::this())),
            Ok(None) => return refuse("forge-device runs already\n", Kind::Unexpected),
            Err(e) => return refuse(&format!("{LOCK}: {e}\n"), Kind::Unexpected),
        },
        Some(["install"]) => {
            return match imaging::run() {
                Ok(()) => ExitCode::SUCCESS,
                Err(e) => refuse(&format!("{e:#}\n"), Kind::Unexpected),
            };
        }
        Some(["--version"]) => format!("forge-device {}\n", env!("CARGO_PKG_VERSION")),
        Some(["--help"]) => HELP.to_string(),
        _ => return refuse(HELP, Kind::Input),
    };
    let _ = io::stdout().write_all(text.as_bytes()); // a closed pipe is no failure
    ExitCode::SUCCESS
}

fn refuse(text: &str, kind: Kind) -> ExitCode {
    let _ = io::stderr().write_all(text.as_bytes()); // nobody else to tell
    ExitCode::from(kind.exit_code())
}
