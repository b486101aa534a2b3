//! The kernel's TPM, for the proof of its endorsement key. The kernel's resource manager (`/dev/tpmrm0`) keeps each
//! opener's keys apart and unloads them when the file is closed.
//!
//! A read of that file has no timeout, and a TPM that is broken can keep one for minutes. So the work is done on a thread
//! that is left to itself when it takes too long; as long as one is stuck, no other is started.

use crate::device::effects::TpmKeys;
use crate::host::fs;
use crate::tpm::Tpm;
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use zeroize::Zeroizing;

/// The resource manager.
const DEVICE: &str = "dev/tpmrm0";
/// How long the TPM may take: making an RSA key can be half a minute on old ones.
const PATIENCE: Duration = Duration::from_secs(50);

/// A TPM that may not answer.
#[derive(Debug, Default)]
pub struct Patient {
    stuck: Option<JoinHandle<()>>,
}

/// Whether the box below `root` has a TPM 2.0 that the kernel manages.
pub fn is_there(root: &Path) -> bool {
    fs::exists(&root.join(DEVICE))
}

impl Patient {
    /// The keys of the TPM below `root`.
    ///
    /// # Errors
    /// Why not, in a line.
    pub fn keys(&mut self, root: &Path) -> Result<TpmKeys, String> {
        self.within(root, |tpm| {
            let ek = tpm.endorsement_key()?;
            let ak = tpm.attestation_key()?;
            Ok(TpmKeys {
                ek_public: ek.public().to_vec(),
                // A certificate that cannot be read is none: the key proves itself without.
                ek_certificate: tpm.endorsement_certificate().unwrap_or_default(),
                ak_public: ak.public().to_vec(),
            })
        })
    }

    /// What is hidden in a credential.
    ///
    /// # Errors
    /// Why not, in a line.
    pub fn activate(
        &mut self,
        root: &Path,
        blob: &[u8],
        secret: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, String> {
        let (blob, secret) = (blob.to_vec(), secret.to_vec());
        self.within(root, move |tpm| {
            let ek = tpm.endorsement_key()?;
            let ak = tpm.attestation_key()?;
            tpm.activate(&ek, &ak, &blob, &secret).map(Zeroizing::new)
        })
    }

    fn within<T: Send + 'static>(
        &mut self,
        root: &Path,
        work: impl FnOnce(&mut Tpm<File>) -> Result<T, crate::tpm::TpmError> + Send + 'static,
    ) -> Result<T, String> {
        if !is_there(root) {
            return Err("the box has no TPM".into());
        }
        if self.stuck.take_if(|thread| thread.is_finished()).is_none() && self.stuck.is_some() {
            return Err("the TPM has not answered yet".into());
        }
        let path = root.join(DEVICE);
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let file = OpenOptions::new().read(true).write(true).open(&path);
            let result = file.map_err(crate::tpm::TpmError::Io).and_then(|file| work(&mut Tpm::new(file)));
            let _ = tell.send(result); // nobody listens after the deadline
        });
        match told.recv_timeout(PATIENCE) {
            Ok(result) => result.map_err(|e| line(&e)),
            Err(_) => {
                self.stuck = Some(thread);
                Err(format!("the TPM has not answered for {} s", PATIENCE.as_secs()))
            }
        }
    }
}

/// An error with what is behind it.
fn line(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_without_a_tpm_and_one_that_says_nothing_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut tpm = Patient::default();
        assert!(tpm.keys(dir.path()).unwrap_err().contains("no TPM"));
        // A device that takes everything and says nothing.
        std::fs::create_dir(dir.path().join("dev")).unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join(DEVICE)).unwrap();
        let silent = tpm.keys(dir.path()).unwrap_err();
        assert!(silent.contains("cannot be read"), "{silent}");
        // A pipe that nobody reads keeps the opener for ever; then nothing waits for it twice.
        let (tell, told) = mpsc::channel::<()>();
        tpm.stuck = Some(std::thread::spawn(move || assert!(told.recv().is_err())));
        assert!(tpm.keys(dir.path()).unwrap_err().contains("not answered yet"));
        drop(tell);
        while !tpm.stuck.as_ref().unwrap().is_finished() {
            std::thread::yield_now();
        }
        assert!(tpm.keys(dir.path()).unwrap_err().contains("cannot be read"), "and asked again");
    }
}
