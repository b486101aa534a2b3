//! A TPM 2.0's endorsement key, and the proof that a box holds it: the few commands that enrollment needs ([`Tpm`],
//! on the box), and the fleet's half of it (`credential`).
//!
//! The proof is TPM2_ActivateCredential: the fleet encrypts a secret to the endorsement key and to the *name* of a second
//! key; only the TPM that holds both gives the secret back. The second key (the attestation key) is a primary key that
//! follows from the TPM's own seed, so nothing of it is stored.
//!
//! TCG TPM 2.0 Library, Part 1 "Credential Protection", Part 3 "Commands"; TCG EK Credential Profile 2.5, template L-1.
//! Sessions carry no secrets here: the hierarchies' passwords are empty, as shipped.

#[cfg(feature = "cli")]
pub mod credential;
mod wire;

pub use wire::{Reader, Short, Writer};

use crate::model::Digest;
use std::io::{Read, Write};

/// The algorithms and handles that are spoken of (Part 2).
mod id {
    pub const NO_SESSIONS: u16 = 0x8001;
    pub const SESSIONS: u16 = 0x8002;
    pub const CREATE_PRIMARY: u32 = 0x131;
    pub const ACTIVATE_CREDENTIAL: u32 = 0x147;
    pub const NV_READ: u32 = 0x14e;
    pub const POLICY_SECRET: u32 = 0x151;
    pub const FLUSH_CONTEXT: u32 = 0x165;
    pub const NV_READ_PUBLIC: u32 = 0x169;
    pub const START_AUTH_SESSION: u32 = 0x176;
    pub const OWNER: u32 = 0x4000_0001;
    pub const ENDORSEMENT: u32 = 0x4000_000b;
    pub const NULL_HANDLE: u32 = 0x4000_0007;
    pub const PASSWORD: u32 = 0x4000_0009;
    pub const RSA: u16 = 0x0001;
    pub const AES: u16 = 0x0006;
    pub const SHA256: u16 = 0x000b;
    pub const NULL: u16 = 0x0010;
    pub const ECDSA: u16 = 0x0018;
    pub const ECC: u16 = 0x0023;
    pub const CFB: u16 = 0x0043;
    pub const P256: u16 = 0x0003;
    pub const POLICY_SESSION: u8 = 0x01;
    /// Nothing was done, and the same command may do it soon: YIELDED, TESTING, RETRY.
    pub const BUSY: [u32; 3] = [0x908, 0x90a, 0x922];
    /// Where makers put the certificate of the RSA-2048 endorsement key (EK Credential Profile, 2.2.1.4).
    pub const EK_CERTIFICATE: u32 = 0x01c0_0002;
}

/// PolicySecret(endorsement): the policy of every endorsement key made from the TCG's template.
const EK_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd,
    0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
/// No command or response of a TPM is longer (PC Client Platform TPM Profile).
const MAX_MESSAGE: usize = 4096;
/// A TPM that is busy is asked again for about four seconds.
const MAX_ATTEMPTS: u64 = 20;
/// No certificate is read beyond this.
const MAX_CERTIFICATE: usize = 8192;

/// Why a TPM did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// The device could not be written or read.
    #[error("talking to the TPM")]
    Io(#[from] std::io::Error),
    /// It refused.
    #[error("the TPM answers {command} with code {code:#x}")]
    Refused {
        /// The command.
        command: &'static str,
        /// Its response code (Part 2, "TPM_RC").
        code: u32,
    },
    /// It answered with something else.
    #[error("the TPM's answer to {0} cannot be read")]
    Unreadable(&'static str),
}

/// A TPM behind anything that takes a command and gives its response: `/dev/tpmrm0`, or a simulator's socket.
#[derive(Debug)]
pub struct Tpm<T>(T);

/// A key that is loaded: flushed by [`Tpm::flush`].
#[derive(Debug)]
pub struct Loaded {
    handle: u32,
    public: Vec<u8>,
}

impl Loaded {
    /// TPMT_PUBLIC of the key.
    pub fn public(&self) -> &[u8] {
        &self.public
    }
}

/// SHA-256 of a key's public area: names an endorsement key in an inventory.
pub fn digest(public: &[u8]) -> Digest {
    Digest::of(public)
}

/// The name of a key (Part 1, "Names"): its algorithm, then the digest of its public area.
pub fn name(public: &[u8]) -> Vec<u8> {
    Writer::new().u16(id::SHA256).raw(Digest::of(public).as_raw()).finish()
}

/// The modulus of a 2048-bit RSA public area (TPMT_PUBLIC) that was made from the TCG's template for endorsement keys:
/// restricted, for decryption alone, never to leave its TPM. Any other key could be made to lie.
///
/// # Errors
/// [`Short`] for everything else.
pub fn endorsement_modulus(public: &[u8]) -> Result<[u8; 256], Short> {
    let template = ek_template(&[0; 256]);
    let (head, unique) = public.split_at_checked(template.len() - 256).ok_or(Short)?;
    if head != &template[..template.len() - 256] {
        return Err(Short);
    }
    unique.try_into().map_err(|_| Short)
}

/// TPMT_PUBLIC of template L-1 with a modulus.
fn ek_template(modulus: &[u8; 256]) -> Vec<u8> {
    // fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt
    const ATTRIBUTES: u32 = 0x0003_00b2;
    Writer::new()
        .u16(id::RSA)
        .u16(id::SHA256)
        .u32(ATTRIBUTES)
        .sized(&EK_POLICY)
        .u16(id::AES)
        .u16(128)
        .u16(id::CFB)
        .u16(id::NULL) // scheme
        .u16(2048)
        .u32(0) // the default exponent, 65537
        .sized(modulus)
        .finish()
}

/// TPMT_PUBLIC of the attestation key: P-256, restricted to signing what the TPM itself says.
fn ak_template() -> Vec<u8> {
    // fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign
    const ATTRIBUTES: u32 = 0x0005_0072;
    Writer::new()
        .u16(id::ECC)
        .u16(id::SHA256)
        .u32(ATTRIBUTES)
        .sized(&[])
        .u16(id::NULL) // symmetric
        .u16(id::ECDSA)
        .u16(id::SHA256)
        .u16(id::P256)
        .u16(id::NULL) // kdf
        .sized(b"forge-ak") // makes it another key than anyone else's primary
        .sized(&[])
        .finish()
}

/// An authorization with an empty password (Part 1, "Password Authorizations").
fn password() -> Vec<u8> {
    Writer::new().u32(id::PASSWORD).sized(&[]).u8(0).sized(&[]).finish()
}

impl<T: Read + Write> Tpm<T> {
    /// Speaks to the TPM behind `device`.
    pub fn new(device: T) -> Tpm<T> {
        Tpm(device)
    }

    /// The endorsement key (RSA-2048, template L-1).
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn endorsement_key(&mut self) -> Result<Loaded, TpmError> {
        self.primary(id::ENDORSEMENT, &ek_template(&[0; 256]))
    }

    /// The attestation key.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn attestation_key(&mut self) -> Result<Loaded, TpmError> {
        self.primary(id::OWNER, &ak_template())
    }

    fn primary(&mut self, hierarchy: u32, template: &[u8]) -> Result<Loaded, TpmError> {
        const WHAT: &str = "TPM2_CreatePrimary";
        let parameters = Writer::new()
            .sized(&Writer::new().sized(&[]).sized(&[]).finish()) // no password, no data
            .sized(template)
            .sized(&[])
            .u32(0); // no PCRs
        let answer = self.call(WHAT, id::CREATE_PRIMARY, &[hierarchy], &password(), &parameters.finish())?;
        let mut reader = Reader::new(&answer);
        let mut read = || -> Result<Loaded, Short> {
            let handle = reader.u32()?;
            reader.u32()?; // the length of the parameters
            Ok(Loaded { handle, public: reader.sized()?.to_vec() })
        };
        read().map_err(|_| TpmError::Unreadable(WHAT))
    }

    /// The certificate of the endorsement key (DER), where the maker left one.
    ///
    /// # Errors
    /// [`TpmError`] when the TPM cannot be asked; having none is no error.
    pub fn endorsement_certificate(&mut self) -> Result<Option<Vec<u8>>, TpmError> {
        const WHAT: &str = "TPM2_NV_Read";
        let public =
            match self.call("TPM2_NV_ReadPublic", id::NV_READ_PUBLIC, &[id::EK_CERTIFICATE], &[], &[]) {
                Ok(public) => public,
                Err(TpmError::Refused { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
        let mut reader = Reader::new(&public);
        let mut size = || -> Result<usize, Short> {
            let mut area = Reader::new(reader.sized()?);
            area.take(4 + 2 + 4)?; // index, name algorithm, attributes
            area.sized()?; // policy
            Ok(usize::from(area.u16()?))
        };
        let size = size().map_err(|_| TpmError::Unreadable("TPM2_NV_ReadPublic"))?;
        if size > MAX_CERTIFICATE {
            return Err(TpmError::Unreadable("TPM2_NV_ReadPublic"));
        }
        let mut certificate = vec![];
        while certificate.len() < size {
            // A TPM gives at least this much at a time (TPM_PT_NV_BUFFER_MAX).
            let part = (size - certificate.len()).min(512);
            let (part, at) =
                (u16::try_from(part).unwrap_or(512), u16::try_from(certificate.len()).unwrap_or(0));
            let parameters = Writer::new().u16(part).u16(at).finish();
            let handles = [id::OWNER, id::EK_CERTIFICATE];
            let answer = self.call(WHAT, id::NV_READ, &handles, &password(), &parameters)?;
            let mut reader = Reader::new(&answer);
            let data = reader.u32().and_then(|_| reader.sized()).map_err(|_| TpmError::Unreadable(WHAT))?;
            if data.is_empty() {
                return Err(TpmError::Unreadable(WHAT));
            }
            certificate.extend(data);
        }
        Ok(Some(certificate))
    }

    /// The secret in a credential that was made for `ek` and for the name of `ak`.
    ///
    /// # Errors
    /// [`TpmError::Refused`] when it was made for other keys.
    pub fn activate(
        &mut self,
        ek: &Loaded,
        ak: &Loaded,
        credential_blob: &[u8],
        encrypted_secret: &[u8],
    ) -> Result<Vec<u8>, TpmError> {
        const WHAT: &str = "TPM2_ActivateCredential";
        let session = self.endorsement_session()?;
        let authorizations =
            [password(), Writer::new().u32(session).sized(&[]).u8(0).sized(&[]).finish()].concat();
        // Both arrive as TPM2Bs whose lengths are part of what the fleet sends.
        let parameters = [credential_blob, encrypted_secret].concat();
        let answer =
            self.call(WHAT, id::ACTIVATE_CREDENTIAL, &[ak.handle, ek.handle], &authorizations, &parameters);
        if answer.is_err() {
            // A session that was used is gone; one whose command was refused is not.
            let _ = self.flush_handle(session);
        }
        let answer = answer?;
        let mut reader = Reader::new(&answer);
        let secret = reader.u32().and_then(|_| reader.sized()).map_err(|_| TpmError::Unreadable(WHAT))?;
        Ok(secret.to_vec())
    }

    /// A policy session that satisfies the endorsement key's policy.
    fn endorsement_session(&mut self) -> Result<u32, TpmError> {
        const WHAT: &str = "TPM2_StartAuthSession";
        let parameters = Writer::new()
            .sized(&[0; 16]) // no secret depends on this nonce
            .sized(&[])
            .u8(id::POLICY_SESSION)
            .u16(id::NULL)
            .u16(id::SHA256)
            .finish();
        let handles = [id::NULL_HANDLE, id::NULL_HANDLE];
        let answer = self.call(WHAT, id::START_AUTH_SESSION, &handles, &[], &parameters)?;
        let session = Reader::new(&answer).u32().map_err(|_| TpmError::Unreadable(WHAT))?;
        let parameters = Writer::new().sized(&[]).sized(&[]).sized(&[]).u32(0).finish();
        let handles = [id::ENDORSEMENT, session];
        self.call("TPM2_PolicySecret", id::POLICY_SECRET, &handles, &password(), &parameters)?;
        Ok(session)
    }

    /// Unloads a key: a TPM holds three.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn flush(&mut self, key: Loaded) -> Result<(), TpmError> {
        self.flush_handle(key.handle)
    }

    fn flush_handle(&mut self, handle: u32) -> Result<(), TpmError> {
        let parameters = Writer::new().u32(handle).finish();
        self.call("TPM2_FlushContext", id::FLUSH_CONTEXT, &[], &[], &parameters).map(drop)
    }

    /// Sends a command and gives what follows the response's header.
    fn call(
        &mut self,
        command: &'static str,
        code: u32,
        handles: &[u32],
        authorizations: &[u8],
        parameters: &[u8],
    ) -> Result<Vec<u8>, TpmError> {
        let mut body = handles.iter().fold(Writer::new(), |w, handle| w.u32(*handle));
        if !authorizations.is_empty() {
            body = body.u32(u32::try_from(authorizations.len()).unwrap_or(u32::MAX)).raw(authorizations);
        }
        let body = body.raw(parameters).finish();
        let tag = if authorizations.is_empty() { id::NO_SESSIONS } else { id::SESSIONS };
        let length = u32::try_from(body.len() + 10).unwrap_or(u32::MAX);
        let message = Writer::new().u16(tag).u32(length).u32(code).raw(&body).finish();
        for attempt in 1.. {
            // In one piece: the kernel takes a write for a command.
            self.0.write_all(&message)?;
            self.0.flush()?;
            let answer = self.response(command)?;
            let mut reader = Reader::new(&answer);
            let mut header = || -> Result<u32, Short> {
                reader.u16()?;
                reader.u32()?;
                reader.u32()
            };
            match header() {
                Ok(0) => return Ok(answer[10..].to_vec()),
                Ok(code) if id::BUSY.contains(&code) && attempt < MAX_ATTEMPTS => {
                    std::thread::sleep(std::time::Duration::from_millis(20 * attempt));
                }
                Ok(code) => return Err(TpmError::Refused { command, code }),
                Err(Short) => break,
            }
        }
        Err(TpmError::Unreadable(command))
    }

    /// A response, which says its own length; a socket may give it in pieces.
    fn response(&mut self, command: &'static str) -> Result<Vec<u8>, TpmError> {
        let mut answer = vec![0; MAX_MESSAGE];
        let mut have = 0;
        loop {
            let read = self.0.read(&mut answer[have..])?;
            have += read;
            if have >= 10 {
                let length = u32::from_be_bytes([answer[2], answer[3], answer[4], answer[5]]) as usize;
                if (10..=MAX_MESSAGE).contains(&length) && have >= length {
                    answer.truncate(length);
                    return Ok(answer);
                }
                if !(10..=MAX_MESSAGE).contains(&length) {
                    return Err(TpmError::Unreadable(command));
                }
            }
            if read == 0 {
                return Err(TpmError::Unreadable(command));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each command with the next of its responses.
    struct Script(Vec<Vec<u8>>, Vec<u8>);

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let next = if self.0.is_empty() { vec![] } else { self.0.remove(0) };
            buffer[..next.len()].copy_from_slice(&next);
            Ok(next.len())
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1.extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_tpm_that_answers_nonsense_is_an_error() {
        for answer in [
            vec![],
            vec![0x80, 0x01, 0, 0],
            Writer::new().u16(0x8001).u32(9).u32(0).finish(),
            Writer::new().u16(0x8001).u32(1 << 30).u32(0).finish(),
            Writer::new().u16(0x8002).u32(14).u32(0).u32(1).finish(),
            Writer::new().u16(0x8002).u32(20).u32(0).u32(1).u32(2).sized(&[]).finish()[..19].to_vec(),
        ] {
            let mut tpm = Tpm::new(Script(vec![answer.clone()], vec![]));
            assert!(tpm.endorsement_key().is_err(), "{answer:02x?}");
        }
        let refused = Writer::new().u16(0x8001).u32(10).u32(0x18b).finish();
        let error = Tpm::new(Script(vec![refused], vec![])).endorsement_key().unwrap_err();
        assert!(matches!(error, TpmError::Refused { code: 0x18b, .. }), "{error}");
    }

    #[test]
    fn only_a_key_of_the_template_is_an_endorsement_key() {
        let public = ek_template(&[7; 256]);
        assert_eq!(endorsement_modulus(&public).unwrap(), [7; 256]);
        assert!(endorsement_modulus(&public[..public.len() - 1]).is_err());
        assert!(endorsement_modulus(&[&public[..], &[0]].concat()).is_err());
        for at in [1, 3, 7, 10, 50] {
            let mut other = public.clone();
            other[at] ^= 1;
            assert!(endorsement_modulus(&other).is_err(), "byte {at}");
        }
    }
}
