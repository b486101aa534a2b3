//! NoCloud, cloud-init's own seed: `user-data`, `meta-data`, and `network-config` version 2 where the network is static.
//!
//! cloud-init reads it again when `instance-id` changes, so that follows from what the seed says.

use super::yaml::to_yaml;
use super::{Files, Seed, files};
use crate::model::Digest;
use serde_json::{Value as Json, json};

/// The seed's files.
pub fn files(seed: &Seed) -> Files {
    with_user_data(seed, &user_data(seed))
}

/// The seed's files around a user-data of another kind.
pub fn with_user_data(seed: &Seed, user_data: &Json) -> Files {
    let user_data = format!("#cloud-config\n{}", to_yaml(user_data));
    let network = network_config(seed).map(|config| to_yaml(&config));
    let said = Digest::of(format!("{user_data}\0{}", network.as_deref().unwrap_or_default()));
    let meta = json!({
        "instance-id": format!("{}-{}", seed.name, &said.hex()[..12]),
        "local-hostname": seed.name,
        "labels": seed.labels,
    });
    let mut files = vec![("meta-data", to_yaml(&meta)), ("user-data", user_data)];
    files.extend(network.map(|network| ("network-config", network)));
    files
}

fn user_data(seed: &Seed) -> Json {
    let users: Vec<Json> = seed
        .users
        .iter()
        .map(|(name, keys)| json!({ "name": name, "ssh_authorized_keys": keys, "lock_passwd": true, "shell": "/bin/bash" }))
        .collect();
    // Without `users` cloud-init makes the distribution's default user, whom nobody named.
    let mut data =
        json!({ "hostname": seed.name, "timezone": seed.timezone, "users": users, "ssh_pwauth": false });
    let mut set = |key: &str, value: Json| data[key] = value;
    if !seed.ntp.is_empty() {
        set("ntp", json!({ "enabled": true, "servers": seed.ntp }));
    }
    if !seed.authorities.is_empty() {
        set("ca_certs", json!({ "trusted": seed.authorities }));
    }
    if let Some(proxy) = files::proxy(seed) {
        let mode = format!("{:04o}", proxy.mode);
        set("write_files", json!([{ "path": proxy.path, "permissions": mode, "content": proxy.text }]));
        // Services that start later in this boot are to have it, too.
        set("bootcmd", json!([["systemctl", "daemon-reexec"]]));
    }
    data
}

/// netplan's format, as cloud-init reads it on every distribution.
fn network_config(seed: &Seed) -> Option<Json> {
    let network = seed.network.as_ref()?;
    let mut settings = json!({ "dhcp4": network.addresses.is_empty() });
    if !network.addresses.is_empty() {
        settings["addresses"] = json!(network.addresses);
        let routes = network
            .gateways
            .iter()
            .map(|via| json!({ "to": if via.is_ipv4() { "0.0.0.0/0" } else { "::/0" }, "via": via }));
        settings["routes"] = routes.collect();
    }
    if !network.dns.is_empty() {
        settings["nameservers"] = json!({ "addresses": network.dns });
    }
    let found = json!({ "macaddress": network.r#match.mac });
    Some(match network.vlan {
        None => {
            settings["match"] = found;
            json!({ "version": 2, "ethernets": { "site": settings } })
        }
        Some(id) => {
            settings["id"] = json!(id);
            settings["link"] = json!("site");
            json!({
                "version": 2,
                "ethernets": { "site": { "match": found, "dhcp4": false } },
                "vlans": { format!("vlan{id}"): settings },
            })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{seed, text};
    use super::*;

    #[test]
    fn instance_follows_from_what_is_said() {
        let one = text(&files(&seed()), "meta-data");
        assert!(one.contains("local-hostname: till-1\n") && one.contains("instance-id: till-1-"));
        assert_eq!(one, text(&files(&seed()), "meta-data"));
        let mut moved = seed();
        moved.network.as_mut().unwrap().addresses = vec!["192.0.2.8/24".into()];
        assert_ne!(one, text(&files(&moved), "meta-data"), "a new address has to be read");
    }

    #[test]
    fn a_tag_stands_on_the_port() {
        let mut seed = seed();
        seed.network.as_mut().unwrap().vlan = Some(7);
        let config = text(&files(&seed), "network-config");
        assert!(config.contains("vlans:\n  vlan7:\n") && config.contains("link: site\n"), "{config}");
        seed.network = None;
        assert!(files(&seed).iter().all(|(name, _)| *name != "network-config"), "DHCP is the default");
    }
}
