//! Where the installation is → every screen and serial line of the box, without a key pressed or a login.

use crate::device::host::screen;
use crate::enroll::code::Code;
use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The kernel's list of its consoles.
const CONSOLES: &str = "sys/class/tty/console/active";
/// The screen, where no console of the kernel's is one.
const SCREEN: &str = "tty1";
/// Screens are drawn anew every so many percent, serial lines say so every so many.
const STEP: u64 = 2;
const LINE_STEP: u64 = 20;

/// The box's consoles.
#[derive(Debug)]
pub struct Screens {
    /// Screens, which are cleared; and lines, which scroll.
    screens: Vec<PathBuf>,
    lines: Vec<PathBuf>,
    /// What was shown last of a progress: word and percent.
    last: Cell<(&'static str, u64)>,
}

impl Screens {
    /// Those of the machine whose root is `root`.
    pub fn open(root: &Path) -> Screens {
        let active = std::fs::read_to_string(root.join(CONSOLES)).unwrap_or_default();
        let mut names: Vec<&str> = active.split_ascii_whitespace().collect();
        let is_screen = |name: &str| {
            name.strip_prefix("tty").is_some_and(|rest| rest.bytes().all(|c| c.is_ascii_digit()))
        };
        if !names.iter().any(|name| is_screen(name)) {
            names.push(SCREEN);
        }
        let (screens, lines): (Vec<&str>, Vec<&str>) = names.into_iter().partition(|name| is_screen(name));
        let paths = |names: Vec<&str>| names.iter().map(|name| root.join("dev").join(name)).collect();
        Screens { screens: paths(screens), lines: paths(lines), last: Cell::new(("", 0)) }
    }

    /// Shows a large word, a code's words, and paragraphs.
    pub fn show(&self, word: &str, code: Option<Code>, paragraphs: &[String]) {
        let text = screen::announcement(word, code, paragraphs);
        self.draw(&text);
        let first = paragraphs.first().map(String::as_str).unwrap_or_default();
        let said = match code {
            Some(code) => format!("{}: {code} {}: {first}", word.to_lowercase(), code.title()),
            None => format!("{}: {first}", word.to_lowercase()),
        };
        // A serial line is read by programs and people alike: a line to search for, then the page.
        for path in &self.lines {
            write(path, &format!("forge: {}\r\n{}", screen::clean(&said), text.replace('\n', "\r\n")));
        }
    }

    /// Says a line.
    pub fn note(&self, line: &str) {
        for path in self.lines.iter().chain(&self.screens) {
            write(path, &format!("forge: {}\r\n", screen::clean(line)));
        }
    }

    /// Shows that `done` of `all` is done.
    pub fn progress(&self, word: &'static str, done: u64, all: u64) {
        let percent = (u128::from(done) * 100 / u128::from(all.max(1))) as u64;
        let (last_word, last) = self.last.get();
        let fresh = last_word != word;
        if !fresh && percent / STEP == last / STEP {
            return;
        }
        self.last.set((word, percent));
        self.draw(&screen::announcement(&format!("{word} {percent}%"), None, &[]));
        if fresh || percent / LINE_STEP != last / LINE_STEP {
            for path in &self.lines {
                write(path, &format!("forge: {} {percent} %\r\n", word.to_lowercase()));
            }
        }
    }

    fn draw(&self, text: &str) {
        for path in &self.screens {
            // To the top, with all below gone.
            write(path, &format!("\x1b[H\x1b[J{}", text.replace('\n', "\r\n")));
        }
    }
}

fn write(path: &Path, text: &str) {
    let open = || -> std::io::Result<File> { OpenOptions::new().write(true).open(path) };
    // A line that nobody listens at holds nothing up.
    let _ = open().and_then(|mut console| console.write_all(text.as_bytes()));
}
