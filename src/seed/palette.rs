//! Palette's user-data in a NoCloud seed: `stylus` with the documented keys and no others, people in a stage of their own.
//!
//! What the profile and the inventory know goes where the reference has it; what the profile says below `stylus` itself wins.

use super::{Files, Palette, Seed, Unable, nocloud};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json, json};
use std::net::Ipv4Addr;

/// The seed's files.
///
/// # Errors
/// A static network that Palette cannot be told of.
pub fn files(seed: &Seed, palette: &Palette) -> Result<Files, Unable> {
    let mut site = json!({ "name": seed.name, "hostName": seed.name });
    let mut set = |key: &str, value: Json| site[key] = value;
    if !seed.labels.is_empty() {
        set("tags", json!(seed.labels));
    }
    if !seed.ntp.is_empty() {
        set("ntpServers", json!(seed.ntp));
    }
    if !seed.authorities.is_empty() {
        set("caCerts", seed.authorities.iter().map(|pem| STANDARD.encode(pem)).collect());
    }
    let network = network(seed)?;
    if !network.is_empty() {
        set("network", Json::Object(network));
    }
    let mut stylus = json!({ "site": site });
    for (key, value) in &palette.stylus {
        merge(&mut stylus[key.as_str()], value);
    }
    if let Some(token) = &palette.token {
        stylus["site"]["edgeHostToken"] = json!(token.as_str());
    }
    let mut data = json!({ "stylus": stylus });
    if !seed.users.is_empty() {
        let users =
            seed.users.iter().map(|(name, keys)| (name.clone(), json!({ "ssh_authorized_keys": keys })));
        let users: Map<String, Json> = users.collect();
        data["stages"] = json!({ "initramfs": [{ "users": users }] });
    }
    // A network-config beside it would be cloud-init's, which Palette's systems do not run.
    let rest = Seed { network: None, ..seed.clone() };
    Ok(nocloud::with_user_data(&rest, &data))
}

fn network(seed: &Seed) -> Result<Map<String, Json>, Unable> {
    let unable = |what| Err(Unable { format: "Palette", name: seed.name.clone(), what });
    let mut settings = Map::new();
    if let Some(proxy) = &seed.proxy {
        settings.insert("httpProxy".into(), json!(proxy));
        settings.insert("httpsProxy".into(), json!(proxy));
    }
    let Some(network) = &seed.network else { return Ok(settings) };
    let Some(port) = &seed.port else {
        return unable(
            "its static network: it knows ports by the kernel's names; add a column `port`, such as eth0",
        );
    };
    if network.vlan.is_some() {
        return unable("of a tagged network");
    }
    let mut interface = json!({ "type": "static" });
    match network.addresses.as_slice() {
        [] => interface["type"] = json!("dhcp"),
        [address] => {
            let split = address
                .split_once('/')
                .and_then(|(ip, length)| Some((ip.parse::<Ipv4Addr>().ok()?, length.parse::<u32>().ok()?)));
            let Some((ip, length)) = split else { return unable("of an IPv6 address") };
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            interface["ipAddress"] = json!(ip);
            interface["mask"] = json!(Ipv4Addr::from(mask));
        }
        _ => return unable("more than one address"),
    }
    match network.gateways.as_slice() {
        [] => {}
        [gateway] => interface["gateway"] = json!(gateway),
        _ => return unable("more than one gateway"),
    }
    if let [first, more @ ..] = network.dns.as_slice() {
        if !more.is_empty() {
            return unable("more than one name server");
        }
        interface["nameserver"] = json!(first);
    }
    settings.insert("interfaces".into(), json!({ port.as_str(): interface }));
    Ok(settings)
}

/// Puts `over` on top of `under`, table by table.
fn merge(under: &mut Json, over: &Json) {
    match (under, over) {
        (Json::Object(under), Json::Object(over)) => {
            for (key, value) in over {
                merge(under.entry(key.clone()).or_insert(Json::Null), value);
            }
        }
        (under, over) => *under = over.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{seed, text};
    use super::*;
    use zeroize::Zeroizing;

    fn palette() -> Palette {
        let stylus = json!({ "site": { "paletteEndpoint": "api.example", "tags": { "tier": "mine" } }, "disableTui": true });
        let Json::Object(stylus) = stylus else { unreachable!() };
        Palette { stylus, token: Some(Zeroizing::new("t0ken".into())) }
    }

    #[test]
    fn user_data_has_the_documented_keys() {
        let files = files(&seed(), &palette()).unwrap();
        assert_eq!(
            text(&files, "user-data"),
            r#"#cloud-config
stages:
  initramfs:
    - users:
        ops:
          ssh_authorized_keys:
            - "ssh-ed25519 AAAA ops@site's"
stylus:
  disableTui: true
  site:
    caCerts:
      - LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkFBCi0tLS0tRU5EIENFUlRJRklDQVRFLS0tLS0K
    edgeHostToken: t0ken
    hostName: till-1
    name: till-1
    network:
      httpProxy: "http://proxy.example:3128"
      httpsProxy: "http://proxy.example:3128"
      interfaces:
        eth0:
          gateway: "192.0.2.1"
          ipAddress: "192.0.2.7"
          mask: "255.255.255.0"
          nameserver: "192.0.2.53"
          type: static
    ntpServers:
      - ntp.example
    paletteEndpoint: api.example
    tags:
      region: eu
      tier: mine
"#
        );
        assert!(files.iter().all(|(name, _)| *name != "network-config"));
    }

    #[test]
    fn a_network_that_palette_cannot_have_is_refused() {
        let mut seed = seed();
        seed.port = None;
        assert!(files(&seed, &palette()).unwrap_err().to_string().contains("column `port`"));
        let mut tagged = super::super::tests::seed();
        tagged.network.as_mut().unwrap().vlan = Some(7);
        assert!(files(&tagged, &palette()).is_err());
    }
}
