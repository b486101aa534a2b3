//! A network for the emulated box that gives it nothing: no DHCP, no router advertisements. passt(1) carries its TCP, and
//! leads what is meant for the router to this machine's own loopback.

use super::tools::ToolRoot;
use crate::host::fs;
use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Debian packages that it takes; a box of their own, for most runs need none.
pub const PACKAGES: &[&str] = &["passt"];
/// The router, which is this machine (RFC 5737's addresses for examples).
pub const ROUTER: &str = "192.0.2.1";
/// The only address that a box can have there.
pub const ADDRESS: &str = "192.0.2.10";
/// Of both.
pub const PREFIX: u8 = 24;
/// How long it may take to listen.
const START: Duration = Duration::from_secs(20);

/// A network that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Wire {
    child: Child,
    socket: PathBuf,
}

impl Wire {
    /// Starts one that listens on `socket`, for one box.
    ///
    /// # Errors
    /// When the tools lack the program, or it does not listen.
    pub fn start(tools: &ToolRoot, socket: &Path) -> anyhow::Result<Wire> {
        match std::fs::remove_file(socket) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let log = socket.with_extension("log");
        let prefix = PREFIX.to_string();
        let call = tools
            .command("passt")?
            .args(["--foreground", "--quiet", "--one-off", "--ipv4-only", "--no-dhcp", "--no-dhcp-dns"])
            .args(["--address", ADDRESS, "--netmask", &prefix, "--gateway", ROUTER])
            .args(["--map-host-loopback", ROUTER, "--log-file"])
            .arg(&log)
            .arg("--socket")
            .arg(socket);
        let mut command = call.command();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut wire = Wire { child: child.context("starting passt")?, socket: socket.into() };
        let start = Instant::now();
        while !fs::exists(&wire.socket) {
            if let Some(status) = wire.child.try_wait()? {
                bail!(
                    "passt ended with {status}: {}",
                    std::fs::read_to_string(&log).unwrap_or_default().trim()
                );
            }
            if start.elapsed() > START {
                bail!("passt does not listen on {}", wire.socket.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(wire)
    }

    /// Its socket, for [`super::qemu::RunSpec::wire`].
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it ends by itself after the emulator
        let _ = self.child.wait();
    }
}
