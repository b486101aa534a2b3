//! Files of a running system that several formats write as they are.

use super::Seed;
use std::net::IpAddr;

/// A file to write, with its permission bits.
pub struct File {
    /// An absolute path.
    pub path: String,
    /// Its content.
    pub text: String,
    /// Permission bits.
    pub mode: u32,
}

fn file(path: &str, mode: u32, text: String) -> File {
    File { path: path.into(), text, mode }
}

/// The proxy for every service: systemd hands it to all that it starts.
pub fn proxy(seed: &Seed) -> Option<File> {
    let proxy = seed.proxy.as_ref()?;
    let local = "localhost,127.0.0.0/8,::1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,.svc,.cluster.local";
    let mut text = String::from("[Manager]\n");
    for (name, value) in [("HTTP_PROXY", proxy.as_str()), ("HTTPS_PROXY", proxy), ("NO_PROXY", local)] {
        text += &format!("DefaultEnvironment=\"{name}={value}\" \"{}={value}\"\n", name.to_lowercase());
    }
    Some(file("/etc/systemd/system.conf.d/50-proxy.conf", 0o644, text))
}

/// Time servers, for systemd-timesyncd and for chrony: the systems that read these formats have one of them.
pub fn time(seed: &Seed) -> Vec<File> {
    if seed.ntp.is_empty() {
        return vec![];
    }
    let chrony: String = seed.ntp.iter().map(|server| format!("server {server} iburst\n")).collect();
    vec![
        file(
            "/etc/systemd/timesyncd.conf.d/50-site.conf",
            0o644,
            format!("[Time]\nNTP={}\n", seed.ntp.join(" ")),
        ),
        file("/etc/chrony.d/50-site.conf", 0o644, chrony),
    ]
}

/// Authorities, where SUSE's and Fedora's systems look for them.
pub fn authorities(seed: &Seed) -> Vec<File> {
    let anchors = ["/etc/pki/trust/anchors", "/etc/pki/ca-trust/source/anchors"];
    let numbered = seed.authorities.iter().enumerate();
    numbered
        .flat_map(|(n, pem)| anchors.map(|dir| file(&format!("{dir}/site-{n}.pem"), 0o644, pem.clone())))
        .collect()
}

/// The static network as NetworkManager's keyfiles, bound to the port's hardware address.
///
/// A tagged network names its port in the same way, so that no kernel name is needed (`nm-settings`, `vlan.parent`).
pub fn network_manager(seed: &Seed) -> Vec<File> {
    let Some(network) = &seed.network else { return vec![] };
    let mac = network.r#match.mac.as_deref().unwrap_or_default();
    let connection = |id: &str, kind: &str| format!("[connection]\nid={id}\ntype={kind}\nautoconnect=true\n");
    let ethernet = format!("\n[ethernet]\nmac-address={mac}\n");
    let ip = |v4: bool| {
        let of = |ip: &IpAddr| ip.is_ipv4() == v4;
        let addresses: Vec<&String> = network.addresses.iter().filter(|a| a.contains(':') != v4).collect();
        let mut text = format!("\n[ipv{}]\n", if v4 { 4 } else { 6 });
        text += match (addresses.is_empty(), network.addresses.is_empty()) {
            (false, _) => "method=manual\n",
            (true, true) => "method=auto\n",
            (true, false) if v4 => "method=disabled\n",
            (true, false) => "method=link-local\n",
        };
        for (n, address) in addresses.iter().enumerate() {
            text += &format!("address{}={address}\n", n + 1);
        }
        if let Some(gateway) = network.gateways.iter().find(|ip| of(ip))
            && !addresses.is_empty()
        {
            text += &format!("gateway={gateway}\n");
        }
        let dns: String = network.dns.iter().filter(|ip| of(ip)).map(|ip| format!("{ip};")).collect();
        if !dns.is_empty() {
            text += &format!("dns={dns}\n");
        }
        text
    };
    let dir = "/etc/NetworkManager/system-connections";
    // NetworkManager ignores a keyfile that others may read.
    match network.vlan {
        None => {
            let text = connection("site", "ethernet") + &ethernet + &ip(true) + &ip(false);
            vec![file(&format!("{dir}/site.nmconnection"), 0o600, text)]
        }
        Some(id) => {
            let port = connection("site-port", "ethernet")
                + &ethernet
                + "\n[ipv4]\nmethod=disabled\n\n[ipv6]\nmethod=disabled\n";
            let tagged = connection(&format!("site-vlan{id}"), "vlan")
                + &format!("interface-name=vlan{id}\n")
                + &ethernet
                + &format!("\n[vlan]\nid={id}\n")
                + &ip(true)
                + &ip(false);
            vec![
                file(&format!("{dir}/site-port.nmconnection"), 0o600, port),
                file(&format!("{dir}/site-vlan{id}.nmconnection"), 0o600, tagged),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::seed;
    use super::*;

    #[test]
    fn a_static_network_stands_on_its_hardware_address() {
        let mut seed = seed();
        let files = network_manager(&seed);
        assert_eq!(files[0].mode, 0o600);
        assert_eq!(
            files[0].text,
            "[connection]\nid=site\ntype=ethernet\nautoconnect=true\n\n[ethernet]\nmac-address=02:00:00:00:00:01\n\n\
             [ipv4]\nmethod=manual\naddress1=192.0.2.7/24\ngateway=192.0.2.1\ndns=192.0.2.53;\n\n[ipv6]\nmethod=link-local\n"
        );
        seed.network.as_mut().unwrap().vlan = Some(7);
        let files = network_manager(&seed);
        assert_eq!(files.len(), 2);
        assert!(files[1].text.contains("[vlan]\nid=7\n") && files[1].text.contains("interface-name=vlan7\n"));
        assert!(!files[0].text.contains("192.0.2.7"), "the port below has no address");
    }
}
