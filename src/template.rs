//! The files of `templates/`, embedded: the only place that does so.

/// A file of a device: its path in the tree, and its text.
pub type DeviceFile = (&'static str, &'static str);

macro_rules! device_files {
    ($dir:literal: $($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../templates/", $dir, "/", $path)))),+]
    };
}

/// What the initrd has beyond the files of packages.
pub const INITRD: &[DeviceFile] = device_files!("initrd":
    "usr/lib/systemd/system/emergency.service.d/forge.conf",
    "usr/lib/systemd/system/initrd.target.d/forge.conf",
    "usr/lib/systemd/system/systemd-repart.service.d/forge.conf",
);

/// What every device's root has beyond the files of packages.
pub const OS: &[DeviceFile] = device_files!("os":
    "etc/ssh/sshd_config.d/50-forge.conf",
    "usr/lib/systemd/journald.conf.d/50-forge.conf",
    "usr/lib/systemd/network/80-forge-dhcp.network",
    "usr/lib/systemd/system.conf.d/50-forge.conf",
    "usr/lib/systemd/system/boot-complete.target.d/forge.conf",
    "usr/lib/systemd/system/emergency.service.d/forge.conf",
    "usr/lib/systemd/system/forge-boot-failed.service",
    "usr/lib/systemd/system/forge-boot-report.service",
    "usr/lib/systemd/system/home.mount",
    "usr/lib/systemd/system/opt.mount",
    "usr/lib/systemd/system/root.mount",
    "usr/lib/systemd/system/srv.mount",
    "usr/lib/systemd/system/sshd-keygen.service.d/forge.conf",
    "usr/lib/systemd/system/systemd-networkd-wait-online.service.d/forge.conf",
    "usr/lib/tmpfiles.d/forge.conf",
);

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn walk(dir: &Path, below: &Path, into: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, below, into);
            } else {
                into.push(path.strip_prefix(below).unwrap().to_str().unwrap().into());
            }
        }
    }

    #[test]
    fn every_file_of_the_device_directories_is_embedded() {
        for (name, embedded) in [("initrd", INITRD), ("os", OS)] {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates").join(name);
            let mut on_disk = vec![];
            walk(&dir, &dir, &mut on_disk);
            on_disk.sort();
            let mut listed: Vec<&str> = embedded.iter().map(|(path, _)| *path).collect();
            listed.sort_unstable();
            assert_eq!(listed, on_disk, "templates/{name}");
        }
    }
}
