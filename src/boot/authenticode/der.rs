//! DER (X.690) as far as signatures of boot images need it: values are built inside out, and read with every length checked.

/// SEQUENCE.
pub const SEQUENCE: u8 = 0x30;
/// SET.
pub const SET: u8 = 0x31;
/// OCTET STRING.
pub const OCTETS: u8 = 0x04;
/// INTEGER.
pub const INTEGER: u8 = 0x02;
/// OBJECT IDENTIFIER.
pub const OID: u8 = 0x06;
/// `[0]`, constructed.
pub const CONTEXT_0: u8 = 0xa0;
/// NULL, whole.
pub const NULL: &[u8] = &[5, 0];

/// A value of `tag` whose content are `parts` one behind the other.
pub fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let first = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len() - 1);
        out.push(0x80 | (bytes.len() - first) as u8);
        out.extend(&bytes[first..]);
    }
    parts.iter().for_each(|part| out.extend(*part));
    out
}

/// A value that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    /// Its tag.
    pub tag: u8,
    /// Its content.
    pub content: &'a [u8],
    /// Tag, length and content.
    pub whole: &'a [u8],
}

/// Reads values one behind the other.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next value; `None` at the end, or where what follows is none. Lengths of more than four bytes are none: no
    /// signature is that long.
    pub fn value(&mut self) -> Option<Value<'a>> {
        let (&tag, &first) = (self.0.first()?, self.0.get(1)?);
        let (header, length) = match first {
            0..=0x7f => (2, usize::from(first)),
            0x81..=0x84 => {
                let count = usize::from(first & 0x7f);
                let bytes = self.0.get(2..2 + count)?;
                (2 + count, bytes.iter().fold(0usize, |sum, b| sum << 8 | usize::from(*b)))
            }
            _ => return None,
        };
        let whole = self.0.get(..header.checked_add(length)?)?;
        self.0 = &self.0[whole.len()..];
        Some(Value { tag, content: &whole[header..], whole })
    }

    /// The next value, when it has `tag`.
    pub fn tagged(&mut self, tag: u8) -> Option<Value<'a>> {
        self.value().filter(|value| value.tag == tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_were_written() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x1_0000] {
            let content = vec![7; length];
            let whole = value(OCTETS, &[&content]);
            let mut reader = Reader(&whole);
            assert_eq!(reader.tagged(OCTETS), Some(Value { tag: OCTETS, content: &content, whole: &whole }));
            assert_eq!(reader.value(), None);
            assert_eq!(Reader(&whole[..whole.len() - 1]).value(), None, "cut off");
        }
        assert_eq!(Reader(&[4, 0x85, 1, 1, 1, 1, 1]).value(), None);
        assert_eq!(Reader(&[4, 0x80, 0, 0]).value(), None, "an indefinite length is not DER");
    }
}
