//! What a person at the box reads: as text for a screen of 80 columns, on every console and serial line.
//!
//! The text becomes the issue file that agetty(8) shows above its prompt and shows again when it changes. Nothing secret
//! comes in here: a device's id and words are public, and a QR code has them behind a `#`, which no server logs.

use crate::device::view::View;
use crate::enroll::code::Code;
use crate::host::cancel::Cancel;
use crate::host::fs;
use crate::host::tool::ToolCall;
use qrcode::render::unicode::Dense1x2;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// Below /run: agetty shows these in order, forge's state first.
pub const ISSUE: &str = "issue.d/10-forge.issue";
/// Columns that every console has.
const WIDTH: usize = 79;
/// The most letters of one value: what a box's maker or a fleet writes may be anything.
const MAX_VALUE: usize = 240;
/// Longer than an address with id and words; a code of more is not seen from a metre away.
const MAX_QR: usize = 300;

/// The view as text.
pub fn render(view: &View) -> String {
    let mut text = String::from("\n");
    for line in large(&view.word().to_uppercase()) {
        text.push_str(&line);
        text.push('\n');
    }
    text.push('\n');
    if let Some(code) = view.code {
        let _ = writeln!(text, "  {code}  {}\n", code.title()); // writing to a String cannot fail
        paragraph(&mut text, code.cause());
        paragraph(&mut text, code.remedy());
    }
    for more in [&view.detail, &view.support] {
        if !more.is_empty() {
            paragraph(&mut text, &clean(more));
        }
    }
    text.push('\n');
    for (name, value) in facts(view) {
        let value: String = clean(&value).chars().take(WIDTH - 12).collect();
        let _ = writeln!(text, "  {name:<10}{value}");
    }
    if let Some(code) = view.qr.as_deref().and_then(qr) {
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

/// An installer's page: a large word, a code's words, and paragraphs.
pub fn announcement(word: &str, code: Option<Code>, paragraphs: &[String]) -> String {
    let mut text = String::from("\n");
    for line in large(&word.to_uppercase()) {
        text.push_str(&line);
        text.push('\n');
    }
    text.push('\n');
    if let Some(code) = code {
        let _ = writeln!(text, "  {code}  {}\n", code.title()); // writing to a String cannot fail
        paragraph(&mut text, code.cause());
        paragraph(&mut text, code.remedy());
        text.push('\n');
    }
    for words in paragraphs.iter().filter(|words| !words.is_empty()) {
        paragraph(&mut text, &clean(words));
    }
    text.push('\n');
    text
}

/// The QR code of an address; `None` for what would be too fine to read.
pub fn qr(address: &str) -> Option<qrcode::QrCode> {
    let fits = address.len() <= MAX_QR;
    fits.then(|| qrcode::QrCode::with_error_correction_level(address, qrcode::EcLevel::L).ok()).flatten()
}

/// Names and values, of what is known.
pub fn facts(view: &View) -> Vec<(&'static str, String)> {
    let mut facts = vec![];
    let mut add = |name, value: Option<String>| facts.extend(value.map(|value| (name, value)));
    add("device", view.device.as_ref().map(|id| id.to_string()));
    add("words", view.words.clone());
    add("node", view.node.clone());
    add("serial", view.serial.clone());
    for link in &view.links {
        let mac = link.mac.as_deref().unwrap_or_default();
        let addresses: Vec<String> = link.addresses.iter().map(ToString::to_string).collect();
        let state = if link.carrier { addresses.join(" ") } else { "no cable".into() };
        add("port", Some(format!("{} {mac} {state}", link.name)));
    }
    for endpoint in &view.endpoints {
        add("fleet", Some(endpoint.clone()));
    }
    add("page", view.page.clone());
    add("clock", Some(view.now.rfc3339()));
    facts
}

/// The view in one line, which changes only where something happened.
pub fn line(view: &View) -> String {
    let code = view.code.map(|code| format!(": {code} {}", code.title())).unwrap_or_default();
    let node = view.node.as_ref().map(|node| format!(" ({node})")).unwrap_or_default();
    clean(&format!("{}{node}{code}", view.word().to_lowercase()))
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

/// Text without what moves a cursor, and no longer than a line.
pub fn clean(text: &str) -> String {
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
        '0' => [7, 5, 5, 5, 7],
        '1' => [2, 6, 2, 2, 7],
        '2' => [7, 1, 7, 4, 7],
        '3' => [7, 1, 3, 1, 7],
        '4' => [5, 5, 7, 1, 1],
        '5' => [7, 4, 7, 1, 7],
        '6' => [7, 4, 7, 5, 7],
        '7' => [7, 1, 2, 2, 2],
        '8' => [7, 5, 7, 5, 7],
        '9' => [7, 5, 7, 1, 7],
        '%' => [5, 1, 2, 4, 5],
        _ => [0; 5],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::effects::Link;
    use crate::model::Epoch;

    fn view() -> View {
        View {
            code: Some(Code::AwaitsApproval),
            detail: "\u{1b}[2Jhttps://fleet.example says \\4 pending".into(),
            words: Some("lusab babad gutih tugad lusab babad".into()),
            links: vec![Link {
                name: "enp1s0".into(),
                mac: Some("52:54:00:00:00:01".into()),
                ..Link::default()
            }],
            endpoints: vec!["https://fleet.example".into()],
            now: Epoch(1_795_305_600),
            support: "Call 0800".into(),
            qr: Some(
                "https://fleet.example/e#fd-abcdefghijklmnopqrstuvwxyz.lusab-babad-gutih-tugad-lusab-babad"
                    .into(),
            ),
            ..View::default()
        }
    }

    #[test]
    fn every_state_fits_a_screen_and_moves_no_cursor() {
        for code in Code::ALL.iter().copied().map(Some).chain([None]) {
            let text = render(&View { code, ..view() });
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{line}");
            }
            assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
        }
        let text = render(&view());
        for part in ["E-CLAIM-01", "lusab babad", "2026-11-22T00:00:00Z", "Call 0800", "no cable", "▀"] {
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
        show(run.path(), &render(&view())).unwrap();
        let issue = std::fs::read_to_string(run.path().join(ISSUE)).unwrap();
        assert!(issue.contains("says \\\\4 pending"));
    }
}
