//! The lock as text: one spelling for one lock.

use super::{Lock, SCHEMA, SetVariant};
use crate::debian::archive::ListInfo;
use crate::error::{self, Kind};
use crate::model::Digest;
use crate::source::oci::PinnedBlob;
use crate::source::release::PinnedFile;
use crate::source::remote::PinnedPart;
use anyhow::{Context as _, anyhow, bail};
use std::fmt::Write as _;

/// More than a lock of ten thousand packages needs, in bytes.
const MAX_LOCK: usize = 16 << 20;

impl Lock {
    /// The canonical text: equal locks give equal bytes.
    pub fn to_text(&self) -> String {
        let mut out = String::from(
            "# Written by `forge lock`: every input by digest. Do not edit it; commit it beside the profile.\n\
             # `forge lock PROFILE --update [NAME...]` moves inputs to what the archives hold now.\n",
        );
        // Writing to a String cannot fail.
        let _ =
            writeln!(out, "schema = {}\nepoch = {} # {}", self.schema, self.epoch.0, self.epoch.rfc3339());
        array(&mut out, "archive", &self.archives, |a| {
            let list = |l: &ListInfo| {
                format!("{{ path = {}, sha256 = \"{}\", size = {} }}", quoted(&l.path), l.sha256, l.size)
            };
            let lists: Vec<String> = a.lists.iter().map(list).collect();
            format!(
                "suite = {}, origin = {}, codename = {}, date = {}, inrelease = \"{}\", lists = [{}]",
                quoted(&a.suite),
                quoted(&a.origin),
                quoted(&a.codename),
                a.date.0,
                a.inrelease,
                lists.join(", ")
            )
        });
        array(&mut out, "set", &self.sets, |s| {
            let components = match s.components.is_empty() {
                true => String::new(),
                false => format!(", components = [{}]", strings(&s.components)),
            };
            format!(
                "name = {}, arch = \"{}\", base = {}, variant = {}, request = [{}]{components}",
                quoted(&s.name),
                s.arch,
                quoted(&s.base),
                quoted(variant(s.variant)),
                strings(&s.request)
            )
        });
        array(&mut out, "package", &self.packages, |p| {
            format!(
                "name = {}, version = {}, arch = \"{}\", suite = {}, path = {}, size = {}, digest = \"{}\", sets = [{}]",
                quoted(&p.name),
                quoted(&p.version),
                p.arch,
                quoted(&p.suite),
                quoted(&p.path),
                p.size.0,
                p.digest,
                strings(&p.sets)
            )
        });
        array(&mut out, "image", &self.images, |i| {
            let blob = |b: &PinnedBlob| {
                format!(
                    "{{ media-type = {}, digest = \"{}\", size = {} }}",
                    quoted(&b.media_type),
                    b.digest,
                    b.size
                )
            };
            let layers: Vec<String> = i.layers.iter().map(blob).collect();
            format!(
                "reference = {}, arch = \"{}\", manifest = {}, config = {}, layers = [{}]",
                quoted(&i.reference),
                i.arch,
                blob(&i.manifest),
                blob(&i.config),
                layers.join(", ")
            )
        });
        if !self.releases.is_empty() {
            array(&mut out, "release", &self.releases, |r: &PinnedFile| {
                format!(
                    "product = \"{}\", version = {}, arch = \"{}\", file = {}, size = {}, digest = \"{}\"",
                    r.product,
                    quoted(&r.version),
                    r.arch,
                    quoted(&r.file),
                    r.size.0,
                    r.digest
                )
            });
        }
        if !self.remotes.is_empty() {
            let part = |p: &PinnedPart| {
                let PinnedPart { path, media_type, unpack, size, digest } = p;
                let (path, media_type) = (quoted(path), quoted(media_type));
                format!(
                    "{{ path = {path}, media-type = {media_type}, unpack = {unpack}, size = {}, digest = \"{digest}\" }}",
                    size.0
                )
            };
            array(&mut out, "remote", &self.remotes, |r| {
                let files: Vec<String> = r.files.iter().map(part).collect();
                format!("source = {}, files = [{}]", quoted(&r.source), files.join(", "))
            });
        }
        if !self.charts.is_empty() {
            array(&mut out, "chart", &self.charts, |c| {
                format!(
                    "source = {}, arch = \"{}\", version = {}, values = \"{}\", from = {}, size = {}, digest = \"{}\", images = [{}], images-from = [{}]{}",
                    quoted(&c.source),
                    c.arch,
                    quoted(&c.version),
                    c.values,
                    quoted(&c.from),
                    c.size.0,
                    c.digest,
                    strings(&c.images),
                    strings(&c.images_from),
                    match c.rendered.as_str() {
                        "" => String::new(),
                        rendered => format!(", rendered = {}", quoted(rendered)),
                    }
                )
            });
        }
        array(&mut out, "file", &self.files, |f| {
            format!("path = {}, size = {}, digest = \"{}\"", quoted(&f.path), f.size.0, f.digest)
        });
        out
    }

    /// Reads a lock's text.
    ///
    /// # Errors
    /// [`Kind::Lock`] when the text is no lock, is not in canonical spelling (an edit by hand, or a byte that changed),
    /// or is of a format that this forge does not know.
    pub fn from_text(text: &str) -> anyhow::Result<Lock> {
        let parse = || -> anyhow::Result<Lock> {
            if text.len() > MAX_LOCK {
                bail!("it has {} bytes, more than {MAX_LOCK}", text.len());
            }
            let schema = text
                .lines()
                .find_map(|l| l.strip_prefix("schema = "))
                .and_then(|n| n.trim().parse::<u32>().ok());
            match schema {
                Some(SCHEMA) => {}
                Some(other) => bail!("its format is {other}; this forge reads up to {SCHEMA}"),
                None => bail!("it has no `schema`"),
            }
            let lock: Lock = toml::from_str(text).context("parsing it as TOML")?;
            let canonical = lock.to_text();
            if canonical != text {
                let line = canonical
                    .lines()
                    .zip(text.lines())
                    .position(|(a, b)| a != b)
                    .map_or(canonical.lines().count(), |i| i);
                bail!("line {} is not as forge writes it", line + 1);
            }
            Ok(lock)
        };
        parse().map_err(|e| error::of(Kind::Lock, e))
    }

    /// The digest of the canonical text.
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_text())
    }

    /// Sorts everything into the canonical order and folds equal packages into one with the union of their sets.
    ///
    /// # Errors
    /// When one package, by name, version and architecture, has two digests.
    pub fn normalise(&mut self) -> anyhow::Result<()> {
        self.archives.sort_by(|a, b| a.suite.cmp(&b.suite));
        self.sets.sort_by(|a, b| (&a.name, a.arch).cmp(&(&b.name, b.arch)));
        for set in &mut self.sets {
            set.request.sort();
            set.request.dedup();
        }
        self.packages.sort();
        let mut folded: Vec<super::LockedPackage> = Vec::with_capacity(self.packages.len());
        for package in self.packages.drain(..) {
            match folded.last_mut() {
                Some(last)
                    if (last.arch, &last.name, &last.version)
                        == (package.arch, &package.name, &package.version) =>
                {
                    if last.digest != package.digest {
                        return Err(anyhow!(
                            "{} {} has the digests {} and {}",
                            package.name,
                            package.version,
                            last.digest,
                            package.digest
                        ));
                    }
                    last.sets.extend(package.sets);
                }
                _ => folded.push(package),
            }
        }
        for package in &mut folded {
            package.sets.sort();
            package.sets.dedup();
        }
        self.packages = folded;
        self.images.sort_by(|a, b| (&a.reference, a.arch).cmp(&(&b.reference, b.arch)));
        self.releases.sort();
        self.releases.dedup();
        self.remotes.sort_by(|a, b| a.source.cmp(&b.source));
        self.charts.sort();
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        self.files.dedup();
        Ok(())
    }
}

/// An array of inline tables, a line each: what changed is then a line of the diff.
fn array<T>(out: &mut String, name: &str, items: &[T], line: impl Fn(&T) -> String) {
    let _ = writeln!(out, "\n{name} = [");
    for item in items {
        let _ = writeln!(out, "  {{ {} }},", line(item));
    }
    let _ = writeln!(out, "]");
}

fn variant(variant: SetVariant) -> &'static str {
    match variant {
        SetVariant::Custom => "custom",
        SetVariant::Apt => "apt",
        SetVariant::Minbase => "minbase",
    }
}

fn strings<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(|i| quoted(&i.to_string())).collect::<Vec<_>>().join(", ")
}

/// A TOML basic string (TOML v1.0 §String).
fn quoted(s: &str) -> String {
    toml::Value::String(s.into()).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use crate::error::{self, Kind};
    use crate::source::release::{Product, Wanted};

    fn package(name: &str, sets: &[&str]) -> LockedPackage {
        LockedPackage {
            arch: Arch::Amd64,
            name: name.into(),
            version: "1:2.3-4".into(),
            suite: "debian:trixie".into(),
            path: format!("pool/main/{name}.deb"),
            size: Bytes(7),
            digest: Digest::of(name),
            sets: sets.iter().map(|s| s.to_string()).collect(),
        }
    }

    fn sample() -> Lock {
        let set = |name: &str, request: &[&str]| PackageSet {
            name: name.into(),
            arch: Arch::Amd64,
            base: "debian:trixie".into(),
            variant: SetVariant::Minbase,
            request: request.iter().map(|s| s.to_string()).collect(),
            components: vec![],
        };
        let mut lock = Lock {
            schema: SCHEMA,
            epoch: Epoch(1_795_305_600),
            archives: vec![LockedArchive {
                suite: "debian:trixie".into(),
                origin: "Debian".into(),
                codename: "trixie".into(),
                date: Epoch(1_795_305_600),
                inrelease: Digest::of("r"),
                lists: vec![ListInfo {
                    path: "main/binary-amd64/Packages.xz".into(),
                    sha256: Digest::of("l"),
                    size: 5,
                }],
            }],
            sets: vec![set("os", &["nginx", "a \"quoted\" one"]), set("container/web", &["nginx"])],
            packages: vec![
                package("nginx", &["os"]),
                package("nginx", &["container/web"]),
                package("adduser", &["os"]),
            ],
            images: vec![],
            releases: vec![PinnedFile {
                product: Product::K3s,
                version: "v1.34.2+k3s1".into(),
                arch: Arch::Amd64,
                file: "k3s".into(),
                size: Bytes(7),
                digest: Digest::of("k3s"),
            }],
            remotes: vec![PinnedRemote {
                source: "https://models.example/shelf.onnx".into(),
                files: vec![PinnedPart {
                    path: "shelf.onnx".into(),
                    media_type: String::new(),
                    unpack: false,
                    size: Bytes(7),
                    digest: Digest::of("shelf"),
                }],
            }],
            charts: vec![LockedChart {
                source: "oci:registry.example/charts/broker".into(),
                arch: Arch::Amd64,
                version: "2.2.29".into(),
                values: Digest::of(""),
                from: "oci:registry.example/charts/broker:2.2.29".into(),
                size: Bytes(7),
                digest: Digest::of("chart"),
                images: vec![],
                images_from: vec!["values".into()],
                rendered: String::new(),
            }],
            files: vec![LockedFile {
                path: "workloads/x.yaml".into(),
                size: Bytes(3),
                digest: Digest::of("x"),
            }],
        };
        lock.normalise().unwrap();
        lock
    }

    #[test]
    fn a_lock_survives_its_text() {
        let lock = sample();
        assert_eq!(Lock::from_text(&lock.to_text()).unwrap(), lock);
        assert_eq!(lock.packages.len(), 2);
        assert_eq!(lock.packages[1].sets, ["container/web", "os"]);
    }

    #[test]
    fn a_lock_from_before_there_were_releases_is_read_and_kept() {
        let lock = Lock { releases: vec![], remotes: vec![], charts: vec![], ..sample() };
        for later in ["release", "remote", "chart"] {
            assert!(!lock.to_text().contains(&format!("\n{later} = [")));
        }
        assert_eq!(Lock::from_text(&lock.to_text()).unwrap(), lock);
    }

    #[test]
    fn any_changed_byte_is_refused() {
        let text = sample().to_text();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            // A change inside a value still parses; the build then refuses the input by digest. Spelling must not drift.
            match Lock::from_text(&changed) {
                Err(e) => assert_eq!(error::kind(&e), Kind::Lock),
                Ok(other) => assert_ne!(other, sample(), "byte {at}"),
            }
        }
    }

    #[test]
    fn staleness_tells_its_reason() {
        let lock = sample();
        let asked = |version: &str| Wanted {
            product: Product::K3s,
            version: version.into(),
            arch: Arch::Amd64,
            files: vec!["k3s".into()],
        };
        let mut demand = Demand {
            sets: lock.sets.clone(),
            images: vec![],
            releases: vec![asked("v1.34.2+k3s1")],
            remotes: vec!["https://models.example/shelf.onnx".into()],
            charts: vec![WantedChart {
                source: "oci:registry.example/charts/broker".into(),
                arch: Arch::Amd64,
                version: Some("2.2.29".into()),
                values: vec![],
                package: None,
                own: vec![],
                rendering: None,
            }],
            files: lock.files.clone(),
        };
        assert_eq!(lock.check(&demand), Freshness::Fresh);
        demand.files[0].digest = Digest::of("y");
        assert_eq!(
            lock.check(&demand),
            Freshness::Stale { reasons: vec!["file workloads/x.yaml has changed".into()], files_only: true }
        );
        demand.sets[1].request = vec!["curl".into(), "nginx".into()];
        let Freshness::Stale { reasons, files_only } = lock.check(&demand) else { panic!() };
        assert!(!files_only && reasons[0].contains("+curl"), "{reasons:?}");
        demand.releases = vec![asked("v1.35.0+k3s1")];
        let Freshness::Stale { reasons, .. } = lock.check(&demand) else { panic!() };
        assert_eq!(reasons[1], "k3s of k3s v1.35.0+k3s1 for amd64 is not locked");
        assert_eq!(reasons[2], "k3s of k3s v1.34.2+k3s1 for amd64 is locked and no longer asked for");
        (demand.remotes, demand.charts[0].values) = (vec![], b"replicas: 2\n".to_vec());
        let Freshness::Stale { reasons, .. } = lock.check(&demand) else { panic!() };
        assert!(
            reasons.iter().any(|r| r.starts_with("https://models.example/shelf.onnx is locked")),
            "{reasons:?}"
        );
        assert!(
            reasons
                .iter()
                .any(|r| r.starts_with("chart oci:registry.example/charts/broker for amd64 is not"))
        );
    }

    #[test]
    fn one_package_with_two_digests_is_refused() {
        let mut lock = sample();
        lock.packages.push(LockedPackage { digest: Digest::of("evil"), ..lock.packages[0].clone() });
        assert!(lock.normalise().is_err());
    }
}
