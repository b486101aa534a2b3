//! OpenPGP packets and signature subpackets (RFC 9580 §4, §5.2.3), read within their bounds.

use super::Refused;

pub(super) const SIGNATURE: u8 = 2;
pub(super) const PUBLIC_KEY: u8 = 6;
pub(super) const TRUST: u8 = 12;
pub(super) const USER_ID: u8 = 13;
pub(super) const PUBLIC_SUBKEY: u8 = 14;

/// One packet: its type and what is in it.
pub(super) struct Packet<'a> {
    pub tag: u8,
    pub body: &'a [u8],
}

/// Takes bytes off the front; `None` where there are not enough.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }
    pub fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }
    pub fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }
    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }
    /// A multiprecision integer: its length in bits, then its bytes (RFC 9580 §3.2).
    pub fn mpi(&mut self) -> Option<&'a [u8]> {
        let bits = usize::from(self.u16()?);
        self.take(bits.div_ceil(8))
    }
}

/// The next packet of `bytes`; `None` at their end. Partial and indeterminate lengths are for streams, not for keys.
pub(super) fn next<'a>(bytes: &mut &'a [u8]) -> Result<Option<Packet<'a>>, Refused> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader(bytes);
    let packet = (|| {
        let head = reader.byte()?;
        let (tag, length) = match head {
            0xc0.. => {
                let length = match reader.byte()? {
                    n @ 0..=191 => usize::from(n),
                    n @ 192..=223 => (usize::from(n) - 192) * 256 + usize::from(reader.byte()?) + 192,
                    255 => usize::try_from(reader.u32()?).ok()?,
                    _ => return None,
                };
                (head & 0x3f, length)
            }
            0x80.. => {
                let length = match head & 3 {
                    0 => usize::from(reader.byte()?),
                    1 => usize::from(reader.u16()?),
                    2 => usize::try_from(reader.u32()?).ok()?,
                    _ => return None,
                };
                ((head >> 2) & 0x0f, length)
            }
            _ => return None,
        };
        Some(Packet { tag, body: reader.take(length)? })
    })();
    *bytes = reader.0;
    packet.map(Some).ok_or(Refused::Malformed)
}

/// How a key enters a hash: as a packet of version 4 with a two-byte length.
pub(super) fn key_for_hash(body: &[u8]) -> Vec<u8> {
    // A longer key cannot be hashed by the rules; cut, its length makes no signature fit.
    let length = u16::try_from(body.len()).unwrap_or(0);
    [&[0x99], &length.to_be_bytes()[..], body].concat()
}

/// How a user ID enters a hash; nothing for the key itself.
pub(super) fn user_id_for_hash(packet: &Packet<'_>) -> Vec<u8> {
    if packet.tag != USER_ID {
        return vec![];
    }
    [&[0xb4], &(packet.body.len() as u32).to_be_bytes()[..], packet.body].concat()
}

/// A version 4 signature. Times are seconds since 1970, lifetimes seconds.
pub(super) struct Signature<'a> {
    pub kind: u8,
    pub algorithm: u8,
    pub hash: u8,
    /// The part that is signed itself: from the version to the last hashed subpacket.
    pub hashed: &'a [u8],
    /// The first two bytes of the digest.
    pub left: [u8; 2],
    pub value: &'a [u8],
    pub created: i64,
    pub lifetime: Option<i64>,
    pub key_lifetime: Option<i64>,
    /// Key flag "may sign data"; `None` where there are no key flags.
    pub may_sign: Option<bool>,
    pub issuer: Option<[u8; 20]>,
    pub issuer_id: Option<[u8; 8]>,
    /// The back-signature of a signing subkey.
    pub embedded: Option<&'a [u8]>,
}

impl<'a> Signature<'a> {
    /// Reads a signature packet's body; `None` where it is malformed, of another version, or says something critical
    /// that is not understood (RFC 9580 §5.2.3.7).
    pub fn parse(body: &'a [u8]) -> Option<Signature<'a>> {
        let mut reader = Reader(body);
        let head = reader.take(6)?;
        if head[0] != 4 {
            return None;
        }
        let hashed_length = usize::from(u16::from_be_bytes([head[4], head[5]]));
        let hashed_area = reader.take(hashed_length)?;
        let unhashed_length = usize::from(reader.u16()?);
        let unhashed_area = reader.take(unhashed_length)?;
        let mut signature = Signature {
            kind: head[1],
            algorithm: head[2],
            hash: head[3],
            hashed: body.get(..6 + hashed_length)?,
            left: reader.take(2)?.try_into().ok()?,
            value: reader.0,
            created: 0,
            lifetime: None,
            key_lifetime: None,
            may_sign: None,
            issuer: None,
            issuer_id: None,
            embedded: None,
        };
        let mut dated = false;
        let mut area = Reader(hashed_area);
        while let Some((kind, critical, data)) = subpacket(&mut area)? {
            let seconds = || Some(i64::from(u32::from_be_bytes(data.try_into().ok()?)));
            match kind {
                2 => (signature.created, dated) = (seconds()?, true),
                3 => signature.lifetime = Some(seconds()?).filter(|s| *s != 0),
                9 => signature.key_lifetime = Some(seconds()?).filter(|s| *s != 0),
                27 => signature.may_sign = Some(data.first().is_some_and(|flags| flags & 0x02 != 0)),
                // Preferences, notations of no weight, policy URLs, features: nothing to heed.
                4 | 7 | 11 | 20..=26 | 28..=30 | 34 | 39 if !(critical && kind == 20) => {}
                16 | 32 | 33 => signature.unhashed(kind, data),
                _ if critical => return None,
                _ => {}
            }
        }
        let mut area = Reader(unhashed_area);
        while let Some((kind, _, data)) = subpacket(&mut area)? {
            // Hints as to who signed, and a signature that stands for itself; nothing else may be said without a hash.
            signature.unhashed(kind, data);
        }
        dated.then_some(signature)
    }

    fn unhashed(&mut self, kind: u8, data: &'a [u8]) {
        match kind {
            16 if self.issuer_id.is_none() => self.issuer_id = data.try_into().ok(),
            32 if self.embedded.is_none() => self.embedded = Some(data),
            33 if self.issuer.is_none() => {
                self.issuer = data.split_first().and_then(|(v, f)| f.try_into().ok().filter(|_| *v == 4));
            }
            _ => {}
        }
    }

    /// Who says to have signed, in hex.
    pub fn issuer_name(&self) -> String {
        let bytes = self.issuer.as_ref().map(|f| &f[..]).or(self.issuer_id.as_ref().map(|i| &i[..]));
        bytes.map_or_else(|| "an unnamed key".into(), |b| crate::model::digest::hex(b).to_uppercase())
    }
}

/// Type, whether it is critical, and content of the next subpacket. The outer `None` is for malformed ones.
#[allow(clippy::type_complexity, reason = "read in two loops, right above")]
fn subpacket<'a>(area: &mut Reader<'a>) -> Option<Option<(u8, bool, &'a [u8])>> {
    if area.0.is_empty() {
        return Some(None);
    }
    let length = match area.byte()? {
        n @ 0..=191 => usize::from(n),
        n @ 192..=254 => (usize::from(n) - 192) * 256 + usize::from(area.byte()?) + 192,
        255 => usize::try_from(area.u32()?).ok()?,
    };
    let (kind, data) = area.take(length)?.split_first()?;
    Some(Some((kind & 0x7f, kind & 0x80 != 0, data)))
}
