//! What was found, or what differs → text for a terminal. Names are other people's: control characters never get through.

use super::diff::{Change, Difference, What};
use super::{Form, Inspected, Layer, PackageSets};
use crate::contents::ContainerImage;
use crate::model::Bytes;
use std::collections::BTreeMap;

/// A line with lines below it.
struct Branch {
    line: String,
    below: Vec<Branch>,
}

impl Branch {
    fn leaf(line: impl Into<String>) -> Branch {
        Branch { line: line.into(), below: vec![] }
    }

    fn new(line: impl Into<String>, below: Vec<Branch>) -> Branch {
        Branch { line: line.into(), below }
    }

    fn draw(&self, out: &mut String, indent: &str) {
        *out += &printable(&self.line);
        out.push('\n');
        for (i, branch) in self.below.iter().enumerate() {
            let last = i + 1 == self.below.len();
            *out += indent;
            *out += if last { "└─ " } else { "├─ " };
            branch.draw(out, &format!("{indent}{}", if last { "   " } else { "│  " }));
        }
    }
}

/// `text` with control characters, which could steer a terminal, as escapes.
fn printable(text: &str) -> String {
    let hidden = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().flat_map(|c| if hidden(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

/// `found` as a tree.
pub fn tree(found: &Inspected) -> String {
    let form = match found.form {
        Form::Release => "release",
        Form::Layout => "OCI layout",
        Form::Disk => "disk image",
        Form::KernelImage => "kernel image",
        Form::Lock => "lock",
    };
    let mut below: Vec<Branch> =
        found.facts.iter().map(|(key, value)| Branch::leaf(format!("{key}: {value}"))).collect();
    for image in &found.images {
        let tag = image.tag.as_deref().map(|t| format!("{t}  ")).unwrap_or_default();
        let line = format!("image {}  {tag}{}  {}", image.arch, image.size, image.digest);
        below.push(Branch::new(line, image.layers.iter().map(layer).collect()));
    }
    if !found.files.is_empty() {
        let line = |f: &super::ReleaseFile| Branch::leaf(format!("{}  {}  {}", f.path, f.size, f.digest));
        below.push(Branch::new("files", found.files.iter().map(line).collect()));
    }
    for disk in &found.disks {
        let partitions = disk.partitions.iter().map(|p| {
            let mut below: Vec<Branch> =
                p.files.iter().map(|(path, size)| Branch::leaf(format!("{path}  {size}"))).collect();
            below.extend(p.root_hash.iter().map(|h| Branch::leaf(format!("root hash {h}"))));
            Branch::new(format!("{}  {}  {}", p.kind, p.name, p.size), below)
        });
        below.push(Branch::new(format!("disk {}  {}", disk.name, disk.size), partitions.collect()));
    }
    for kernel in &found.kernels {
        let mut lines = vec![
            Branch::leaf(format!("kernel {}", kernel.uname)),
            Branch::leaf(format!("command line: {}", kernel.cmdline)),
        ];
        lines.extend(kernel.system.iter().map(|(k, v)| Branch::leaf(format!("{k}={v}"))));
        let section = |s: &super::Section| Branch::leaf(format!("{}  {}  {}", s.name, s.size, s.digest));
        lines.push(Branch::new("sections", kernel.sections.iter().map(section).collect()));
        below.push(Branch::new(format!("kernel image {}", kernel.name), lines));
    }
    below.extend(found.packages.iter().map(|(arch, sets)| packages(arch, sets)));
    below.extend(found.containers.iter().map(|(arch, images)| containers(arch, images)));
    if !found.signatures.is_empty() {
        let line = |s: &super::Signature| {
            let key = s.key.as_deref().unwrap_or("no key named");
            Branch::leaf(format!("{}  {}  {key}", s.about, s.form))
        };
        let head = "signatures (not checked here: run `forge verify`)";
        below.push(Branch::new(head, found.signatures.iter().map(line).collect()));
    }
    let mut out = String::new();
    Branch::new(format!("{}  {form}", found.name), below).draw(&mut out, "");
    out
}

fn layer(layer: &Layer) -> Branch {
    let mut line = format!("layer {}  {}", layer.name, layer.size);
    if let Some(contents) = &layer.contents {
        line += &format!("  {} unpacked, {} files", contents.size, contents.files);
        let packages: usize = contents.packages.values().map(BTreeMap::len).sum();
        if packages > 0 {
            line += &format!(", {packages} packages");
        }
    }
    Branch::leaf(format!("{line}  {}", layer.digest))
}

fn packages(arch: &str, sets: &PackageSets) -> Branch {
    let sets = sets.iter().map(|(set, packages)| {
        let size: Bytes = packages.values().map(|p| p.size).sum();
        let sized = if size.0 > 0 { format!(", {size}") } else { String::new() };
        let lines = packages.iter().map(|(name, p)| Branch::leaf(format!("{name} {}", p.version)));
        Branch::new(format!("{set}: {}{sized}", packages.len()), lines.collect())
    });
    Branch::new(format!("packages {arch}"), sets.collect())
}

fn containers(arch: &str, images: &[ContainerImage]) -> Branch {
    let line = |i: &ContainerImage| Branch::leaf(format!("{}  {}  {}", i.names.join(", "), i.size, i.digest));
    Branch::new(format!("container images {arch}"), images.iter().map(line).collect())
}

/// `difference` as text: the summary, then what differs, by place.
pub fn difference(difference: &Difference) -> String {
    let mut out = format!("{}\n", printable(&difference.summary()));
    let mut place = None;
    for change in &difference.changes {
        let here = (change.what, change.place.as_str());
        if place != Some(here) {
            let of = if change.place.is_empty() { String::new() } else { format!(" of {}", change.place) };
            out += &format!("\n{}{}\n", change.what.plural(), printable(&of));
            place = Some(here);
        }
        out += &format!("  {}\n", printable(&line(change)));
    }
    out
}

fn line(change: &Change) -> String {
    let sizes = change.size_text().map(|s| format!("  {s}")).unwrap_or_default();
    let short = |value: &str| match (change.what, value.strip_prefix("sha256:")) {
        (What::File, Some(_)) => String::new(),
        (_, Some(hex)) => format!("sha256:{}…", hex.get(..12).unwrap_or(hex)),
        _ => value.to_string(),
    };
    match (change.old.as_deref().map(short), change.new.as_deref().map(short)) {
        (None, new) => format!("+ {} {}{sizes}", change.name, new.unwrap_or_default()),
        (old, None) => format!("- {} {}{sizes}", change.name, old.unwrap_or_default()),
        (Some(old), Some(new)) if old == new => format!("~ {}{sizes}", change.name),
        (Some(old), Some(new)) => format!("~ {} {old} → {new}{sizes}", change.name),
    }
}

/// `+1.2 MiB`, `-300 B`, `±0`: how far `new` is from `old`.
pub fn delta(old: Bytes, new: Bytes) -> String {
    match new.0.cmp(&old.0) {
        std::cmp::Ordering::Greater => format!("+{}", Bytes(new.0 - old.0)),
        std::cmp::Ordering::Less => format!("-{}", Bytes(old.0 - new.0)),
        std::cmp::Ordering::Equal => "±0".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc\u{202e}d"), "a\\u{1b}[2Jb\\nc\\u{202e}d");
    }

    #[test]
    fn deltas_have_a_sign() {
        let of = |a, b| delta(Bytes(a), Bytes(b));
        assert_eq!((of(0, 10), of(2048, 0), of(5, 5)), ("+10 B".into(), "-2.00 KiB".into(), "±0".into()));
    }
}
