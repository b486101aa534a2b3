//! The site layer: what a profile says about one site, as files over the configured packages.
//!
//! Users are edited into the packages' own `passwd`, `shadow` and `group` when the image is built, so that nothing is
//! written at boot that a later image could not change. Nobody has a password. Authorized keys lie under
//! `/etc/ssh/authorized_keys.d`, root's, where a read-only home needs no copy.

use super::os::{ETC_UNITS, UNITS, enable, mask};
use crate::boot::os_release;
use crate::model::SiteName;
use crate::template;
use crate::tree::{Content, Node, Tree, TreePath};
use anyhow::{Context as _, bail};
use std::collections::{BTreeMap, BTreeSet};

pub mod accounts;
pub use accounts::User;

/// What a site is.
#[derive(Clone, Debug)]
pub struct SiteSpec {
    /// The site: IMAGE_ID of os-release. The version is in the kernel image's os-release only: a new version of the
    /// workloads must not change the root.
    pub name: SiteName,
    /// The host name, unless a grant says another.
    pub hostname: String,
    /// A name of the IANA time zone database.
    pub timezone: String,
    /// Time servers, in order; none leaves the distribution's.
    pub ntp: Vec<String>,
    /// People who may log in over SSH.
    pub users: Vec<User>,
    /// Files, over those of packages.
    pub files: Vec<SiteFile>,
    /// Kernel modules to load at boot.
    pub modules: Vec<String>,
    /// Units to switch on, each wanted by `multi-user.target`.
    pub enable: Vec<String>,
    /// Units to switch off for good.
    pub mask: Vec<String>,
    /// Units without which a boot is not good (boot.md, "Boot" 4).
    pub required: Vec<String>,
    /// The resolved profile, without secrets: canonical JSON.
    pub profile: Vec<u8>,
    /// What lets the device join a fleet, where it is to.
    pub enroll: Option<Enroll>,
}

/// What lets a device join a fleet.
#[derive(Clone, Debug)]
pub struct Enroll {
    /// The program `forge-device`, for the image's architecture.
    pub program: Content,
    /// Fleet roots by file name: the only thing a device believes.
    pub trust: BTreeMap<String, Content>,
}

/// Debian packages that joining a fleet takes, by names that every suite has: systemd-creds(1) opens these libraries where
/// the box has a TPM, to which the device's key is then sealed.
pub fn enrolling_packages() -> &'static [&'static str] {
    &["libtss2-esys-3.0.2-0", "libtss2-rc0"]
}

/// A file of the site's.
#[derive(Clone, Debug)]
pub struct SiteFile {
    /// Where.
    pub path: TreePath,
    /// What.
    pub content: Content,
    /// Permission bits.
    pub mode: u32,
    /// Owner's name, known to the packages or to [`SiteSpec::users`].
    pub owner: String,
    /// Group's name, likewise.
    pub group: String,
}

/// The layer's tree, made for the merged lower layers `below`.
///
/// # Errors
/// When a time zone, user, group or unit is not there, or a file cannot lie where it should.
pub fn compose(spec: &SiteSpec, below: &Tree) -> anyhow::Result<Tree> {
    let mut tree = Tree::new();
    let accounts = accounts::Accounts::read(below)?.with(&spec.users)?;
    for (path, node) in accounts.files()? {
        tree.insert(path, node)?;
    }
    identity(spec, below, &mut tree)?;
    for user in &spec.users {
        let keys: String = user.ssh_keys.iter().flat_map(|key| [key.trim(), "\n"]).collect();
        text(&mut tree, &format!("etc/ssh/authorized_keys.d/{}", user.name), keys)?;
    }
    if !spec.ntp.is_empty() {
        let servers = format!("[Time]\nNTP={}\n", spec.ntp.join(" "));
        text(&mut tree, "etc/systemd/timesyncd.conf.d/50-site.conf", servers)?;
    }
    if !spec.modules.is_empty() {
        let names: String = spec.modules.iter().flat_map(|m| [m.as_str(), "\n"]).collect();
        text(&mut tree, "etc/modules-load.d/50-site.conf", names)?;
    }
    for file in &spec.files {
        let ids =
            accounts.ids(&file.owner, &file.group).with_context(|| format!("placing /{}", file.path))?;
        let node = Node::file(file.content.clone(), file.mode).owned(ids.0, ids.1);
        tree.insert(file.path.clone(), node)?;
    }
    tree.insert(TreePath::parse("usr/lib/forge/profile.json")?, Node::file(spec.profile.clone(), 0o644))?;
    if let Some(enrolling) = &spec.enroll {
        enroll(enrolling, &mut tree)?;
    }
    units(spec, below, &mut tree)?;
    Ok(tree)
}

/// The program, its units, and whom it believes. Started early, and nothing waits for it.
fn enroll(spec: &Enroll, tree: &mut Tree) -> anyhow::Result<()> {
    let program = Node::file(spec.program.clone(), 0o755);
    tree.insert(TreePath::parse("usr/lib/forge/forge-device")?, program)?;
    for (name, root) in &spec.trust {
        let path = TreePath::parse("usr/lib/forge/trust.d")?.join(name)?;
        tree.insert(path, Node::file(root.clone(), 0o644))?;
    }
    for (file, text) in template::ENROLL {
        tree.insert(TreePath::parse(file)?, Node::text(*text, 0o644))?;
    }
    enable(tree, "sysinit.target.wants", "forge-device.service")
}

/// Names, versions, time zone, and what the console says.
fn identity(spec: &SiteSpec, below: &Tree, tree: &mut Tree) -> anyhow::Result<()> {
    text(tree, "etc/hostname", format!("{}\n", spec.hostname))?;
    let hosts = format!(
        "127.0.0.1 localhost\n127.0.1.1 {}\n::1 localhost ip6-localhost ip6-loopback\n",
        spec.hostname
    );
    text(tree, "etc/hosts", hosts)?;
    let zone = format!("usr/share/zoneinfo/{}", spec.timezone);
    if below.resolve(&TreePath::parse(&zone)?).is_none() {
        bail!("time zone `{}` is not in /usr/share/zoneinfo of the packages", spec.timezone);
    }
    tree.insert(TreePath::parse("etc/localtime")?, Node::symlink(format!("/{zone}")))?;
    text(tree, "etc/timezone", format!("{}\n", spec.timezone))?;
    // A file of its own over the packages' link: the packages' file stays as dpkg knows it.
    let os_release = os_release::compose(below, spec.name.as_str(), None)?;
    tree.insert(TreePath::parse("etc/os-release")?, Node::text(os_release, 0o644))?;
    // agetty(8) fills in the address once there is one, and forge-issue.service's line with the version follows.
    let issue = format!("\n  {}\n  nobody logs in here; addresses: \\4 \\6\n", spec.name);
    text(tree, "etc/issue", issue)
}

fn units(spec: &SiteSpec, below: &Tree, tree: &mut Tree) -> anyhow::Result<()> {
    let own: BTreeSet<String> = spec
        .files
        .iter()
        .filter(|f| f.path.as_str().contains("systemd/system/"))
        .map(|f| f.path.name().into())
        .collect();
    let exists = |unit: &str| {
        // An instance comes from its template, and Podman's .container and .kube files become services at boot.
        let template = unit
            .split_once('@')
            .and_then(|(name, rest)| Some(format!("{name}@.{}", rest.rsplit_once('.')?.1)));
        [Some(unit.to_string()), template].into_iter().flatten().any(|name| {
            own.contains(&name)
                || [UNITS, ETC_UNITS].iter().any(|dir| {
                    TreePath::parse(&format!("{dir}/{name}")).is_ok_and(|path| below.get(&path).is_some())
                })
        })
    };
    for unit in &spec.enable {
        if !exists(unit) {
            bail!("unit `{unit}` is to be enabled, but no package and no file of the site has it");
        }
        enable(tree, "multi-user.target.wants", unit)?;
    }
    for unit in &spec.required {
        enable(tree, "boot-complete.target.requires", unit)?;
    }
    for unit in &spec.mask {
        mask(tree, unit)?;
    }
    Ok(())
}

fn text(tree: &mut Tree, path: &str, text: String) -> anyhow::Result<()> {
    tree.insert(TreePath::parse(path)?, Node::text(text, 0o644))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below() -> Tree {
        let mut tree = Tree::new();
        for (path, text) in [
            ("usr/share/zoneinfo/Europe/Berlin", "TZif"),
            ("usr/lib/os-release", "ID=debian\nIMAGE_ID=other\n"),
            ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\n"),
            ("etc/shadow", "root:*:1:0:99999:7:::\nwww-data:*:1:0:99999:7:::\n"),
            ("etc/group", "root:x:0:\nwww-data:x:33:\nsudo:x:27:\n"),
            ("usr/lib/systemd/system/till.service", "[Service]\n"),
        ] {
            tree.insert(TreePath::parse(path).unwrap(), Node::text(text, 0o644)).unwrap();
        }
        tree
    }

    fn spec() -> SiteSpec {
        SiteSpec {
            name: SiteName::parse("store-042").unwrap(),
            hostname: "store-042".into(),
            timezone: "Europe/Berlin".into(),
            ntp: vec!["ntp.example".into()],
            users: vec![],
            files: vec![],
            modules: vec![],
            enable: vec![],
            mask: vec![],
            required: vec![],
            profile: b"{}".to_vec(),
            enroll: None,
        }
    }

    fn read(tree: &Tree, path: &str) -> String {
        String::from_utf8(tree.file(&TreePath::parse(path).unwrap()).unwrap().to_vec(1 << 20).unwrap())
            .unwrap()
    }

    #[test]
    fn a_site_has_a_name() {
        let tree = compose(&spec(), &below()).unwrap();
        assert_eq!(read(&tree, "etc/os-release"), "ID=debian\nIMAGE_ID=store-042\n");
        assert_eq!(read(&tree, "etc/hostname"), "store-042\n");
    }

    #[test]
    fn only_a_device_that_enrols_has_the_program_and_it_waits_for_no_network() {
        let program = TreePath::parse("usr/lib/forge/forge-device").unwrap();
        assert!(compose(&spec(), &below()).unwrap().get(&program).is_none());
        let enroll = Enroll {
            program: Content::from(b"program".to_vec()),
            trust: BTreeMap::from([("fleet-root.pub".into(), Content::from(b"key".to_vec()))]),
        };
        let tree = compose(&SiteSpec { enroll: Some(enroll), ..spec() }, &below()).unwrap();
        assert_eq!(tree.get(&program).unwrap().mode, 0o755);
        assert_eq!(read(&tree, "usr/lib/forge/trust.d/fleet-root.pub"), "key");
        let unit = read(&tree, "usr/lib/systemd/system/forge-device.service");
        let lines = unit.lines().filter(|line| !line.starts_with('#'));
        assert!(lines.clone().any(|line| line == "StartLimitIntervalSec=0"));
        assert!(lines.into_iter().all(|line| !line.contains("network")), "{unit}");
        let link = TreePath::parse("etc/systemd/system/sysinit.target.wants/forge-device.service").unwrap();
        assert!(tree.get(&link).is_some());
    }

    #[test]
    fn files_belong_to_who_is_named_and_units_must_exist() {
        let file = SiteFile {
            path: TreePath::parse("srv/www/index.html").unwrap(),
            content: Content::from(b"hello".to_vec()),
            mode: 0o640,
            owner: "root".into(),
            group: "www-data".into(),
        };
        let with = SiteSpec { files: vec![file.clone()], enable: vec!["till.service".into()], ..spec() };
        let tree = compose(&with, &below()).unwrap();
        let node = tree.get(&file.path).unwrap();
        assert_eq!((node.uid, node.gid, node.mode), (0, 33, 0o640));
        let gone = SiteSpec { enable: vec!["gone.service".into()], ..spec() };
        assert!(compose(&gone, &below()).unwrap_err().to_string().contains("`gone.service`"));
        let nobody = SiteSpec { files: vec![SiteFile { owner: "nobody-here".into(), ..file }], ..spec() };
        assert!(format!("{:#}", compose(&nobody, &below()).unwrap_err()).contains("no user `nobody-here`"));
    }

    #[test]
    fn what_is_required_is_required_by_a_complete_boot() {
        let tree = compose(&SiteSpec { required: vec!["till.service".into()], ..spec() }, &below()).unwrap();
        let link = TreePath::parse("etc/systemd/system/boot-complete.target.requires/till.service").unwrap();
        assert!(tree.get(&link).is_some());
    }

    #[test]
    fn a_time_zone_that_the_packages_lack_is_an_error() {
        let error =
            compose(&SiteSpec { timezone: "Europe/Atlantis".into(), ..spec() }, &below()).unwrap_err();
        assert!(error.to_string().contains("Europe/Atlantis"));
    }
}
