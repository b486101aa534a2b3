//! The cleartext signature framework and ASCII armor (RFC 9580 §6 and §7), read strictly.
//!
//! The known attacks on clear-signed files put text where one reader sees it and the verifier does not: before the message,
//! after it, in its headers, in a second message, or behind a line that looks like the end. So a file is one message and
//! nothing else, headers are `Hash:` only, and what is not certain is refused.

use super::Refused;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const BEGIN_MESSAGE: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const BEGIN_SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";
const END_SIGNATURE: &str = "-----END PGP SIGNATURE-----";
const BEGIN_KEYS: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const END_KEYS: &str = "-----END PGP PUBLIC KEY BLOCK-----";

/// A clear-signed message taken apart; nothing is verified yet.
#[derive(Debug)]
pub(super) struct Cleartext {
    /// The text as it is signed: lines joined by CR LF, without blanks at their ends.
    pub canonical: String,
    /// The signature packets.
    pub signature: Vec<u8>,
}

impl Cleartext {
    /// The signed text with plain line ends.
    pub fn text(&self) -> String {
        self.canonical.replace("\r\n", "\n") + "\n"
    }
}

/// Takes a file apart that is one clear-signed message.
pub(super) fn parse(file: &[u8]) -> Result<Cleartext, Refused> {
    let refuse = |why| Err(Refused::NotSigned(why));
    let Ok(file) = std::str::from_utf8(file) else { return refuse("not UTF-8") };
    if file.contains(['\r', '\0']) {
        return refuse("carriage returns or zero bytes");
    }
    let mut lines = file.split('\n');
    if lines.next() != Some(BEGIN_MESSAGE) {
        return refuse("something stands before the signed text, or nothing is signed");
    }
    loop {
        match lines.next() {
            Some("") => break,
            Some(line) if line.starts_with("Hash: ") => {}
            _ => return refuse("headers other than `Hash:`"),
        }
    }
    let mut canonical = String::with_capacity(file.len() + file.len() / 16);
    let mut first = true;
    loop {
        let Some(line) = lines.next() else { return refuse("the signature is missing") };
        if line == BEGIN_SIGNATURE {
            break;
        }
        let line = match line.strip_prefix('-') {
            // Dash-escaped; without an escape a line with a dash could be a marker to somebody.
            Some(escaped) => match escaped.strip_prefix(' ') {
                Some(line) => line,
                None => return refuse("a line with an unescaped dash"),
            },
            None => line,
        };
        if !std::mem::take(&mut first) {
            canonical.push_str("\r\n");
        }
        canonical.push_str(line.trim_end_matches([' ', '\t']));
    }
    let signature = body(&mut lines, END_SIGNATURE)?;
    if lines.any(|line| !line.is_empty()) {
        return refuse("something stands after the signature");
    }
    Ok(Cleartext { canonical, signature })
}

/// The bytes of all armored key blocks of a text; what stands between them is remarks.
pub(super) fn dearmor_keys(text: &str) -> Result<Vec<u8>, Refused> {
    let mut lines = text.lines().map(str::trim_end);
    let mut keys = vec![];
    while lines.by_ref().any(|line| line == BEGIN_KEYS) {
        keys.extend(body(&mut lines, END_KEYS)?);
    }
    Ok(keys)
}

/// Armor headers, an empty line, base64, perhaps a checksum, up to the line `end`.
fn body<'a>(lines: &mut impl Iterator<Item = &'a str>, end: &str) -> Result<Vec<u8>, Refused> {
    if !lines.by_ref().any(str::is_empty) {
        return Err(Refused::Malformed);
    }
    let mut base64 = String::new();
    for line in lines {
        if line == end {
            return STANDARD.decode(base64).map_err(|_| Refused::Malformed);
        }
        // The CRC-24 guards against noise, not against people; RFC 9580 §6.1 does without it.
        if !line.starts_with('=') {
            base64.push_str(line);
        }
    }
    Err(Refused::Malformed)
}
