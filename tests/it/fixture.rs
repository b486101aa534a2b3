//! One release, built by the real program from `profiles/quickstart.toml`, for all tests that look at a whole one.
//!
//! It lives in `target/e2e` from run to run, with its own cache: the first run fetches and builds everything, later ones
//! what changed. Both test programs take it from here.
#![allow(dead_code, reason = "each test program uses a part")]

use forge::host::fs::FileLock;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The program under test.
pub const FORGE: &str = env!("CARGO_BIN_EXE_forge");

/// Where everything of the fixture is.
pub struct Fixture {
    /// Of all: on one file system, so that caches can be copied by links.
    pub dir: PathBuf,
    /// The release.
    pub release: PathBuf,
    /// Held while the process lives: another test program waits.
    _lock: FileLock,
}

impl Fixture {
    /// The profile, with its key and its lock.
    pub fn profile(&self) -> PathBuf {
        self.dir.join("source/profiles/quickstart.toml")
    }
    /// The public key.
    pub fn key(&self) -> PathBuf {
        self.dir.join("source/keys/release.pub")
    }
    /// The cache that the release was built in.
    pub fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }
    /// The disk image of the release.
    pub fn disk(&self) -> PathBuf {
        self.release.join("amd64/disk.raw.zst")
    }
    /// A directory for one test, that goes with it.
    pub fn scratch(&self) -> tempfile::TempDir {
        tempfile::Builder::new().prefix("test-").tempdir_in(&self.dir).unwrap()
    }
    /// A copy of the profile's directory in `dir`; the profile.
    pub fn source_in(&self, dir: &Path) -> PathBuf {
        copy(&self.dir.join("source"), &dir.join("source"), &|from, to| std::fs::copy(from, to).map(drop));
        dir.join("source/profiles/quickstart.toml")
    }
    /// A cache in `dir` that has what was fetched, and nothing that was made.
    pub fn cold_cache_in(&self, dir: &Path) -> PathBuf {
        let cache = dir.join("cache");
        copy(&self.cache().join("blobs"), &cache.join("blobs"), &|from, to| {
            std::fs::copy(from, to).map(drop)
        });
        cache
    }
    /// A cache in `dir` that has what this one has; what the test adds to it goes with the test.
    pub fn warm_cache_in(&self, dir: &Path) -> PathBuf {
        let cache = dir.join("cache");
        for part in ["blobs", "steps", "last"] {
            // Links for what is never changed where it lies, copies for records, which are.
            copy(&self.cache().join(part), &cache.join(part), &|from, to| {
                if from.extension().is_some_and(|e| e == "json") || part == "last" {
                    std::fs::copy(from, to).map(drop)
                } else {
                    std::fs::hard_link(from, to)
                }
            });
        }
        cache
    }
}

/// The fixture, made by the first that asks.
///
/// `None`, said aloud, without a network to build from.
pub fn shared() -> Option<&'static Fixture> {
    static MADE: OnceLock<Option<Fixture>> = OnceLock::new();
    MADE.get_or_init(|| {
        if std::env::var("FORGE_TEST_NETWORK").is_err() {
            return None;
        }
        Some(make())
    })
    .as_ref()
    .or_else(|| {
        println!("skipped: FORGE_TEST_NETWORK is not set");
        None
    })
}

fn make() -> Fixture {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = repository.join("target/e2e");
    let source = dir.join("source");
    let lock = FileLock::acquire(&dir.join("lock")).unwrap();
    // Of tests that were killed.
    for entry in std::fs::read_dir(&dir).into_iter().flatten().map(|e| e.unwrap()) {
        if entry.file_name().to_string_lossy().starts_with("test-") {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    copy(&repository.join("profiles"), &source.join("profiles"), &|from, to| {
        if from.extension().is_some_and(|e| e == "lock") { Ok(()) } else { std::fs::copy(from, to).map(drop) }
    });
    let key = source.join("keys/release.key");
    let cache = dir.join("cache");
    if !key.exists() {
        ok(forge(&cache).args(["key", "generate", "--no-passphrase"]).arg(&key));
    }
    let mut fixture = Fixture { dir, release: PathBuf::new(), _lock: lock };
    let out = fixture.dir.join("dist");
    let told = ok(forge(&cache).args(["--json", "build"]).arg(fixture.profile()).arg("--out").arg(out));
    let release = events(&told, "release");
    fixture.release = release[0]["dir"].as_str().unwrap().into();
    println!("release: {}", fixture.release.display());
    fixture
}

/// The program with its own cache and nothing of the tester's environment but PATH and the way to the network.
pub fn forge(cache: &Path) -> Command {
    let mut command = Command::new(FORGE);
    clean(&mut command);
    command.arg("--cache-dir").arg(cache);
    command
}

/// Takes away the environment but what programs and the network are found by.
pub fn clean(command: &mut Command) {
    command.env_clear().env("LC_ALL", "C.UTF-8");
    let kept = ["PATH", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];
    let kept = kept.into_iter().chain(["SSL_CERT_FILE", "SSL_CERT_DIR", "LLVM_PROFILE_FILE"]);
    command.envs(kept.filter_map(|name| Some((name, std::env::var_os(name)?))));
}

/// What the program said; panics with all of it when it failed.
pub fn ok(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(out.status.success(), "{command:?}: {}\n{}", out.status, said(&out));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// What the program said when it ended with `code`.
pub fn refused(command: &mut Command, code: i32) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert_eq!(out.status.code(), Some(code), "{command:?}\n{}", said(&out));
    said(&out)
}

fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// The JSON lines of type `kind`.
pub fn events(stdout: &str, kind: &str) -> Vec<serde_json::Value> {
    let lines = stdout.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    lines.filter(|v| v["type"] == kind).collect()
}

/// Steps that a build made and steps that it kept.
pub fn steps(stdout: &str) -> (Vec<String>, Vec<String>) {
    let all = events(stdout, "step").into_iter();
    let (kept, made): (Vec<_>, Vec<_>) = all.partition(|s| s["cached"] == true);
    let names = |of: Vec<serde_json::Value>| {
        let mut names: Vec<_> = of.iter().map(|s| s["step"].as_str().unwrap().to_string()).collect();
        names.sort();
        names
    };
    (names(made), names(kept))
}

/// Every file below `dir` with its digest, every link with its target.
pub fn digests(dir: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    walk(dir, &mut |path, kind| {
        let name = path.strip_prefix(dir).unwrap().display().to_string();
        if kind.is_file() {
            all.insert(name, digest(path));
        } else if kind.is_symlink() {
            all.insert(name, format!("link {}", std::fs::read_link(path).unwrap().display()));
        }
    });
    all
}

/// The digest of a file.
pub fn digest(path: &Path) -> String {
    forge::model::Digest::of_reader(std::fs::File::open(path).unwrap()).unwrap().0.to_string()
}

/// Every entry below `dir`, directories before what is in them.
pub fn walk(dir: &Path, seen: &mut dyn FnMut(&Path, std::fs::FileType)) {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    for entry in entries.map(|e| e.unwrap()) {
        let kind = entry.file_type().unwrap();
        seen(&entry.path(), kind);
        if kind.is_dir() {
            walk(&entry.path(), seen);
        }
    }
}

fn copy(from: &Path, to: &Path, file: &dyn Fn(&Path, &Path) -> std::io::Result<()>) {
    std::fs::create_dir_all(to).unwrap();
    walk(from, &mut |path, kind| {
        let target = to.join(path.strip_prefix(from).unwrap());
        if kind.is_dir() {
            std::fs::create_dir_all(&target).unwrap();
        } else {
            file(path, &target).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    });
}
