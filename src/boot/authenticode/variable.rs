//! The keys that firmware is to trust, as updates of its variables: UEFI 2.10, 8.2.2 `EFI_VARIABLE_AUTHENTICATION_2`, and
//! 32.4.1 `EFI_SIGNATURE_LIST`. A firmware in setup mode, and systemd-boot from `loader/keys/`, take them as files.

use super::{SignatureError, pkcs7};
use crate::model::{Epoch, Guid};

/// `EFI_GLOBAL_VARIABLE`: PK and KEK.
const GLOBAL: Guid = Guid::from_u128(0x8be4df61_93ca_11d2_aa0d_00e098032b8c);
/// `EFI_IMAGE_SECURITY_DATABASE_GUID`: db.
const DATABASE: Guid = Guid::from_u128(0xd719b2cb_3d3a_4596_a3bc_dad00e67656f);
/// `EFI_CERT_X509_GUID`.
const X509: Guid = Guid::from_u128(0xa5c059a1_94e4_4aa7_87b5_ab155c2bf072);
/// `EFI_CERT_TYPE_PKCS7_GUID`.
const PKCS7: Guid = Guid::from_u128(0x4aafd29d_68df_49ee_8aa9_347d375665a7);
/// Non-volatile, for boot and run time, and with time-based authentication.
const ATTRIBUTES: u32 = 0x27;

/// A variable of Secure Boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// Who owns the machine: signs changes of KEK.
    Pk,
    /// Who may change what is trusted.
    Kek,
    /// Whose images start.
    Db,
}

impl Variable {
    /// In the order in which they are written: with PK, setup mode ends.
    pub const ALL: [Variable; 3] = [Variable::Db, Variable::Kek, Variable::Pk];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Variable::Pk => "PK",
            Variable::Kek => "KEK",
            Variable::Db => "db",
        }
    }

    fn vendor(self) -> Guid {
        match self {
            Variable::Pk | Variable::Kek => GLOBAL,
            Variable::Db => DATABASE,
        }
    }
}

/// A list of signatures with one certificate (DER), which `owner` put there.
pub fn list(certificate: &[u8], owner: Guid) -> Vec<u8> {
    let entry = 16 + certificate.len();
    let mut list = X509.to_gpt().to_vec();
    for field in [28 + entry, 0, entry] {
        list.extend((field as u32).to_le_bytes());
    }
    list.extend(owner.to_gpt());
    list.extend(certificate);
    list
}

/// An update that waits for its signature: `PK.auth`, `KEK.auth` or `db.auth`.
pub struct Update {
    time: [u8; 16],
    data: Vec<u8>,
    message: Vec<u8>,
}

/// The update that sets `variable` to `data` as of `time`: a firmware takes none that is older than what it has.
pub fn update(variable: Variable, data: Vec<u8>, time: Epoch) -> Update {
    let mut stamp = [0; 16];
    // EFI_TIME: year, month, day, hour, minute, second; the rest must be zero.
    let text = time.rfc3339();
    let number = |range: std::ops::Range<usize>| {
        text.get(range).and_then(|t| t.parse::<u16>().ok()).unwrap_or_default()
    };
    stamp[..2].copy_from_slice(&number(0..4).to_le_bytes());
    for (at, range) in [(2, 5..7), (3, 8..10), (4, 11..13), (5, 14..16), (6, 17..19)] {
        stamp[at] = number(range) as u8;
    }
    let mut message: Vec<u8> = variable.name().encode_utf16().flat_map(u16::to_le_bytes).collect();
    message.extend(variable.vendor().to_gpt());
    message.extend(ATTRIBUTES.to_le_bytes());
    message.extend(stamp);
    message.extend(&data);
    Update { time: stamp, data, message }
}

impl Update {
    /// What is signed, with RSA PKCS #1 v1.5 over SHA-256.
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// The file, with `signature` by the key of `certificate` (DER).
    ///
    /// # Errors
    /// When that is no certificate.
    pub fn finish(&self, certificate: &[u8], signature: &[u8]) -> Result<Vec<u8>, SignatureError> {
        let content = pkcs7::Content { kind: pkcs7::DATA, body: None, attributes: &[] };
        let data = pkcs7::signed_data(&content, certificate, signature).ok_or(SignatureError::Certificate)?;
        let mut file = self.time.to_vec();
        file.extend((24 + data.len() as u32).to_le_bytes());
        // WIN_CERT_REVISION_2_0, WIN_CERT_TYPE_EFI_GUID.
        file.extend([0x00, 0x02, 0xf1, 0x0e]);
        file.extend(PKCS7.to_gpt());
        file.extend(data);
        file.extend(&self.data);
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_says_when_what_and_for_which_variable() {
        let list = list(b"certificate", Guid::NIL);
        assert_eq!(list.len(), 28 + 16 + 11);
        let update = update(Variable::Db, list.clone(), Epoch(1_763_769_600));
        assert!(update.message().starts_with(b"d\0b\0") && update.message().ends_with(&list));
        assert_eq!(update.time[..8], [0xe9, 0x07, 11, 22, 0, 0, 0, 0]);
    }
}
