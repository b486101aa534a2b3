//! Attacks on a release and on what it is made from, each against a real release made by the real program. Whatever is
//! altered is refused, with the exit code that says so, and by its name.
//!
//! Needs an archive, and `FORGE_TEST_NETWORK=1`. The first run builds a small profile (kernel, systemd, Podman, one
//! container) into cargo's directory for tests; later ones find it there. The attacks themselves need no network: what
//! was fetched is served again, altered, by a [`Server`] of this process.

mod cached;
mod disks;
mod images;
mod inputs;
mod releases;

use forge::lock::Lock;
use forge::model::Digest;
use forge::release::{Manifest, SUMS, SUMS_SIGNATURE};
use forge::seal;
use forge::sign::PrivateKey;
use forge::source::blobs::Blobs;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

const PROFILE: &str = r#"
schema = 1
[site]
name = "tamper"
[image]
arch = ["amd64"]
artifacts = ["oci", "disk"]
disk-formats = ["raw", "raw.zst"]
[os]
base = "debian:trixie"
packages = ["systemd-sysv", "udev", "dbus"]
[kubernetes]
distribution = "podman"
[[container]]
name = "busy:1"
packages = ["busybox-static"]
command = ["busybox", "httpd", "-f"]
ports = [80]
[[workload]]
name = "busy"
required = true
manifests = ["busy.yaml"]
[sign]
key = "file:release.key"
[enroll]
mode = "none"
"#;

/// The manifest of the one workload, with `image` in it.
fn workload(image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: busy}}\nspec:\n  containers:\n  - name: web\n    image: {image}\n"
    )
}

/// A lock older than this is made anew: signed lists of updates hold for a week.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

fn is_old(path: &Path) -> bool {
    std::fs::metadata(path).unwrap().modified().unwrap().elapsed().is_ok_and(|age| age > MAX_AGE)
}

/// What all tests share, and none changes.
struct Bench {
    /// Profile, lock, keys.
    dir: PathBuf,
    cache: PathBuf,
    /// The release.
    release: PathBuf,
    key: PrivateKey,
}

/// Builds the release, once; `None`, said aloud, where no archive may be asked.
fn bench() -> Option<&'static Bench> {
    static BENCH: OnceLock<Option<Bench>> = OnceLock::new();
    BENCH
        .get_or_init(|| {
            if std::env::var("FORGE_TEST_NETWORK").as_deref() != Ok("1") {
                eprintln!("skipped: FORGE_TEST_NETWORK is not 1");
                return None;
            }
            let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tamper");
            std::fs::create_dir_all(&dir).unwrap();
            for left in std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()) {
                // Of a run that was killed; a younger one may be another run's, which is still at it.
                if left.file_name().unwrap().to_string_lossy().starts_with(".tmp") && is_old(&left) {
                    std::fs::remove_dir_all(left).unwrap();
                }
            }
            std::fs::write(dir.join("tamper.toml"), PROFILE).unwrap();
            std::fs::write(dir.join("busy.yaml"), workload("localhost/busy:1")).unwrap();
            let (lock, cache) = (dir.join("tamper.toml.lock"), dir.join("cache"));
            if lock.exists() && is_old(&lock) {
                std::fs::remove_file(&lock).unwrap();
            }
            let path = |name: &str| dir.join(name).display().to_string();
            if !dir.join("release.key").exists() {
                forge(&cache, &["key", "generate", &path("release.key"), "--no-passphrase"]).done();
            }
            let key = std::fs::read_to_string(dir.join("release.key")).unwrap();
            let key = PrivateKey::from_pem(&key, || unreachable!("it has no passphrase")).unwrap();
            forge(&cache, &["build", &path("tamper.toml")]).done();
            let site = dir.join("dist/tamper");
            let lock = Lock::from_text(&std::fs::read_to_string(lock).unwrap()).unwrap();
            Some(Bench { release: site.join(lock.epoch.version()), dir, cache, key })
        })
        .as_ref()
}

impl Bench {
    fn public(&self) -> String {
        self.dir.join("release.pub").display().to_string()
    }

    fn lock(&self) -> Lock {
        Lock::from_text(&std::fs::read_to_string(self.dir.join("tamper.toml.lock")).unwrap()).unwrap()
    }

    /// A directory of the test's own, on the file system of the release.
    fn scratch(&self) -> tempfile::TempDir {
        tempfile::tempdir_in(&self.dir).unwrap()
    }

    /// A copy of the release as links; [`own`] what is to be changed.
    fn copy(&self) -> tempfile::TempDir {
        let scratch = self.scratch();
        for path in files(&self.release) {
            let to = scratch.path().join(&path);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::hard_link(self.release.join(&path), to).unwrap();
        }
        scratch
    }

    fn verify(&self, dir: &Path) -> Outcome {
        forge(&self.cache, &["verify", &dir.display().to_string(), "--key", &self.public()])
    }

    /// The profile with its files and its lock in a directory of the test's own.
    fn project(&self) -> Project<'_> {
        let dir = self.scratch();
        for name in ["tamper.toml", "tamper.toml.lock", "busy.yaml", "release.key"] {
            std::fs::copy(self.dir.join(name), dir.path().join(name)).unwrap();
        }
        // The cache of the bench, as links: what is removed or made anew here stays as it is there.
        let cache = dir.path().join("cache");
        std::fs::create_dir_all(cache.join("steps")).unwrap();
        for step in std::fs::read_dir(self.cache.join("steps")).unwrap().map(|e| e.unwrap()) {
            std::os::unix::fs::symlink(step.path(), cache.join("steps").join(step.file_name())).unwrap();
        }
        for blob in files(&self.cache.join("blobs/sha256")) {
            let to = cache.join("blobs/sha256").join(&blob);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(self.cache.join("blobs/sha256").join(blob), to).unwrap();
        }
        Project { bench: self, dir }
    }
}

/// A profile and a cache of a test's own.
struct Project<'a> {
    bench: &'a Bench,
    dir: tempfile::TempDir,
}

impl Project<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    fn forge(&self, verb: &str, args: &[&str]) -> Outcome {
        let profile = self.path("tamper.toml").display().to_string();
        forge(&self.cache(), &[&[verb, &profile], args].concat())
    }

    /// Changes the lock's text.
    fn edit_lock(&self, edit: impl FnOnce(String) -> String) {
        let path = self.path("tamper.toml.lock");
        std::fs::write(&path, edit(std::fs::read_to_string(&path).unwrap())).unwrap();
    }

    /// Removes the entry of the step of that name from this cache, so that it has to be made again.
    fn forget(&self, step: &str) {
        std::fs::remove_file(self.step(step)).unwrap();
    }

    /// Where the entry of the step of that name is linked.
    fn step(&self, step: &str) -> PathBuf {
        let digest = Manifest::from_bytes(&std::fs::read(self.bench.release.join("manifest.json")).unwrap())
            .unwrap()
            .steps
            .into_iter()
            .find(|(id, _)| id.as_str() == step)
            .unwrap()
            .1;
        self.cache().join("steps").join(digest.hex())
    }
}

/// How a run of the program ended.
struct Outcome {
    code: Option<i32>,
    text: String,
}

fn forge(cache: &Path, args: &[&str]) -> Outcome {
    // Releases go to `dist` of the directory where forge runs: the profile's.
    let profile = args.iter().map(Path::new).find(|a| a.extension().is_some_and(|e| e == "toml"));
    let output = Command::new(env!("CARGO_BIN_EXE_forge"))
        .current_dir(profile.and_then(Path::parent).unwrap_or(Path::new(".")))
        .arg("--cache-dir")
        .arg(cache)
        .args(args)
        .env("NO_PROXY", "127.0.0.1")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    Outcome { code: output.status.code(), text: String::from_utf8_lossy(&text).into_owned() }
}

impl Outcome {
    #[track_caller]
    fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.text);
        self.text
    }

    /// Asserts that it was refused with `code`, saying all of `words`.
    #[track_caller]
    fn refused(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{words:?} in: {}", self.text);
        for word in words {
            assert!(self.text.contains(word), "no `{word}` in: {}", self.text);
        }
        assert!(!self.text.contains("PASS"), "{}", self.text);
    }
}

/// Every file below `dir`, sorted.
fn files(dir: &Path) -> Vec<String> {
    let (mut found, mut todo) = (vec![], vec![dir.to_path_buf()]);
    while let Some(at) = todo.pop() {
        for entry in std::fs::read_dir(at).unwrap().map(|e| e.unwrap()) {
            match entry.file_type().unwrap().is_dir() {
                true => todo.push(entry.path()),
                false => found.push(entry.path().strip_prefix(dir).unwrap().display().to_string()),
            }
        }
    }
    found.sort();
    found
}

/// Makes `path` a file of its own, where it was a link to a shared one.
fn own(path: &Path) {
    let copy = path.with_extension("own");
    std::fs::copy(path, &copy).unwrap();
    let mut permissions = std::fs::metadata(&copy).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    std::fs::set_permissions(&copy, permissions).unwrap();
    std::fs::rename(copy, path).unwrap();
}

/// Flips a bit of the byte at `offset`; twice is as before.
fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

/// Signs what is in `dir` as a release, as somebody who has `key` could: artifacts that are there, then the sums.
fn reseal(dir: &Path, key: &PrivateKey) {
    let path = dir.join("manifest.json");
    let mut manifest = Manifest::from_bytes(&std::fs::read(&path).unwrap()).unwrap();
    manifest.artifacts.retain(|a| dir.join(&a.path).exists());
    for artifact in &mut manifest.artifacts {
        (artifact.digest, artifact.size.0) =
            Digest::of_reader(File::open(dir.join(&artifact.path)).unwrap()).unwrap();
        let bundle = seal::file(&artifact.path, artifact.digest, key).unwrap();
        replace(&dir.join(format!("{}.sigstore.json", artifact.path)), &bundle);
    }
    if !dir.join("oci").exists() {
        manifest.image = None;
    }
    replace(&path, &manifest.to_bytes().unwrap());
    let known: BTreeMap<String, Digest> =
        manifest.artifacts.iter().map(|a| (a.path.clone(), a.digest)).collect();
    reseal_sums(dir, &known, key);
}

/// Writes and signs the sums of what is in `dir`; those in `known` are not read again.
fn reseal_sums(dir: &Path, known: &BTreeMap<String, Digest>, key: &PrivateKey) {
    let listed: Vec<(String, Digest)> = files(dir)
        .into_iter()
        .filter(|path| ![SUMS, SUMS_SIGNATURE].contains(&path.as_str()))
        .map(|path| {
            let read = || Digest::of_reader(File::open(dir.join(&path)).unwrap()).unwrap().0;
            (path.clone(), known.get(&path).copied().unwrap_or_else(read))
        })
        .collect();
    let sums = seal::sums(listed.iter().map(|(path, digest)| (path.as_str(), *digest)));
    replace(&dir.join(SUMS_SIGNATURE), seal::sums_signature(&sums, key).unwrap().as_bytes());
    replace(&dir.join(SUMS), sums.as_bytes());
}

/// Puts `bytes` at `path` as a new file, so that links to the old one keep theirs.
fn replace(path: &Path, bytes: &[u8]) {
    let _ = std::fs::remove_file(path);
    std::fs::write(path, bytes).unwrap();
}

/// What a [`Server`] answers by path: media type and body.
type Pages = BTreeMap<String, (String, Vec<u8>)>;

/// An HTTP server on this machine: an archive's mirror or a registry that may lie.
struct Server {
    host: String,
    pages: Arc<Mutex<Pages>>,
}

impl Server {
    /// Serves `pages`, and what `other` finds for any other path, until the process ends.
    fn new(pages: Pages, other: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static) -> Server {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (pages, other) = (Arc::new(Mutex::new(pages)), Arc::new(other));
        let server = Server { host, pages: pages.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (pages, other) = (pages.clone(), other.clone());
                std::thread::spawn(move || {
                    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                    let request = lines.next().unwrap_or_default();
                    lines.take_while(|line| !line.is_empty()).for_each(drop);
                    let path = request.split(' ').nth(1).unwrap_or_default();
                    let page = pages.lock().unwrap().get(path).cloned();
                    let page = page.or_else(|| Some(("application/octet-stream".into(), other(path)?)));
                    let (status, (media_type, body)) =
                        page.map_or(("404 Not Found", Default::default()), |page| ("200 OK", page));
                    let head = format!(
                        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                        body.len()
                    );
                    let body = if request.starts_with("HEAD") { &[][..] } else { &body };
                    let _ = (&stream).write_all(&[head.as_bytes(), body].concat()); // the client may have gone
                });
            }
        });
        server
    }

    fn put(&self, path: &str, media_type: &str, body: impl Into<Vec<u8>>) {
        self.pages.lock().unwrap().insert(path.into(), (media_type.into(), body.into()));
    }
}

/// A mirror that has all that the bench's lock names, true to the byte until a page is put over it.
fn mirror(bench: &Bench) -> Server {
    let (lock, blobs) = (bench.lock(), Blobs::open(&bench.cache.join("blobs")).unwrap());
    let mut known: BTreeMap<String, Digest> = BTreeMap::new();
    for archive in &lock.archives {
        let base = format!("/dists/{}", archive.suite.split_once(':').unwrap().1);
        known.insert(format!("{base}/InRelease"), archive.inrelease);
        for list in &archive.lists {
            known.insert(format!("{base}/{}", list.path), list.sha256);
            known.insert(
                format!("{base}/main/binary-amd64/by-hash/SHA256/{}", list.sha256.hex()),
                list.sha256,
            );
        }
    }
    known.extend(lock.packages.iter().map(|p| (format!("/{}", p.path), p.digest)));
    Server::new(Pages::new(), move |path| std::fs::read(blobs.path(*known.get(path)?)).ok())
}
