//! Secrets at rest, by systemd-creds(1): sealed to the TPM, else to the host's key, else as they are in a file that only
//! root reads. Without PCRs: a changed Secure Boot database, or a firmware update, must not cost a box its identity.

use crate::device::effects::VaultError;
use crate::host::cancel::Cancel;
use crate::host::tool::ToolCall;
use anyhow::bail;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long a TPM may take: making its storage key can be ten seconds on old ones.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a sealed secret was sealed to: its first line.
const TPM: &[u8] = b"tpm2\n";
const HOST: &[u8] = b"host\n";
const PLAIN: &[u8] = b"plain\n";

/// Words for a key that is not this box's, and never will be: systemd's, and tpm2-tss's for what a TPM says of a key that
/// another one, or it before it was cleared, has wrapped: TPM_RC_INTEGRITY of the first parameter (TPM 2.0 Library, Part 2,
/// 6.6). systemd itself says no more of it than "State not recoverable", as of many things that pass.
const FOREIGN: &[&str] = &[
    "integrity check failed",
    "incorrect key",
    "does not belong to this TPM",
    "Esys_Load() Esys Finish ErrorCode (0x000001df)",
];

/// Seals `secret` under `name`, to a TPM where `tpm` says that there is one.
///
/// # Errors
/// When there is a TPM and it does not answer: what is sealed to less would stay so for ever.
pub fn seal(tpm: bool, name: &str, secret: &[u8]) -> anyhow::Result<Vec<u8>> {
    if tpm {
        match encrypt("tpm2", name, secret) {
            Ok(sealed) => return Ok([TPM, &sealed].concat()),
            // The image has no library for it, which no waiting mends.
            Err(e) if says(&e, &["not supported", "not installed", "compiled without", "TPM2 support"]) => {}
            Err(e) => bail!("sealing a secret to the TPM: {e:#}"),
        }
    }
    Ok(match encrypt("host", name, secret) {
        Ok(sealed) => [HOST, &sealed].concat(),
        Err(_) => [PLAIN, secret].concat(),
    })
}

/// Opens what [`seal`] gave.
///
/// # Errors
/// [`VaultError::Never`] where the TPM or the host's key is another one, [`VaultError::NotNow`] for all that may pass.
pub fn unseal(tpm: bool, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let parted = |kind: &[u8]| sealed.strip_prefix(kind);
    if let Some(secret) = parted(PLAIN) {
        return Ok(Zeroizing::new(secret.to_vec()));
    }
    let Some(blob) = parted(TPM).or_else(|| parted(HOST)) else {
        return Err(VaultError::Never("these bytes are no sealed secret".into()));
    };
    if sealed.starts_with(TPM) && !tpm {
        return Err(VaultError::NotNow("the secret is sealed to a TPM, and there is none".into()));
    }
    let call = ToolCall::new("systemd-creds").arg("decrypt").arg(format!("--name={name}")).args(["-", "-"]);
    match call.input(blob).within(PATIENCE).output(&Cancel::default()) {
        Ok(secret) => Ok(Zeroizing::new(secret)),
        Err(e) if says(&e, FOREIGN) => {
            Err(VaultError::Never(format!("the secret was sealed in another box: {e:#}")))
        }
        Err(e) => Err(VaultError::NotNow(format!("{e:#}"))),
    }
}

fn encrypt(key: &str, name: &str, secret: &[u8]) -> anyhow::Result<Vec<u8>> {
    let call = ToolCall::new("systemd-creds").arg("encrypt").arg(format!("--with-key={key}"));
    let call = if key == "tpm2" { call.arg("--tpm2-pcrs=") } else { call };
    call.arg(format!("--name={name}"))
        .args(["-", "-"])
        .input(secret)
        .within(PATIENCE)
        .output(&Cancel::default())
}

fn says(error: &anyhow::Error, words: &[&str]) -> bool {
    let text = format!("{error:#}").to_lowercase();
    words.iter().any(|word| text.contains(&word.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_sealed_secret_is_never_opened_and_a_missing_tpm_is_waited_for() {
        assert!(matches!(unseal(false, "id", b"nonsense"), Err(VaultError::Never(_))));
        assert!(matches!(unseal(false, "id", b"tpm2\nblob"), Err(VaultError::NotNow(_))));
        assert_eq!(*unseal(false, "id", b"plain\nseed").unwrap(), b"seed");
    }

    #[test]
    fn a_key_of_another_tpm_is_told_from_a_tpm_that_is_busy() {
        // systemd 257 with tpm2-tss 4.1 says so.
        let other = anyhow::anyhow!(
            "systemd-creds ended with exit status: 1:\n\
             WARNING:esys:src/tss2-esys/api/Esys_Load.c:324:Esys_Load_Finish() Received TPM Error \n\
             ERROR:esys:src/tss2-esys/api/Esys_Load.c:112:Esys_Load() Esys Finish ErrorCode (0x000001df) \n\
             Failed to unseal secret using TPM2: State not recoverable"
        );
        assert!(says(&other, FOREIGN));
        let gone = anyhow::anyhow!(
            "systemd-creds ended with exit status: 1:\n\
             ERROR:tcti:src/tss2-tcti/tcti-device.c:455:Tss2_Tcti_Device_Init() Failed to open specified TCTI device \
             file /dev/tpmrm0: No such file or directory"
        );
        assert!(!says(&gone, FOREIGN));
    }
}
