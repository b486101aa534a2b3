//! One transfer: tries of a GET until the sink has all of it, going on where the last try ended (RFC 9110 §14).

use super::{Expect, Inner, Sink, too_large};
use crate::error::{self, Kind, Mark as _};
use crate::host::cancel::Cancel;
use crate::model::digest::{Digest, Hasher};
use anyhow::{Context as _, anyhow};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, RANGE, RETRY_AFTER};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::time::Duration;

/// Progress that makes an earlier failure forgotten. A server that gives less between two cuts is as good as dead.
const PROGRESS: u64 = 64 * 1024;
/// What must come in each [`read`](super::Patience::read) window: a slow line gives it, a stalling server does not.
const TRICKLE: u64 = 1024;
/// The longest that a server's `Retry-After` is heeded.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How a try ended that did not bring everything.
enum Failure {
    /// Worth another try, after the wait that the server asked for.
    Passing(anyhow::Error, Option<Duration>),
    /// Not worth one.
    Final(anyhow::Error),
}

impl Inner {
    /// Gets `url` into `sink`.
    pub(super) fn transfer(&self, url: &str, sink: &mut dyn Sink, cancel: &Cancel) -> anyhow::Result<()> {
        let mut failures = 0;
        loop {
            cancel.check()?;
            let before = sink.position();
            let ended = self.runtime.block_on(async {
                tokio::select! {
                    ended = self.attempt(url, sink) => Some(ended),
                    () = raised(cancel) => None,
                }
            });
            let (e, asked) = match ended {
                None => continue, // the check above says it
                Some(Ok(())) => return Ok(()),
                Some(Err(Failure::Final(e))) => return Err(e),
                Some(Err(Failure::Passing(e, asked))) => (e, asked),
            };
            if sink.position() >= before + PROGRESS {
                failures = 0;
            }
            failures += 1;
            if failures >= self.patience.tries {
                return Err(e).with_context(|| format!("fetching {url}")).kind(Kind::Fetch).hint(
                    "see that this machine reaches the address, through its proxy if it has one; what came is kept",
                );
            }
            let wait = asked.unwrap_or_else(|| jitter(self.patience.backoff * (1 << (failures - 1).min(6))));
            self.runtime.block_on(async {
                tokio::select! { () = tokio::time::sleep(wait) => {}, () = raised(cancel) => {} }
            });
        }
    }

    async fn attempt(&self, url: &str, sink: &mut dyn Sink) -> Result<(), Failure> {
        let start = sink.begin();
        let mut request = self.http.get(url);
        if start > 0 {
            request = request.header(RANGE, format!("bytes={start}-"));
        }
        let mut answer = request.send().await.map_err(failure)?;
        match answer.status() {
            StatusCode::OK => {
                // A server may ignore the range (RFC 9110 §14.2): then everything comes again.
                if start > 0 {
                    sink.restart().map_err(Failure::Final)?;
                }
            }
            StatusCode::PARTIAL_CONTENT if start > 0 => {
                if first_byte(&answer) != Some(start) {
                    sink.restart().map_err(Failure::Final)?;
                    return Err(Failure::Passing(anyhow!("the server answered with another range"), None));
                }
            }
            // Nothing is there behind what we have, which then is no beginning of it.
            StatusCode::RANGE_NOT_SATISFIABLE if start > 0 => {
                sink.restart().map_err(Failure::Final)?;
                return Err(Failure::Passing(
                    anyhow!("the server has less than an earlier try brought"),
                    None,
                ));
            }
            status => return Err(refusal(url, status, &answer)),
        }
        if let Some(length) = answer.content_length() {
            sink.announce(url, sink.position().saturating_add(length)).map_err(Failure::Final)?;
        }
        let (mut window, mut window_bytes) = (tokio::time::Instant::now(), 0);
        while let Some(chunk) = answer.chunk().await.map_err(failure)? {
            sink.push(&chunk).map_err(Failure::Final)?;
            window_bytes += chunk.len() as u64;
            if window.elapsed() >= self.patience.read {
                if window_bytes < TRICKLE {
                    return Err(Failure::Passing(anyhow!("the server gives almost nothing"), None));
                }
                (window, window_bytes) = (tokio::time::Instant::now(), 0);
            }
        }
        Ok(())
    }
}

/// Ends when the flag is raised. Signals raise a flag and wake nobody, so it is looked at, often enough for a person.
async fn raised(cancel: &Cancel) {
    while !cancel.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Connections that fail or break, timeouts and cut bodies pass; a redirect loop or a URL that is none does not.
fn failure(e: reqwest::Error) -> Failure {
    let url = e.url().map_or_else(String::new, |url| format!("fetching {url}"));
    let passing = !(e.is_redirect() || e.is_builder());
    let e = e.without_url();
    if passing {
        Failure::Passing(e.into(), None)
    } else {
        Failure::Final(error::of(Kind::Fetch, anyhow::Error::new(e).context(url)))
    }
}

fn refusal(url: &str, status: StatusCode, answer: &reqwest::Response) -> Failure {
    let e = anyhow!("the server answered {status}");
    let passing = matches!(status.as_u16(), 408 | 425 | 429) || status.is_server_error();
    if !passing {
        return Failure::Final(error::of(Kind::Fetch, e.context(format!("fetching {url}"))));
    }
    let asked = answer.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
    Failure::Passing(e, asked.map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT)))
}

/// The first byte of a `Content-Range: bytes 5-9/10`.
fn first_byte(answer: &reqwest::Response) -> Option<u64> {
    let range = answer.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// Between half and one and a half of `wait`, so that many machines that failed together do not come back together.
fn jitter(wait: Duration) -> Duration {
    let mut random = [0; 2];
    let _ = getrandom::fill(&mut random); // without randomness: the shorter wait
    wait / 2 + wait * u32::from(u16::from_le_bytes(random)) / u32::from(u16::MAX)
}

/// Bytes in memory, up to a limit.
pub(super) struct Memory<'a> {
    pub bytes: &'a mut Vec<u8>,
    pub limit: u64,
}

impl Sink for Memory<'_> {
    fn position(&self) -> u64 {
        self.bytes.len() as u64
    }
    /// Text in memory has no digest yet, so two halves of two versions must never meet: every try starts anew.
    fn begin(&mut self) -> u64 {
        self.bytes.clear();
        0
    }
    fn restart(&mut self) -> anyhow::Result<()> {
        self.bytes.clear();
        Ok(())
    }
    fn push(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if (self.bytes.len() + bytes.len()) as u64 > self.limit {
            return Err(error::of(Kind::Fetch, anyhow!("the answer is larger than {} bytes", self.limit)));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
    fn announce(&mut self, url: &str, total: u64) -> anyhow::Result<()> {
        if total > self.limit { Err(error::of(Kind::Fetch, too_large(url, self.limit))) } else { Ok(()) }
    }
}

/// A file that is hashed as it grows.
pub(super) struct ToFile<'a> {
    file: &'a mut File,
    expect: Expect,
    url: &'a str,
    hasher: Hasher,
    length: u64,
    progress: &'a dyn Fn(u64),
}

impl<'a> ToFile<'a> {
    /// Takes what is in `file` as the beginning.
    pub fn resume(
        file: &'a mut File,
        expect: Expect,
        url: &'a str,
        progress: &'a dyn Fn(u64),
    ) -> anyhow::Result<ToFile<'a>> {
        let mut sink = ToFile { file, expect, url, hasher: Hasher::default(), length: 0, progress };
        sink.file.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match sink.file.read(&mut buffer)? {
                0 => break,
                n => sink.hasher.update(&buffer[..n]),
            }
            sink.length = sink.file.stream_position()?;
        }
        if expect.size.is_some_and(|size| sink.length > size) {
            sink.restart()?;
        } else {
            progress(sink.length);
        }
        Ok(sink)
    }

    /// Whether all bytes are there already.
    pub fn is_complete(&self) -> bool {
        self.expect.size == Some(self.length) && self.length > 0
    }

    /// Fills it from another file, from that one's start.
    pub fn copy_from(&mut self, mut from: File, cancel: &Cancel) -> anyhow::Result<()> {
        self.restart()?;
        let mut buffer = vec![0; 1024 * 1024];
        loop {
            cancel.check()?;
            match from.read(&mut buffer).with_context(|| format!("reading {}", self.url))? {
                0 => return Ok(()),
                n => self.push(&buffer[..n])?,
            }
        }
    }

    /// Compares size and digest with what was expected.
    pub fn finish(self) -> anyhow::Result<()> {
        let (digest, length) = self.hasher.finish();
        if let Some(size) = self.expect.size.filter(|size| *size != length) {
            return Err(wrong_size(self.url, size, length));
        }
        if digest != self.expect.digest {
            return Err(wrong_digest(self.url, self.expect.digest, digest));
        }
        Ok(())
    }
}

fn wrong_size(url: &str, expected: u64, got: u64) -> anyhow::Error {
    error::of(Kind::Verify, anyhow!("{url} has another size: expected {expected} bytes, got {got}"))
}

fn wrong_digest(url: &str, expected: Digest, got: Digest) -> anyhow::Error {
    error::of(Kind::Verify, anyhow!("{url} has another content: expected {expected}, got {got}"))
}

impl Sink for ToFile<'_> {
    fn position(&self) -> u64 {
        self.length
    }
    fn begin(&mut self) -> u64 {
        self.length
    }
    fn restart(&mut self) -> anyhow::Result<()> {
        super::empty(self.file)?;
        self.hasher = Hasher::default();
        self.length = 0;
        Ok(())
    }
    fn push(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let after = self.length + bytes.len() as u64;
        if let Some(size) = self.expect.size.filter(|size| after > *size) {
            return Err(wrong_size(self.url, size, after));
        }
        self.file.write_all(bytes).with_context(|| format!("keeping what came from {}", self.url))?;
        self.hasher.update(bytes);
        self.length = after;
        (self.progress)(bytes.len() as u64);
        Ok(())
    }
    fn announce(&mut self, url: &str, total: u64) -> anyhow::Result<()> {
        match self.expect.size {
            Some(size) if size != total => Err(wrong_size(url, size, total)),
            _ => Ok(()),
        }
    }
}

/// A file of which nothing is known, hashed as it grows. Every try starts anew: two halves of two versions would pass for
/// a whole.
pub(super) struct Unknown<'a> {
    file: &'a mut File,
    limit: u64,
    url: &'a str,
    hasher: Hasher,
    length: u64,
    /// Whether the file may hold what an earlier try brought.
    stale: bool,
    progress: &'a dyn Fn(u64),
}

impl<'a> Unknown<'a> {
    /// Into `file`, at most `limit` bytes.
    pub fn new(file: &'a mut File, limit: u64, url: &'a str, progress: &'a dyn Fn(u64)) -> Unknown<'a> {
        Unknown { file, limit, url, hasher: Hasher::default(), length: 0, stale: true, progress }
    }

    /// Fills it from another file.
    pub fn copy_from(&mut self, mut from: File, cancel: &Cancel) -> anyhow::Result<()> {
        let mut buffer = vec![0; 1024 * 1024];
        loop {
            cancel.check()?;
            match from.read(&mut buffer).with_context(|| format!("reading {}", self.url))? {
                0 => return Ok(()),
                n => self.push(&buffer[..n])?,
            }
        }
    }

    /// What it turned out to be.
    pub fn finish(mut self) -> anyhow::Result<(Digest, u64)> {
        if self.stale {
            self.restart()?;
        }
        Ok(self.hasher.finish())
    }
}

impl Sink for Unknown<'_> {
    fn position(&self) -> u64 {
        self.length
    }
    fn begin(&mut self) -> u64 {
        (self.length, self.stale) = (0, true);
        0
    }
    fn restart(&mut self) -> anyhow::Result<()> {
        super::empty(self.file)?;
        (self.hasher, self.length, self.stale) = (Hasher::default(), 0, false);
        Ok(())
    }
    fn push(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.stale {
            self.restart()?;
        }
        if self.length + bytes.len() as u64 > self.limit {
            return Err(error::of(Kind::Fetch, too_large(self.url, self.limit)));
        }
        self.file.write_all(bytes).with_context(|| format!("keeping what came from {}", self.url))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        (self.progress)(bytes.len() as u64);
        Ok(())
    }
    fn announce(&mut self, url: &str, total: u64) -> anyhow::Result<()> {
        if total > self.limit { Err(error::of(Kind::Fetch, too_large(url, self.limit))) } else { Ok(()) }
    }
}
