//! One device through its life: first boot, power cut, boot again, a changed block.

use crate::vm::{Opts, Vm};
use forge::disk::gpt;
use forge::model::Arch;
use forge::run::qemu::Acceleration;
use forge::run::tools::ToolRoot;
use forge::tree::Content;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A minute on an idle machine; this long on one that builds at the same time.
pub const BOOT: Duration = Duration::from_secs(400);
/// Room for slot B and state.
pub const DISK: u64 = 8 << 30;

#[test]
fn a_device_starts_survives_a_power_cut_and_refuses_a_changed_block() {
    let Some((disk, opts)) = given() else { return };
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("device.raw");
    forge::run::disk::unpack(&disk, &own, DISK).unwrap();

    let mut first = Vm::boot(&own, &opts);
    let took = first.wait_for("boot complete, good", BOOT);
    println!("first boot to boot-complete.target and blessed: {took:?}");
    assert!(!first.has_said("Failed to start"), "{}", first.console.tail());
    answers(&first, &opts);
    // Right after it was blessed, with everything still in flight.
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

/// The disk and what boots it, from the environment; `None`, said aloud, where there is none.
pub fn given() -> Option<(PathBuf, Opts)> {
    let var = |name: &str| forge::host::env::var(name);
    match (var("FORGE_TEST_DISK"), var("FORGE_TEST_TOOLS")) {
        (Some(disk), Some(tools)) => {
            let host = Arch::host().unwrap();
            let arch = var("FORGE_TEST_ARCH").map_or(host, |a| a.parse().unwrap());
            let ports = var("FORGE_TEST_HTTP").map(|port| port.parse().unwrap()).into_iter().collect();
            Some((disk.into(), Opts { tools: ToolRoot::new(tools, host), arch, ports }))
        }
        _ if var("FORGE_TEST_REQUIRE_TOOLS").is_some() => {
            panic!("FORGE_TEST_DISK or FORGE_TEST_TOOLS is not set")
        }
        _ => {
            println!("skipped: no FORGE_TEST_DISK and FORGE_TEST_TOOLS");
            None
        }
    }
}

#[test]
fn kvm_is_used_only_where_it_runs_the_firmware() {
    let Some((_, opts)) = given() else { return };
    let dir = tempfile::tempdir().unwrap();
    let variables = dir.path().join("vars");
    std::fs::copy(opts.tools.file(forge::run::qemu::firmware(opts.arch).1).unwrap(), &variables).unwrap();
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
