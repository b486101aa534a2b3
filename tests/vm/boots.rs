//! One device through its life: first boot, reboot, power cut, boot again, a changed block.

use crate::fixture::{self, Fixture};
use crate::vm::{Opts, Vm, ask, free_port};
use forge::build::observe::Silent;
use forge::disk::gpt;
use forge::host::cancel::Cancel;
use forge::host::http::Client;
use forge::model::Arch;
use forge::run::qemu::Acceleration;
use forge::run::tools::ToolRoot;
use forge::source::blobs::Blobs;
use forge::toolbox;
use forge::tree::Content;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A minute on an idle machine; this long on one that builds at the same time.
pub const BOOT: Duration = Duration::from_secs(400);
/// Room for slot B and state.
pub const DISK: u64 = 8 << 30;
/// Where the workload of `profiles/quickstart.toml` answers.
const HTTP: u16 = 8080;

#[test]
fn a_device_starts_survives_reboot_and_power_cut_and_refuses_a_changed_block() {
    let Some((disk, opts)) = given() else { return };
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("device.raw");
    forge::run::disk::unpack(&disk, &own, DISK).unwrap();

    let mut first = Vm::boot(&own, &opts);
    let took = first.wait_for("boot complete, good", BOOT);
    println!("first boot to boot-complete.target and blessed: {took:?}");
    assert!(!first.has_said("Failed to start"), "{}", first.console.tail());
    answers(&first, &opts);
    first.reboot();
    let took = first.wait_for("boot complete, clean", BOOT);
    println!("an orderly reboot: {took:?}");
    answers(&first, &opts);
    // Right after it came up, with everything still in flight.
    first.power_off_hard();

    let mut second = Vm::boot(&own, &opts);
    let took = second.wait_for("boot complete, clean", BOOT);
    println!("after a power cut: {took:?}");
    assert!(!second.has_said("Creating filesystem"), "state was made again:\n{}", second.console.tail());
    answers(&second, &opts);
    second.power_off_hard();

    // The superblock of EROFS is read by every boot.
    let root = gpt::PartitionType::Root(opts.arch).guid();
    flip(&own, |p| p.type_guid == root && p.name != "_empty", 1024 + 64);
    let mut third = Vm::boot(&own, &opts);
    third.wait_for("is corrupted", BOOT);
    third.wait_for("dm-verity device corrupted", BOOT);
    // It restarts by itself, and gets no further the next time.
    third.wait_for("is corrupted", BOOT);
    assert!(!third.has_said("boot complete"), "changed bytes were run");
}

/// The release's disk, its tools and ports; `None`, said aloud, where nothing can be built.
pub fn given() -> Option<(PathBuf, Opts)> {
    let shared = fixture::shared()?;
    static TOOLS: OnceLock<ToolRoot> = OnceLock::new();
    let tools = TOOLS.get_or_init(|| tools(shared, forge::run::packages(Arch::Amd64))).clone();
    let opts = Opts {
        tools,
        arch: Arch::Amd64,
        ports: vec![HTTP],
        medium: None,
        second: None,
        secure_boot: false,
        tpm: None,
        memory: 2048,
        cpus: Acceleration::Tcg.processors(),
        cut_off: false,
    };
    Some((shared.disk(), opts))
}

/// The emulator that `forge run` uses, or what stands beside it, from where it uses it.
pub fn tools(shared: &Fixture, packages: &[&str]) -> ToolRoot {
    let cache = shared.cache();
    let env = toolbox::Env {
        root: &cache.join("tools"),
        client: &Client::new().unwrap(),
        blobs: &Blobs::open(&cache.join("blobs")).unwrap(),
        cancel: &Cancel::default(),
        observer: &Silent,
    };
    toolbox::open(packages, &env).unwrap_or_else(|e| panic!("{e:#}"))
}

#[test]
fn kvm_is_used_only_where_it_runs_the_firmware() {
    let Some((_, opts)) = given() else { return };
    let dir = tempfile::tempdir().unwrap();
    let variables = dir.path().join("vars");
    std::fs::copy(opts.tools.file(forge::run::qemu::firmware(opts.arch, false).1).unwrap(), &variables)
        .unwrap();
    let ask =
        || forge::run::acceleration(&opts.tools, opts.arch, &variables, dir.path(), &Default::default());
    let found = ask().unwrap();
    println!("acceleration here: {found:?}");
    let again = std::time::Instant::now();
    assert_eq!(ask().unwrap(), found);
    assert!(again.elapsed() < Duration::from_secs(1), "it was found out once already");
    assert!(found == Acceleration::Tcg || Path::new("/dev/kvm").exists());
}

/// Every port that a workload listens on answers with success.
pub fn answers(vm: &Vm, opts: &Opts) {
    for port in &opts.ports {
        let answer = vm.http_get(*port, BOOT);
        assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200"), "{answer}");
    }
}

/// Changes one byte at `offset` of the first partition that `is` the one, in a table that repart has written.
pub fn flip(disk: &Path, is: impl Fn(&gpt::Partition) -> bool, offset: u64) {
    let file = File::options().read(true).write(true).open(disk).unwrap();
    let table = gpt::Table::read(&Content::of_file(Arc::new(file.try_clone().unwrap())).unwrap()).unwrap();
    let place = table.partitions.iter().find(|p| is(p)).expect("a partition").offset + offset;
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ 1], place).unwrap();
}

/// As a person has it from the README: the release's directory, and a browser on a port of this machine.
#[test]
fn forge_run_boots_the_release() {
    let Some(shared) = fixture::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let console = dir.path().join("console");
    let port = free_port();
    let mut run = fixture::forge(&shared.cache());
    run.arg("run").arg(&shared.release).args(["--headless", "--port", &format!("{port}:{HTTP}")]);
    let files = [File::create(&console).unwrap(), File::create(dir.path().join("stderr")).unwrap()];
    let [out, err] = files.map(Stdio::from);
    let start = Instant::now();
    let mut child = run.stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap();
    let said = || std::fs::read_to_string(dir.path().join("stderr")).unwrap();
    let answer = loop {
        let answer = ask(port).unwrap_or_default();
        if answer.starts_with("HTTP/") {
            break answer;
        }
        let ended = child.try_wait().unwrap();
        if ended.is_some() || start.elapsed() > BOOT {
            let _ = child.kill(); // it may have ended
            let text = String::from_utf8_lossy(&std::fs::read(&console).unwrap()).into_owned();
            panic!("nothing answers ({ended:?}): {}\n{text}", said());
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    println!("forge run to the first answer: {:.0?}", start.elapsed());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let page = std::fs::read_to_string(shared.profile().with_file_name("hello/index.html")).unwrap();
    assert!(answer.contains(page.trim()), "{answer}");
    // Ctrl-C pulls the plug, and takes the emulator along.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{}", said());
    assert!(ask(port).is_err(), "the device still answers");
}
