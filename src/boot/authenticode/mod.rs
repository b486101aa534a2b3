//! Authenticode: a boot image and a certificate → the image with a signature that UEFI Secure Boot checks.
//!
//! Microsoft's "Windows Authenticode Portable Executable Signature Format" and UEFI 2.10, 32.2.4. Knows no keys: what is to
//! be signed goes out ([`Prepared::message`]), the signature comes in ([`Prepared::write`]). An image is signed once: with a
//! second signature its bytes would depend on the order.

mod der;
mod pkcs7;
pub mod variable;

use super::pe::PeError;
use crate::model::Digest;
use crate::model::digest::Hasher;
use crate::tree::Content;
use der::{CONTEXT_0, OCTETS, OID, SEQUENCE, SET, value};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;

/// 1.3.6.1.4.1.311.2.1.4, SPC_INDIRECT_DATA.
const INDIRECT_DATA: &[u8] = &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 2, 1, 4];
/// 1.3.6.1.4.1.311.2.1.15, SPC_PE_IMAGE_DATA.
const PE_IMAGE_DATA: &[u8] = &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 2, 1, 15];
/// 1.2.840.113549.1.9.3, contentType.
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 3];
/// 1.2.840.113549.1.9.4, messageDigest.
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 4];
/// `WIN_CERT_REVISION_2_0` and `WIN_CERT_TYPE_PKCS_SIGNED_DATA`.
const WIN_CERTIFICATE: [u8; 4] = [0, 2, 2, 0];
/// What is read of an image to find its headers.
const MAX_HEADERS: u64 = 64 * 1024;
/// The longest signature that is taken, in bytes: a chain of certificates of 4096 bits.
const MAX_SIGNATURE: u64 = 64 * 1024;

/// Why an image is not signed, or its signature does not hold.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// No PE image, or one that contradicts itself.
    #[error(transparent)]
    Image(#[from] PeError),
    /// It could not be read or written.
    #[error("reading or writing a PE image")]
    Io(#[from] io::Error),
    /// There is a signature where none may be, or none where one has to be.
    #[error("the image {0}")]
    Signed(&'static str),
    /// What should be a certificate is none.
    #[error("the certificate is no X.509 certificate in DER")]
    Certificate,
    /// The signature is of another image.
    #[error("the signature is of another image: it names digest {named}, the image has {found}")]
    Other {
        /// What is signed.
        named: Digest,
        /// What is there.
        found: Digest,
    },
}

/// Where in an image the signature is said to be.
struct Places {
    /// Offset of the checksum, four bytes.
    checksum: u64,
    /// Offset of the entry of the certificate table, eight bytes.
    entry: u64,
    /// Offset and length of the certificate table; zero without one.
    table: (u64, u64),
}

fn places(image: &Content) -> Result<Places, SignatureError> {
    let header = |why| SignatureError::Image(PeError::Header(why));
    // Also checks that it is an image of the 64-bit kind at all.
    super::pe::Pe::open(image.clone())?;
    let headers = image.slice(0, image.len().min(MAX_HEADERS))?.to_vec(MAX_HEADERS)?;
    let u32_at = |at: usize| {
        let bytes = headers.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
        bytes.map(u32::from_le_bytes).ok_or_else(|| header("cut off"))
    };
    let optional = u32_at(0x3c)? as usize + 24;
    if u32_at(optional + 108)? <= 4 {
        return Err(header("it has no entry for a signature"));
    }
    let (offset, length) = (u64::from(u32_at(optional + 144)?), u64::from(u32_at(optional + 148)?));
    if length != 0 && offset + length != image.len() {
        return Err(header("its signature is not at its end"));
    }
    Ok(Places { checksum: optional as u64 + 64, entry: optional as u64 + 144, table: (offset, length) })
}

/// The digest that a signature is of: the image less its checksum, the entry of the certificate table, and that table;
/// zeros fill it up to eight bytes.
fn digest(image: &Content, places: &Places) -> io::Result<Digest> {
    let end = if places.table.1 == 0 { image.len() } else { places.table.0 };
    let mut hasher = Hasher::default();
    for (from, to) in [(0, places.checksum), (places.checksum + 4, places.entry), (places.entry + 8, end)] {
        let piece = image.slice(from, to - from)?;
        let mut reader = piece.reader();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match reader.read(&mut buffer)? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
    }
    hasher.update(&vec![0; (end.next_multiple_of(8) - end) as usize]);
    Ok(hasher.finish().0)
}

/// SpcIndirectDataContent: that `digest` is of a PE image.
fn indirect_data(digest: Digest) -> Vec<u8> {
    // Microsoft's own text where the name of the file once stood.
    let obsolete: Vec<u8> = "<<<Obsolete>>>".encode_utf16().flat_map(u16::to_be_bytes).collect();
    let link = value(CONTEXT_0, &[&value(0xa2, &[&value(0x80, &[&obsolete])])]);
    let image = value(SEQUENCE, &[&value(0x03, &[&[0]]), &link]);
    let data = value(SEQUENCE, &[&value(OID, &[PE_IMAGE_DATA]), &image]);
    let digest = value(SEQUENCE, &[&pkcs7::sha256(), &value(OCTETS, &[digest.as_raw()])]);
    value(SEQUENCE, &[&data, &digest])
}

/// An image that waits for its signature.
pub struct Prepared<'a> {
    image: Content,
    places: Places,
    certificate: &'a [u8],
    content: Vec<u8>,
    attributes: Vec<u8>,
    message: Vec<u8>,
}

/// Makes an image ready to be signed by the key of `certificate` (DER).
///
/// # Errors
/// When it is no image, is signed already, or `certificate` is none.
pub fn prepare(image: Content, certificate: &[u8]) -> Result<Prepared<'_>, SignatureError> {
    let places = places(&image)?;
    if places.table.1 != 0 {
        return Err(SignatureError::Signed("is signed already"));
    }
    pkcs7::issuer_and_serial(certificate).ok_or(SignatureError::Certificate)?;
    let content = indirect_data(digest(&image, &places)?);
    let inside = der::Reader(&content).value().map(|v| v.content).unwrap_or_default();
    let attributes = [
        value(SEQUENCE, &[&value(OID, &[CONTENT_TYPE]), &value(SET, &[&value(OID, &[INDIRECT_DATA])])]),
        value(
            SEQUENCE,
            &[&value(OID, &[MESSAGE_DIGEST]), &value(SET, &[&value(OCTETS, &[Digest::of(inside).as_raw()])])],
        ),
    ]
    .concat();
    let message = value(SET, &[&attributes]);
    Ok(Prepared { image, places, certificate, content, attributes, message })
}

impl Prepared<'_> {
    /// What is signed, with RSA PKCS #1 v1.5 over SHA-256.
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// Writes the image with `signature` to `out` from its first byte; the length.
    ///
    /// # Errors
    /// What reading and writing say.
    pub fn write(&self, signature: &[u8], out: &File) -> Result<u64, SignatureError> {
        let content =
            pkcs7::Content { kind: INDIRECT_DATA, body: Some(&self.content), attributes: &self.attributes };
        let data =
            pkcs7::signed_data(&content, self.certificate, signature).ok_or(SignatureError::Certificate)?;
        let info = value(SEQUENCE, &[&value(OID, &[pkcs7::SIGNED_DATA]), &value(CONTEXT_0, &[&data])]);
        let at = self.image.len().next_multiple_of(8);
        let length = (8 + info.len() as u64).next_multiple_of(8);
        out.set_len(0)?; // what was there would show through the padding
        self.image.copy_to(out, 0)?;
        let mut table = ((8 + info.len()) as u32).to_le_bytes().to_vec();
        table.extend(WIN_CERTIFICATE);
        table.extend(&info);
        out.write_all_at(&table, at)?;
        out.set_len(at + length)?;
        let entry = [(at as u32).to_le_bytes(), (length as u32).to_le_bytes()].concat();
        out.write_all_at(&entry, self.places.entry)?;
        Ok(at + length)
    }
}

/// A signature of an image, as it says; [`Signature::message`] and [`Signature::signature`] are for who knows keys to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The signer's certificate, DER.
    pub certificate: Vec<u8>,
    /// What was signed.
    pub message: Vec<u8>,
    /// RSA PKCS #1 v1.5 over SHA-256 of it.
    pub signature: Vec<u8>,
}

/// The signature of an image, when it is of this image; `None` for an image without one. Of several, the first.
///
/// # Errors
/// When it is no image, or a signature is of another, or cannot be read.
pub fn open(image: &Content) -> Result<Option<Signature>, SignatureError> {
    Ok(signatures(image)?.into_iter().next())
}

/// All signatures of an image, each of this image: what a vendor had signed under two authorities has two.
///
/// # Errors
/// As [`open`].
pub fn signatures(image: &Content) -> Result<Vec<Signature>, SignatureError> {
    let places = places(image)?;
    let (at, length) = places.table;
    if length == 0 {
        return Ok(vec![]);
    }
    let unreadable = || SignatureError::Signed("has a signature that is none");
    let table = image.slice(at, length)?.to_vec(MAX_SIGNATURE)?;
    let found = digest(image, &places)?;
    let (mut rest, mut signatures) = (&table[..], vec![]);
    while !rest.is_empty() {
        let (header, _) = rest.split_first_chunk::<8>().ok_or_else(unreadable)?;
        let stated = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let entry = rest.get(8..stated).filter(|_| header[4..] == WIN_CERTIFICATE).ok_or_else(unreadable)?;
        signatures.push(signature(entry, found)?);
        // Each begins at a multiple of eight; the last may end before one.
        rest = rest.get(stated.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(signatures)
}

/// One entry of the certificate table, of an image with digest `found`.
fn signature(entry: &[u8], found: Digest) -> Result<Signature, SignatureError> {
    let unreadable = || SignatureError::Signed("has a signature that is none");
    let parsed = pkcs7::parse(entry).ok_or_else(unreadable)?;
    // The attributes name the content's digest, the content the image's: each link is checked.
    let named = |oid: &[u8]| {
        let mut attributes = der::Reader(parsed.attributes);
        std::iter::from_fn(move || attributes.value()).find_map(|attribute| {
            let mut attribute = der::Reader(attribute.content);
            let found = attribute.tagged(OID)?.content == oid;
            found.then(|| der::Reader(attribute.tagged(SET)?.content).value()).flatten()
        })
    };
    let content = named(MESSAGE_DIGEST).ok_or_else(unreadable)?;
    if content.content != Digest::of(parsed.body).as_raw() {
        return Err(unreadable());
    }
    let mut body = der::Reader(parsed.body);
    let mut last = body
        .value()
        .and_then(|_| body.tagged(SEQUENCE))
        .map(|v| der::Reader(v.content))
        .ok_or_else(unreadable)?;
    let signed =
        last.tagged(SEQUENCE).filter(|a| a.whole == pkcs7::sha256()).and_then(|_| last.tagged(OCTETS));
    let signed = signed.and_then(|v| <[u8; 32]>::try_from(v.content).ok()).ok_or_else(unreadable)?;
    if Digest::from_raw(signed) != found {
        return Err(SignatureError::Other { named: Digest::from_raw(signed), found });
    }
    Ok(Signature {
        certificate: parsed.certificate.to_vec(),
        message: value(SET, &[parsed.attributes]),
        signature: parsed.signature.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::pe::tests::minimal;
    use super::*;
    use std::sync::Arc;

    /// The outside of a certificate: version, serial, algorithm, issuer.
    fn certificate() -> Vec<u8> {
        let issuer = value(SEQUENCE, &[&value(SET, &[b"\x30\x00"])]);
        let tbs = value(
            SEQUENCE,
            &[&value(CONTEXT_0, &[&[2, 1, 2]]), &value(der::INTEGER, &[&[7]]), &pkcs7::sha256(), &issuer],
        );
        value(SEQUENCE, &[&tbs])
    }

    fn signed() -> Vec<u8> {
        let certificate = certificate();
        let prepared = prepare(minimal().into(), &certificate).unwrap();
        let out = tempfile::tempfile().unwrap();
        prepared.write(&[9; 256], &out).unwrap();
        let signed = Content::of_file(Arc::new(out)).unwrap().to_vec(1 << 20).unwrap();
        let found = open(&Content::from(signed.clone())).unwrap().unwrap();
        assert_eq!(found.message, prepared.message());
        assert_eq!((found.certificate, found.signature), (certificate, vec![9; 256]));
        signed
    }

    #[test]
    fn a_signature_is_found_again_and_hangs_on_every_byte_but_its_own() {
        let good = signed();
        assert_eq!(good.len() % 8, 0);
        assert_eq!(open(&minimal().into()).unwrap(), None);
        let table = u32::from_le_bytes(good[0x58 + 144..0x58 + 148].try_into().unwrap()) as usize;
        for at in [0x200, 0x400, 0x404, table - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let refused = open(&bad.into());
            assert!(matches!(refused, Err(SignatureError::Other { .. })), "{at:#x}: {refused:?}");
        }
        assert!(matches!(prepare(good.into(), &certificate()), Err(SignatureError::Signed(_))));
        assert!(matches!(prepare(minimal().into(), b"none"), Err(SignatureError::Certificate)));
    }

    #[test]
    fn hostile_signatures_are_errors() {
        let good = signed();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] = bad[at].wrapping_add(0x7f);
            let _ = open(&bad.into());
        }
        for length in (0..good.len()).step_by(7) {
            let _ = open(&good[..length].to_vec().into());
        }
    }
}
