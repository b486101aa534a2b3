//! An HTTP proxy that lets a connection through (`CONNECT`: RFC 9110, section 9.3.6; Basic credentials: RFC 7617).

use super::{Origin, answer};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use std::io::{self, Read, Write};
use zeroize::Zeroizing;

/// The longest answer to `CONNECT`, in bytes.
const MAX_ANSWER: usize = 16 << 10;

/// A proxy and what it is told.
#[derive(Clone)]
pub struct Proxy {
    pub(super) origin: Origin,
    credentials: Option<Zeroizing<String>>,
}

/// Never with the password.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", self.origin.authority())
    }
}

/// Why there is no tunnel.
#[derive(Debug)]
pub(super) enum Refused {
    /// The proxy said no.
    Status(u16),
    /// It said nothing, or what is no HTTP.
    Io(io::Error),
}

impl Proxy {
    /// Reads `http://[USER:PASSWORD@]HOST:PORT`, with `%XX` in user and password.
    pub fn parse(url: &str) -> Option<Proxy> {
        let rest = url.strip_prefix("http://")?;
        let (credentials, authority) = match rest.rsplit_once('@') {
            Some((credentials, authority)) => (Some(unescaped(credentials)?), authority),
            None => (None, rest),
        };
        Some(Proxy { origin: Origin::of_authority(authority, 80)?, credentials })
    }

    /// Asks for a way to `target` (`HOST:PORT`) over `stream`, which leads there afterwards.
    pub(super) fn tunnel(&self, stream: &mut (impl Read + Write), target: &str) -> Result<(), Refused> {
        let mut request = Zeroizing::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"));
        if let Some(credentials) = &self.credentials {
            let encoded = Zeroizing::new(STANDARD.encode(credentials.as_bytes()));
            request.push_str("Proxy-Authorization: Basic ");
            request.push_str(&encoded);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).map_err(Refused::Io)?;
        // Byte by byte: what follows the empty line is the endpoint's already.
        let mut bytes = vec![];
        while !bytes.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).map_err(Refused::Io)?;
            bytes.push(byte[0]);
            if bytes.len() > MAX_ANSWER {
                return Err(Refused::Io(io::Error::other("the proxy's answer has no end")));
            }
        }
        match answer::head(&mut &bytes[..]) {
            Ok(head) if (200..300).contains(&head.status) => Ok(()),
            Ok(head) => Err(Refused::Status(head.status)),
            Err(answer::Bad::Io(e)) => Err(Refused::Io(e)),
            Err(answer::Bad::Not(why)) => Err(Refused::Io(io::Error::other(format!("its answer {why}")))),
        }
    }
}

fn unescaped(text: &str) -> Option<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(vec![]);
    let mut rest = text.as_bytes();
    while let Some((&c, after)) = rest.split_first() {
        rest = after;
        bytes.push(if c == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            rest = after;
            u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
        } else {
            c
        });
    }
    let text = std::str::from_utf8(&bytes).ok()?;
    (!text.chars().any(char::is_control)).then(|| Zeroizing::new(text.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_and_never_shown_with_its_password() {
        let proxy = Proxy::parse("http://box:p%40ss%3A@proxy.example:3128").unwrap();
        assert_eq!(proxy.credentials.as_ref().unwrap().as_str(), "box:p@ss:");
        assert_eq!(format!("{proxy:?}"), "Proxy(proxy.example:3128)");
        assert_eq!(
            Proxy::parse("http://[2001:db8::1]:8080").unwrap().origin.authority(),
            "[2001:db8::1]:8080"
        );
        for bad in [
            "https://proxy.example:1",
            "http://",
            "http://a:0",
            "http://a b",
            "http://x%0d:y@h:1",
            "http://x%f@h",
        ] {
            assert!(Proxy::parse(bad).is_none(), "{bad}");
        }
    }
}
