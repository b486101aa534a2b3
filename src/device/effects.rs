//! What the state machine asks of the box under it: small traits, so that one real box and ten thousand simulated ones run
//! the same code, and a simulated one can lose its power between any two of these calls.
//!
//! None of them decides anything. Where a promise matters to what is decided (what is durable after which call, what may
//! come back from a hostile network), the method says it.

use crate::device::view::View;
use crate::enroll::bootstrap::{Endpoint, NetworkRule, Trust};
use crate::enroll::code::Code;
use crate::enroll::evidence::Facts;
use crate::model::{Digest, Epoch};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// Everything a device asks of its box.
pub trait Effects:
    Disk + Net + Clock + Entropy + Vault + Attestor + Hardware + Carriers + Screen + Services
{
}
impl<T: Disk + Net + Clock + Entropy + Vault + Attestor + Hardware + Carriers + Screen + Services> Effects
    for T
{
}

/// The state partition, and the places where a grant's files go. Paths are absolute. Each call is one step that a power
/// cut can fall behind; [`crate::device::store`] makes durable writes of them.
pub trait Disk {
    /// The bytes of the regular file at `path`; `None` where there is none. Symbolic links are not followed in the last
    /// component.
    ///
    /// # Errors
    /// `InvalidData` when it has more than `most` bytes; else what the disk says.
    fn read(&mut self, path: &Path, most: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>>;
    /// The names in the directory at `path`, in any order; none where there is no directory.
    ///
    /// # Errors
    /// What the disk says.
    fn list(&mut self, path: &Path) -> io::Result<Vec<String>>;
    /// Makes the file at `path`, or empties it, and writes `bytes`, with the permission bits `mode` from its first
    /// instant. Not durable before [`Disk::sync_file`], nor is its name before [`Disk::sync_dir`].
    ///
    /// # Errors
    /// What the disk says; the file may then be there in part.
    fn write(&mut self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()>;
    /// Overwrites the content of the file at `path` with zeros, in the blocks that it has; fine where there is none. Not
    /// durable before [`Disk::sync_file`].
    ///
    /// # Errors
    /// What the disk says.
    fn overwrite(&mut self, path: &Path) -> io::Result<()>;
    /// Makes the content of the file at `path` durable (`fsync`).
    ///
    /// # Errors
    /// What the disk says; the content is then not to be relied on.
    fn sync_file(&mut self, path: &Path) -> io::Result<()>;
    /// Gives `from` the name `to`, in place of what had it. Durable after [`Disk::sync_dir`] of the directory.
    ///
    /// # Errors
    /// What the disk says; nothing has changed then.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in the directory at `path` durable (`fsync`).
    ///
    /// # Errors
    /// What the disk says.
    fn sync_dir(&mut self, path: &Path) -> io::Result<()>;
    /// Removes the file, symbolic link or empty directory at `path`; fine where there is none.
    ///
    /// # Errors
    /// What the disk says.
    fn remove(&mut self, path: &Path) -> io::Result<()>;
    /// Makes the directory at `path`, whose parent is there; fine where it is there already.
    ///
    /// # Errors
    /// What the disk says.
    fn make_dir(&mut self, path: &Path, mode: u32) -> io::Result<()>;
    /// Makes a symbolic link at `path`, where nothing is, that says `target`.
    ///
    /// # Errors
    /// What the disk says.
    fn symlink(&mut self, target: &Path, path: &Path) -> io::Result<()>;
    /// What the symbolic link at `path` says; `None` where there is none.
    ///
    /// # Errors
    /// What the disk says.
    fn read_link(&mut self, path: &Path) -> io::Result<Option<PathBuf>>;
}

/// A network port, as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's name: for the screen, never to match by.
    pub name: String,
    /// Its permanent hardware address, lower case with colons.
    pub mac: Option<String>,
    /// Whether something answers at the other end of the cable.
    pub carrier: bool,
    /// Addresses that reach beyond the cable.
    pub addresses: Vec<IpAddr>,
}

/// What the bundle says of the network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkSettings {
    /// Settings by port; DHCP and router advertisements on every port that none fits.
    pub rules: Vec<NetworkRule>,
    /// Name servers of all ports.
    pub dns: Vec<IpAddr>,
    /// Time servers.
    pub ntp: Vec<String>,
}

/// A request to an endpoint.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// Where to, and the keys and authorities that it may show.
    pub endpoint: &'a Endpoint,
    /// The bundle's proxy.
    pub proxy: Option<&'a str>,
    /// An authority of a proxy that inspects TLS, in PEM: believed beside the endpoint's.
    pub proxy_ca: Option<&'a str>,
    /// What the clock is taken for where it says less.
    pub clock_floor: Epoch,
    /// `GET` or `POST`.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// JSON, for `POST`.
    pub body: Option<&'a [u8]>,
    /// How long all of it may take. A peer that sends a byte a minute is cut off.
    pub patience: Duration,
}

/// What came back: from the fleet, or from whoever is in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP's status; nothing rests on it, for it is not signed.
    pub status: u16,
    /// At most [`crate::enroll::MAX_BODY`] bytes.
    pub body: Vec<u8>,
}

/// Why there is no reply. None of these says that the fleet did not act on the request. The text is for the screen, one
/// line without secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// No port has a cable.
    #[error("no network port has a link")]
    NoLink,
    /// No port has an address that leads to the endpoint.
    #[error("no network port has an address")]
    NoAddress,
    /// The endpoint's name, or the proxy's, has no address.
    #[error("{0}")]
    NameUnknown(String),
    /// Nobody answers, or the connection breaks off.
    #[error("{0}")]
    Unreachable(String),
    /// The proxy does not let the call through.
    #[error("{0}")]
    Proxy(String),
    /// The peer's certificate is not the bundle's.
    #[error("{0}")]
    ForeignCertificate(String),
    /// Something answers that is not the fleet: no TLS, no HTTP, a redirect, a page, too much.
    #[error("{0}")]
    Portal(String),
    /// Nothing within [`Call::patience`].
    #[error("{0}")]
    TimedOut(String),
}

impl NetError {
    /// What a person reads.
    pub const fn code(&self) -> Code {
        match self {
            NetError::NoLink => Code::NoLink,
            NetError::NoAddress => Code::NoAddress,
            NetError::NameUnknown(_) => Code::NameUnknown,
            NetError::Unreachable(_) | NetError::TimedOut(_) => Code::Unreachable,
            NetError::Proxy(_) => Code::ProxyRefused,
            NetError::ForeignCertificate(_) => Code::ForeignCertificate,
            NetError::Portal(_) => Code::Portal,
        }
    }

    /// How far the call got: of several endpoints' errors, the one that got furthest says most.
    pub const fn depth(&self) -> u8 {
        match self {
            NetError::NoLink => 0,
            NetError::NoAddress => 1,
            NetError::NameUnknown(_) => 2,
            NetError::Unreachable(_) | NetError::TimedOut(_) => 3,
            NetError::Proxy(_) => 4,
            NetError::Portal(_) => 5,
            NetError::ForeignCertificate(_) => 6,
        }
    }
}

/// The network.
pub trait Net {
    /// The ports that are pieces of hardware.
    fn links(&mut self) -> Vec<Link>;
    /// Puts `settings` in place. Called at every start, and whenever the bundle changes: it has to be cheap and without
    /// interruption where nothing differs from what is there.
    ///
    /// # Errors
    /// What the box says.
    fn configure(&mut self, settings: &NetworkSettings) -> anyhow::Result<()>;
    /// Makes one call.
    ///
    /// # Errors
    /// [`NetError`].
    fn exchange(&mut self, call: &Call<'_>) -> Result<Reply, NetError>;
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The time is over.
    Elapsed,
    /// A cable, an address or a stick came or went.
    Changed,
}

/// Time.
pub trait Clock {
    /// What the box's clock says, which may be 1970 or 2038.
    fn now(&mut self) -> Epoch;
    /// Sets the clock forward to `at`; does nothing where it says more.
    ///
    /// # Errors
    /// When the kernel does not let it.
    fn raise(&mut self, at: Epoch) -> anyhow::Result<()>;
    /// Time since some instant of this boot: never set, never going back.
    fn monotonic(&mut self) -> Duration;
    /// Waits for `at_most`, or until the box's cables, addresses or sticks change; a plug that is loose is reported once a
    /// second at most. Tells the service manager meanwhile that the program lives.
    fn wait(&mut self, at_most: Duration) -> Woken;
}

/// Randomness.
pub trait Entropy {
    /// Fills `bytes`. Waits early in a boot until the kernel has gathered enough.
    ///
    /// # Errors
    /// When the system has none to give.
    fn random(&mut self, bytes: &mut [u8]) -> anyhow::Result<()>;
}

/// Why a sealed secret does not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// Perhaps later: the TPM is busy, or not there yet.
    #[error("{0}")]
    NotNow(String),
    /// Never in this box: another TPM, a cleared one, or bytes that are no sealed secret.
    #[error("{0}")]
    Never(String),
}

/// Secrets at rest: sealed to the TPM without PCRs, else to the host's key, else as they are.
pub trait Vault {
    /// Seals `secret` under `name`, which opening needs again.
    ///
    /// # Errors
    /// When the box has nothing to seal with at the moment.
    fn seal(&mut self, name: &str, secret: &[u8]) -> anyhow::Result<Vec<u8>>;
    /// Opens what [`Vault::seal`] gave.
    ///
    /// # Errors
    /// [`VaultError`]; only [`VaultError::Never`] makes the device throw the secret away.
    fn unseal(&mut self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError>;
}

/// The keys with which a TPM proves which box it is in. Nothing of them is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmKeys {
    /// TPMT_PUBLIC of the endorsement key.
    pub ek_public: Vec<u8>,
    /// Its certificate, DER, where the maker left one.
    pub ek_certificate: Option<Vec<u8>>,
    /// TPMT_PUBLIC of the attestation key.
    pub ak_public: Vec<u8>,
}

/// A TPM's proof of itself. A TPM may be slow, busy or dead: every call ends within a minute, and none is needed for a box
/// whose bundle asks for no TPM.
pub trait Attestor {
    /// The keys, the same at every call.
    ///
    /// # Errors
    /// Why not now, for the screen; also where there is no TPM.
    fn tpm_keys(&mut self) -> Result<TpmKeys, String>;
    /// What the fleet hid in a credential for these keys: TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, lengths included.
    ///
    /// # Errors
    /// Why not; it may have been made for another TPM.
    fn activate_credential(&mut self, blob: &[u8], secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, String>;
}

/// The image that runs.
#[derive(Clone, Debug)]
pub struct Image {
    /// The site of its profile, from `/usr/lib/forge/profile.json`.
    pub profile: String,
    /// The dm-verity root hash of the kernel's command line, where it has one.
    pub root_hash: Option<Digest>,
    /// When it was made: the clock cannot be before.
    pub built_at: Epoch,
    /// What it believes, from `/usr/lib/forge/trust.d`.
    pub trust: Trust,
    /// Whether its node is KubeEdge's, which needs a certificate of its cluster's.
    pub edgecore: bool,
}

/// What the box is.
pub trait Hardware {
    /// What it says of itself; junk included. Ports that are not there yet are missing.
    fn facts(&mut self) -> Facts;
    /// Whether it has a TPM 2.0.
    fn has_tpm(&mut self) -> bool;
    /// What it runs.
    ///
    /// # Errors
    /// When the image does not say, or names no root.
    fn image(&mut self) -> anyhow::Result<Image>;
}

/// What carries a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CarrierKind {
    /// The box's own `FORGE-ENROLL` partition.
    Partition,
    /// A stick or disc.
    Stick,
    /// A credential of the firmware (SMBIOS type 11, `fw_cfg`).
    Firmware,
}

/// A carrier with a bundle on it, of which nothing is verified.
#[derive(Clone, Debug)]
pub struct Carrier {
    /// What it is.
    pub kind: CarrierKind,
    /// For the screen and for [`Carriers::scrub`]: the device's name, or what the firmware calls it.
    pub place: String,
    /// The files that were asked for and are there, by name. A file over its size is left out.
    pub files: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

/// Partitions, sticks, firmware: hostile until verified. Mounted read-only, nodev, nosuid, noexec; only the names that are
/// asked for are looked at.
pub trait Carriers {
    /// All carriers, in the order partition, sticks, firmware, each with those of `names` that it has; with each name the
    /// most bytes that are read.
    fn bundles(&mut self, names: &[(String, usize)]) -> Vec<Carrier>;
    /// Overwrites and removes the ticket wherever it lies in the box: on its own partition, and on sticks that are
    /// plugged in where it is the ticket `sha256`. Fine where it is gone. Flash keeps copies; safety does not rest on it.
    ///
    /// # Errors
    /// When the box's own partition does not take the write.
    fn scrub(&mut self, sha256: Digest) -> anyhow::Result<()>;
    /// Leaves the file `name` (as `requests/ID.req`) on every stick labelled `FORGE-ENROLL-RW` where it differs from what is
    /// there; on how many it lies now.
    fn leave(&mut self, name: &str, bytes: &[u8]) -> usize;
}

/// What a person at the box sees.
pub trait Screen {
    /// Shows `view` on the console, the serial line and the local page, until the next. Cheap where nothing changed.
    fn show(&mut self, view: &View);
}

/// Whether the node has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It is ready, or the image has nothing that joins anything.
    Ready,
    /// Not yet, and why, in a line.
    NotYet(String),
}

/// The services that a grant is for.
pub trait Services {
    /// Starts what waited for a grant. Does not wait until it runs; called again at every boot. `changed`: a grant was put in
    /// place since, and what runs already is to read its files again.
    ///
    /// # Errors
    /// What the service manager says.
    fn activate(&mut self, changed: bool) -> anyhow::Result<()>;
    /// Stops what a grant started, for a box that was revoked or woke up in other hardware. Workloads that need no fleet
    /// go on.
    ///
    /// # Errors
    /// What the service manager says.
    fn deactivate(&mut self) -> anyhow::Result<()>;
    /// Makes the box's other identities anew: machine-id, SSH host keys, what DHCP is told. For a disk that woke up in
    /// other hardware. Repeating it does no harm.
    ///
    /// # Errors
    /// What the box says.
    fn forget_host(&mut self) -> anyhow::Result<()>;
    /// Whether the node is ready now.
    fn readiness(&mut self) -> Readiness;
    /// Tells the service manager that the program lives, with a line for its status.
    fn beat(&mut self, status: &str);
}
