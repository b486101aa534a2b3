//! A small archive in a directory, signed by a key that lives as long as a test, and what can be done to it.

#![allow(clippy::disallowed_methods, reason = "a fixture is written plainly")]

use super::*;
use crate::debian::openpgp::tests::TestKey;
use crate::debian::solve::{Request, solve};
use crate::error;
use std::path::Path;

const MADE: u32 = 1_700_000_100; // Tue, 14 Nov 2023 22:15:00 UTC
const NOW: Epoch = Epoch(1_700_100_000);
const DEB: &[u8] = b"not really a deb, but bytes with a digest";

struct Fixture {
    dir: tempfile::TempDir,
    key: TestKey,
}

impl Fixture {
    fn new() -> Fixture {
        let fixture = Fixture { dir: tempfile::tempdir().unwrap(), key: TestKey::new(27) };
        fixture.write("pool/a.deb", DEB);
        let packages = fixture.packages();
        fixture.publish(&packages, "");
        fixture
    }

    fn packages(&self) -> String {
        let (digest, size) = (Digest::of(DEB).hex(), DEB.len());
        format!(
            "Package: a\nVersion: 1\nArchitecture: amd64\nFilename: pool/a.deb\nSize: {size}\nSHA256: {digest}\n"
        )
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("mirror").join(path)
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn release(&self, packages: &str, fields: &str) -> String {
        let list = compressed(packages);
        format!(
            "Suite: stable\nCodename: trixie\nDate: Tue, 14 Nov 2023 22:15:00 UTC\n{fields}Architectures: amd64\n\
             Components: main\nAcquire-By-Hash: yes\nSHA256:\n {} {} main/binary-amd64/Packages\n \
             {} {} main/binary-amd64/Packages.gz\n",
            Digest::of(packages).hex(),
            packages.len(),
            Digest::of(&list).hex(),
            list.len(),
        )
    }

    fn publish(&self, packages: &str, fields: &str) {
        let list = compressed(packages);
        let by_hash = format!("dists/trixie/main/binary-amd64/by-hash/SHA256/{}", Digest::of(&list).hex());
        self.write(&by_hash, &list);
        self.write("dists/trixie/main/binary-amd64/Packages.gz", &list);
        self.write("dists/trixie/InRelease", self.sign(&self.release(packages, fields)).as_bytes());
    }

    fn sign(&self, text: &str) -> String {
        self.key.clear_sign(text, MADE)
    }

    fn sources(&self) -> Vec<SuiteSource> {
        let uri = format!("file://{}", self.path("").display());
        let uri = uri.trim_end_matches('/').to_string();
        vec![SuiteSource { uri, suite: "trixie".into(), components: vec!["main".into()] }]
    }

    fn keyring(&self) -> Keyring {
        Keyring::parse(&self.key.certificate(&[])).unwrap()
    }

    fn blobs(&self) -> Blobs {
        Blobs::open(&self.dir.path().join("blobs")).unwrap()
    }

    fn open(&self) -> anyhow::Result<Archive> {
        self.open_at(NOW)
    }

    fn open_at(&self, now: Epoch) -> anyhow::Result<Archive> {
        let (client, keyring, cancel) = (Client::offline(), self.keyring(), Cancel::default());
        Archive::open(&client, &self.blobs(), &self.sources(), Arch::Amd64, &keyring, now, &cancel)
    }

    fn fetch(&self, archive: &Archive) -> anyhow::Result<Vec<PathBuf>> {
        let request = Request { packages: vec!["a".parse().unwrap()], ..Request::default() };
        let packages = solve(&archive.index, &request).unwrap().packages;
        let cancel = Cancel::default();
        fetch_packages(&Client::offline(), &self.blobs(), &self.sources(), &packages, &|_| {}, &cancel)
    }
}

fn compressed(text: &str) -> Vec<u8> {
    let mut bytes = vec![];
    flate2::read::GzEncoder::new(text.as_bytes(), flate2::Compression::fast())
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn assert_refused<T>(result: anyhow::Result<T>, parts: &[&str]) {
    let error = result.err().expect("it must be refused");
    let text = error::chain(&error).join(": ");
    assert_eq!(error::kind(&error), Kind::Verify, "{text}");
    for part in parts {
        assert!(text.contains(part), "{text} lacks {part}");
    }
}

#[test]
fn what_holds_is_opened_fetched_and_opened_again_without_the_mirror() {
    let fixture = Fixture::new();
    let archive = fixture.open().unwrap();
    let paths = fixture.fetch(&archive).unwrap();
    assert_eq!(std::fs::read(&paths[0]).unwrap(), DEB);
    let spelled = serde_json::to_string(&archive.releases).unwrap();
    assert!(!spelled.contains("file:"), "a lock names no mirror: {spelled}");
    std::fs::remove_dir_all(fixture.path("")).unwrap();
    let keyring = fixture.keyring();
    let again =
        Archive::reopen(&fixture.blobs(), &archive.releases, Arch::Amd64, &keyring, &Cancel::default());
    assert_eq!(fixture.fetch(&again.unwrap()).unwrap(), paths);
}

#[test]
fn an_inrelease_with_a_flipped_byte_is_refused() {
    let fixture = Fixture::new();
    flip(&fixture.path("dists/trixie/InRelease"), 60);
    assert_refused(fixture.open(), &["dists/trixie/InRelease", "does not match the text"]);
}

#[test]
fn an_unsigned_release_is_refused() {
    let fixture = Fixture::new();
    fixture.write("dists/trixie/InRelease", fixture.release(&fixture.packages(), "").as_bytes());
    assert_refused(fixture.open(), &["dists/trixie/InRelease", "not a clear-signed message"]);
}

#[test]
fn a_release_signed_by_another_key_is_refused() {
    let fixture = Fixture::new();
    let signed = TestKey::new(27).clear_sign(&fixture.release(&fixture.packages(), ""), MADE);
    fixture.write("dists/trixie/InRelease", signed.as_bytes());
    assert_refused(fixture.open(), &["signed by none of the trusted keys"]);
}

#[test]
fn an_expired_release_is_refused_and_the_hint_names_the_clock() {
    let fixture = Fixture::new();
    fixture.publish(&fixture.packages(), "Valid-Until: Tue, 21 Nov 2023 22:15:00 UTC\n");
    fixture.open().unwrap();
    let error = fixture.open_at(Epoch(NOW.0 + 30 * 24 * 3600)).err().unwrap();
    assert!(error::hints(&error)[0].contains("clock"));
    assert_refused(Err::<(), _>(error), &["2023-11-21T22:15:00Z"]);
    let early = fixture.open_at(Epoch(i64::from(MADE) - 10 * 24 * 3600)).err().unwrap();
    assert!(error::hints(&early)[0].contains("clock"));
}

#[test]
fn another_suites_release_in_its_place_is_refused() {
    let fixture = Fixture::new();
    let release =
        fixture.release(&fixture.packages(), "").replace("trixie", "bullseye").replace("stable", "old");
    fixture.write("dists/trixie/InRelease", fixture.sign(&release).as_bytes());
    assert_refused(fixture.open(), &["it is of `old` (bullseye), not of `trixie`"]);
}

#[test]
fn a_changed_list_of_packages_is_refused_and_not_kept() {
    let fixture = Fixture::new();
    let list = compressed(&fixture.packages());
    let by_hash = format!("dists/trixie/main/binary-amd64/by-hash/SHA256/{}", Digest::of(&list).hex());
    // A wrong file under the digest alone: the plain name still has the right one.
    flip(&fixture.path(&by_hash), 20);
    fixture.open().unwrap();
    std::fs::remove_dir_all(fixture.dir.path().join("blobs")).unwrap();
    flip(&fixture.path("dists/trixie/main/binary-amd64/Packages.gz"), 20);
    assert_refused(fixture.open(), &["Packages.gz has another content", &Digest::of(&list).to_string()]);
    assert!(fixture.blobs().get(Digest::of(&list)).unwrap().is_none());
}

#[test]
fn a_list_that_unpacks_to_more_than_was_signed_is_refused() {
    let fixture = Fixture::new();
    let packages = fixture.packages();
    let bomb = format!("{packages}\n{}", "x".repeat(50_000_000));
    let size = format!(" {} {} main/binary-amd64/Packages\n", Digest::of(&bomb).hex(), bomb.len());
    let small = format!(" {} {} main/binary-amd64/Packages\n", Digest::of(&bomb).hex(), packages.len());
    fixture.publish(&bomb, "");
    let release = fixture.release(&bomb, "");
    assert!(release.contains(&size));
    fixture.write("dists/trixie/InRelease", fixture.sign(&release.replace(&size, &small)).as_bytes());
    assert_refused(fixture.open(), &["more than the"]);
}

#[test]
fn a_changed_or_truncated_package_is_refused_by_name() {
    let fixture = Fixture::new();
    let archive = fixture.open().unwrap();
    flip(&fixture.path("pool/a.deb"), 3);
    assert_refused(fixture.fetch(&archive), &["package a 1", "pool/a.deb", &Digest::of(DEB).to_string()]);
    fixture.write("pool/a.deb", &DEB[..10]);
    assert_refused(fixture.fetch(&archive), &["package a 1", "pool/a.deb", "got 10"]);
    fixture.write("pool/a.deb", DEB);
    fixture.fetch(&archive).unwrap();
}

#[test]
fn a_package_path_that_leaves_the_archive_is_refused() {
    for path in
        ["../a.deb", "/etc/passwd", "pool/../../a.deb", "pool/%2e%2e/a.deb", "pool//a.deb", "p\u{e4}.deb"]
    {
        let fixture = Fixture::new();
        fixture.publish(&fixture.packages().replace("pool/a.deb", path), "");
        let archive = fixture.open().unwrap();
        let id = archive.index.versions("a")[0];
        let error = archive.index.package(id).unwrap_err().to_string();
        assert_eq!(error, "package `a`: field Filename is missing or malformed", "{path}");
    }
}

#[test]
fn a_blob_changed_in_the_cache_is_fetched_again_or_missed() {
    let fixture = Fixture::new();
    let archive = fixture.open().unwrap();
    let path = fixture.fetch(&archive).unwrap().remove(0);
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    flip(&path, 0);
    assert_eq!(std::fs::read(&fixture.fetch(&archive).unwrap()[0]).unwrap(), DEB);
    let list = fixture.blobs().path(archive.releases[0].lists[0].sha256);
    std::fs::set_permissions(&list, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    flip(&list, 0);
    let (blobs, keyring) = (fixture.blobs(), fixture.keyring());
    let error = Archive::reopen(&blobs, &archive.releases, Arch::Amd64, &keyring, &Cancel::default());
    assert_eq!(error::kind(&error.err().unwrap()), Kind::Fetch);
}
