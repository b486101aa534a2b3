//! The program `forge-device`: arguments in, the machine run over the real box, for ever.

use super::agent::Device;
use super::configuration;
use super::host::machine::Machine;
use super::run;
use crate::error::Kind;
use crate::host::fs::FileLock;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

/// What `--help` says.
const HELP: &str = "\
forge-device: joins this box to its fleet. Started by systemd; a person never has to.

Usage: forge-device [--version | --help]
       forge-device merge BASE PATCH TO    a unit's call: JSON of the image, and of the grant over it
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
        Some(["merge", base, patch, to]) => {
            match configuration::merge(Path::new(base), Path::new(patch), Path::new(to)) {
                Ok(()) => String::new(),
                Err(e) => return refuse(&format!("{e:#}\n"), Kind::Unexpected),
            }
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
