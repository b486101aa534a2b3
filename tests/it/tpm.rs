//! A TPM's proof, against a TPM: swtpm, through its socket.

use crate::support;
use forge::tpm::{Tpm, credential};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A software TPM with a seed of its own, gone when dropped.
pub struct Simulator {
    child: Child,
    dir: tempfile::TempDir,
}

impl Simulator {
    pub fn start() -> Option<Simulator> {
        let swtpm = support::tool("swtpm")?;
        let dir = tempfile::tempdir().unwrap();
        let socket = format!("type=unixio,path={}", dir.path().join("tpm").display());
        let child = Command::new(swtpm)
            .args([
                "socket",
                "--tpm2",
                "--flags",
                "not-need-init,startup-clear",
                "--server",
                &socket,
                "--tpmstate",
            ])
            .arg(format!("dir={}", dir.path().display()))
            .spawn()
            .unwrap();
        Some(Simulator { child, dir })
    }

    pub fn connect(&self) -> Tpm<UnixStream> {
        let start = Instant::now();
        loop {
            match UnixStream::connect(self.dir.path().join("tpm")) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                    return Tpm::new(stream);
                }
                Err(error) if start.elapsed() > Duration::from_secs(20) => panic!("swtpm: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_tpm_opens_what_was_made_for_it_and_no_other_does() {
    let (Some(first), Some(second)) = (Simulator::start(), Simulator::start()) else { return };
    let (mut mine, mut other) = (first.connect(), second.connect());
    let (ek, ak) = (mine.endorsement_key().unwrap(), mine.attestation_key().unwrap());
    let made = credential::make(ek.public(), ak.public(), b"32 bytes that nobody else knows!").unwrap();
    let opened = mine.activate(&ek, &ak, &made.blob, &made.encrypted_secret).unwrap();
    assert_eq!(opened, b"32 bytes that nobody else knows!");

    // The keys follow from the TPM's seed: nothing has to be kept.
    let public = ek.public().to_vec();
    mine.flush(ek).unwrap();
    let ek = mine.endorsement_key().unwrap();
    assert_eq!(ek.public(), public);

    let (other_ek, other_ak) = (other.endorsement_key().unwrap(), other.attestation_key().unwrap());
    assert_ne!(other_ek.public(), ek.public());
    assert!(other.activate(&other_ek, &other_ak, &made.blob, &made.encrypted_secret).is_err(), "another TPM");
    let swapped = credential::make(ek.public(), other_ak.public(), b"secret").unwrap();
    assert!(
        mine.activate(&ek, &ak, &swapped.blob, &swapped.encrypted_secret).is_err(),
        "bound to another key's name"
    );
    let mut changed = made.clone();
    changed.blob[10] ^= 1;
    assert!(mine.activate(&ek, &ak, &changed.blob, &changed.encrypted_secret).is_err(), "a changed byte");
    // Refusals leave no session behind: a TPM has few.
    for _ in 0..8 {
        assert!(mine.activate(&ek, &ak, &changed.blob, &changed.encrypted_secret).is_err());
    }
    assert_eq!(mine.activate(&ek, &ak, &made.blob, &made.encrypted_secret).unwrap(), opened);
    assert_eq!(mine.endorsement_certificate().unwrap(), None, "a fresh simulator has none");
}
