//! Real programs of upstream's in forge's images. Nothing of them is fetched or built here: `hack/e2e` says where they are,
//! and without it these tests are ignored.

use crate::vm::Vm;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod cloud;
mod k3s;
mod kubeedge;
mod size;

/// A cluster's first start on an emulated machine of two busy processors, with everything to be unpacked and imported.
const START: Duration = Duration::from_secs(1800);

/// What `hack/e2e` says under that name.
fn given(name: &str) -> PathBuf {
    std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set: hack/e2e sets it")).into()
}

/// Tables to be appended to a profile: the device runs `script` with `sh` when its boot is complete, and says on its
/// console what that says, each line behind `told: `. [`told`] waits for it. With `unit` its log is on the console, too, for
/// the message of a test that fails: a serial line is slow, so not where that log may have thousands of lines.
fn telling(unit: Option<&str>, script: &str) -> String {
    // In a unit's way of quoting nothing of a script is left as it is, so it is a file.
    let file =
        |path: &str, text: &str| format!("\n[[os.file]]\npath = \"{path}\"\ncontent = '''\n{text}'''\n");
    let log = unit.map(|unit| {
        file(
            &format!("/usr/lib/systemd/system/{unit}.d/told.conf"),
            "[Service]\nStandardOutput=journal+console\nStandardError=journal+console\n",
        )
    });
    [
        file("/usr/lib/told", &format!("{{\n{script}\n}} 2>&1 | sed 's/^/told: /'\necho told: all\n")),
        file(
            "/usr/lib/systemd/system/told.service",
            "[Unit]\nAfter=forge-boot-report.service\n[Service]\nType=oneshot\nStandardOutput=journal+console\n\
             ExecStart=sh /usr/lib/told\n",
        ),
        file("/usr/lib/systemd/system/multi-user.target.d/told.conf", "[Unit]\nWants=told.service\n"),
        log.unwrap_or_default(),
    ]
    .concat()
}

/// Replaces in a file what must be in it, and appends `more`.
fn change(file: &Path, replacements: &[(&str, &str)], more: &str) {
    let mut text = std::fs::read_to_string(file).unwrap();
    for (from, to) in replacements {
        assert!(text.contains(from), "{} has no `{from}`", file.display());
        text = text.replace(from, to);
    }
    std::fs::write(file, text + more).unwrap();
}

/// The lines that a device tells after its boot, as far as they came within `timeout`.
fn told(vm: &mut Vm, timeout: Duration) -> Vec<String> {
    vm.wait_for("told: all", timeout);
    let text = vm.console.text();
    let lines = text.lines().filter_map(|line| Some(line.split_once("told: ")?.1.trim().to_string()));
    lines.collect()
}
