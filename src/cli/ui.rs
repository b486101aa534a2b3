//! The only writer of stdout and stderr.
//!
//! Results go to stdout, as text or (`--json`) as one JSON object a line, each with `"v": 1` and a `"type"`. Everything
//! for a person's eye goes to stderr: notes, errors with their hints, progress bars on a terminal, plain lines elsewhere.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use crate::build::observe::{Event, Observer};
use crate::error;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::Duration;

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The version of the JSON lines; a field is never taken away within one.
const JSON_VERSION: u32 = 1;

/// How the program speaks.
pub struct Ui {
    json: bool,
    quiet: bool,
    verbose: bool,
    color: bool,
    bars: MultiProgress,
    running: Mutex<BTreeMap<String, ProgressBar>>,
}

impl Ui {
    /// A voice as the global options say.
    pub fn new(json: bool, quiet: bool, verbose: bool, color: Color, no_color: bool) -> Ui {
        let terminal = std::io::stderr().is_terminal();
        let color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && !no_color,
        };
        let target = if terminal && !quiet && !json {
            ProgressDrawTarget::stderr_with_hz(12)
        } else {
            ProgressDrawTarget::hidden()
        };
        Ui {
            json,
            quiet,
            verbose,
            color,
            bars: MultiProgress::with_draw_target(target),
            running: Mutex::default(),
        }
    }

    /// Whether results are JSON lines.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether stderr takes colours.
    pub fn color(&self) -> bool {
        self.color
    }

    /// A result: `human` on stdout, or with `--json` the object `value` with its type.
    pub fn result(&self, kind: &str, value: &impl serde::Serialize, human: impl std::fmt::Display) {
        if self.json {
            self.json_line(kind, value);
        } else {
            let text = shown(&human.to_string(), self.color);
            self.stdout(if text.ends_with('\n') || text.is_empty() { text } else { text + "\n" }.as_bytes());
        }
    }

    /// Raw bytes as the result: a schema, a completion script.
    pub fn stdout(&self, bytes: &[u8]) {
        // A reader that went away (`| head`) is no failure of ours.
        let _ = std::io::stdout().lock().write_all(bytes);
    }

    fn json_line(&self, kind: &str, value: &impl serde::Serialize) {
        let mut object = serde_json::Map::new();
        object.insert("v".into(), JSON_VERSION.into());
        object.insert("type".into(), kind.into());
        match serde_json::to_value(value) {
            Ok(serde_json::Value::Object(fields)) => object.extend(fields),
            Ok(other) => drop(object.insert("value".into(), other)),
            Err(e) => drop(object.insert("value".into(), e.to_string().into())),
        }
        self.stdout(format!("{}\n", serde_json::Value::Object(object)).as_bytes());
    }

    /// A line for a person, on stderr.
    pub fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            self.stderr(&text.to_string());
        }
    }

    /// A question to the person at the terminal: said even where nothing else is, and without a line's end.
    pub fn question(&self, text: impl std::fmt::Display) {
        self.bars.suspend(|| {
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "{}", shown(&text.to_string(), self.color)).and_then(|()| stderr.flush());
        });
    }

    /// A line for a person who asked for more (`-v`).
    pub fn detail(&self, text: impl std::fmt::Display) {
        if self.verbose {
            self.stderr(&text.to_string());
        }
    }

    /// A way to say a note from other threads, for as long as they like.
    pub fn voice(&self) -> impl Fn(&str) + Send + Sync + 'static {
        let (bars, color, quiet) = (self.bars.clone(), self.color, self.quiet);
        move |text| {
            if !quiet {
                bars.suspend(|| drop(writeln!(std::io::stderr().lock(), "{}", shown(text, color))));
            }
        }
    }

    fn stderr(&self, text: &str) {
        self.bars.suspend(|| {
            let _ = writeln!(std::io::stderr().lock(), "{}", shown(text, self.color));
        });
    }

    /// An error: the chain on stderr, hints on lines of their own, and an `error` object with `--json`.
    pub fn error(&self, error: &anyhow::Error) {
        let (chain, hints, kind) = (error::chain(error), error::hints(error), error::kind(error));
        if self.json {
            self.json_line("error", &serde_json::json!({ "kind": format!("{kind:?}").to_lowercase(), "exit": kind.exit_code(), "chain": chain, "hints": hints }));
        }
        self.stderr(&format!("{} {}", self.paint("31;1", "error:"), shown(&chain.join(": "), false)));
        for hint in hints {
            self.stderr(&format!("{} {}", self.paint("36;1", "hint:"), shown(hint, false)));
        }
    }

    /// `text` in an SGR colour where colours are on.
    pub fn paint(&self, sgr: &str, text: &str) -> String {
        if self.color { format!("\x1b[{sgr}m{text}\x1b[0m") } else { text.into() }
    }

    fn with_bar(&self, step: &str, act: impl FnOnce(&ProgressBar)) {
        if let Ok(running) = self.running.lock()
            && let Some(bar) = running.get(step)
        {
            act(bar);
        }
    }
}

impl Observer for Ui {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Started { step, what } => {
                if self.bars.is_hidden() {
                    self.detail(format!("{step}: {what}"));
                    return;
                }
                let bar = self.bars.add(ProgressBar::new_spinner());
                bar.set_style(spinner());
                bar.set_prefix(step.to_string());
                bar.set_message(shown(what, false));
                bar.enable_steady_tick(Duration::from_millis(100));
                if let Ok(mut running) = self.running.lock() {
                    running.insert(step.into(), bar);
                }
            }
            Event::Doing { step, what } => {
                self.with_bar(step, |bar| bar.set_message(shown(what, false)));
                self.detail(format!("{step}: {what}"));
            }
            Event::Progress { step, done, total } => self.with_bar(step, |bar| {
                if total > 0 && bar.length() != Some(total) {
                    bar.set_length(total);
                    bar.set_style(measured(total));
                }
                bar.set_position(done);
            }),
            Event::Finished { step, cached, took } => {
                if let Some(bar) = self.running.lock().ok().and_then(|mut running| running.remove(step)) {
                    bar.finish_and_clear();
                    self.bars.remove(&bar);
                }
                if self.json {
                    self.json_line(
                        "step",
                        &serde_json::json!({ "step": step, "cached": cached, "seconds": took.as_secs_f64() }),
                    );
                }
                if !cached {
                    self.note(format!(
                        "{} {step} {}",
                        self.paint("32", "made"),
                        self.paint("2", &format!("{:.1} s", took.as_secs_f64()))
                    ));
                } else {
                    self.detail(format!("{} {step}", self.paint("2", "kept")));
                }
            }
            Event::Note(text) => self.note(text),
        }
    }
}

fn spinner() -> ProgressStyle {
    style("{spinner} {prefix:24} {msg} {elapsed:>}")
}

/// More than a mebi of anything is bytes; less is pieces.
fn measured(total: u64) -> ProgressStyle {
    if total > 1 << 20 {
        style("{spinner} {prefix:24} {msg} [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec}")
    } else {
        style("{spinner} {prefix:24} {msg} [{bar:24}] {pos}/{len}")
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants above; a bad one falls back to the library's own.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// `text` as a terminal may have it. Names come from archives, registries and images: a control character among them
/// could move the cursor, rename the window or hide a line, and a mark of direction could turn one around, so they show
/// as escapes. Line feeds and tabs stay, and where `colors` are on the sequences that set them (`ESC [ ... m`).
fn shown(text: &str, colors: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        let sets_color = || {
            let parameters = text[at..].strip_prefix("\x1b[").unwrap_or_default();
            parameters.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m')
        };
        match c {
            '\n' | '\t' => out.push(c),
            '\x1b' if colors && sets_color() => out.push(c),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                out.extend(c.escape_unicode())
            }
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_does_not_reach_the_terminal_as_commands() {
        for (text, colors, expected) in [
            ("a\tb\n", false, "a\tb\n"),
            ("\x1b]0;title\x07", true, "\\u{1b}]0;title\\u{7}"),
            ("\x1b[2J\x1b[1mx", true, "\\u{1b}[2J\x1b[1mx"),
            ("\x1b[1mx", false, "\\u{1b}[1mx"),
            ("ok\rerror\u{9b}31m", false, "ok\\rerror\\u{9b}31m"),
            ("gpj\u{202e}exe", false, "gpj\\u{202e}exe"),
            ("é – 名", false, "é – 名"),
        ] {
            assert_eq!(shown(text, colors), expected);
        }
    }
}
