//! Faults of a profile: where, what, and what would be right.
//!
//! A fault knows its span; the sources turn the span into a file, a line and a column, for people (in rustc's manner)
//! and for programs (`--json`).

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

/// A file, by the order in which it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(usize);

/// A span of bytes in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The file.
    pub source: SourceId,
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

/// The texts that faults point into.
#[derive(Clone, Debug, Default)]
pub struct Sources(Vec<Source>);

#[derive(Clone, Debug)]
struct Source {
    name: String,
    dir: String,
    text: String,
}

impl Sources {
    /// Adds a text that people know as `name`, and whose relative paths start at `dir`.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        dir: impl Into<String>,
        text: impl Into<String>,
    ) -> SourceId {
        self.0.push(Source { name: name.into(), dir: dir.into(), text: text.into() });
        SourceId(self.0.len() - 1)
    }

    /// How many files there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The text of a file.
    pub fn text(&self, id: SourceId) -> &str {
        &self.0[id.0].text
    }

    /// The directory at which relative paths of a file start, itself relative to the main profile's directory.
    pub fn dir(&self, id: SourceId) -> &str {
        &self.0[id.0].dir
    }

    /// The name of a file, as the user spelled it.
    pub fn name(&self, id: SourceId) -> &str {
        &self.0[id.0].name
    }

    /// Line and column of a byte, from 1; columns count characters.
    fn position(&self, id: SourceId, byte: usize) -> Position {
        let before = self.text(id).get(..byte).unwrap_or(self.text(id));
        let line_start = before.rfind('\n').map_or(0, |n| n + 1);
        Position {
            line: before.bytes().filter(|b| *b == b'\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    place: Place,
    message: String,
    label: Option<String>,
    help: String,
    related: Option<(Place, String)>,
}

impl Fault {
    /// What is wrong at `place`, and what would be right: each one sentence without a full stop.
    pub fn new(place: Place, message: impl Into<String>, help: impl Into<String>) -> Fault {
        Fault { place, message: message.into(), label: None, help: help.into(), related: None }
    }

    /// A few words beside the underline.
    pub fn label(mut self, label: impl Into<String>) -> Fault {
        self.label = Some(label.into());
        self
    }

    /// Another place that has to do with it.
    pub fn related(mut self, place: Place, label: impl Into<String>) -> Fault {
        self.related = Some((place, label.into()));
        self
    }
}

/// Every fault of a profile, in the order of the files and of the lines; never empty.
#[derive(Debug)]
pub struct Report {
    sources: Sources,
    faults: Vec<Fault>,
}

/// A line and a column, from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
}

/// A fault for programs: an object of `forge check --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file, as the user spelled it.
    pub file: String,
    /// The first character.
    #[serde(flatten)]
    pub start: Position,
    /// The character after the last.
    pub end: Position,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: String,
}

impl Report {
    /// Sorts the faults and drops repetitions (what is wrong for one architecture is wrong for the next).
    pub fn new(sources: Sources, mut faults: Vec<Fault>) -> Report {
        faults.sort_by(|a, b| (a.place, &a.message).cmp(&(b.place, &b.message)));
        faults.dedup_by(|a, b| a.place == b.place && a.message == b.message);
        Report { sources, faults }
    }

    /// How many faults there are.
    pub fn count(&self) -> usize {
        self.faults.len()
    }

    /// The faults, for `--json`.
    pub fn findings(&self) -> impl Iterator<Item = Finding> + '_ {
        self.faults.iter().map(|fault| Finding {
            file: self.sources.name(fault.place.source).into(),
            start: self.sources.position(fault.place.source, fault.place.start),
            end: self.sources.position(fault.place.source, fault.place.end),
            message: fault.message.clone(),
            help: fault.help.clone(),
        })
    }

    /// The faults for people, a blank line between two; coloured for a terminal when `color`.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let faults = self.faults.iter().map(|fault| renderer.render(&[self.group(fault)]));
        faults.collect::<Vec<_>>().join("\n\n")
    }

    fn group<'a>(&'a self, fault: &'a Fault) -> Group<'a> {
        let snippet = |place: Place| {
            Snippet::source(self.sources.text(place.source)).path(self.sources.name(place.source)).fold(true)
        };
        let primary =
            AnnotationKind::Primary.span(fault.place.start..fault.place.end).label(fault.label.as_deref());
        let mut own = snippet(fault.place).annotation(primary);
        let mut other = None;
        if let Some((place, label)) = &fault.related {
            let context = AnnotationKind::Context.span(place.start..place.end).label(label.as_str());
            if place.source == fault.place.source {
                own = own.annotation(context);
            } else {
                other = Some(snippet(*place).annotation(context));
            }
        }
        let mut group = Group::with_title(Level::ERROR.primary_title(fault.message.as_str())).element(own);
        if let Some(other) = other {
            group = group.element(other);
        }
        group.element(Level::HELP.message(fault.help.as_str()))
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Report {}
