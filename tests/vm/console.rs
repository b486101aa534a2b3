//! A serial console that is being written, read as lines of text.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The console of one run, from a file that the emulator writes.
pub struct Console {
    path: PathBuf,
    /// All that came, without colours and cursor movements.
    text: String,
    file: Option<File>,
    /// Bytes of an escape sequence or character that is not whole yet.
    pending: Vec<u8>,
}

impl Console {
    /// The console in `path`, which need not exist yet.
    pub fn new(path: &Path) -> Console {
        Console { path: path.into(), text: String::new(), file: None, pending: vec![] }
    }

    /// Takes in what was written since.
    pub fn read(&mut self) {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut self.pending).unwrap();
            let (text, used) = plain(&self.pending);
            self.text.push_str(&text);
            self.pending.drain(..used);
        }
    }

    /// All text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The last lines, for the message of a failed test.
    pub fn tail(&self) -> String {
        let lines: Vec<&str> = self.text.lines().filter(|l| !l.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

/// Text without ANSI escape sequences (ECMA-48) and carriage returns, and how many bytes of `raw` it stands for.
fn plain(raw: &[u8]) -> (String, usize) {
    let (mut out, mut at) = (vec![], 0);
    while at < raw.len() {
        match raw[at] {
            0x1b => {
                let Some(kind) = raw.get(at + 1) else { break };
                let mut end = at + 2;
                if matches!(kind, b'[' | b']') {
                    let last = |c: &u8| {
                        if *kind == b'[' { (0x40..=0x7e).contains(c) } else { *c == 7 || *c == b'\\' }
                    };
                    match raw[end..].iter().position(last) {
                        Some(n) => end += n + 1,
                        None => break,
                    }
                }
                at = end;
            }
            b'\r' => at += 1,
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
    (String::from_utf8_lossy(&out).into_owned(), at)
}

#[test]
fn colours_go_and_cut_sequences_wait() {
    assert_eq!(plain(b"[\x1b[0;32m  OK  \x1b[0m] up\r\n"), ("[  OK  ] up\n".into(), 24));
    assert_eq!(plain(b"a\x1b[0;3"), ("a".into(), 1));
    assert_eq!(plain(b"\x1b]0;title\x07b"), ("b".into(), 11));
}
