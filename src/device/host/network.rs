//! A bundle's network settings → files of systemd-networkd, resolved and timesyncd below /run, and the services told.
//!
//! Below /run: a restart of the box begins with DHCP on every port, as the image has it, until the bundle is read again,
//! so that no setting outlives the bundle that brought it. The bundle is signed, and yet no value of it may become a line
//! of its own.

use crate::device::effects::NetworkSettings;
use crate::enroll::bootstrap::NetworkRule;
use crate::host::cancel::Cancel;
use crate::host::fs;
use crate::host::tool::ToolCall;
use anyhow::{Context as _, bail, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::Permissions;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

/// Where the files lie, below /run/systemd, and the start of every name of theirs.
const DIRECTORIES: [(&str, &str); 3] =
    [("network", "10-forge-"), ("resolved.conf.d", "10-forge-"), ("timesyncd.conf.d", "10-forge-")];
/// How long a service may take to read its files again.
const RELOAD: Duration = Duration::from_secs(30);
/// More rules than any box has ports.
const MAX_RULES: usize = 64;

/// Files by their path below /run/systemd, as `settings` want them; none where DHCP does.
///
/// # Errors
/// When a rule matches nothing in particular, or a value is none of its kind.
pub fn render(settings: &NetworkSettings) -> anyhow::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    ensure!(settings.rules.len() <= MAX_RULES, "{} network rules", settings.rules.len());
    for (n, rule) in settings.rules.iter().enumerate() {
        rule_files(n, rule, &mut files).with_context(|| format!("reading network rule {}", n + 1))?;
    }
    if !settings.dns.is_empty() {
        let text = format!("[Resolve]\nDNS={}\n", joined(&settings.dns));
        files.insert("resolved.conf.d/10-forge-bundle.conf".into(), text);
    }
    if !settings.ntp.is_empty() {
        for server in &settings.ntp {
            let letters = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b':');
            ensure!(!server.is_empty() && server.bytes().all(letters), "`{server}` is no time server");
        }
        let text = format!("[Time]\nNTP={}\n", settings.ntp.join(" "));
        files.insert("timesyncd.conf.d/10-forge-bundle.conf".into(), text);
    }
    Ok(files)
}

fn rule_files(n: usize, rule: &NetworkRule, files: &mut BTreeMap<String, String>) -> anyhow::Result<()> {
    let mut port = String::from("[Match]\n");
    let mut matched = false;
    for (key, value, letters) in [
        ("PermanentMACAddress", &rule.r#match.mac, ":-"),
        ("Path", &rule.r#match.path, "-_.:*?/@"),
        ("Driver", &rule.r#match.driver, "-_*?"),
    ] {
        let Some(value) = value else { continue };
        let sound = value.bytes().all(|c| c.is_ascii_alphanumeric() || letters.as_bytes().contains(&c));
        ensure!(sound && !value.is_empty(), "`{value}` names no port");
        writeln!(port, "{key}={value}")?;
        matched = true;
    }
    ensure!(matched, "it fits every port");
    // The kernel's name for a VLAN has fifteen letters, and two ports may carry one number.
    match rule.vlan {
        None => {
            files.insert(format!("network/10-forge-{n:02}.network"), port + &addresses(rule)?);
        }
        Some(id) if (1..=4094).contains(&id) => {
            let name = format!("forge{n}v{id}");
            writeln!(port, "\n[Network]\nVLAN={name}\nLinkLocalAddressing=no\nLLDP=yes")?;
            files.insert(format!("network/10-forge-{n:02}.network"), port);
            let netdev = format!("[NetDev]\nName={name}\nKind=vlan\n\n[VLAN]\nId={id}\n");
            files.insert(format!("network/10-forge-{n:02}-vlan.netdev"), netdev);
            let own = format!("[Match]\nName={name}\n{}", addresses(rule)?);
            files.insert(format!("network/10-forge-{n:02}-vlan.network"), own);
        }
        Some(id) => bail!("{id} is no VLAN, which are 1 to 4094"),
    }
    Ok(())
}

/// What the port, or the VLAN on it, is given.
fn addresses(rule: &NetworkRule) -> anyhow::Result<String> {
    let mut text = String::from("\n[Network]\nLLDP=yes\n");
    if rule.addresses.is_empty() {
        text += "DHCP=yes\n";
    }
    for address in &rule.addresses {
        let (ip, prefix) = address.split_once('/').with_context(|| format!("`{address}` has no /PREFIX"))?;
        let ip: IpAddr = ip.parse().with_context(|| format!("reading address `{address}`"))?;
        let prefix: u8 = prefix.parse().with_context(|| format!("reading address `{address}`"))?;
        ensure!(prefix <= if ip.is_ipv4() { 32 } else { 128 }, "`{address}` has a prefix too long");
        writeln!(text, "Address={ip}/{prefix}")?;
    }
    for gateway in &rule.gateways {
        writeln!(text, "Gateway={gateway}")?;
    }
    if !rule.dns.is_empty() {
        writeln!(text, "DNS={}", joined(&rule.dns))?;
    }
    if rule.addresses.is_empty() {
        // By hardware address: the image's machine id is new after a reset, and leases would be too.
        text += "\n[DHCPv4]\nClientIdentifier=mac\n";
    }
    Ok(text)
}

fn joined(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
}

/// Makes `files` the ones below `root` (/run/systemd), takes away those of an earlier bundle, and has the services read
/// them; whether anything was changed.
///
/// # Errors
/// When a file cannot be written or a service does not take it.
pub fn apply(root: &Path, files: &BTreeMap<String, String>, tell: bool) -> anyhow::Result<bool> {
    let mut changed = [false; DIRECTORIES.len()];
    for ((directory, prefix), changed) in DIRECTORIES.iter().zip(&mut changed) {
        let dir = root.join(directory);
        for entry in std::fs::read_dir(&dir).into_iter().flatten() {
            let name = entry?.file_name();
            let Some(name) = name.to_str().filter(|name| name.starts_with(prefix)) else { continue };
            if !files.contains_key(&format!("{directory}/{name}")) {
                std::fs::remove_file(dir.join(name))?;
                *changed = true;
            }
        }
        for (path, text) in files.iter().filter(|(path, _)| path.starts_with(&format!("{directory}/"))) {
            let file = root.join(path);
            if std::fs::read(&file).is_ok_and(|there| there == text.as_bytes()) {
                continue;
            }
            readable(&dir)?;
            fs::write_atomic(&file, text.as_bytes(), 0o644)
                .with_context(|| format!("writing {}", file.display()))?;
            *changed = true;
        }
    }
    if tell {
        let run = |program: &str, args: &[&str]| {
            ToolCall::new(program).args(args).within(RELOAD).output(&Cancel::default()).map(drop)
        };
        if changed[0] {
            // `reload` gives ports the settings that are new; what is up with the same settings is not touched.
            run("networkctl", &["reload"])?;
        }
        for (changed, unit) in changed[1..].iter().zip(["systemd-resolved", "systemd-timesyncd"]) {
            if *changed {
                run("systemctl", &["--no-ask-password", "try-restart", unit])?;
            }
        }
    }
    Ok(changed.contains(&true))
}

/// Makes `dir`, which the services read as users of their own, whatever this program's umask is.
fn readable(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::set_permissions(dir, Permissions::from_mode(0o755)))
        .with_context(|| format!("making {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enroll::bootstrap::PortMatch;

    fn rule() -> NetworkRule {
        NetworkRule {
            r#match: PortMatch { mac: Some("52:54:00:00:00:01".into()), ..PortMatch::default() },
            addresses: vec!["192.0.2.7/24".into(), "2001:db8::7/64".into()],
            gateways: vec!["192.0.2.1".parse().unwrap()],
            dns: vec!["192.0.2.53".parse().unwrap(), "2001:db8::53".parse().unwrap()],
            vlan: None,
        }
    }

    fn with(rules: Vec<NetworkRule>) -> anyhow::Result<BTreeMap<String, String>> {
        render(&NetworkSettings { rules, ..NetworkSettings::default() })
    }

    #[test]
    fn a_static_port_and_a_vlan_are_what_networkd_reads() {
        let files = with(vec![rule(), NetworkRule { vlan: Some(7), addresses: vec![], ..rule() }]).unwrap();
        assert_eq!(
            files["network/10-forge-00.network"],
            "[Match]\nPermanentMACAddress=52:54:00:00:00:01\n\n[Network]\nLLDP=yes\nAddress=192.0.2.7/24\nAddress=2001:db8::7/64\nGateway=192.0.2.1\nDNS=192.0.2.53 2001:db8::53\n"
        );
        assert!(files["network/10-forge-01.network"].contains("VLAN=forge1v7\n"));
        assert!(files["network/10-forge-01-vlan.netdev"].ends_with("Kind=vlan\n\n[VLAN]\nId=7\n"));
        assert!(
            files["network/10-forge-01-vlan.network"]
                .contains("Name=forge1v7\n\n[Network]\nLLDP=yes\nDHCP=yes\n")
        );
    }

    #[test]
    fn no_value_becomes_a_line_of_its_own() {
        let port = |mac: &str| PortMatch { mac: Some(mac.into()), ..PortMatch::default() };
        for bad in [
            NetworkRule { r#match: PortMatch::default(), ..rule() },
            NetworkRule { r#match: port("x\n[Network]"), ..rule() },
            NetworkRule { r#match: port(""), ..rule() },
            NetworkRule { addresses: vec!["192.0.2.7".into()], ..rule() },
            NetworkRule { addresses: vec!["192.0.2.7/33".into()], ..rule() },
            NetworkRule { addresses: vec!["192.0.2.7/24\nDHCP=yes".into()], ..rule() },
            NetworkRule { vlan: Some(4095), ..rule() },
        ] {
            assert!(with(vec![bad.clone()]).is_err(), "{bad:?}");
        }
        let ntp = NetworkSettings { ntp: vec!["a\nb".into()], ..NetworkSettings::default() };
        assert!(render(&ntp).is_err());
    }

    #[test]
    fn settings_go_with_their_bundle_and_others_stay() {
        let root = tempfile::tempdir().unwrap();
        let network = root.path().join("network");
        fs::write_atomic(&network.join("70-site.network"), b"x", 0o644).unwrap();
        std::fs::set_permissions(&network, Permissions::from_mode(0o700)).unwrap();
        let first = with(vec![rule()]).unwrap();
        assert!(apply(root.path(), &first, false).unwrap());
        assert_eq!(network.metadata().unwrap().permissions().mode() & 0o777, 0o755, "networkd is no root");
        assert!(!apply(root.path(), &first, false).unwrap(), "the same again changes nothing");
        assert!(apply(root.path(), &with(vec![]).unwrap(), false).unwrap());
        let left: Vec<_> = std::fs::read_dir(network).unwrap().collect();
        assert_eq!(left.len(), 1);
    }
}
