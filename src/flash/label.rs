//! What was written → a label for the box or stick: words, and a QR code of the same for a bench's scanner or a phone.
//!
//! Nothing secret is on it: of a ticket it has the name, by which it can be revoked, and never the seed.

use crate::enroll::bootstrap::Bootstrap;
use crate::model::{Digest, Epoch};
use qrcode::render::unicode::Dense1x2;
use qrcode::{Color, EcLevel, QrCode};
use serde::Serialize;
use std::fmt::Write as _;

/// Modules of the quiet zone around a code (ISO/IEC 18004).
const QUIET: usize = 4;
/// Height of a line of the SVG, in modules of the code.
const LINE: usize = 5;
/// Letters of a value that the SVG has room for.
const ROOM: usize = 36;

/// A label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Label {
    /// The image: `SITE VERSION` of a release, else the root partition's label.
    pub image: String,
    /// Digest of its file.
    pub digest: Digest,
    /// The box's name, of a bundle for one box.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The box's serial number, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The fleet that it joins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet: Option<String>,
    /// The ticket that lets it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// When it has to have been plugged in for the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_use_by: Option<Epoch>,
    /// The fleet's page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub portal: Option<String>,
}

impl Label {
    /// The label of `image`, whose file has the digest `digest`, with what the box is told.
    pub fn new(image: String, digest: Digest, told: Option<&Bootstrap>) -> Label {
        // A bundle for a batch says nothing about the one box that gets this disk.
        let row = told.and_then(|b| if let [only] = &b.devices[..] { Some(only) } else { None });
        let ticket = told.and_then(|b| b.ticket.as_ref());
        Label {
            image,
            digest,
            name: row.map(|row| row.r#ref.clone()),
            serial: row.and_then(|row| row.r#match.serial.clone()),
            fleet: told.map(|b| b.fleet.clone()),
            ticket: ticket.map(|t| t.id.clone()),
            first_use_by: ticket.map(|t| t.not_after),
            portal: told.and_then(|b| b.policy.portal.clone()),
        }
    }

    /// Names and values, of what is known.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let hex = self.digest.hex();
        let mut facts = vec![];
        let mut add = |name, value: Option<&str>| {
            // What a bundle says may be anything of its signer's.
            let clean = |v: &str| v.chars().filter(|c| !c.is_control()).collect();
            facts.extend(value.map(|v| (name, clean(v))));
        };
        add("name", self.name.as_deref());
        add("serial", self.serial.as_deref());
        add("image", Some(&self.image));
        add("sha256", Some(&hex[..16]));
        add("fleet", self.fleet.as_deref());
        add("ticket", self.ticket.as_deref());
        let by = self.first_use_by.map(Epoch::rfc3339);
        add("plug in by", by.as_deref().and_then(|at| at.split('T').next()));
        facts
    }

    /// What the code says: the fleet's page with the facts behind a `#`, which no server logs, or the facts alone.
    pub fn code(&self) -> String {
        let known = [("name", &self.name), ("serial", &self.serial), ("ticket", &self.ticket)];
        let mut words: Vec<String> = known
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", escaped(value.as_ref()?))))
            .collect();
        words.push(format!("image={}", escaped(&self.image)));
        let words = words.join("&");
        match &self.portal {
            Some(portal) => format!("{}/#{words}", portal.trim_end_matches('/')),
            None => words,
        }
    }

    /// The QR code. A label is scratched and greased: level Q holds with a quarter of it unreadable.
    fn qr(&self) -> Option<QrCode> {
        QrCode::with_error_correction_level(self.code(), EcLevel::Q).ok()
    }

    /// For a terminal or a printer of text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, value) in self.facts() {
            let _ = writeln!(text, "{name:10}  {value}"); // writing to a String cannot fail
        }
        if let Some(code) = self.qr() {
            text.push('\n');
            // The light modules are drawn, as on the box's own screen: a terminal is dark more often than not.
            text +=
                &code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
            text.push('\n');
        }
        text
    }

    /// As SVG, 62 mm wide as the commonest label tape is, in black on white without a font of its own.
    pub fn svg(&self) -> String {
        let facts = self.facts();
        let code = self.qr();
        let side = code.as_ref().map_or(0, |code| code.width() + 2 * QUIET);
        let height = side.max((facts.len() + 1) * LINE);
        let width = side + ROOM * 2 + 26;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"62mm\" viewBox=\"0 0 {width} {height}\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
        );
        if let Some(code) = &code {
            let mut path = String::new();
            for (at, _) in code.to_colors().iter().enumerate().filter(|(_, color)| **color == Color::Dark) {
                let (x, y) = (at % code.width() + QUIET, at / code.width() + QUIET);
                let _ = write!(path, "M{x} {y}h1v1h-1z");
            }
            let _ = writeln!(svg, "<path shape-rendering=\"crispEdges\" d=\"{path}\"/>");
        }
        let _ = writeln!(svg, "<g font-family=\"sans-serif\" font-size=\"{}\">", LINE - 1);
        for (line, (name, value)) in facts.iter().enumerate() {
            let y = (line + 1) * LINE;
            let value: String = value.chars().take(ROOM).collect();
            let _ = writeln!(svg, "<text x=\"{side}\" y=\"{y}\">{name}</text>");
            let _ = writeln!(svg, "<text x=\"{}\" y=\"{y}\">{}</text>", side + 24, xml(&value));
        }
        svg + "</g>\n</svg>\n"
    }
}

/// A value in a fragment (RFC 3986 §2.3).
fn escaped(value: &str) -> String {
    let mut out = String::new();
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => drop(write!(out, "%{other:02X}")),
        }
    }
    out
}

/// Text as XML has it.
fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label() -> Label {
        Label {
            image: "store-042 2026.11.22".into(),
            digest: Digest::of("image"),
            name: Some("till-1".into()),
            serial: Some("PF<1> \u{1b}[2J".into()),
            fleet: Some("shops".into()),
            ticket: Some("t-17".into()),
            first_use_by: Some(Epoch(1_795_305_600)),
            portal: Some("https://fleet.example/".into()),
        }
    }

    #[test]
    fn the_code_leads_to_the_fleet_and_says_the_rest_to_nobody() {
        let mut label = label();
        let facts = "name=till-1&serial=PF%3C1%3E%20%1B%5B2J&ticket=t-17&image=store-042%202026.11.22";
        assert_eq!(label.code(), format!("https://fleet.example/#{facts}"));
        label.portal = None;
        assert_eq!(label.code(), facts);
    }

    #[test]
    fn what_a_bundle_says_stays_text_on_both_kinds_of_label() {
        let text = label().text();
        assert!(
            text.contains("serial      PF<1> [2J\n") && text.contains("plug in by  2026-11-22\n"),
            "{text}"
        );
        let svg = label().svg();
        assert!(svg.contains(">PF&lt;1&gt; [2J</text>") && !svg.contains('\u{1b}'), "{svg}");
        let code = label().qr().unwrap();
        let dark = code.to_colors().iter().filter(|c| **c == Color::Dark).count();
        assert_eq!(svg.matches("h1v1h-1z").count(), dark);
    }
}
