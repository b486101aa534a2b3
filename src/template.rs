//! The files of `templates/`, embedded: the only place that does so.

/// The names of the IANA time zone database (2025b), one a line, sorted.
pub const TIME_ZONES: &str = include_str!("../templates/profile/time-zones.txt");
/// Archive keyrings by distribution: OpenPGP certificates. Their origin is told in `templates/keyrings/README.md`.
pub const KEYRINGS: [(&str, &[u8]); 2] = [
    ("debian", include_bytes!("../templates/keyrings/debian-archive-keyring.pgp")),
    ("ubuntu", include_bytes!("../templates/keyrings/ubuntu-archive-keyring.pgp")),
];
/// How the pages look that forge writes.
pub const REPORT_STYLE: &str = include_str!("../templates/report/style.css");
/// Podman's configuration and forge's units for it: `templates/podman/`.
pub mod podman {
    /// `/etc/containers/storage.conf`.
    pub const STORAGE_CONF: &str = include_str!("../templates/podman/storage.conf");
    /// Appended to it where there is an image store.
    pub const STORAGE_IMAGES_CONF: &str = include_str!("../templates/podman/storage-images.conf");
    /// Drop-in of `containers.conf`.
    pub const CONTAINERS_CONF: &str = include_str!("../templates/podman/containers.conf");
    /// Drop-in of `registries.conf`.
    pub const REGISTRIES_CONF: &str = include_str!("../templates/podman/registries.conf");
    /// The network that `kube play` puts pods into.
    pub const KUBE_NETWORK: &str = include_str!("../templates/podman/podman-default-kube-network.json");
    /// Clears what the last boot left.
    pub const RUNTIME_SERVICE: &str = include_str!("../templates/podman/forge-podman.service");
    /// Runs a workload.
    pub const WORKLOAD_SERVICE: &str = include_str!("../templates/podman/forge-workload@.service");
    /// Waits for a workload's health.
    pub const READY_SERVICE: &str = include_str!("../templates/podman/forge-workload-ready@.service");
    /// The program that it runs.
    pub const READY_PROGRAM: &str = include_str!("../templates/podman/workload-ready");
    /// Puts the grant's secrets where Podman looks for them.
    pub const SECRETS_PROGRAM: &str = include_str!("../templates/podman/workload-secrets");
    /// Wants every workload.
    pub const WORKLOADS_TARGET: &str = include_str!("../templates/podman/forge-workloads.target");
    /// Requires the health of the required ones.
    pub const REQUIRED_TARGET: &str = include_str!("../templates/podman/forge-required-workloads.target");
}

/// Virtual machines: `templates/vm/`.
pub mod vm {
    /// What a guest's units call.
    pub const PROGRAM: &str = include_str!("../templates/vm/machine");
    /// Runs a guest; `@NAME@` and `@COMMAND@` are to be filled in.
    pub const SERVICE: &str = include_str!("../templates/vm/machine.service");
    /// Waits for a guest; to be filled in likewise.
    pub const READY: &str = include_str!("../templates/vm/ready.service");
}

macro_rules! device_files {
    ($dir:literal: $($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../templates/", $dir, "/", $path)))),+]
    };
}

/// Files of a Kubernetes distribution: `templates/kubernetes/`.
pub mod cluster {
    use super::DeviceFile;

    /// The distribution's unit, with `@NAME@` and others to be filled in.
    pub const SERVICE: &str = include_str!("../templates/kubernetes/cluster.service");
    /// Drop-in of it where a grant comes first.
    pub const GRANTED: &str = include_str!("../templates/kubernetes/granted.conf");
    /// Waits for the node and the required workloads; to be filled in likewise.
    pub const READY: &str = include_str!("../templates/kubernetes/ready.service");
    /// Drop-in of the target that it is required by.
    pub const COMPLETE: &str = include_str!("../templates/kubernetes/boot-complete.conf");
    /// What both units call.
    pub const PROGRAM: &str = include_str!("../templates/kubernetes/kubernetes");
    /// On every node.
    pub const FILES: &[DeviceFile] = device_files!("kubernetes/node":
        "usr/lib/forge/end-pods",
        "usr/lib/modules-load.d/50-forge-kubernetes.conf",
        "usr/lib/sysctl.d/50-forge-kubernetes.conf",
        "usr/lib/systemd/networkd.conf.d/50-forge-kubernetes.conf",
    );
    /// On servers, which have to start with no link at all.
    pub const SERVER_FILES: &[DeviceFile] = device_files!("kubernetes/server":
        "usr/lib/systemd/network/70-forge-alone.netdev",
        "usr/lib/systemd/network/70-forge-alone.network",
        "usr/lib/systemd/resolved.conf.d/50-forge-alone.conf",
    );
}

/// KubeEdge's EdgeCore with containerd: `templates/kubeedge/`.
pub mod kubeedge {
    use super::DeviceFile;

    /// EdgeCore's unit, with `@VERSION@` to be filled in.
    pub const SERVICE: &str = include_str!("../templates/kubeedge/edgecore.service");
    /// Drop-in of it where a grant comes first.
    pub const GRANTED: &str = include_str!("../templates/kubeedge/granted.conf");
    /// Drop-in of it where a person joins the node.
    pub const BY_HAND: &str = include_str!("../templates/kubeedge/by-hand.conf");
    /// Imports what is carried, and repairs containerd's store.
    pub const PROGRAM: &str = include_str!("../templates/kubeedge/edge-images");
    /// On every node, with `@PAUSE@` to be filled in.
    pub const FILES: &[DeviceFile] = device_files!("kubeedge/node":
        "etc/cni/net.d/10-forge.conflist",
        "etc/containerd/config.toml",
        "usr/lib/systemd/system/containerd.service.d/50-forge.conf",
        "usr/lib/systemd/system/forge-edge-images.service",
    );
}

/// A file of a device: its path in the tree, and its text.
pub type DeviceFile = (&'static str, &'static str);

/// What the initrd has beyond the files of packages.
pub const INITRD: &[DeviceFile] = device_files!("initrd":
    "usr/lib/systemd/system/emergency.service.d/forge.conf",
    "usr/lib/systemd/system/initrd.target.d/forge.conf",
    "usr/lib/systemd/system/systemd-repart.service.d/forge.conf",
);

/// What the initrd of a device has whose state is encrypted, beyond that.
pub const SEALED: &[DeviceFile] = device_files!("sealed":
    "usr/lib/systemd/system/emergency.service.d/sealed.conf",
    "usr/lib/systemd/system/systemd-cryptsetup@state.service.d/sealed.conf",
    "usr/lib/systemd/system/systemd-repart.service.d/sealed.conf",
);

/// What an installer has beyond that.
pub const INSTALLER: &[DeviceFile] = device_files!("installer":
    "usr/lib/systemd/system/forge-install.service",
    "usr/lib/systemd/system/initrd.target",
);

/// What every device's root has beyond the files of packages.
pub const OS: &[DeviceFile] = device_files!("os":
    "etc/ssh/sshd_config.d/50-forge.conf",
    "usr/lib/forge/boot",
    "usr/lib/modprobe.d/forge.conf",
    "usr/lib/systemd/journald.conf.d/50-forge.conf",
    "usr/lib/systemd/network/80-forge-dhcp.network",
    "usr/lib/systemd/system-generators/forge-payload",
    "usr/lib/systemd/system.conf.d/50-forge.conf",
    "usr/lib/systemd/system/boot-complete.target.d/forge.conf",
    "usr/lib/systemd/system/boot.mount.d/forge.conf",
    "usr/lib/systemd/system/efi.mount.d/forge.conf",
    "usr/lib/systemd/system/emergency.service.d/forge.conf",
    "usr/lib/systemd/system/forge-boot-failed.service",
    "usr/lib/systemd/system/forge-boot-rearm.service",
    "usr/lib/systemd/system/forge-boot-report.service",
    "usr/lib/systemd/system/forge-issue.service",
    "usr/lib/systemd/system/forge-slot-check.service",
    "usr/lib/systemd/system/home.mount",
    "usr/lib/systemd/system/opt.mount",
    "usr/lib/systemd/system/root.mount",
    "usr/lib/systemd/system/srv.mount",
    "usr/lib/systemd/system/sshd-keygen.service.d/forge.conf",
    "usr/lib/systemd/system/systemd-networkd-wait-online.service.d/forge.conf",
    "usr/lib/tmpfiles.d/forge.conf",
);

/// What the root of a device that enrols has beyond that.
pub const ENROLL: &[DeviceFile] = device_files!("enroll":
    "usr/lib/systemd/system/forge-device.service",
    "usr/lib/systemd/system/forge-device.target",
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
        for (name, embedded) in [
            ("enroll", ENROLL),
            ("initrd", INITRD),
            ("installer", INSTALLER),
            ("kubeedge/node", kubeedge::FILES),
            ("kubernetes/node", cluster::FILES),
            ("kubernetes/server", cluster::SERVER_FILES),
            ("os", OS),
            ("sealed", SEALED),
        ] {
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

/// The settings of a Raspberry Pi's own loader: the vendor's "config.txt".
pub const RASPBERRY_PI_CONFIG: &str = include_str!("../templates/board/raspberry-pi.txt");

/// systemd-boot's settings, for the EFI system partition: loader.conf(5).
pub const LOADER_CONF: &str = include_str!("../templates/boot/loader.conf");

/// What `forge init` writes, a table a template: the path below the new directory, and the content.
pub mod init {
    /// In every new directory.
    pub const SHARED: &[(&str, &str)] = &[(".gitignore", include_str!("../templates/init/shared/gitignore"))];
    /// Beside the profiles that run something.
    pub const HELLO: &[(&str, &str)] = &[
        ("files/index.html", include_str!("../templates/init/shared/index.html")),
        ("workloads/hello.yaml", include_str!("../templates/init/shared/hello.yaml")),
    ];
    /// The profile of the Podman template.
    pub const PODMAN: &str = include_str!("../templates/init/podman/site.toml");
    /// The profile of the k3s template.
    pub const K3S: &str = include_str!("../templates/init/k3s/site.toml");
    /// The profile of the RKE2 template.
    pub const RKE2: &str = include_str!("../templates/init/rke2/site.toml");
    /// The profile of the KubeEdge template.
    pub const KUBEEDGE: &str = include_str!("../templates/init/kubeedge/site.toml");
}
