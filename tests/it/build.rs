//! The program as people run it: what it refuses and with which exit code, what it makes again after a change, and what
//! is left when it is interrupted, killed, or run twice at once.

use crate::fixture::{self, digests, events, forge, ok, refused, steps};
use crate::support;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The program where no packet can leave: root may make such a place for a child, anybody else is told.
fn without_network(cache: &Path) -> Option<Command> {
    if !support::is_root() {
        return None;
    }
    let mut command = Command::new(support::tool("unshare")?);
    fixture::clean(&mut command);
    command.args(["--net", fixture::FORGE, "--cache-dir"]).arg(cache);
    Some(command)
}

#[test]
fn a_warm_cache_builds_without_a_network_and_the_same_bytes() {
    let Some(shared) = fixture::shared() else { return };
    let scratch = shared.scratch();
    let cache = shared.warm_cache_in(scratch.path());
    let Some(mut build) = without_network(&cache) else { return };
    build.args(["--json", "build", "--locked", "--offline"]).arg(shared.profile());
    let told = ok(build.arg("--out").arg(scratch.path().join("out")));
    assert_eq!(steps(&told).0, ["release"], "a warm cache made steps again");
    let release = scratch.path().join("out/quickstart").join(shared.release.file_name().unwrap());
    assert_eq!(digests(&release), digests(&shared.release));
    assert_eq!(events(&told, "release")[0]["unchanged"], false);

    let mut again = without_network(&cache).unwrap();
    again.args(["--json", "build", "--locked", "--offline"]).arg(shared.profile());
    let told = ok(again.arg("--out").arg(scratch.path().join("out")));
    assert_eq!(events(&told, "release")[0]["unchanged"], true);
}

#[test]
fn a_cold_cache_without_a_network_names_the_package() {
    let Some(shared) = fixture::shared() else { return };
    let scratch = shared.scratch();
    let mut build = forge(&scratch.path().join("cache"));
    build.args(["build", "--locked", "--offline"]).arg(shared.profile());
    let said = refused(build.arg("--out").arg(scratch.path().join("out")), 3);
    let lock = std::fs::read_to_string(shared.profile().with_extension("toml.lock")).unwrap();
    let named = said.split(|c: char| !c.is_ascii_alphanumeric() && !"+.-".contains(c));
    let named: Vec<&str> = named.filter(|w| w.len() > 2 && lock.contains(&format!("\"{w}\""))).collect();
    assert!(!named.is_empty(), "no package of the lock is named: {said}");
    assert!(!scratch.path().join("out").exists());
}

#[test]
fn locked_wants_a_lock_and_a_fresh_one() {
    let Some(shared) = fixture::shared() else { return };
    let scratch = shared.scratch();
    let profile = shared.source_in(scratch.path());
    let cache = scratch.path().join("cache");
    let text = std::fs::read_to_string(&profile).unwrap();
    std::fs::write(&profile, format!("{text}\n[os]\n\"packages+\" = [\"nano\"]\n")).unwrap();
    let said = refused(forge(&cache).args(["build", "--locked", "--offline"]).arg(&profile), 5);
    assert!(said.contains("out of date") && said.contains("nano") && said.contains("forge lock"), "{said}");
    std::fs::write(&profile, &text).unwrap();
    std::fs::remove_file(profile.with_extension("toml.lock")).unwrap();
    let said = refused(forge(&cache).args(["build", "--locked", "--offline"]).arg(&profile), 5);
    assert!(said.contains("there is no") && said.contains("quickstart.toml.lock"), "{said}");
}

#[test]
fn a_changed_workload_changes_the_payload_and_keeps_the_root() {
    let Some(shared) = fixture::shared() else { return };
    let scratch = shared.scratch();
    let profile = shared.source_in(scratch.path());
    let cache = shared.warm_cache_in(scratch.path());
    let page = profile.with_file_name("hello").join("index.html");
    std::fs::write(&page, "<p>changed</p>\n").unwrap();
    let plan = ok(forge(&cache).args(["--json", "plan"]).arg(&profile));
    let start = Instant::now();
    let mut build = forge(&cache);
    build.args(["--json", "build", "--offline"]).arg(&profile);
    let told = ok(build.arg("--out").arg(scratch.path().join("out")));
    println!("after a change of one workload's file: {:.1?}", start.elapsed());
    let (made, kept) = steps(&told);
    for step in ["amd64/packages/os", "amd64/os", "amd64/root"] {
        assert!(!made.contains(&step.to_string()), "made again: {made:?}");
    }
    assert!(kept.iter().any(|s| s.contains("root")), "{kept:?}");
    assert!(made.iter().any(|s| s.contains("payload")), "{made:?}");
    assert!(made.iter().any(|s| s.contains("disk")), "{made:?}");
    // The plan said beforehand what would be made.
    let rows = events(&plan, "plan")[0]["steps"].as_array().unwrap().clone();
    let mut foretold: Vec<String> = rows
        .iter()
        .filter(|s| s["cached"] == false)
        .map(|s| s["step"].as_str().unwrap().into())
        .chain(["release".to_string()])
        .collect();
    foretold.sort();
    assert_eq!(made, foretold);
    assert!(rows.iter().all(|s| s["cached"] == true || s["why"].is_string()), "{rows:?}");
    let dir = events(&told, "release")[0]["dir"].as_str().unwrap().to_string();
    let (ours, theirs) = (digests(&shared.release), digests(Path::new(&dir)));
    assert_ne!(ours["amd64/disk.raw.zst"], theirs["amd64/disk.raw.zst"]);
    assert_ne!(ours["SHA256SUMS.sig"], theirs["SHA256SUMS.sig"]);
}

/// A build that is under way: a step has been made, and another one is being made.
struct Running {
    child: Child,
    out: std::thread::JoinHandle<String>,
}

fn started(cache: &Path, profile: &Path, out: &Path) -> Running {
    let mut build = forge(cache);
    build.args(["--json", "-v", "build", "--locked", "--offline"]).arg(profile).arg("--out").arg(out);
    let mut child = build.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut said = String::new();
    // Words of dpkg, which is then running in the sandbox.
    let begun =
        lines.by_ref().inspect(|line| said += &format!("{line}\n")).any(|line| line.contains("Setting up "));
    assert!(begun, "the build ended before dpkg ran:\n{said}");
    // What is said from here on must be read, or the program would wait for a reader.
    let out = std::thread::spawn(move || lines.fold(said, |said, line| said + &line + "\n"));
    std::thread::sleep(Duration::from_millis(500));
    Running { child, out }
}

/// Processes that were started below `dir`, or have files of it open as their root or working directory.
fn processes_in(dir: &Path) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().map(|e| e.unwrap().path());
    let found = all.filter(|process| {
        let linked =
            |name: &str| std::fs::read_link(process.join(name)).is_ok_and(|target| target.starts_with(dir));
        let arguments = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let named = String::from_utf8_lossy(&arguments).contains(dir.to_str().unwrap());
        linked("root") || linked("cwd") || named
    });
    found.map(|process| std::fs::read_to_string(process.join("comm")).unwrap_or_default()).collect()
}

fn mounts_in(dir: &Path) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().filter(|l| l.contains(dir.to_str().unwrap())).map(String::from).collect()
}

#[test]
fn interrupted_killed_and_run_twice_at_once_it_makes_the_same_bytes() {
    let Some(shared) = fixture::shared() else { return };
    let scratch = shared.scratch();
    let dir = scratch.path();
    let cache = shared.cold_cache_in(dir);
    let out = dir.join("out");
    let everything = |what: &str| {
        let mut left = vec![];
        fixture::walk(dir, &mut |path, _| {
            if path.file_name().unwrap().to_string_lossy().starts_with(forge::host::fs::TEMPORARY) {
                left.push(path.display().to_string());
            }
        });
        let work = std::fs::read_dir(cache.join("work")).map_or(0, Iterator::count);
        assert!(left.is_empty() && work == 0, "{what} left {left:?} and {work} entries in work/");
    };

    let mut running = started(&cache, &shared.profile(), &out);
    let asked = Instant::now();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(running.child.id() as i32), nix::sys::signal::SIGINT)
        .unwrap();
    let status = running.child.wait().unwrap();
    println!("Ctrl-C took {:.1?}", asked.elapsed());
    let said = running.out.join().unwrap();
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    assert!(!out.join("quickstart").exists(), "a release after Ctrl-C");
    assert_eq!((processes_in(dir), mounts_in(dir)), (vec![], vec![]), "left by Ctrl-C");
    everything("Ctrl-C");

    let mut running = started(&cache, &shared.profile(), &out);
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    running.out.join().unwrap();
    // Nobody is left to clean up, but what ran in the sandbox ends with the one who ran it.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !processes_in(dir).is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!((processes_in(dir), mounts_in(dir)), (vec![], vec![]), "left by kill -9");
    assert!(!out.join("quickstart").exists(), "a release after kill -9");

    // Two at once, on the cache that the killed ones left.
    let builds: Vec<_> = ["one", "two"]
        .map(|name| {
            let mut build = forge(&cache);
            build.args(["--json", "build", "--locked", "--offline", "--jobs", "4"]).arg(shared.profile());
            build.arg("--out").arg(dir.join(name));
            std::thread::spawn(move || ok(&mut build))
        })
        .into();
    let told: Vec<String> = builds.into_iter().map(|b| b.join().unwrap()).collect();
    let made: Vec<Vec<String>> = told.iter().map(|t| steps(t).0).collect();
    let twice: Vec<_> = made[0].iter().filter(|s| *s != "release" && made[1].contains(s)).collect();
    assert!(twice.is_empty(), "made by both: {twice:?}");
    let expected = digests(&shared.release);
    for name in ["one", "two"] {
        let release = dir.join(name).join("quickstart").join(shared.release.file_name().unwrap());
        let found = digests(&release);
        let differ: Vec<_> = expected.keys().filter(|path| found.get(*path) != expected.get(*path)).collect();
        assert!(differ.is_empty() && found.len() == expected.len(), "{name} differs in {differ:?}");
    }
}

/// Not `interrupted`, though one step that fails stops the others.
#[test]
fn a_full_disk_is_said_and_what_helps() {
    let Some(shared) = fixture::shared() else { return };
    if !support::is_root() {
        return;
    }
    let scratch = shared.scratch();
    let cache = shared.cold_cache_in(scratch.path());
    std::fs::create_dir(cache.join("work")).unwrap();
    let mut build = Command::new("unshare");
    fixture::clean(&mut build);
    build.args(["--mount", "sh", "-euc"]);
    build.arg("mount -t tmpfs -o size=30m room \"$2/work\"; exec \"$1\" --cache-dir \"$2\" build \"$3\" --out \"$4\"");
    build.args(["sh", fixture::FORGE]).arg(&cache).arg(shared.profile());
    let said = refused(build.arg(scratch.path().join("out")), 1);
    assert!(said.contains("No space left on device") && said.contains("forge cache prune"), "{said}");
    assert!(!said.contains("interrupted"), "{said}");
    assert!(!scratch.path().join("out").exists());
}

#[test]
fn check_needs_no_network_and_says_where_it_is_wrong() {
    let scratch = tempfile::tempdir().unwrap();
    let cache = scratch.path().join("cache");
    let wrong = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/profiles/wrong");
    let mut seen = 0;
    for path in std::fs::read_dir(wrong).unwrap().map(|e| e.unwrap().path()) {
        if path.extension().is_some_and(|e| e == "toml") {
            let Some(mut check) = without_network(&cache) else { return };
            let said = refused(check.arg("check").arg(&path), 2);
            assert!(said.contains("-->") && said.contains("error"), "{}: {said}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 40, "{seen}");
    assert!(!cache.exists(), "a check made a cache");
    let right = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles/quickstart.toml");
    ok(without_network(&cache).unwrap().arg("check").arg(right));
}

#[test]
fn init_makes_what_check_accepts_and_build_builds() {
    let Some(shared) = fixture::shared() else { return };
    let scratch = shared.scratch();
    let cache = shared.warm_cache_in(scratch.path());
    let dir = scratch.path().join("store");
    ok(forge(&cache).arg("init").arg(&dir));
    let profile = dir.join(forge::profile::PROFILE);
    ok(forge(&cache).arg("check").arg(&profile));
    let said = refused(forge(&cache).arg("init").arg(&dir), 2);
    assert!(said.contains("is there already"), "{said}");
    let out = dir.join("dist");
    let told = ok(forge(&cache).args(["--json", "build"]).arg(&profile).arg("--out").arg(&out));
    let release = events(&told, "release")[0]["dir"].as_str().unwrap().to_string();
    let said = ok(forge(&cache).args(["verify", &release, "--key"]).arg(dir.join("keys/release.pub")));
    assert!(said.contains("PASS"), "{said}");
    // Another key's release it is not.
    let said = refused(forge(&cache).args(["verify", &release, "--key"]).arg(shared.key()), 4);
    assert!(said.contains("SHA256SUMS"), "{said}");
}

#[test]
fn the_cache_is_told_of_and_pruned() {
    let Some(shared) = fixture::shared() else { return };
    let scratch = shared.scratch();
    let cache = shared.warm_cache_in(scratch.path());
    let info = |cache: &Path| {
        let told = ok(forge(cache).args(["--json", "cache", "info"]));
        let info = events(&told, "cache")[0].clone();
        (info["steps"].as_array().unwrap().len(), info["size"].as_u64().unwrap())
    };
    let (count, size) = info(&cache);
    assert!(count > 5 && size > 100 << 20, "{count} steps, {size} bytes");
    ok(forge(&cache).args(["cache", "prune", "--dry-run"]));
    assert_eq!(info(&cache), (count, size));
    ok(forge(&cache).args(["cache", "prune", "--older-than", "1"]));
    assert_eq!(info(&cache), (count, size));
    ok(forge(&cache).args(["cache", "prune", "--keep", "50MiB"]));
    let (fewer, less) = info(&cache);
    assert!(fewer < count && less <= 50 << 20, "{fewer} steps, {less} bytes");
    // What is gone is made again, and the plan knows.
    let plan = ok(forge(&cache).args(["--json", "plan"]).arg(shared.profile()));
    let rows = events(&plan, "plan")[0]["steps"].as_array().unwrap().clone();
    assert!(rows.iter().filter(|s| s["cached"] == true).count() <= fewer);
    let human = ok(forge(&cache).arg("plan").arg(shared.profile()));
    assert!(human.contains("make amd64/") && human.contains("to fetch: 0 packages"), "{human}");
    assert!(shared.release.join("manifest.json").exists());
}

#[test]
fn completions_manual_and_schema_are_written() {
    let scratch = tempfile::tempdir().unwrap();
    let cache = scratch.path().join("cache");
    let script = ok(forge(&cache).args(["completions", "bash"]));
    let file = scratch.path().join("forge.bash");
    std::fs::write(&file, script).unwrap();
    let complete = format!(
        ". {}; COMP_WORDS=(forge bu); COMP_CWORD=1; _forge forge bu forge; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        file.display()
    );
    assert_eq!(ok(Command::new("bash").args(["--norc", "-c", &complete])), "build\n");
    for shell in ["zsh", "fish"] {
        assert!(ok(forge(&cache).args(["completions", shell])).contains("forge"));
    }
    let man = scratch.path().join("man");
    ok(forge(&cache).arg("man").arg(&man));
    let page = std::fs::read_to_string(man.join("forge-build.1")).unwrap();
    assert!(page.contains(".TH forge-build 1") && page.contains("\\-\\-locked"), "{page}");
    let schema: serde_json::Value = serde_json::from_str(&ok(forge(&cache).arg("schema"))).unwrap();
    let said = Command::new("python3")
        .args([
            "-c",
            "import jsonschema,json,sys; jsonschema.Draft202012Validator.check_schema(json.load(sys.stdin))",
        ])
        .stdin(Stdio::from(std::fs::File::open("profiles/profile.schema.json").unwrap()))
        .output()
        .unwrap();
    let missing = String::from_utf8_lossy(&said.stderr).contains("No module named");
    if missing && std::env::var("FORGE_TEST_REQUIRE_TOOLS").as_deref() != Ok("1") {
        println!("skipped: no python3-jsonschema");
    } else {
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }
    let committed = std::fs::read("profiles/profile.schema.json").unwrap();
    assert_eq!(schema, serde_json::from_slice::<serde_json::Value>(&committed).unwrap());
}
