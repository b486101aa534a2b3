//! systemd: saying that the service is ready and alive (sd_notify(3)), and switching units on.

use crate::host::cancel::Cancel;
use crate::host::env;
use crate::host::tool::ToolCall;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

/// How long systemctl may take to queue a job.
const SYSTEMCTL: Duration = Duration::from_secs(60);

/// Tells the service manager; does nothing where there is none, because nobody waits then.
#[derive(Debug)]
pub struct Notify(Option<(UnixDatagram, SocketAddr)>);

impl Notify {
    /// The manager that started this process, by `NOTIFY_SOCKET`.
    pub fn from_env() -> Notify {
        Notify(env::var("NOTIFY_SOCKET").and_then(|address| Notify::to(&address)))
    }

    fn to(address: &str) -> Option<(UnixDatagram, SocketAddr)> {
        let address = match address.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok()?,
            None => SocketAddr::from_pathname(address).ok()?,
        };
        Some((UnixDatagram::unbound().ok()?, address))
    }

    /// The service runs.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// The service goes on: to be said more often than [`watchdog_interval`].
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// A line for `systemctl status`.
    pub fn status(&self, line: &str) {
        let line: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
        self.send(&format!("STATUS={line}"));
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.0 {
            let _ = socket.send_to_addr(message.as_bytes(), address); // a manager that is restarting hears the next
        }
    }
}

/// How often the manager wants to hear that the service goes on; `None` where it does not.
pub fn watchdog_interval() -> Option<Duration> {
    env::var("WATCHDOG_USEC")?.parse().ok().map(Duration::from_micros)
}

/// What a grant is for: units of this target start when one has been applied.
pub const TARGET: &str = "forge-device.target";

/// Starts `units`. Does not wait until they run.
///
/// # Errors
/// When systemctl ends with an error, or takes longer than a minute.
pub fn start(units: &[String]) -> anyhow::Result<()> {
    systemctl("start", units)
}

/// Stops `units`.
///
/// # Errors
/// As [`start`].
pub fn stop(units: &[String]) -> anyhow::Result<()> {
    systemctl("stop", units)
}

/// Starts those of `units` anew that run. An image need not have all of them.
///
/// # Errors
/// As [`start`].
pub fn restart(units: &[String]) -> anyhow::Result<()> {
    let mut known = vec![];
    for unit in units {
        // systemctl would restart the others, and fail.
        if property(unit, "LoadState")? != "not-found" {
            known.push(unit.clone());
        }
    }
    if known.is_empty() { Ok(()) } else { systemctl("try-restart", &known) }
}

/// Has the manager read its units again, after files of theirs were written.
///
/// # Errors
/// As [`start`].
pub fn reload() -> anyhow::Result<()> {
    call("daemon-reload", &[]).output(&Cancel::default()).map(drop)
}

/// What the manager says of `unit`: `active`, `activating`, `failed` and so on.
///
/// # Errors
/// As [`start`].
pub fn state(unit: &str) -> anyhow::Result<String> {
    property(unit, "ActiveState")
}

fn property(unit: &str, name: &str) -> anyhow::Result<String> {
    let property = format!("--property={name}");
    let said = call("show", &[&property, "--value", "--", unit]).output(&Cancel::default())?;
    Ok(String::from_utf8_lossy(&said).trim().to_string())
}

/// The units that [`TARGET`] wants, below `root`.
pub fn of_target(root: &Path) -> Vec<String> {
    let dirs = ["etc/systemd/system", "usr/lib/systemd/system"].map(|dir| root.join(dir));
    let wanted = dirs.iter().flat_map(|dir| std::fs::read_dir(dir.join(format!("{TARGET}.wants"))).ok());
    let mut units: Vec<String> =
        wanted.flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    units.sort();
    units.dedup();
    units
}

fn systemctl(verb: &str, units: &[String]) -> anyhow::Result<()> {
    let call = call(verb, &["--no-block", "--"]).args(units);
    call.output(&Cancel::default()).map(drop)
}

fn call(verb: &str, args: &[&str]) -> ToolCall {
    ToolCall::new("systemctl").args(["--no-ask-password", verb]).args(args).within(SYSTEMCTL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_what_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notify = Notify(Notify::to(path.to_str().unwrap()));
        notify.ready();
        notify.alive();
        notify.status("waiting\nWATCHDOG=trigger");
        let mut heard = vec![];
        for _ in 0..3 {
            let mut bytes = [0; 64];
            let n = manager.recv(&mut bytes).unwrap();
            heard.push(String::from_utf8_lossy(&bytes[..n]).into_owned());
        }
        assert_eq!(heard, ["READY=1", "WATCHDOG=1", "STATUS=waitingWATCHDOG=trigger"]);
    }
}
