//! What was built, said in the words that auditors and their programs read: bills of materials and provenance.
//!
//! | document | format | predicate type of its attestation |
//! |---|---|---|
//! | [`spdx`] | SPDX 2.3 | [`spdx::PREDICATE`] |
//! | [`cyclonedx`] | CycloneDX 1.6 | [`cyclonedx::PREDICATE`] |
//! | [`provenance`] | in-toto statement with SLSA provenance v1 | [`provenance::PREDICATE`] |
//!
//! Pure: documents follow from what is in the layers and in the lock, bear the release's own time, and are the same for the
//! same release. A component is listed because it was found in a layer, not because somebody asked for it; its digest is
//! the lock's.

pub mod cyclonedx;
pub mod provenance;
pub mod spdx;

use crate::contents::Contents;
use crate::lock::Lock;
use crate::model::{Arch, Digest, Epoch, Guid};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// A release as its bills list it.
#[derive(Clone, Debug, PartialEq)]
pub struct Bill {
    /// The site.
    pub name: String,
    /// The release's version.
    pub version: String,
    /// The release's time.
    pub epoch: Epoch,
    /// What tells this bill from every other.
    pub identity: Guid,
    /// What is inside, sorted, each once.
    pub components: BTreeSet<Component>,
}

/// What kind of thing a component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A package of the archive, in the operating system or in a container image.
    Package,
    /// A container image.
    Container,
    /// A file of an upstream release.
    Release,
}

/// Something that is in a release, and that somebody else made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Component {
    /// What kind of thing.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its version, or the digest of an image that has no other.
    pub version: String,
    /// For which architecture.
    pub arch: Arch,
    /// Its package URL (ECMA-427).
    pub purl: String,
    /// The digest of what was taken in: of the .deb, of the manifest, of the file.
    pub digest: Option<Digest>,
}

impl Bill {
    /// The bill of what the layers of some architectures hold.
    pub fn new<'a>(
        (name, version, epoch, identity): (&str, &str, Epoch, Guid),
        layers: impl IntoIterator<Item = (Arch, &'a Contents)>,
        lock: &Lock,
    ) -> Bill {
        let pinned: BTreeMap<_, _> =
            lock.packages.iter().map(|p| ((p.arch, p.name.as_str(), p.version.as_str()), p)).collect();
        let mut components = BTreeSet::new();
        let mut arches = BTreeSet::new();
        for (arch, contents) in layers {
            arches.insert(arch);
            for (name, package) in contents.packages.values().flatten() {
                let version = package.version.as_str();
                let locked = pinned.get(&(arch, name.as_str(), version));
                // A package of the base that the lock does not know is told without its origin.
                let (vendor, codename) = locked.map_or(("debian", None), |p| origin(&p.suite));
                let own =
                    if locked.is_some_and(|p| p.path.ends_with("_all.deb")) { "all" } else { arch.oci() };
                let mut purl = format!("pkg:deb/{vendor}/{}@{}?arch={own}", encode(name), encode(version));
                if let Some(codename) = codename {
                    let _ = write!(purl, "&distro={}", encode(codename)); // a String takes everything
                }
                components.insert(Component {
                    kind: Kind::Package,
                    name: name.clone(),
                    version: version.into(),
                    arch,
                    purl,
                    digest: locked.map(|p| p.digest),
                });
            }
            for image in &contents.containers {
                let named = image.names.first().map_or("image", String::as_str);
                let (repository, tag) = split_reference(named);
                let last = repository.rsplit('/').next().unwrap_or(repository).to_lowercase();
                let mut purl =
                    format!("pkg:oci/{}@{}?arch={arch}", encode(&last), encode(&image.digest.to_string()));
                if !repository.starts_with("localhost/") {
                    let _ = write!(purl, "&repository_url={}", encode(repository)); // a String takes everything
                }
                components.insert(Component {
                    kind: Kind::Container,
                    name: repository.into(),
                    version: tag.map_or_else(|| image.digest.to_string(), String::from),
                    arch,
                    purl,
                    digest: Some(image.digest),
                });
            }
        }
        for file in lock.releases.iter().filter(|file| arches.contains(&file.arch)) {
            let name = format!("{}/{}", file.product, file.file);
            components.insert(Component {
                kind: Kind::Release,
                purl: format!(
                    "pkg:generic/{}@{}?arch={}&file_name={}",
                    encode(&file.product.to_string()),
                    encode(&file.version),
                    file.arch,
                    encode(&file.file)
                ),
                name,
                version: file.version.clone(),
                arch: file.arch,
                digest: Some(file.digest),
            });
        }
        Bill { name: name.into(), version: version.into(), epoch, identity, components }
    }
}

/// `debian:trixie-security` → `debian`, `trixie`.
fn origin(suite: &str) -> (&str, Option<&str>) {
    match suite.split_once(':') {
        Some((vendor, suite)) => {
            (vendor, Some(suite.split_once('-').map_or(suite, |(codename, _)| codename)))
        }
        None => ("debian", None),
    }
}

/// `HOST/REPOSITORY:TAG@DIGEST` → the repository, and the tag.
fn split_reference(reference: &str) -> (&str, Option<&str>) {
    let reference = reference.split_once('@').map_or(reference, |(name, _)| name);
    match reference.rsplit_once(':') {
        // A port belongs to the host.
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (reference, None),
    }
}

/// Percent-encoding of a package URL's parts (ECMA-427, 5.4): all but letters, digits and `.-_~:`.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte) {
            encoded.push(byte.into());
        } else {
            let _ = write!(encoded, "%{byte:02X}"); // a String takes everything
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents::{ContainerImage, Package};
    use crate::lock::LockedPackage;
    use crate::model::Bytes;

    /// A lock of nothing.
    pub(super) fn lock() -> Lock {
        Lock {
            schema: crate::lock::SCHEMA,
            epoch: Epoch(0),
            archives: vec![],
            sets: vec![],
            packages: vec![],
            images: vec![],
            releases: vec![],
            remotes: vec![],
            charts: vec![],
            files: vec![],
        }
    }

    /// A release with one package, and one container image.
    pub(super) fn bill() -> Bill {
        let digest = Digest::of("libc6.deb");
        let lock = Lock {
            packages: vec![LockedPackage {
                arch: Arch::Amd64,
                name: "libstdc++6".into(),
                version: "1:14.2.0-19+b1~x".into(),
                suite: "debian:trixie-security".into(),
                path: "pool/libstdc++6_14.2.0_amd64.deb".into(),
                size: Bytes(1),
                digest,
                sets: vec!["os".into()],
            }],
            ..lock()
        };
        let package = |version: &str| Package { version: version.into(), size: Bytes(1) };
        let packages = BTreeMap::from([("libstdc++6".into(), package("1:14.2.0-19+b1~x"))]);
        let contents = Contents {
            // The same package in two sets of one architecture is one component.
            packages: BTreeMap::from([("os".into(), packages.clone()), ("container/hello".into(), packages)]),
            containers: vec![ContainerImage {
                names: vec!["registry.example:5000/shop/Till:2".into()],
                digest: Digest::of("till"),
                size: Bytes(1),
            }],
            ..Contents::default()
        };
        Bill::new(("shop", "2026.11.22", Epoch(1_763_769_600), Guid::NIL), [(Arch::Amd64, &contents)], &lock)
    }

    #[test]
    fn a_component_is_named_as_its_package_url_says() {
        let bill = bill();
        let purls: Vec<&str> = bill.components.iter().map(|c| c.purl.as_str()).collect();
        assert_eq!(
            purls,
            [
                "pkg:deb/debian/libstdc%2B%2B6@1:14.2.0-19%2Bb1~x?arch=amd64&distro=trixie".to_string(),
                format!(
                    "pkg:oci/till@{}?arch=amd64&repository_url=registry.example:5000%2Fshop%2FTill",
                    Digest::of("till")
                ),
            ]
        );
        assert_eq!(bill.components.first().unwrap().digest, Some(Digest::of("libc6.deb")));
    }

    #[test]
    fn references_are_split_at_the_tag_and_not_at_the_port() {
        assert_eq!(split_reference("registry.example:5000/a"), ("registry.example:5000/a", None));
        assert_eq!(split_reference("a:1@sha256:00"), ("a", Some("1")));
    }
}
