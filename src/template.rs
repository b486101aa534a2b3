//! The files of `templates/`, embedded: the only place that does so.

/// The names of the IANA time zone database (2025b), one a line, sorted.
pub const TIME_ZONES: &str = include_str!("../templates/profile/time-zones.txt");

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
