//! PKCS #7 SignedData (RFC 2315) with one signer, RSA (PKCS #1 v1.5) over SHA-256: what UEFI takes around a boot image and
//! around a variable. No time is in it, so that the same content under the same key is the same signature.

use super::der::{CONTEXT_0, INTEGER, NULL, OCTETS, OID, Reader, SEQUENCE, SET, value};

/// 1.2.840.113549.1.7.2, signedData.
pub const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
/// 1.2.840.113549.1.7.1, data.
pub const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
/// 2.16.840.1.101.3.4.2.1, sha256.
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
/// 1.2.840.113549.1.1.1, rsaEncryption.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];

/// An algorithm without parameters but NULL.
fn algorithm(oid: &[u8]) -> Vec<u8> {
    value(SEQUENCE, &[&value(OID, &[oid]), NULL])
}

/// The identifier of SHA-256.
pub fn sha256() -> Vec<u8> {
    algorithm(SHA256)
}

/// Issuer and serial number of a certificate (X.509, `tbsCertificate`), as a signer is named.
pub fn issuer_and_serial(certificate: &[u8]) -> Option<Vec<u8>> {
    let mut tbs = Reader(Reader(Reader(certificate).tagged(SEQUENCE)?.content).tagged(SEQUENCE)?.content);
    let mut serial = tbs.value()?;
    if serial.tag == CONTEXT_0 {
        serial = tbs.value()?; // behind the version
    }
    let (_algorithm, issuer) = (tbs.value()?, tbs.value()?);
    (serial.tag == INTEGER).then(|| value(SEQUENCE, &[issuer.whole, serial.whole]))
}

/// What is signed: the content's type, the content where it is not detached, and the attributes where there are any.
#[derive(Clone, Debug)]
pub struct Content<'a> {
    /// Object identifier of the type, its bytes.
    pub kind: &'a [u8],
    /// The content; `None` for a detached signature.
    pub body: Option<&'a [u8]>,
    /// Authenticated attributes, each whole, in DER's order; empty for none.
    pub attributes: &'a [u8],
}

/// SignedData around `content` with `signature` by the key of `certificate`; `None` when that is no certificate.
pub fn signed_data(content: &Content<'_>, certificate: &[u8], signature: &[u8]) -> Option<Vec<u8>> {
    let attributes = match content.attributes {
        [] => vec![],
        attributes => value(CONTEXT_0, &[attributes]),
    };
    let signer = value(
        SEQUENCE,
        &[
            &value(INTEGER, &[&[1]]),
            &issuer_and_serial(certificate)?,
            &sha256(),
            &attributes,
            &algorithm(RSA),
            &value(OCTETS, &[signature]),
        ],
    );
    let body = content.body.map(|body| value(CONTEXT_0, &[body])).unwrap_or_default();
    Some(value(
        SEQUENCE,
        &[
            &value(INTEGER, &[&[1]]),
            &value(SET, &[&sha256()]),
            &value(SEQUENCE, &[&value(OID, &[content.kind]), &body]),
            &value(CONTEXT_0, &[certificate]),
            &value(SET, &[&signer]),
        ],
    ))
}

/// The parts of a SignedData as [`signed_data`] writes it, and as sbsign does.
#[derive(Clone, Copy, Debug)]
pub struct Parsed<'a> {
    /// The content without its tag and length: what a message digest is of.
    pub body: &'a [u8],
    /// The signer's certificate.
    pub certificate: &'a [u8],
    /// The attributes, as the SET that is signed has them inside.
    pub attributes: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
}

/// Reads a ContentInfo with SignedData by one signer, whose certificate is the first that is named by it.
pub fn parse(info: &[u8]) -> Option<Parsed<'_>> {
    let mut info = Reader(Reader(info).tagged(SEQUENCE)?.content);
    if info.tagged(OID)?.content != SIGNED_DATA {
        return None;
    }
    let mut data = Reader(Reader(info.tagged(CONTEXT_0)?.content).tagged(SEQUENCE)?.content);
    let (_version, _digests) = (data.tagged(INTEGER)?, data.tagged(SET)?);
    let mut content = Reader(data.tagged(SEQUENCE)?.content);
    let _kind = content.tagged(OID)?;
    let body = Reader(content.tagged(CONTEXT_0)?.content).value()?.content;
    let mut certificates = Reader(data.tagged(CONTEXT_0)?.content);
    let mut signers = Reader(data.tagged(SET)?.content);
    let mut signer = Reader(signers.tagged(SEQUENCE)?.content);
    if signers.value().is_some() {
        return None;
    }
    let _version = signer.tagged(INTEGER)?;
    let named = signer.tagged(SEQUENCE)?;
    let certificate = std::iter::from_fn(|| certificates.value())
        .find(|c| issuer_and_serial(c.whole).as_deref() == Some(named.whole))?;
    if signer.tagged(SEQUENCE)?.whole != sha256() {
        return None;
    }
    let attributes = signer.tagged(CONTEXT_0)?.content;
    let _algorithm = signer.tagged(SEQUENCE)?;
    let signature = signer.tagged(OCTETS)?.content;
    Some(Parsed { body, certificate: certificate.whole, attributes, signature })
}
