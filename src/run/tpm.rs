//! A TPM 2.0 for the emulated box: swtpm(8), whose state is a directory, so that it is the same TPM after a power cut.

use super::tools::ToolRoot;
use crate::host::fs;
use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Debian packages that a TPM takes; a box of their own, for most runs need none.
pub const PACKAGES: &[&str] = &["swtpm"];
/// How long it may take to listen: it makes its seeds before, the first time.
const START: Duration = Duration::from_secs(60);

/// A TPM that runs. Dropping it ends it; its state stays.
#[derive(Debug)]
pub struct Swtpm {
    child: Child,
    socket: PathBuf,
}

impl Swtpm {
    /// Starts the TPM whose state is in `dir`, which is made when missing: a new TPM then.
    ///
    /// # Errors
    /// When the tools lack the program, or it does not listen.
    pub fn start(tools: &ToolRoot, dir: &Path) -> anyhow::Result<Swtpm> {
        fs::make_private_dir(dir).with_context(|| format!("making {}", dir.display()))?;
        let socket = dir.join("sock");
        match std::fs::remove_file(&socket) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let call = tools
            .command("swtpm")?
            .args(["socket", "--tpm2", "--tpmstate"])
            .arg(format!("dir={}", dir.display()))
            .arg("--ctrl")
            .arg(format!("type=unixio,path={}", socket.display()))
            .arg("--log")
            .arg(format!("file={}", dir.join("log").display()));
        let child = call.command().stdin(Stdio::null()).spawn().context("starting swtpm")?;
        let mut tpm = Swtpm { child, socket };
        let start = Instant::now();
        while !fs::exists(&tpm.socket) {
            if let Some(status) = tpm.child.try_wait()? {
                let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
                bail!("swtpm ended with {status}: {}", log.trim());
            }
            if start.elapsed() > START {
                bail!("swtpm does not listen on {}", tpm.socket.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(tpm)
    }

    /// Its control socket, for [`super::qemu::RunSpec::tpm`].
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it ends by itself after the emulator
        let _ = self.child.wait();
    }
}
