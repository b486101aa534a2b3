//! Bytes of a connection → an answer's head and body (RFC 9112, sections 4 to 7), with a bound on everything.

use std::io::{self, BufRead, Read as _};
use std::time::Duration;

/// The longest head, in bytes; proxies and servers send a kilobyte or two.
const MAX_HEAD: usize = 16 << 10;
/// The most header fields.
const MAX_FIELDS: usize = 64;
/// How many interim answers (1xx) may come before the final one.
const MAX_INTERIM: usize = 4;
/// The longest line around a chunk, extensions included.
const MAX_CHUNK_LINE: usize = 1024;
/// The longest wait that an answer can ask for; more is taken for this.
const MAX_RETRY: u64 = 24 * 3600;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Bad {
    /// The connection.
    Io(io::Error),
    /// What came is not what it should be, as an end of the sentence "the answer of X …".
    Not(String),
}

impl From<io::Error> for Bad {
    fn from(e: io::Error) -> Bad {
        Bad::Io(e)
    }
}

fn not(why: impl Into<String>) -> Bad {
    Bad::Not(why.into())
}

/// How the body's end is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// An answer's first part.
#[derive(Debug)]
pub(super) struct Head {
    pub status: u16,
    pub retry_after: Option<Duration>,
    content_type: String,
    framing: Framing,
}

impl Head {
    /// Bytes of the body, where the head says so.
    pub fn length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(n) => Some(n),
            Framing::Chunked | Framing::UntilClose => None,
        }
    }

    /// Why this is no answer of the fleet's, where that shows already.
    pub fn portal(&self) -> Option<String> {
        match self.status {
            300..=399 => Some(format!("a redirect (status {})", self.status)),
            511 => Some("the network asks for a login (status 511)".into()),
            _ if self.content_type.starts_with("text/html") => {
                Some(format!("a web page (status {})", self.status))
            }
            _ => None,
        }
    }
}

/// Reads the head of the final answer.
pub(super) fn head(reader: &mut impl BufRead) -> Result<Head, Bad> {
    for _ in 0..=MAX_INTERIM {
        let head = parse(&lines(reader)?)?;
        if head.status >= 200 {
            return Ok(head);
        }
    }
    Err(not("has no end of interim parts"))
}

/// The bytes up to and with the empty line.
pub(super) fn lines(reader: &mut impl BufRead) -> Result<Vec<u8>, Bad> {
    let mut bytes = vec![];
    loop {
        let before = bytes.len();
        line(reader, &mut bytes, MAX_HEAD)?;
        if matches!(&bytes[before..], b"\r\n" | b"\n") {
            return Ok(bytes);
        }
        // Looked at early: what does not speak HTTP may never send an empty line.
        if before == 0 && !bytes.starts_with(b"HTTP/1.") {
            return Err(not("is no HTTP/1.1"));
        }
    }
}

/// Appends a line with its end, until `bytes` has `most`.
fn line(reader: &mut impl BufRead, bytes: &mut Vec<u8>, most: usize) -> Result<(), Bad> {
    let room = most.saturating_sub(bytes.len());
    let got = reader.take(room as u64).read_until(b'\n', bytes)?;
    if bytes.ends_with(b"\n") && got > 0 {
        Ok(())
    } else if bytes.len() >= most {
        Err(not(format!("has a head or line of more than {most} bytes")))
    } else {
        Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
    }
}

fn parse(bytes: &[u8]) -> Result<Head, Bad> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(not("has a head without an end")),
        Err(e) => return Err(not(format!("is no HTTP/1.1: {e}"))),
    }
    let status = response.code.unwrap_or_default();
    let (mut length, mut chunked, mut retry, mut content_type) = (None, false, None, String::new());
    for field in response.headers.iter() {
        let value = std::str::from_utf8(field.value).unwrap_or_default().trim();
        if field.name.eq_ignore_ascii_case("content-length") {
            let digits = !value.is_empty() && value.bytes().all(|c| c.is_ascii_digit());
            let n: u64 = value.parse().ok().filter(|_| digits).ok_or_else(|| not("has no true length"))?;
            if length.replace(n).is_some_and(|before| before != n) {
                return Err(not("has two lengths"));
            }
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case("chunked") {
                return Err(not("has an encoding that was not asked for"));
            }
            chunked = true;
        } else if field.name.eq_ignore_ascii_case("retry-after") {
            // The other form, a date, asks for a clock that is believed.
            retry = value.parse().ok().map(|s: u64| Duration::from_secs(s.min(MAX_RETRY)));
        } else if field.name.eq_ignore_ascii_case("content-type") {
            content_type = value.to_ascii_lowercase();
        }
    }
    let framing = match (status, chunked, length) {
        (100..=199 | 204 | 304, ..) => Framing::Length(0),
        (_, true, Some(_)) => return Err(not("has a length and chunks")), // request smuggling's old friend
        (_, true, None) => Framing::Chunked,
        (_, false, Some(n)) => Framing::Length(n),
        (_, false, None) => Framing::UntilClose,
    };
    Ok(Head { status, retry_after: retry, content_type, framing })
}

/// Reads the body, at most `limit` bytes.
pub(super) fn body(head: &Head, reader: &mut impl BufRead, limit: usize) -> Result<Vec<u8>, Bad> {
    let too_large = || not(format!("has a body of more than {limit} bytes"));
    let mut bytes = vec![];
    match head.framing {
        Framing::Length(n) => {
            if n > limit as u64 {
                return Err(too_large());
            }
            append(reader, n, &mut bytes)?;
        }
        // TLS says when the peer has closed; a connection that is cut is an error there.
        Framing::UntilClose => {
            reader.take(limit as u64 + 1).read_to_end(&mut bytes)?;
            if bytes.len() > limit {
                return Err(too_large());
            }
        }
        Framing::Chunked => loop {
            let mut size_line = vec![];
            line(reader, &mut size_line, MAX_CHUNK_LINE)?;
            let Ok(httparse::Status::Complete((_, size))) = httparse::parse_chunk_size(&size_line) else {
                return Err(not("has a chunk without a size"));
            };
            if size == 0 {
                // Trailer fields say nothing that is asked for.
                let mut trailer = vec![];
                loop {
                    let before = trailer.len();
                    line(reader, &mut trailer, MAX_HEAD)?;
                    if matches!(&trailer[before..], b"\r\n" | b"\n") {
                        return Ok(bytes);
                    }
                }
            }
            if size > (limit - bytes.len()) as u64 {
                return Err(too_large());
            }
            append(reader, size, &mut bytes)?;
            let mut end = [0; 2];
            reader.read_exact(&mut end)?;
            if end != *b"\r\n" {
                return Err(not("has a chunk of another size than it says"));
            }
        },
    }
    Ok(bytes)
}

fn append(reader: &mut impl BufRead, n: u64, bytes: &mut Vec<u8>) -> Result<(), Bad> {
    if reader.take(n).read_to_end(bytes)? as u64 == n {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(u16, String), String> {
        let mut reader = text.as_bytes();
        let read = head(&mut reader).and_then(|head| Ok((head.status, body(&head, &mut reader, 100)?)));
        match read {
            Ok((status, body)) => Ok((status, String::from_utf8(body).unwrap())),
            Err(Bad::Io(e)) => Err(e.to_string()),
            Err(Bad::Not(why)) => Err(why),
        }
    }

    #[test]
    fn every_framing_is_read() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\n\r\nhello",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nA: b\r\n\r\n",
        ] {
            assert_eq!(read(text), Ok((200, "hello".into())), "{text}");
        }
        assert_eq!(read("HTTP/1.1 204 No Content\r\n\r\n"), Ok((204, String::new())));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("SSH-2.0-OpenSSH\r\n", "no HTTP"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n", "more than 100"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", "end of file"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "two lengths"),
            ("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "no true length"),
            ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", "no true length"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello", "and chunks"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "not asked for"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", "more than 100"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", "without a size"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", "without a size"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n", "another size"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", "end of file"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "end of file"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD));
        assert!(read(&long).unwrap_err().contains("more than 16384"));
        let body = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(101));
        assert!(read(&body).unwrap_err().contains("more than 100"));
        assert!(read(&"HTTP/1.1 100 Continue\r\n\r\n".repeat(9)).unwrap_err().contains("interim"));
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_panic_or_grow(text in "(HTTP/1\\.1 200 OK\r\n)?(Transfer-Encoding: chunked\r\n)?(\r\n)?(\\PC|[0-9a-f]|\r\n){0,200}") {
            if let Ok((_, body)) = read(&text) {
                proptest::prop_assert!(body.len() <= 100);
            }
        }
    }
}
