//! An address → the bytes there, in order, whatever happens to the connection: it is resumed where it broke off.
//!
//! HTTP/1.1 without TLS (RFC 9110 §14: ranges). What comes is worth nothing until all of it has the digest of the signed
//! order, so nobody on the way can do more than hold it up.

use crate::device::host::http::{Origin, opened};
use crate::enroll::code::Code;
use std::io::{self, Read};
use std::time::Duration;

/// How often a connection may break without a byte having come.
const TRIES: u32 = 8;
/// Between two tries.
const PAUSE: Duration = Duration::from_secs(5);

/// Why nothing more comes.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Lost {
    /// It is no address of the kind.
    #[error("`{0}` is no http address")]
    Address(String),
    /// The server does not send the file.
    #[error("{url}: {why}")]
    Server {
        /// The file.
        url: String,
        /// What went wrong last.
        why: String,
    },
}

impl Lost {
    /// What a person is told.
    pub fn code(&self) -> Code {
        Code::InstallServer
    }
}

/// A file that is being fetched.
pub struct Download {
    url: String,
    origin: Origin,
    target: String,
    /// Bytes that came, and that there are.
    at: u64,
    size: u64,
    body: Option<Box<dyn Read>>,
    tries: u32,
}

impl Download {
    /// Starts fetching the file of `size` bytes at `url`.
    ///
    /// # Errors
    /// [`Lost`], after some tries.
    pub fn start(url: &str, size: u64) -> Result<Download, Lost> {
        let address = || Lost::Address(url.chars().take(200).collect());
        let rest = url.strip_prefix("http://").ok_or_else(address)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !path.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(address());
        }
        let origin = Origin::plain(authority).ok_or_else(address)?;
        let mut download =
            Download { url: url.into(), origin, target: resolved(path), at: 0, size, body: None, tries: 0 };
        download.connect()?;
        Ok(download)
    }

    /// A connection that sends from where the last one ended.
    fn connect(&mut self) -> Result<(), Lost> {
        loop {
            let why = match opened(&self.origin, &self.target, self.at, self.size) {
                Ok(body) => {
                    self.body = Some(body);
                    return Ok(());
                }
                Err(why) => why,
            };
            self.failed(why)?;
        }
    }

    /// Counts a try that brought nothing, and waits; an error after the last.
    fn failed(&mut self, why: String) -> Result<(), Lost> {
        self.tries += 1;
        if self.tries >= TRIES {
            return Err(Lost::Server { url: self.url.clone(), why });
        }
        std::thread::sleep(PAUSE);
        Ok(())
    }
}

/// The path without `.` and `..`, which a script has where it names what is beside it, and which not every server takes
/// (RFC 3986, 5.2.4).
fn resolved(path: &str) -> String {
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let mut parts: Vec<&str> = vec![];
    for part in path.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}{query}", parts.join("/"))
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at < self.size && !buffer.is_empty() {
            let Some(body) = &mut self.body else {
                self.connect().map_err(io::Error::other)?;
                continue;
            };
            let room = buffer.len().min(usize::try_from(self.size - self.at).unwrap_or(usize::MAX));
            match body.read(&mut buffer[..room]) {
                Ok(n) if n > 0 => {
                    self.at += n as u64;
                    self.tries = 0;
                    return Ok(n);
                }
                end => {
                    self.body = None;
                    let why = end.map_or_else(|e| e.to_string(), |_| "the answer is cut short".into());
                    self.failed(why).map_err(io::Error::other)?;
                }
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_asked_for_without_dots() {
        for (path, asked) in [
            ("netboot/../disk.raw.zst", "/disk.raw.zst"),
            ("a/./b/../../c?x=../y", "/c?x=../y"),
            ("../../etc", "/etc"),
            ("", "/"),
        ] {
            assert_eq!(resolved(path), asked);
        }
    }
}
