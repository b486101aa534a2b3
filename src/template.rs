//! The files of `templates/`, embedded: the only place that does so.

/// The names of the IANA time zone database (2025b), one a line, sorted.
pub const TIME_ZONES: &str = include_str!("../templates/profile/time-zones.txt");
/// Archive keyrings by distribution: OpenPGP certificates. Their origin is told in `templates/keyrings/README.md`.
pub const KEYRINGS: [(&str, &[u8]); 2] = [
    ("debian", include_bytes!("../templates/keyrings/debian-archive-keyring.pgp")),
    ("ubuntu", include_bytes!("../templates/keyrings/ubuntu-archive-keyring.pgp")),
];
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
    /// Wants every workload.
    pub const WORKLOADS_TARGET: &str = include_str!("../templates/podman/forge-workloads.target");
    /// Requires the health of the required ones.
    pub const REQUIRED_TARGET: &str = include_str!("../templates/podman/forge-required-workloads.target");
}
