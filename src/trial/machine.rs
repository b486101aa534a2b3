//! An emulated box: turned on, watched on its console, unplugged. Dropping it pulls the plug.

use super::Trial;
use crate::enroll::DeviceId;
use crate::host::cancel::Cancel;
use crate::model::Epoch;
use crate::run::qemu::{self, Medium, RunSpec, Serial};
use crate::run::tpm::Swtpm;
use crate::run::wire::Wire;
use anyhow::{Context as _, bail};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// For how long somebody has to read that an installation is done, and the box to turn itself off.
const READ: Duration = Duration::from_secs(60);

/// How the box is turned on, as often as it takes: its disk and its firmware's variables are kept.
#[derive(Clone, Copy)]
pub struct Power<'a> {
    /// The trial.
    pub trial: &'a Trial<'a>,
    /// Its disk; console, variables and the emulator's socket lie beside it.
    pub disk: &'a Path,
    /// Where its clock starts; this machine's time otherwise.
    pub clock: Option<Epoch>,
    /// Whether it has a TPM even where its disk needs none. Its state is kept in [`tpm_state`].
    pub tpm: bool,
    /// Whether its network gives it nothing.
    pub alone: bool,
    /// A stick that is plugged in.
    pub stick: Option<&'a Path>,
    /// What it is started from when its disk starts nothing.
    pub medium: Option<&'a Medium>,
}

/// Where the TPM of the box with the disk `disk` has its state.
pub fn tpm_state(disk: &Path) -> PathBuf {
    disk.with_extension("tpm")
}

/// A box that runs.
pub struct Machine {
    child: Child,
    console: PathBuf,
    monitor: PathBuf,
    // Ends after the emulator.
    _tpm: Option<Swtpm>,
    _wire: Option<Wire>,
}

impl Power<'_> {
    /// Turns it on.
    ///
    /// # Errors
    /// When the emulator or its firmware is missing, or does not start.
    pub fn on(&self) -> anyhow::Result<Machine> {
        let Trial { tools, arch, acceleration, .. } = *self.trial;
        let (code, empty) = qemu::firmware(arch, self.trial.sealed);
        let [console, variables, monitor] =
            ["console", "vars", "qmp"].map(|name| self.disk.with_extension(name));
        if !variables.exists() {
            std::fs::copy(tools.file(empty)?, &variables).context("copying the firmware's variables")?;
        }
        for old in [&console, &monitor] {
            match std::fs::remove_file(old) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
        }
        let tpm = if self.tpm || self.trial.sealed {
            let tools = self.trial.tpm_tools.context("there are no tools for a TPM")?;
            Some(Swtpm::start(tools, &tpm_state(self.disk))?)
        } else {
            None
        };
        let wire = if self.alone {
            let tools = self.trial.wire_tools.context("there are no tools for a network")?;
            Some(Wire::start(tools, &self.disk.with_extension("wire"))?)
        } else {
            None
        };
        let spec = RunSpec {
            arch,
            disk: self.disk.into(),
            persist: true,
            memory: 2048,
            cpus: acceleration.processors(),
            forwards: vec![],
            headless: true,
            serial: Serial::File(console.clone()),
            firmware: tools.file(code)?,
            variables,
            data: tools.path().join("usr/share/qemu"),
            medium: self.medium.cloned(),
            second: None,
            stick: self.stick.map(Path::to_path_buf),
            clock: self.clock,
            monitor: Some(monitor.clone()),
            wire: wire.as_ref().map(|wire| wire.socket().to_path_buf()),
            tpm: tpm.as_ref().map(|tpm| tpm.socket().to_path_buf()),
            secure_boot: self.trial.sealed,
            acceleration,
        };
        let program = qemu::program(arch);
        let call = tools.command(program)?.args(qemu::argv(&spec));
        let child =
            call.command().stdin(Stdio::null()).spawn().with_context(|| format!("starting {program}"))?;
        Ok(Machine { child, console, monitor, _tpm: tpm, _wire: wire })
    }
}

impl Machine {
    /// Lets it run for `time`.
    ///
    /// # Errors
    /// When it ends by itself; cancellation.
    pub fn stay(&mut self, time: Duration, cancel: &Cancel) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            cancel.check()?;
            if let Some(status) = self.child.try_wait()? {
                bail!("the emulator ended with {status}: {}", self.last());
            }
            let left = time.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(200)));
        }
    }

    /// Waits until it turns itself off; one that starts again instead is unplugged after a minute.
    ///
    /// # Errors
    /// Cancellation.
    pub fn wait_for_end(mut self, cancel: &Cancel) -> anyhow::Result<()> {
        let start = Instant::now();
        while self.child.try_wait()?.is_none() && start.elapsed() < READ {
            cancel.check()?;
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Waits until its console says `text`.
    ///
    /// # Errors
    /// When `patience` is over, or it ends by itself; cancellation.
    pub fn wait_for(&mut self, text: &str, patience: Duration, cancel: &Cancel) -> anyhow::Result<()> {
        let start = Instant::now();
        while !self.has_said(text) {
            if start.elapsed() > patience {
                bail!("no `{text}` after {patience:?}: {}", self.last());
            }
            self.stay(Duration::from_millis(200), cancel)?;
        }
        Ok(())
    }

    /// Whether its console has said `text` since it was turned on.
    pub fn has_said(&self, text: &str) -> bool {
        self.text().contains(text)
    }

    /// The device's name, once it stands on its console.
    pub fn device(&self) -> Option<DeviceId> {
        let text = self.text();
        let name = text.split_once("  device ")?.1.split_whitespace().next()?;
        name.parse().ok()
    }

    /// The last words of its console.
    pub fn last(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(12)..].join(" / ")
    }

    fn text(&self) -> String {
        let bytes = std::fs::read(&self.console).unwrap_or_default(); // not there before its first word
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Plugs the network cable in or out (QMP, `set_link`).
    ///
    /// # Errors
    /// When the emulator does not take it.
    pub fn link(&self, up: bool) -> anyhow::Result<()> {
        let connect = || -> anyhow::Result<UnixStream> {
            let start = Instant::now();
            loop {
                match UnixStream::connect(&self.monitor) {
                    Ok(stream) => return Ok(stream),
                    Err(e) if start.elapsed() > Duration::from_secs(10) => return Err(e.into()),
                    Err(_) => std::thread::sleep(Duration::from_millis(50)),
                }
            }
        };
        let mut stream = connect().context("talking to the emulator")?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        writeln!(stream, "{}", serde_json::json!({ "execute": "qmp_capabilities" }))?;
        let arguments = serde_json::json!({ "name": "nic", "up": up });
        writeln!(stream, "{}", serde_json::json!({ "execute": "set_link", "arguments": arguments }))?;
        let mut taken = 0;
        for line in BufReader::new(stream).lines() {
            let line = line?;
            if line.contains("\"error\"") {
                bail!("the emulator refuses: {line}");
            }
            taken += usize::from(line.contains("\"return\""));
            if taken == 2 {
                return Ok(());
            }
        }
        bail!("the emulator gave no answer")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}
