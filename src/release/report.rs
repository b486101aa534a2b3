//! A manifest and what the layers hold → `report.html`: one page that needs nothing but itself.
//!
//! It depends on what was built alone: no time of writing, no earlier release, so that equal releases have equal pages.
//! What changed since another release is told by `forge diff --html`, in the same dress. Every text is escaped; the page
//! has no script and refers to nothing outside of it.

use super::Manifest;
use crate::contents::Contents;
use crate::model::{Arch, Bytes};
use crate::template::REPORT_STYLE;
use std::collections::BTreeMap;

/// The page's name in a release.
pub const REPORT: &str = "report.html";
/// How many packages a chart of the largest shows; all are listed below it.
const LARGEST: usize = 20;

/// What a release's layers hold.
pub type Facts = BTreeMap<Arch, Vec<LayerFacts>>;

/// A layer and what is in it.
#[derive(Clone, Debug)]
pub struct LayerFacts {
    /// Its name.
    pub name: String,
    /// Length of its compressed blob; absent where only a disk was made of it.
    pub compressed: Option<Bytes>,
    /// What it holds.
    pub contents: Contents,
}

/// The page.
pub fn html(manifest: &Manifest, facts: &Facts) -> String {
    let title = format!("{} {}", manifest.site, manifest.version);
    let mut body = format!("<header><h1>{}</h1>", escape(&title));
    body += &rows(
        "facts",
        &[
            ("Time", manifest.epoch.rfc3339()),
            ("Plan", manifest.plan.to_string()),
            ("Lock", manifest.lock.to_string()),
            ("Key", manifest.key.to_string()),
            ("Made by", format!("forge {}", manifest.forge)),
        ],
    );
    body += "<p class=note>This page describes the release; <code>forge verify</code> checks it, \
             <code>forge diff</code> compares it with another.</p></header>";
    if !manifest.artifacts.is_empty() || manifest.image.is_some() {
        body += "<section><h2>Files</h2><div class=scroll><table><thead><tr><th>File<th class=n>Size<th>Digest<tbody>";
        for artifact in &manifest.artifacts {
            body += &format!(
                "<tr><td>{}<td class=n>{}<td><code>{}</code>",
                escape(&artifact.path),
                artifact.size,
                artifact.digest
            );
        }
        if let Some(image) = &manifest.image {
            let size: Bytes = facts.values().flatten().filter_map(|l| l.compressed).sum();
            body += &format!(
                "<tr><td>oci/ ({})<td class=n>{size}<td><code>{}</code>",
                escape(&image.tag),
                image.index
            );
        }
        body += "</table></div></section>";
    }
    for (arch, layers) in facts {
        machine(*arch, layers, &mut body);
    }
    page(&title, &body)
}

/// The part of one architecture.
fn machine(arch: Arch, layers: &[LayerFacts], out: &mut String) {
    *out += &format!("<section><h2>{arch}</h2><h3>Layers</h3>");
    *out += &bars(
        layers.iter().map(|l| {
            let compressed = l.compressed.map(|c| format!(", {c} compressed")).unwrap_or_default();
            (l.name.clone(), format!("{}{compressed}", l.contents.size), l.contents.size)
        }),
        "No layers.",
    );
    let containers: Vec<_> = layers.iter().flat_map(|l| &l.contents.containers).collect();
    if !containers.is_empty() {
        *out += "<h3>Container images</h3><div class=scroll><table><thead><tr><th>Image<th class=n>Size<th>Digest<tbody>";
        for image in containers {
            let (names, digest) = (escape(&image.names.join(", ")), image.digest);
            *out += &format!("<tr><td>{names}<td class=n>{}<td><code>{digest}</code>", image.size);
        }
        *out += "</table></div>";
    }
    let mut packages: Vec<(&str, &str, &str, Bytes)> = layers
        .iter()
        .flat_map(|l| &l.contents.packages)
        .flat_map(|(set, all)| {
            all.iter().map(move |(n, p)| (n.as_str(), p.version.as_str(), set.as_str(), p.size))
        })
        .collect();
    packages.sort_by(|a, b| (b.3, a.0, a.2).cmp(&(a.3, b.0, b.2)));
    *out += "<h3>Largest packages</h3>";
    let largest = packages.iter().take(LARGEST);
    *out += &bars(
        largest.map(|(name, _, set, size)| (format!("{name} ({set})"), size.to_string(), *size)),
        "No packages.",
    );
    let mut files: Vec<(&str, &str, Bytes)> = layers
        .iter()
        .flat_map(|l| l.contents.largest.iter().map(|(p, s)| (p.as_str(), l.name.as_str(), *s)))
        .collect();
    files.sort_by(|a, b| (b.2, a.0).cmp(&(a.2, b.0)));
    files.truncate(LARGEST);
    *out += "<h3>Largest files</h3>";
    *out += &bars(
        files.iter().map(|(path, layer, size)| (format!("{layer}: /{path}"), size.to_string(), *size)),
        "No files.",
    );
    packages.sort_unstable();
    *out += &format!("<h3>Packages</h3><details><summary>All {}</summary><div class=scroll>", packages.len());
    *out += "<table><thead><tr><th>Package<th>Version<th>Set<th class=n>Installed<tbody>";
    for (name, version, set, size) in packages {
        let (name, version, set) = (escape(name), escape(version), escape(set));
        *out += &format!("<tr><td>{name}<td>{version}<td>{set}<td class=n>{size}");
    }
    *out += "</table></div></details></section>";
}

/// A chart: each line's length is its share of the longest.
fn bars(lines: impl Iterator<Item = (String, String, Bytes)>, none: &str) -> String {
    let lines: Vec<_> = lines.collect();
    let Some(most) = lines.iter().map(|l| l.2.0).max() else { return format!("<p class=note>{none}</p>") };
    let mut out = String::from("<ul class=bars>");
    for (name, value, size) in lines {
        // Whole tenths of a percent, in integers: the same page on every machine.
        let share = u128::from(size.0) * 1000 / u128::from(most.max(1));
        out += &format!(
            "<li><span class=name>{}</span><span class=value>{}</span><span class=bar style=\"width:{}.{}%\"></span>",
            escape(&name),
            escape(&value),
            share / 10,
            share % 10
        );
    }
    out + "</ul>"
}

/// Names with their values.
fn rows(class: &str, rows: &[(&str, String)]) -> String {
    let mut out = format!("<dl class={class}>");
    for (name, value) in rows {
        out += &format!("<dt>{}<dd>{}", escape(name), escape(value));
    }
    out + "</dl>"
}

/// A whole page around `body`, which is HTML.
pub fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n\
         <meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{}</title>\n<style>\n{REPORT_STYLE}</style>\n<main>\n{body}\n</main>\n</html>\n",
        escape(title)
    )
}

/// `text` as HTML text or as the value of an attribute in quotes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents::{ContainerImage, Package};
    use crate::model::{Digest, Epoch};
    use crate::sign::KeyId;

    fn manifest(site: &str) -> Manifest {
        Manifest {
            schema: super::super::SCHEMA,
            site: site.into(),
            version: "1".into(),
            epoch: Epoch(0),
            forge: "0".into(),
            plan: Digest::of("p"),
            lock: Digest::of("l"),
            key: KeyId(Digest::of("k")),
            image: None,
            artifacts: vec![],
            steps: BTreeMap::new(),
            packages: BTreeMap::new(),
        }
    }

    fn facts(hostile: &str) -> Facts {
        let package = Package { version: hostile.into(), size: Bytes(2048) };
        let contents = Contents {
            files: 1,
            size: Bytes(1),
            packages: [(hostile.to_string(), [(hostile.to_string(), package)].into())].into(),
            containers: vec![ContainerImage {
                names: vec![hostile.into()],
                digest: Digest::of("c"),
                size: Bytes(0),
            }],
            largest: vec![(hostile.into(), Bytes(1))],
            entries: BTreeMap::new(),
        };
        [(Arch::Amd64, vec![LayerFacts { name: hostile.into(), compressed: Some(Bytes(1)), contents }])]
            .into()
    }

    #[test]
    fn no_name_becomes_markup() {
        let evil = "\"'><script>alert(1)</script><img src=x onerror=1>&";
        let page = html(&manifest(evil), &facts(evil));
        assert!(
            !page.contains("<script") && !page.contains("<img") && !page.contains("onerror=1>&"),
            "{page}"
        );
        assert!(page.contains("&lt;script&gt;") && page.contains("&quot;&#39;&gt;"));
        for outside in ["http:", "https:", "url(", "src=\"", "href="] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn equal_releases_have_equal_pages() {
        assert_eq!(html(&manifest("s"), &facts("n")), html(&manifest("s"), &facts("n")));
        let empty = html(&manifest("s"), &[(Arch::Arm64, vec![])].into());
        assert!(empty.contains("No layers.") && empty.contains("No packages."));
    }
}
