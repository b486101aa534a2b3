//! What a person at the box reads: as text for a screen of 80 columns, on every console and serial line.
//!
//! The text becomes the issue file that agetty(8) shows above its prompt and shows again when it changes. Nothing secret
//! comes in here: a device's id and words are public, and a QR code has them behind a `#`, which no server logs.

use crate::enroll::code::Code;
use crate::host::cancel::Cancel;
use crate::host::fs;
use crate::host::tool::ToolCall;
use crate::model::Epoch;
use qrcode::render::unicode::Dense1x2;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// Below /run: agetty shows these in order, forge's state first.
pub const ISSUE: &str = "issue.d/10-forge.issue";
/// Columns that every console has.
const WIDTH: usize = 79;
/// The most letters of one value: what a box's maker or a fleet writes may be anything.
const MAX_VALUE: usize = 120;
/// Longer than an address with id and words; a code of more is not seen from a metre away.
const MAX_QR: usize = 300;

/// What is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The state, in a word or two.
    pub state: String,
    /// Why it does not go on.
    pub code: Option<Code>,
    /// More about that: which endpoint, which answer.
    pub detail: String,
    /// Pairs of a name and a value: device, words, serial, addresses.
    pub facts: Vec<(String, String)>,
    /// What the box takes for the time.
    pub clock: Epoch,
    /// Whom to ask.
    pub support: String,
    /// What the QR code says, where there is one.
    pub qr: Option<String>,
}

/// The page as text.
pub fn render(page: &Page) -> String {
    let mut text = String::from("\n");
    for line in large(&clean(&page.state).to_uppercase()) {
        text.push_str(&line);
        text.push('\n');
    }
    text.push('\n');
    if let Some(code) = page.code {
        let _ = writeln!(text, "  {code}  {}\n", code.title()); // writing to a String cannot fail
        paragraph(&mut text, code.cause());
        paragraph(&mut text, code.remedy());
    }
    if !page.detail.is_empty() {
        paragraph(&mut text, &clean(&page.detail));
    }
    if !page.support.is_empty() {
        paragraph(&mut text, &clean(&page.support));
    }
    text.push('\n');
    let clock = ("clock".to_string(), page.clock.rfc3339());
    for (name, value) in page.facts.iter().chain([&clock]) {
        let _ = writeln!(text, "  {:<10}{}", clean(name), clean(value));
    }
    if let Some(qr) = page.qr.as_deref().filter(|qr| qr.len() <= MAX_QR)
        && let Ok(code) = qrcode::QrCode::with_error_correction_level(qr, qrcode::EcLevel::L)
    {
        // Light on dark, as consoles are: scanners read either.
        let image = code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
        text.push('\n');
        for line in image.lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    text.push('\n');
    text
}

/// Shows `text` on every console, where `run` is /run.
///
/// # Errors
/// When the issue file cannot be written. That nobody shows it now is no error: agetty reads it when it starts.
pub fn show(run: &Path, text: &str) -> std::io::Result<()> {
    // agetty takes `\x` for what it knows itself.
    let escaped = text.replace('\\', "\\\\");
    let file = run.join(ISSUE);
    if std::fs::read(&file).is_ok_and(|there| there == escaped.as_bytes()) {
        return Ok(());
    }
    fs::write_atomic(&file, escaped.as_bytes(), 0o644)?;
    let call = ToolCall::new("agetty").arg("--reload").within(Duration::from_secs(5));
    let _ = call.output(&Cancel::default()); // none runs yet, early in a boot
    Ok(())
}

/// Says one line on the kernel's consoles, for the first seconds and for who records a serial line.
pub fn say(line: &str) {
    if let Ok(console) = std::fs::OpenOptions::new().write(true).open("/dev/console") {
        let _ = std::io::Write::write_all(&mut &console, format!("forge: {}\n", clean(line)).as_bytes());
    }
}

/// Text without what moves a cursor, at most [`MAX_VALUE`] letters.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_VALUE).collect()
}

/// Appends `words` in lines that fit.
fn paragraph(text: &mut String, words: &str) {
    let mut column = 0;
    for word in words.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH - 2 {
            text.push('\n');
            column = 0;
        }
        text.push_str(if column == 0 { "  " } else { " " });
        text.push_str(word);
        column += length + if column == 0 { 2 } else { 1 };
    }
    text.push('\n');
}

/// Letters five dots high, read from across a room: each row of a letter is three bits. Two rows of dots are one of text.
fn large(word: &str) -> Vec<String> {
    const ROWS: usize = 5;
    let letters: Vec<[u8; ROWS]> = word.chars().take(WIDTH / 4).map(dots).collect();
    let dot =
        |row: usize, letter: &[u8; ROWS], column: u8| row < ROWS && letter[row] >> (2 - column) & 1 == 1;
    (0..ROWS)
        .step_by(2)
        .map(|row| {
            let mut line = String::from("  ");
            for letter in &letters {
                for column in 0..3 {
                    line.push(match (dot(row, letter, column), dot(row + 1, letter, column)) {
                        (true, true) => '█',
                        (true, false) => '▀',
                        (false, true) => '▄',
                        (false, false) => ' ',
                    });
                }
                line.push(' ');
            }
            line.trim_end().to_string()
        })
        .collect()
}

/// The rows of a letter, top to bottom; nothing for what states are not spelled with.
fn dots(letter: char) -> [u8; 5] {
    match letter {
        'A' => [2, 5, 7, 5, 5],
        'B' => [6, 5, 6, 5, 6],
        'C' => [3, 4, 4, 4, 3],
        'D' => [6, 5, 5, 5, 6],
        'E' => [7, 4, 6, 4, 7],
        'F' => [7, 4, 6, 4, 4],
        'G' => [3, 4, 5, 5, 3],
        'H' => [5, 5, 7, 5, 5],
        'I' => [7, 2, 2, 2, 7],
        'J' => [1, 1, 1, 5, 2],
        'K' => [5, 5, 6, 5, 5],
        'L' => [4, 4, 4, 4, 7],
        'M' => [5, 7, 7, 5, 5],
        'N' => [6, 5, 5, 5, 5],
        'O' => [2, 5, 5, 5, 2],
        'P' => [6, 5, 6, 4, 4],
        'Q' => [2, 5, 5, 6, 3],
        'R' => [6, 5, 6, 5, 5],
        'S' => [3, 4, 2, 1, 6],
        'T' => [7, 2, 2, 2, 2],
        'U' => [5, 5, 5, 5, 7],
        'V' => [5, 5, 5, 5, 2],
        'W' => [5, 5, 7, 7, 5],
        'X' => [5, 5, 2, 5, 5],
        'Y' => [5, 5, 2, 2, 2],
        'Z' => [7, 1, 2, 4, 7],
        _ => [0; 5],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        Page {
            state: "Waiting".into(),
            code: Some(Code::AwaitsApproval),
            detail: "\u{1b}[2Jhttps://fleet.example says \\4 pending".into(),
            facts: vec![("words".into(), "lusab babad gutih tugad lusab babad".into())],
            clock: Epoch(1_795_305_600),
            support: "Call 0800".into(),
            qr: Some(
                "https://fleet.example/e#fd-abcdefghijklmnopqrstuvwxyz.lusab-babad-gutih-tugad-lusab-babad"
                    .into(),
            ),
        }
    }

    #[test]
    fn every_state_fits_a_screen_and_moves_no_cursor() {
        for code in Code::ALL.iter().copied().map(Some).chain([None]) {
            let text = render(&Page { code, ..page() });
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{line}");
            }
            assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
        }
        let text = render(&page());
        for part in ["E-CLAIM-01", "lusab babad", "2026-11-22T00:00:00Z", "Call 0800", "▀"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn large_letters_are_their_dots() {
        assert_eq!(large("HI"), ["  █ █ ▀█▀", "  █▀█  █", "  ▀ ▀ ▀▀▀"]);
        assert!(large(&"W".repeat(200)).iter().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn the_issue_file_shows_backslashes_as_they_are() {
        let run = tempfile::tempdir().unwrap();
        show(run.path(), &render(&page())).unwrap();
        let issue = std::fs::read_to_string(run.path().join(ISSUE)).unwrap();
        assert!(issue.contains("says \\\\4 pending"));
    }
}
