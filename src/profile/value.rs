//! The words that a profile is made of, each true by its type.
//!
//! They end in paths, command lines, unit files and references, so each is as narrow as its standard allows.

use super::fragment::{Node, Value};
use super::shape::{Content, Definitions, Reader, Shape, Wrong};
use super::word::{choice, text, word};
use crate::model::{Arch, Bytes, SiteName};
use crate::tree::TreePath;
use base64::Engine as _;
use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

word! {
    /// The version of an image: it names folders, files, boot entries (where `+` counts tries) and partitions.
    ImageVersion: "an image version", "^[0-9A-Za-z][0-9A-Za-z.-]{0,31}$",
        "at most 32 letters, digits, `.` and `-`, such as `2026.11.22`",
        |s| s.len() <= 32 && spelled(s, alphanumeric, |c| alphanumeric(c) || matches!(c, b'.' | b'-'));
    /// The name of a Debian binary package (Debian policy §5.6.1).
    PackageName: "a package name", "^[a-z0-9][a-z0-9+.-]+$",
        "lowercase letters, digits, `+`, `-` and `.`, such as `openssh-server`",
        |s| (2..=128).contains(&s.len()) && spelled(s, lower, |c| lower(c) || matches!(c, b'+' | b'-' | b'.'));
    /// One word of the kernel's command line.
    KernelArg: "a kernel argument", r"^[!#-&(-~]+$",
        "one word of printable ASCII without quotes, such as `console=ttyS0`",
        |s| (1..=512).contains(&s.len()) && s.bytes().all(|c| c.is_ascii_graphic() && c != b'"' && c != b'\'');
    /// The name of a kernel module.
    ModuleName: "a kernel module", "^[a-z0-9][a-z0-9_-]*$",
        "lowercase letters, digits, `_` and `-`, such as `dm_crypt`",
        |s| s.len() <= 64 && spelled(s, lower, |c| lower(c) || matches!(c, b'_' | b'-'));
    /// A host name or an IP address.
    HostName: "a host name or address", "^[0-9A-Za-z.:-]+$",
        "such as `0.pool.example` or `192.0.2.1`", is_host;
    /// The name of a user, as useradd(8) takes it.
    UserName: "a user name", "^[a-z_][a-z0-9_-]{0,31}$",
        "at most 32 lowercase letters, digits, `_` and `-`, not starting with a digit or `-`",
        |s| s.len() <= 32 && spelled(s, |c| c.is_ascii_lowercase() || c == b'_', |c| lower(c) || matches!(c, b'_' | b'-'));
    /// A public key in the form of authorized_keys(5).
    SshKey: "an SSH public key", "^(ssh|ecdsa|sk)-",
        "one line of a `.pub` file: type, base64, comment; not the private key", is_ssh_key;
    /// The name and tag of an OCI image made here: `till-web:1`, which Podman knows as `localhost/till-web:1`.
    ContainerName: "a container name", "^[a-z0-9]+([._-][a-z0-9]+)*:[0-9A-Za-z_][0-9A-Za-z._-]{0,127}$",
        "a name and a tag, such as `till-web:1`", is_container_name;
    /// A DNS label (RFC 1123) that names a workload and its units.
    WorkloadName: "a workload name", "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        "1 to 63 of a-z, 0-9 and `-`, not starting or ending with `-`", |s| SiteName::parse(s).is_ok();
    /// A version of an upstream release: `v1.34.2+k3s1`.
    ReleaseVersion: "a release version", r"^v[0-9]+\.[0-9]+\.[0-9]+[0-9A-Za-z.+-]*$",
        "`v` and three numbers, such as `v1.34.2+k3s1`", is_release_version;
    /// The version of a Helm chart: a semantic version.
    ChartVersion: "a chart version", r"^[0-9]+\.[0-9]+\.[0-9]+[0-9A-Za-z.+-]*$",
        "three numbers, such as `2.2.29`", |s| is_release_version(&format!("v{s}"));
    /// The address of a Debian archive; no part of what is built, which the lock pins by digest.
    Mirror: "an archive mirror", "^(https?://|.*[$][{])",
        "an http or https URL, such as `https://deb.example/debian`", |s| is_url(s, &["https://", "http://"]), env;
    /// The address of an enrollment endpoint.
    Endpoint: "an endpoint", "^https://", "an https URL, such as `https://fleet.example:8443`", |s| is_url(s, &["https://"]);
    /// The repository that images are pushed to, without tag or digest.
    Repository: "a repository", "^[^/@]+(/[^/:@]+)+$|[$][{]",
        "registry, `/` and path, without tag or digest, such as `registry.example/edge/store-042`",
        |s| is_reference(s) && !s.contains('@') && !s.rsplit('/').next().unwrap_or_default().contains(':'), env;
}

choice! {
    /// A kind of artifact.
    pub enum Artifact: "a kind of artifact" {
        /// An OCI image layout.
        Oci = "oci",
        /// A disk image.
        Disk = "disk",
        /// An installer ISO.
        Iso = "iso",
        /// A network boot set.
        Netboot = "netboot",
    }
}
choice! {
    /// A form of the disk image.
    pub enum DiskFormat: "a disk format" {
        /// The plain bytes.
        Raw = "raw",
        /// The plain bytes, zstd-compressed.
        RawZst = "raw.zst",
        /// QEMU's copy-on-write format, version 3.
        Qcow2 = "qcow2",
    }
}
choice! {
    /// The hardware family.
    pub enum Board: "a board" {
        /// Any machine with UEFI firmware.
        GenericUefi = "generic-uefi",
        /// A Raspberry Pi 4 or 5.
        RaspberryPi = "raspberry-pi",
        /// An NVIDIA Jetson Orin.
        JetsonOrin = "jetson-orin",
    }
}
choice! {
    /// What protects the state partition.
    pub enum EncryptState: "a protection of the state" {
        /// Nothing.
        None = "none",
        /// LUKS2, sealed to the TPM.
        Tpm2 = "tpm2",
    }
}
choice! {
    /// What runs the workloads.
    pub enum Distribution: "a Kubernetes distribution" {
        /// Nothing: the OS alone.
        None = "none",
        /// Podman's `kube play` units.
        Podman = "podman",
        /// k3s.
        K3s = "k3s",
        /// RKE2.
        Rke2 = "rke2",
    }
}
choice! {
    /// The part that the machine has in its cluster.
    pub enum Role: "a role" {
        /// Can run alone.
        Server = "server",
        /// Needs a server on site.
        Agent = "agent",
    }
}
choice! {
    /// The edge agent.
    pub enum AgentKind: "an agent" {
        /// None.
        None = "none",
        /// KubeEdge's edgecore.
        Kubeedge = "kubeedge",
        /// Spectro Cloud Palette's agent.
        Palette = "palette",
        /// Files that the grant brings.
        Files = "files",
    }
}
choice! {
    /// How a device joins.
    pub enum EnrollMode: "a way to enroll" {
        /// Through a fleet endpoint.
        Fleet = "fleet",
        /// Straight to its cluster, with material from the bundle.
        Direct = "direct",
        /// Not at all.
        None = "none",
    }
}
choice! {
    /// What admits a device.
    pub enum Ticket: "a kind of ticket" {
        /// One ticket a device.
        Device = "device",
        /// One ticket a batch.
        Batch = "batch",
        /// None: approval by hand.
        None = "none",
    }
}

/// Reads a string value through `parse`.
fn parsed<T>(
    node: &Node,
    reader: &mut Reader<'_>,
    what: &str,
    parse: impl FnOnce(&str) -> Result<T, Wrong>,
) -> Option<T> {
    let text = text(node, reader, what, false)?;
    parse(&text).map_err(|wrong| reader.wrong(node.place, wrong)).ok()
}

/// Serializes through `Display`.
macro_rules! serialize_as_text {
    ($($name:ty),+) => { $(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )+ };
}
serialize_as_text!(Base, Origin, KeySource);

impl Shape for SiteName {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<SiteName> {
        parsed(node, reader, "a site name", |s| {
            SiteName::parse(s).map_err(|_| {
                let shown: String = s.chars().take(80).collect();
                Wrong::new(
                    format!("`{shown}` is not a DNS label"),
                    "1 to 63 of a-z, 0-9 and `-`, not starting or ending with `-`, such as `store-042`",
                )
            })
        })
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" })
    }
}

impl Shape for Arch {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Arch> {
        let text = text(node, reader, "an architecture", false)?;
        // The other standards' spellings are the likeliest slips, and too far away for a comparison of letters.
        if let Some(arch) = Arch::ALL
            .into_iter()
            .find(|a| [a.kernel(), a.efi(), a.systemd()].contains(&text.as_str()) && a.oci() != text)
        {
            let message = format!("`{text}` is not an architecture, did you mean `{arch}`?");
            reader.wrong(node.place, Wrong::new(message, "expected one of `amd64`, `arm64`"));
            return None;
        }
        super::word::choose(&text, &Arch::ALL.map(|a| (a.oci(), a)), "an architecture", node, reader)
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "enum": Arch::ALL.map(Arch::oci) })
    }
}

/// The version of the profile's format: 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct SchemaVersion(u32);

impl Shape for SchemaVersion {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<SchemaVersion> {
        match node.value {
            Value::Integer(1) => Some(SchemaVersion(1)),
            Value::Integer(n) => {
                let message = format!("schema {n} is not known to this forge");
                reader.wrong(node.place, Wrong::new(message, "this forge reads `schema = 1`"));
                None
            }
            _ => reader.mismatch(node, "the integer 1"),
        }
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "const": 1 })
    }
}

/// A path inside the image, absolute in the profile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImagePath(TreePath);

impl ImagePath {
    /// Checks `s`: absolute, normal, and in a directory whose content comes from the image.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn parse(s: &str) -> Result<ImagePath, Wrong> {
        let shown: String = s.chars().take(200).collect();
        if !s.starts_with('/') {
            return Err(Wrong::new(
                format!("`{shown}` is not an absolute path"),
                format!("a path in the image, such as `/{}`", shown.trim_start_matches("./")),
            ));
        }
        let normal = TreePath::parse(s)
            .map_err(|bad| Wrong::new(bad.to_string(), "a path in the image, such as `/etc/motd`"))?;
        if normal == TreePath::root() {
            return Err(Wrong::new("`/` is not a file", "a path in the image, such as `/etc/motd`"));
        }
        if s.ends_with('/') || s.chars().any(char::is_control) || format!("/{}", normal.as_str()) != s {
            return Err(Wrong::new(
                format!("`{shown}` is not the plain name of a file"),
                format!("write `/{}`", normal.as_str()),
            ));
        }
        // Mounted over at boot: a file there would never be seen.
        let first = normal.components().next().unwrap_or_default();
        if ["proc", "sys", "dev", "run", "tmp"].contains(&first) {
            return Err(Wrong::new(
                format!("`/{first}` is made anew at each boot, a file of the image cannot be seen there"),
                "use `/etc`, `/usr` or `/opt`",
            ));
        }
        Ok(ImagePath(normal))
    }

    /// The path from the root of the tree.
    pub fn tree(&self) -> &TreePath {
        &self.0
    }
}

impl Serialize for ImagePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("/{}", self.0.as_str()))
    }
}

impl Shape for ImagePath {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<ImagePath> {
        parsed(node, reader, "a path in the image", ImagePath::parse)
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^/[^/]" })
    }
}

/// Permission bits, spelled in octal: `"0644"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(u32);

impl Mode {
    /// Of a file that anyone may read.
    pub const FILE: Mode = Mode(0o644);

    /// The bits, at most 0o7777.
    pub fn bits(self) -> u32 {
        self.0
    }

    fn parse(s: &str) -> Result<Mode, Wrong> {
        let digits = (3..=4).contains(&s.len()) && s.bytes().all(|c| (b'0'..=b'7').contains(&c));
        let mode = if digits { u32::from_str_radix(s, 8).ok() } else { None };
        mode.map(Mode).ok_or_else(|| {
            let shown: String = s.chars().take(80).collect();
            Wrong::new(
                format!("`{shown}` is not a file mode"),
                "three or four octal digits, such as \"0644\"",
            )
        })
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:04o}", self.0))
    }
}

impl Shape for Mode {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Mode> {
        // 0644 is no TOML, 644 is decimal: both are meant in octal and would mean something else.
        if let Value::Integer(n) = node.value {
            let wrong = Wrong::new(
                "a file mode is a string, because a number would be decimal",
                format!("write \"{n:04}\""),
            );
            reader.wrong(node.place, wrong);
            return None;
        }
        parsed(node, reader, "a file mode", Mode::parse)
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^[0-7]{3,4}$" })
    }
}

/// Where the operating system comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// A suite of Debian's archive, such as `trixie`.
    Debian(String),
    /// A suite of Ubuntu's archive, such as `noble`.
    Ubuntu(String),
    /// An OCI image by reference.
    Oci(String),
    /// A directory or tar, from the main profile's directory.
    Rootfs(String),
}

impl std::fmt::Display for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Base::Debian(suite) => write!(f, "debian:{suite}"),
            Base::Ubuntu(suite) => write!(f, "ubuntu:{suite}"),
            Base::Oci(reference) => write!(f, "oci:{reference}"),
            Base::Rootfs(path) => write!(f, "rootfs:{path}"),
        }
    }
}

impl Shape for Base {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Base> {
        let text = text(node, reader, "a base", false)?;
        let help = "`debian:SUITE`, `ubuntu:SUITE`, `oci:REFERENCE` or `rootfs:PATH`";
        let suite = |s: &str| s.len() <= 64 && spelled(s, lower, |c| lower(c) || c == b'-');
        let base = match text.split_once(':') {
            Some(("debian", s)) if suite(s) => Ok(Base::Debian(s.into())),
            Some(("ubuntu", s)) if suite(s) => Ok(Base::Ubuntu(s.into())),
            Some(("oci", s)) if is_reference(s) => Ok(Base::Oci(s.into())),
            Some(("rootfs", s)) => return reader.file(node, s, Content::Locked).map(Base::Rootfs),
            Some((kind @ ("debian" | "ubuntu"), s)) => Err(Wrong::new(
                format!("`{s}` is not a suite"),
                format!(
                    "a suite in lowercase, such as `{kind}:{}`",
                    if kind == "debian" { "trixie" } else { "noble" }
                ),
            )),
            Some(("oci", s)) => Err(Wrong::new(
                format!("`{s}` is not an OCI reference"),
                "registry, `/`, path, `:tag` or `@sha256:…`",
            )),
            _ => {
                let kind = text.split(':').next().unwrap_or_default();
                let near = super::suggest::nearest(kind, &["debian", "ubuntu", "oci", "rootfs"]);
                let meant = near.map(|near| format!(", did you mean `{near}:…`?")).unwrap_or_default();
                Err(Wrong::new(format!("`{text}` is not a base{meant}"), help))
            }
        };
        base.map_err(|wrong| reader.wrong(node.place, wrong)).ok()
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^((debian|ubuntu):[a-z0-9][a-z0-9-]*|oci:.+/.+|rootfs:[^/].*)$" })
    }
}

/// Where an upstream input comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Upstream's own place and checksums.
    Release,
    /// An https URL.
    Https(String),
    /// A file, from the main profile's directory.
    File(String),
    /// An OCI artifact by reference.
    Oci(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Release => f.write_str("release"),
            Origin::Https(url) => f.write_str(url),
            Origin::File(path) => write!(f, "file:{path}"),
            Origin::Oci(reference) => write!(f, "oci:{reference}"),
        }
    }
}

impl Shape for Origin {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Origin> {
        let text = text(node, reader, "a source", false)?;
        let origin = match text.split_once(':') {
            None if text == "release" => Ok(Origin::Release),
            Some(("https", _)) if is_url(&text, &["https://"]) => Ok(Origin::Https(text.clone())),
            Some(("file", path)) => return reader.file(node, path, Content::Locked).map(Origin::File),
            Some(("oci", s)) if is_reference(s) => Ok(Origin::Oci(s.into())),
            _ => {
                let shown: String = text.chars().take(80).collect();
                Err(Wrong::new(
                    format!("`{shown}` is not a source"),
                    "`release`, `https://…`, `file:PATH` or `oci:REFERENCE`",
                ))
            }
        };
        origin.map_err(|wrong| reader.wrong(node.place, wrong)).ok()
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^(release|https://.+|file:[^/].*|oci:.+/.+)$" })
    }
}

/// Where the release key is: never the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A PEM file, from the main profile's directory, or absolute.
    File(String),
    /// An environment variable that holds the PEM.
    Env(String),
    /// A command that prints the key, or signs.
    Command(String),
}

impl std::fmt::Display for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KeySource::File(path) => write!(f, "file:{path}"),
            KeySource::Env(name) => write!(f, "env:{name}"),
            KeySource::Command(command) => write!(f, "cmd:{command}"),
        }
    }
}

impl Shape for KeySource {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<KeySource> {
        let text = text(node, reader, "where the key is", true)?;
        let variable = |s: &str| {
            s.len() <= 128
                && spelled(s, |c| c.is_ascii_alphabetic() || c == b'_', |c| alphanumeric(c) || c == b'_')
        };
        match text.split_once(':') {
            Some(("file", path)) => reader.file(node, path, Content::Key).map(KeySource::File),
            Some(("env", name)) if variable(name) => Some(KeySource::Env(name.into())),
            Some(("cmd", command)) if !command.trim().is_empty() => Some(KeySource::Command(command.into())),
            _ => {
                // The text is not repeated for machines to keep: it may be the key, typed here by mistake.
                let help = "`file:PATH`, `env:NAME` or `cmd:COMMAND`, which says where the key is; never the key itself";
                reader.wrong(node.place, Wrong::new("this does not say where the key is", help));
                None
            }
        }
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^(file|env|cmd):.|[$][{]" })
    }
}

/// A file beside the profile, by its path from the main profile's directory.
///
/// In the profile, a path is relative to the file that names it. `..` may lead out of the directory: it is the
/// engineer's own machine; an absolute path is refused, for it means nothing on another one.
macro_rules! files {
    ($( $(#[doc = $doc:literal])+ $name:ident : $content:expr; )+) => { $(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The path from the main profile's directory.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Shape for $name {
            fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
                let path = text(node, reader, "a path", false)?;
                reader.file(node, &path, $content).map($name)
            }
            fn schema(_: &mut Definitions) -> Json {
                json!({ "type": "string", "pattern": "^[^/]" })
            }
        }
    )+ };
}
files! {
    /// A file whose content goes into the image, by its path from the main profile's directory.
    InputFile: Content::File;
    /// A file of Kubernetes manifests that goes into the image, by its path from the main profile's directory.
    ManifestFile: Content::Manifest;
    /// A key or certificate that stays on this machine, by its path from the main profile's directory.
    KeyFile: Content::Key;
}

/// A size: a number and a binary unit, `"2GiB"`.
impl Shape for Bytes {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Bytes> {
        parsed(node, reader, "a size", |s| {
            let digits = s.bytes().take_while(u8::is_ascii_digit).count();
            let shift = match s[digits..].trim_start() {
                "KiB" => Some(10),
                "MiB" => Some(20),
                "GiB" => Some(30),
                "TiB" => Some(40),
                _ => None,
            };
            let number = s[..digits].parse::<u64>().ok().filter(|n| (1..1 << 20).contains(n));
            number.zip(shift).map(|(n, shift)| Bytes(n << shift)).ok_or_else(|| {
                let shown: String = s.chars().take(80).collect();
                Wrong::new(
                    format!("`{shown}` is not a size"),
                    "a whole number and KiB, MiB, GiB or TiB, such as `2GiB`",
                )
            })
        })
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^[0-9]+ ?[KMGT]iB$" })
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Count<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Count<MIN, MAX> {
    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
    /// The smallest.
    pub const fn least() -> Self {
        Count(MIN)
    }
}

impl<const MIN: u32, const MAX: u32> Shape for Count<MIN, MAX> {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let Value::Integer(n) = node.value else {
            return reader.mismatch(node, "an integer");
        };
        let fits = u32::try_from(n).ok().filter(|n| (MIN..=MAX).contains(n));
        if fits.is_none() {
            reader.wrong(
                node.place,
                Wrong::new(format!("{n} is out of range"), format!("a whole number from {MIN} to {MAX}")),
            );
        }
        fits.map(Count)
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// Days, spelled `"180d"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Days(u32);

impl Days {
    /// Half a year: how long a box may lie in a warehouse before what it carries lapses.
    pub const SHELF_LIFE: Days = Days(180);

    /// The number of days.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Serialize for Days {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}d", self.0))
    }
}

impl Shape for Days {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Days> {
        parsed(node, reader, "a number of days", |s| {
            let days = s.strip_suffix('d').and_then(|n| n.parse().ok()).filter(|n| (1..=3650).contains(n));
            days.map(Days)
                .ok_or_else(|| Wrong::new(format!("`{s}` is not a number of days"), "from `1d` to `3650d`"))
        })
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^[0-9]{1,4}d$" })
    }
}

/// A port that a container listens on: `8080` or `"53/udp"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// 1 to 65535.
    pub number: u16,
    /// Whether it is UDP; TCP otherwise.
    pub udp: bool,
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}/{}", self.number, if self.udp { "udp" } else { "tcp" }))
    }
}

impl Shape for Port {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Port> {
        let typed = match &node.value {
            Value::Integer(n) => n.to_string(),
            Value::String(s) => s.clone(),
            _ => return reader.mismatch(node, "a port"),
        };
        let (number, protocol) = typed.split_once('/').unwrap_or((&typed, "tcp"));
        let udp = match protocol {
            "tcp" => Some(false),
            "udp" => Some(true),
            _ => None,
        };
        let number = number.parse::<u16>().ok().filter(|n| *n > 0);
        let port = number.zip(udp).map(|(number, udp)| Port { number, udp });
        if port.is_none() {
            reader.wrong(
                node.place,
                Wrong::new(
                    format!("`{typed}` is not a port"),
                    "1 to 65535, with `/udp` where it is not TCP: `8080`, \"53/udp\"",
                ),
            );
        }
        port
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 65535 },
            { "type": "string", "pattern": "^[0-9]{1,5}(/(tcp|udp))?$" },
        ] })
    }
}

/// An IANA time zone: `Europe/Berlin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Timezone(String);

impl Timezone {
    /// UTC: servers without a place.
    pub fn utc() -> Timezone {
        Timezone("UTC".into())
    }
    /// The name, a path below `/usr/share/zoneinfo`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Shape for Timezone {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Timezone> {
        parsed(node, reader, "a time zone", |s| {
            let zones: Vec<&str> = crate::template::TIME_ZONES.lines().collect();
            if zones.contains(&s) {
                return Ok(Timezone(s.into()));
            }
            let shown: String = s.chars().take(80).collect();
            let meant = super::suggest::nearest(s, &zones)
                .map(|z| format!(", did you mean `{z}`?"))
                .unwrap_or_default();
            Err(Wrong::new(
                format!("`{shown}` is not a time zone{meant}"),
                "a name of the IANA time zone database, such as `Europe/Berlin` or `UTC`",
            ))
        })
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^[A-Za-z0-9+/_-]+$" })
    }
}

/// A value that forge passes through and does not interpret; always JSON, so that it can be written as YAML.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Opaque(pub Json);

impl Shape for Opaque {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Opaque> {
        opaque(node, reader).map(Opaque)
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({})
    }
}

fn opaque(node: &Node, reader: &mut Reader<'_>) -> Option<Json> {
    Some(match &node.value {
        Value::String(text) => json!(text),
        Value::Integer(n) => json!(n),
        Value::Boolean(b) => json!(b),
        Value::Float(f) if f.is_finite() => json!(f),
        Value::Float(_) | Value::Datetime(_) => {
            let message = format!("{} cannot be passed on as YAML", node.kind());
            reader.wrong(node.place, Wrong::new(message, "write it as a string, in quotes"));
            return None;
        }
        Value::List(items) => {
            let read: Vec<Option<Json>> = items.iter().map(|item| opaque(item, reader)).collect();
            Json::Array(read.into_iter().collect::<Option<_>>()?)
        }
        Value::Table(table) => {
            let read: Vec<Option<(String, Json)>> =
                table.iter().map(|(key, entry)| Some((key.clone(), opaque(&entry.node, reader)?))).collect();
            Json::Object(read.into_iter().collect::<Option<_>>()?)
        }
    })
}

fn alphanumeric(c: u8) -> bool {
    c.is_ascii_alphanumeric()
}

fn lower(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// Whether `s` begins as `first` and goes on as `rest` says.
fn spelled(s: &str, first: impl Fn(u8) -> bool, rest: impl Fn(u8) -> bool) -> bool {
    s.bytes().next().is_some_and(first) && s.bytes().skip(1).all(rest)
}

fn is_host(s: &str) -> bool {
    let label = |l: &str| {
        l.len() <= 63 && spelled(l, alphanumeric, |c| alphanumeric(c) || c == b'-') && !l.ends_with('-')
    };
    let name = s.len() <= 253 && s.split('.').all(label);
    // Four numbers are an address or nothing: 256.1.1.1 is no host name.
    let numeric = s.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    s.parse::<std::net::IpAddr>().is_ok() || (name && !numeric)
}

fn is_url(s: &str, schemes: &[&str]) -> bool {
    let Some(rest) = schemes.iter().find_map(|scheme| s.strip_prefix(scheme)) else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let v6 = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host =
        v6.map_or_else(|| is_host(host) && !host.contains(':'), |h| h.parse::<std::net::Ipv6Addr>().is_ok());
    let port = port.is_none_or(|p| p.parse::<u16>().is_ok_and(|p| p > 0));
    s.len() <= 2048
        && host
        && port
        && s.bytes().all(|c| c.is_ascii_graphic() && !matches!(c, b'"' | b'<' | b'>' | b'\\' | b'`'))
}

/// `registry/path[:tag][@sha256:…]`, the grammar of distribution/reference, with the registry always said.
fn is_reference(s: &str) -> bool {
    let (name, digest) = match s.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (s, None),
    };
    let Some((registry, path)) = name.split_once('/') else { return false };
    let (path, tag) = match path.rsplit_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (path, None),
    };
    s.len() <= 512
        && is_url(&format!("https://{registry}"), &["https://"])
        && path.split('/').all(is_repository_component)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(|d| d.parse::<crate::model::Digest>().is_ok())
}

fn is_repository_component(s: &str) -> bool {
    spelled(s, lower, |c| lower(c) || matches!(c, b'.' | b'_' | b'-')) && s.bytes().last().is_some_and(lower)
}

fn is_tag(s: &str) -> bool {
    s.len() <= 128
        && spelled(
            s,
            |c| alphanumeric(c) || c == b'_',
            |c| alphanumeric(c) || matches!(c, b'.' | b'_' | b'-'),
        )
}

fn is_container_name(s: &str) -> bool {
    s.split_once(':')
        .is_some_and(|(name, tag)| name.len() <= 63 && is_repository_component(name) && is_tag(tag))
}

fn is_release_version(s: &str) -> bool {
    let Some(version) = s.strip_prefix('v') else { return false };
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let rest = &version[core.len()..];
    core.split('.').count() == 3
        && core.split('.').all(|n| (1..=9).contains(&n.len()) && n.bytes().all(|c| c.is_ascii_digit()))
        && rest.len() <= 64
        && rest.bytes().all(|c| alphanumeric(c) || matches!(c, b'.' | b'+' | b'-'))
}

fn is_ssh_key(s: &str) -> bool {
    const TYPES: [&str; 7] = [
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    ];
    let mut words = s.split(' ');
    let (Some(kind), Some(blob)) = (words.next(), words.next()) else { return false };
    // RFC 4253 §6.6: the blob begins with the length and the name of its type.
    let decoded = base64::engine::general_purpose::STANDARD.decode(blob).unwrap_or_default();
    let named = decoded
        .get(..4)
        .and_then(|n| decoded.get(4..4 + u32::from_be_bytes([n[0], n[1], n[2], n[3]]) as usize));
    TYPES.contains(&kind)
        && named == Some(kind.as_bytes())
        && s.len() <= 4096
        && !s.contains(['\n', '\r', '\0'])
}
