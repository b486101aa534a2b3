//! The release again, by somebody else: an ordinary user without root and without a container engine, in another
//! directory, time zone, umask, year and number of jobs, from a cold cache. Every byte is the same.

use crate::fixture::{self, digests, ok};
use crate::support;
use std::path::{Path, PathBuf};
use std::process::Command;

const NAME: &str = "forgetest";

/// An ordinary user of this machine with a range of sub-ids, and a place of its own.
struct User {
    home: tempfile::TempDir,
}

impl User {
    /// Makes the user where it is missing; `None`, said aloud, where that is not possible.
    fn given() -> Option<User> {
        if !support::is_root() {
            return None;
        }
        let [useradd, usermod, _, _] = ["useradd", "usermod", "setpriv", "newuidmap"].map(support::tool);
        let (useradd, usermod) = (useradd?, usermod?);
        let known =
            |file: &str| std::fs::read_to_string(file).unwrap_or_default().contains(&format!("{NAME}:"));
        if !known("/etc/passwd") {
            ok(Command::new(useradd).args(["--no-create-home", NAME]));
        }
        if !known("/etc/subuid") || !known("/etc/subgid") {
            let range = "1000000-1065535";
            ok(Command::new(usermod).args(["--add-subuids", range, "--add-subgids", range, NAME]));
        }
        // Not below target/: an ordinary user need not be able to go there.
        let home = tempfile::Builder::new().prefix("forge user ").tempdir().unwrap();
        rustix::fs::chmod(home.path(), rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        Some(User { home })
    }

    fn own(&self) {
        ok(Command::new("chown").args(["-R", &format!("{NAME}:")]).arg(self.home.path()));
    }

    /// `program`, run as the user with nothing in PATH but the two programs that map sub-ids.
    fn command(&self, program: &Path) -> Command {
        let bin = self.home.path().join("bin");
        if !bin.exists() {
            std::fs::create_dir(&bin).unwrap();
            for name in ["newuidmap", "newgidmap"] {
                std::os::unix::fs::symlink(support::tool(name).unwrap(), bin.join(name)).unwrap();
            }
        }
        let mut command = Command::new(support::tool("setpriv").unwrap());
        command.args(["--reuid", NAME, "--regid", NAME, "--init-groups"]);
        command.env_clear().env("HOME", self.home.path()).env("PATH", bin).env("TZ", "Pacific/Kiritimati");
        command.args(["/bin/sh", "-c", "umask 077; cd; exec \"$@\"", "sh"]).arg(program);
        command
    }
}

/// A library that makes a process see another year; the clock is then one of the things that differ.
fn other_year() -> Option<PathBuf> {
    let found = std::fs::read_dir("/usr/lib").unwrap().filter_map(|e| {
        let path = e.unwrap().path().join("faketime/libfaketimeMT.so.1");
        path.exists().then_some(path)
    });
    let found = found.into_iter().next();
    if found.is_none() {
        assert!(std::env::var("FORGE_TEST_REQUIRE_TOOLS").as_deref() != Ok("1"), "no libfaketime");
        println!("skipped: another clock: no libfaketime");
    }
    found
}

#[test]
fn an_ordinary_user_builds_the_same_bytes_elsewhere() {
    let (Some(shared), Some(user)) = (fixture::shared(), User::given()) else { return };
    let home = user.home.path();
    let program = home.join("forge");
    std::fs::copy(fixture::FORGE, &program).unwrap();
    let profile = shared.source_in(home);
    shared.cold_cache_in(home);
    user.own();
    let mut build = user.command(&program);
    if let Some(library) = other_year() {
        build.env("LD_PRELOAD", library).env("FAKETIME", "+730d").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
    let start = std::time::Instant::now();
    build.args(["--json", "--cache-dir"]).arg(home.join("cache"));
    build.args(["build", "--locked", "--offline", "--jobs", "1"]).arg(&profile);
    let told = ok(build.arg("--out").arg(home.join("out of it")));
    println!("an ordinary user's cold build: {:.0?}", start.elapsed());
    let (made, kept) = fixture::steps(&told);
    assert!(kept.is_empty() && made.len() > 5, "made {made:?}, kept {kept:?}");

    let theirs = home.join("out of it/quickstart").join(shared.release.file_name().unwrap());
    let (ours, theirs) = (digests(&shared.release), digests(&theirs));
    let different: Vec<_> =
        ours.keys().chain(theirs.keys()).filter(|p| ours.get(*p) != theirs.get(*p)).collect();
    assert!(different.is_empty(), "differs from root's: {different:?}");
    for path in ["amd64/disk.raw.zst", "amd64/disk.raw.zst.sigstore.json", "manifest.json", "SHA256SUMS.sig"]
    {
        assert!(ours.contains_key(path), "{path}: {ours:?}");
    }
    // What the user cannot remove was not the user's to make.
    let mut foreign = vec![];
    fixture::walk(home, &mut |path, _| {
        let owner = std::os::unix::fs::MetadataExt::uid(&path.symlink_metadata().unwrap());
        if !path.starts_with(home.join("bin")) && owner != uid() {
            foreign.push(path.to_path_buf());
        }
    });
    assert!(foreign.is_empty(), "left with other owners: {foreign:?}");
    assert_eq!(
        std::fs::read_dir(home.join("cache/work")).map_or(0, Iterator::count),
        0,
        "intermediate bytes are left"
    );
}

fn uid() -> u32 {
    let text = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = text.lines().find(|l| l.starts_with(&format!("{NAME}:"))).unwrap();
    line.split(':').nth(2).unwrap().parse().unwrap()
}

#[test]
fn doctor_finds_an_ordinary_user_able_to_build() {
    let Some(user) = User::given() else { return };
    let program = user.home.path().join("forge");
    std::fs::copy(fixture::FORGE, &program).unwrap();
    user.own();
    let said = ok(user.command(&program).arg("doctor"));
    for words in ["user namespaces", "sub-ids"] {
        assert!(said.contains(words), "{said}");
    }
}
