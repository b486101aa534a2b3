//! What this machine offers: the facts behind `forge doctor`.

use crate::model::Bytes;
use std::path::Path;

/// Whether a build needs it, or is only nicer with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Without it nothing is built.
    Build,
    /// Without it something is slower or not offered.
    Comfort,
}

/// One fact: what was looked at, what was found, or what is wrong and how to mend it.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// What was found; or what is wrong, and what to do.
    pub state: Result<String, (String, String)>,
    /// How much it matters.
    pub remedy: Need,
}

/// Disk space that a first build of a small box takes, fetched packages included.
const ROOM: u64 = 4 << 30;

/// Looks at everything that building and running need.
pub fn all(cache_dir: &Path) -> Vec<Finding> {
    let root = rustix::process::getuid().is_root();
    vec![
        Finding {
            what: "user namespaces",
            state: if root { Ok("not needed by root".into()) } else { user_namespaces() },
            remedy: Need::Build,
        },
        Finding {
            what: "sub-ids",
            state: if root { Ok("not needed by root".into()) } else { sub_ids() },
            remedy: Need::Build,
        },
        Finding { what: "disk", state: disk(cache_dir), remedy: Need::Build },
        Finding { what: "other architectures", state: other_architectures(), remedy: Need::Comfort },
        Finding { what: "hardware acceleration", state: acceleration(), remedy: Need::Comfort },
    ]
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|s| s.trim().to_string())
}

fn user_namespaces() -> Result<String, (String, String)> {
    let refused = |word: &str, mend: &str| Err((word.to_string(), mend.to_string()));
    if read("/proc/sys/user/max_user_namespaces").is_some_and(|n| n == "0") {
        return refused("the kernel allows none", "sudo sysctl -w user.max_user_namespaces=15000");
    }
    if read("/proc/sys/kernel/unprivileged_userns_clone").is_some_and(|n| n == "0") {
        return refused(
            "the kernel keeps them for root",
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        );
    }
    if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").is_some_and(|n| n == "1") {
        return refused(
            "AppArmor restricts them",
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        );
    }
    Ok("allowed".into())
}

fn sub_ids() -> Result<String, (String, String)> {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid())
        .ok()
        .flatten()
        .map_or_else(|| nix::unistd::getuid().to_string(), |u| u.name);
    let uid = nix::unistd::getuid().to_string();
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = read(file).unwrap_or_default();
        let enough = text.lines().filter_map(|l| {
            let mut fields = l.split(':');
            let owner = fields.next()?;
            (owner == user || owner == uid).then(|| fields.nth(1)?.parse::<u64>().ok())?
        });
        if !enough.into_iter().any(|count| count >= 65_536) {
            return Err((
                format!("{file} gives {user} no range of 65536"),
                format!("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"),
            ));
        }
    }
    let search = crate::host::env::var("PATH").unwrap_or_default();
    if !search.split(':').any(|dir| Path::new(dir).join("newuidmap").exists()) {
        return Err((
            "newuidmap is not in PATH".into(),
            "install the package uidmap (shadow-utils on other distributions)".into(),
        ));
    }
    Ok("a range of 65536 and newuidmap".into())
}

fn disk(cache_dir: &Path) -> Result<String, (String, String)> {
    let Some(there) = cache_dir.ancestors().find(|d| d.exists()) else {
        return Err(("the cache's disk is not there".into(), "give --cache-dir".into()));
    };
    match rustix::fs::statvfs(there) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let words = format!("{} free at {}", Bytes(free), there.display());
            if free < ROOM {
                Err((
                    words,
                    format!("a build needs about {}: make room, or give --cache-dir elsewhere", Bytes(ROOM)),
                ))
            } else {
                Ok(words)
            }
        }
        Err(e) => Err((format!("{}: {e}", there.display()), "give --cache-dir elsewhere".into())),
    }
}

/// Linux 6.7 is the first that has a table of emulators for each user namespace (`host::emulation`).
fn other_architectures() -> Result<String, (String, String)> {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let kernel = format!("Linux {release}");
    if !is_since_6_7(&release) {
        let mend = "install qemu-user-binfmt for packages of another architecture, or run a kernel since 6.7";
        return Err((format!("{kernel} has no emulators inside a sandbox"), mend.into()));
    }
    match read("/proc/filesystems").is_some_and(|known| known.contains("binfmt_misc")) {
        true => Ok(format!("{kernel} runs them emulated")),
        false => Err(("the module binfmt_misc is not loaded".into(), "sudo modprobe binfmt_misc".into())),
    }
}

fn is_since_6_7(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(7))
}

fn acceleration() -> Result<String, (String, String)> {
    let open = rustix::fs::open(
        "/dev/kvm",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    );
    match open {
        Ok(_) => Ok("/dev/kvm opens".into()),
        Err(e) => Err((
            format!("/dev/kvm: {e}"),
            "`forge run` emulates instead, which takes a minute or two; to accelerate it join the group kvm"
                .into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart_by_number() {
        assert!(is_since_6_7("6.7.0") && is_since_6_7("6.12.117+deb13-amd64") && is_since_6_7("7.0-rc1"));
        assert!(!is_since_6_7("6.1.0-40-amd64") && !is_since_6_7("5.15.0") && !is_since_6_7("odd"));
    }
}
