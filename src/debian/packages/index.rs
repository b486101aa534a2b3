//! `Packages` files → an index by name: which versions there are, who provides what, and one [`Package`] on demand.
//!
//! An index keeps the text of the files and spans into it (12 numbers a package), and reads the relations of a package
//! only when the solver asks for them: of 68,000 packages a build looks at a few hundred. Which package is wanted, it does
//! not know.

use super::{BadPackages, Listing, MultiArch, Package, Pin, Priority, Relations};
use crate::debian::deb822::{self, Paragraph};
use crate::debian::relation::{self, Clause};
use crate::debian::version;
use crate::model::{Arch, Digest};
use std::cmp::Reverse;
use std::ops::Range;

/// Index of a package in an [`Index`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u32);

type Span = Range<u32>;

struct Entry {
    listing: u16,
    flags: u8,
    multi_arch: MultiArch,
    priority: Priority,
    name: Span,
    version: Span,
    paragraph: Span,
}

const ESSENTIAL: u8 = 1;
const PROTECTED: u8 = 2;

struct Provided {
    name: Span,
    version: Option<Span>,
    by: Id,
}

/// All packages of some `Packages` files, for one architecture.
pub struct Index {
    arch: Arch,
    text: String,
    listings: Vec<Listing>,
    entries: Vec<Entry>,
    /// By name, then the best pin, then the newest version, then the order of adding.
    by_name: Vec<Id>,
    provides: Vec<Provided>,
}

impl Index {
    /// An empty index for packages of `arch` and `all`.
    pub fn new(arch: Arch) -> Index {
        Index {
            arch,
            text: String::new(),
            listings: vec![],
            entries: vec![],
            by_name: vec![],
            provides: vec![],
        }
    }

    /// An index of several files at once; text and what it belongs to.
    ///
    /// # Errors
    /// As [`Index::add`].
    pub fn build(
        arch: Arch,
        files: impl IntoIterator<Item = (Listing, String)>,
    ) -> Result<Index, BadPackages> {
        let mut index = Index::new(arch);
        for (listing, text) in files {
            index.append(listing, text)?;
        }
        index.sort();
        Ok(index)
    }

    /// Adds the packages of one file. Those of other architectures are left out.
    ///
    /// # Errors
    /// [`BadPackages`] when a package has no name or version, or a `Provides` that cannot be read. The other fields are
    /// looked at when the package is used.
    pub fn add(&mut self, listing: Listing, text: String) -> Result<(), BadPackages> {
        self.append(listing, text)?;
        self.sort();
        Ok(())
    }

    fn append(&mut self, listing: Listing, text: String) -> Result<(), BadPackages> {
        let base = self.text.len();
        if u32::try_from(base + text.len() + 2).is_err() {
            return Err(BadPackages::TooLarge);
        }
        if self.text.is_empty() {
            self.text = text; // the large first file is not copied
        } else {
            self.text.push_str("\n\n");
            self.text.push_str(&text);
        }
        let number = u16::try_from(self.listings.len()).map_err(|_| BadPackages::TooLarge)?;
        self.listings.push(listing);
        let whole = self.text.as_str();
        let span = |part: &str| {
            let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize) as u32;
            start..start + part.len() as u32
        };
        for paragraph in deb822::paragraphs(&whole[base..]) {
            let (mut name, mut version, mut arch, mut provides) = ("", "", "", "");
            let (mut flags, mut multi_arch, mut priority) = (0, MultiArch::No, Priority::Optional);
            for (field, value) in paragraph.fields() {
                match field {
                    "Package" => name = value,
                    "Version" => version = value,
                    "Architecture" => arch = value,
                    "Provides" => provides = value,
                    "Essential" if value == "yes" => flags |= ESSENTIAL,
                    "Protected" | "Important" if value == "yes" => flags |= PROTECTED,
                    "Multi-Arch" => multi_arch = MultiArch::of(value),
                    "Priority" => priority = Priority::of(value),
                    _ => {}
                }
            }
            if arch != "all" && arch != self.arch.oci() {
                continue;
            }
            let bad = |field| BadPackages::Field { package: name.chars().take(80).collect(), field };
            if !is_package_name(name) {
                return Err(bad("Package"));
            }
            if !version::is_valid(version) {
                return Err(bad("Version"));
            }
            let id = Id(self.entries.len() as u32);
            for (name, version) in provisions(provides) {
                self.provides.push(Provided { name: span(name), version: version.map(span), by: id });
            }
            self.entries.push(Entry {
                listing: number,
                flags,
                multi_arch,
                priority,
                name: span(name),
                version: span(version),
                paragraph: span(paragraph.as_str()),
            });
        }
        Ok(())
    }

    fn sort(&mut self) {
        let mut by_name: Vec<Id> = (0..self.entries.len() as u32).map(Id).collect();
        by_name.sort_by(|a, b| {
            let names = self.name(*a).cmp(self.name(*b));
            names
                .then_with(|| self.pin(*b).cmp(&self.pin(*a)))
                .then_with(|| version::compare(self.version(*b), self.version(*a)))
                .then_with(|| a.cmp(b))
        });
        // The same version in two suites is one package; the first source that has it gives it.
        by_name.dedup_by(|b, a| self.name(*a) == self.name(*b) && self.version(*a) == self.version(*b));
        self.by_name = by_name;
        let mut provides = std::mem::take(&mut self.provides);
        provides.sort_by(|a, b| self.at(&a.name).cmp(self.at(&b.name)).then(a.by.cmp(&b.by)));
        self.provides = provides;
    }

    fn at(&self, span: &Span) -> &str {
        &self.text[span.start as usize..span.end as usize]
    }

    fn entry(&self, id: Id) -> &Entry {
        &self.entries[id.0 as usize]
    }

    /// The architecture it was built for.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// How many packages it knows, every version counted.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Every package, by name.
    pub fn iter(&self) -> impl Iterator<Item = Id> {
        self.by_name.iter().copied()
    }

    /// The versions of `name`, that which apt would take first.
    pub fn versions(&self, name: &str) -> &[Id] {
        let start = self.by_name.partition_point(|id| self.name(*id) < name);
        let len = self.by_name[start..].partition_point(|id| self.name(*id) == name);
        &self.by_name[start..start + len]
    }

    /// Who provides `name` as a virtual package, each with the version it provides, if it says one.
    pub fn providers(&self, name: &str) -> impl Iterator<Item = (Id, Option<&str>)> {
        let start = self.provides.partition_point(|p| self.at(&p.name) < name);
        let len = self.provides[start..].partition_point(|p| self.at(&p.name) == name);
        self.provides[start..start + len].iter().map(|p| (p.by, p.version.as_ref().map(|v| self.at(v))))
    }

    /// The name of a package.
    pub fn name(&self, id: Id) -> &str {
        self.at(&self.entry(id).name)
    }

    /// The version of a package.
    pub fn version(&self, id: Id) -> &str {
        self.at(&self.entry(id).version)
    }

    /// Whether it is `Essential: yes`.
    pub fn is_essential(&self, id: Id) -> bool {
        self.entry(id).flags & ESSENTIAL != 0
    }

    /// Whether it is `Protected: yes` or `Important: yes`.
    pub fn is_protected(&self, id: Id) -> bool {
        self.entry(id).flags & PROTECTED != 0
    }

    /// Its `Multi-Arch`.
    pub fn multi_arch(&self, id: Id) -> MultiArch {
        self.entry(id).multi_arch
    }

    /// Its `Priority`.
    pub fn priority(&self, id: Id) -> Priority {
        self.entry(id).priority
    }

    /// The release that it comes from.
    pub fn listing(&self, id: Id) -> &Listing {
        &self.listings[usize::from(self.entry(id).listing)]
    }

    fn pin(&self, id: Id) -> Pin {
        self.listing(id).pin
    }

    fn paragraph(&self, id: Id) -> Paragraph<'_> {
        Paragraph::new(self.at(&self.entry(id).paragraph))
    }

    /// What it provides: names, each with the version it says.
    pub fn provided_by(&self, id: Id) -> Vec<(&str, Option<&str>)> {
        provisions(self.paragraph(id).get("Provides").unwrap_or_default()).collect()
    }

    /// Its relations.
    ///
    /// # Errors
    /// [`BadPackages::Relation`] when one cannot be read.
    pub fn relations(&self, id: Id) -> Result<Relations, BadPackages> {
        let mut relations = Relations::default();
        for (field, value) in self.paragraph(id).fields() {
            match field {
                "Pre-Depends" => {
                    let before = self.clauses(id, "Pre-Depends", value)?;
                    relations.depends.splice(0..0, before);
                }
                "Depends" => relations.depends.extend(self.clauses(id, "Depends", value)?),
                "Recommends" => relations.recommends.extend(self.clauses(id, "Recommends", value)?),
                "Conflicts" => relations.conflicts.extend(self.clauses(id, "Conflicts", value)?),
                "Breaks" => relations.conflicts.extend(self.clauses(id, "Breaks", value)?),
                _ => {}
            }
        }
        Ok(relations)
    }

    fn clauses(&self, id: Id, field: &'static str, value: &str) -> Result<Vec<Clause>, BadPackages> {
        relation::parse(value, self.arch).map_err(|source| BadPackages::Relation {
            package: self.name(id).into(),
            field,
            source,
        })
    }

    /// All that is told of it.
    ///
    /// # Errors
    /// [`BadPackages`] when file name, size or digest are missing or malformed, or the file name leaves the archive.
    pub fn package(&self, id: Id) -> Result<Package, BadPackages> {
        let paragraph = self.paragraph(id);
        let get = |field| paragraph.get(field);
        let bad = |field| BadPackages::Field { package: self.name(id).into(), field };
        let clauses = |field| get(field).map_or(Ok(vec![]), |value| self.clauses(id, field, value));
        let source = get("Source").and_then(|s| s.split([' ', '(']).next()).unwrap_or(self.name(id));
        Ok(Package {
            name: self.name(id).into(),
            version: self.version(id).into(),
            arch: get("Architecture").ok_or_else(|| bad("Architecture"))?.into(),
            filename: get("Filename").filter(|f| is_pool_path(f)).ok_or_else(|| bad("Filename"))?.into(),
            size: get("Size").and_then(|s| s.parse().ok()).ok_or_else(|| bad("Size"))?,
            sha256: get("SHA256").and_then(|s| Digest::from_hex(s).ok()).ok_or_else(|| bad("SHA256"))?,
            origin: self.listing(id).origin,
            installed_size: get("Installed-Size").and_then(|s| s.parse().ok()).unwrap_or(0),
            source: source.into(),
            section: get("Section").unwrap_or_default().into(),
            priority: self.priority(id),
            essential: self.is_essential(id),
            protected: self.is_protected(id),
            multi_arch: self.multi_arch(id),
            pre_depends: clauses("Pre-Depends")?,
            depends: clauses("Depends")?,
        })
    }

    /// Names like `name`, the nearest first, at most three: for "did you mean".
    pub fn similar(&self, name: &str) -> Vec<&str> {
        let mut near: Vec<(Reverse<u64>, &str)> = vec![];
        for id in &self.by_name {
            let candidate = self.name(*id);
            if near.last().is_some_and(|(_, last)| *last == candidate)
                || candidate.len().abs_diff(name.len()) > 3 + name.len() / 4
            {
                continue;
            }
            let score = strsim::jaro_winkler(name, candidate);
            if score > 0.9 {
                near.push((Reverse((score * 1e6) as u64), candidate));
            }
        }
        near.sort_unstable();
        near.dedup();
        near.into_iter().take(3).map(|(_, name)| name).collect()
    }
}

/// The parts of a `Provides`: `name` or `name (= version)`, and rarely `name:arch`. What has another form is given as
/// far as it can be read: it then answers no relation.
fn provisions(field: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    field.split(',').map(str::trim).filter(|part| !part.is_empty()).map(|part| {
        let end = part.find(|c: char| c.is_whitespace() || c == '(').unwrap_or(part.len());
        let (name, rest) = part.split_at(end);
        let inside = rest.trim().strip_prefix('(').and_then(|r| r.strip_suffix(')'));
        let version = inside.and_then(|r| r.trim().strip_prefix('=')).map(str::trim);
        (name.split(':').next().unwrap_or(name), version)
    })
}

/// Policy §5.6.7; uppercase and `_` are not policy but seen outside of Debian.
fn is_package_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-._".contains(&c))
}

/// A path that stays under the archive's base and means the same in a URL.
fn is_pool_path(path: &str) -> bool {
    path.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-._~:/%".contains(&c))
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && !path.to_ascii_lowercase().contains("%2")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing() -> Listing {
        Listing { origin: 0, suites: vec!["stable".into()], pin: Pin::Automatic }
    }

    #[test]
    fn versions_providers_and_details_are_found() {
        let text = format!(
            "Package: a\nVersion: 1\nArchitecture: amd64\nProvides: v (= 2), w\n\n\
             Package: b\nVersion: 1\nArchitecture: arm64\n\n\
             Package: a\nVersion: 1.1\nArchitecture: all\nSource: src (0.9)\nEssential: yes\nMulti-Arch: foreign\n\
             Pre-Depends: x\nDepends: y | z\nFilename: pool/a.deb\nSize: 7\nSHA256: {}\nDescription: a\n long\n",
            Digest::of("").hex()
        );
        let index = Index::build(Arch::Amd64, [(listing(), text)]).unwrap();
        let versions: Vec<_> = index.versions("a").iter().map(|id| index.version(*id)).collect();
        assert_eq!(versions, ["1.1", "1"]);
        assert!(index.versions("b").is_empty() && index.versions("aa").is_empty());
        let providers: Vec<_> = index.providers("v").map(|(id, v)| (index.version(id), v)).collect();
        assert_eq!(providers, [("1", Some("2"))]);
        let package = index.package(index.versions("a")[0]).unwrap();
        assert_eq!((package.source.as_str(), package.size, package.essential), ("src", 7, true));
        assert_eq!(package.depends[0].to_string(), "y | z");
        let spelled = serde_json::to_string(&package).unwrap();
        assert_eq!(serde_json::from_str::<Package>(&spelled).unwrap(), package);
        assert!(index.package(index.versions("a")[1]).unwrap_err().to_string().contains("Filename"));
    }

    #[test]
    fn packages_without_a_name_or_version_are_refused() {
        for (text, field) in [
            ("Version: 1\nArchitecture: all\n", "Package"),
            ("Package: a/b\nVersion: 1\nArchitecture: all\n", "Package"),
            ("Package: a\nArchitecture: all\n", "Version"),
            ("Package: a\nVersion: ../1\nArchitecture: all\n", "Version"),
        ] {
            let error = Index::build(Arch::Amd64, [(listing(), text.to_string())]).err().unwrap();
            assert!(matches!(error, BadPackages::Field { field: f, .. } if f == field), "{text}");
        }
    }
}
