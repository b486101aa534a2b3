//! The grammars of words, each of its standard: RFC 1123 names, URLs, OCI references, OpenSSH keys.

use base64::Engine as _;

pub fn alphanumeric(c: u8) -> bool {
    c.is_ascii_alphanumeric()
}

pub fn lower(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// Whether `s` begins as `first` and goes on as `rest` says.
pub fn spelled(s: &str, first: impl Fn(u8) -> bool, rest: impl Fn(u8) -> bool) -> bool {
    s.bytes().next().is_some_and(first) && s.bytes().skip(1).all(rest)
}

pub fn is_host(s: &str) -> bool {
    let label = |l: &str| {
        l.len() <= 63 && spelled(l, alphanumeric, |c| alphanumeric(c) || c == b'-') && !l.ends_with('-')
    };
    let name = s.len() <= 253 && s.split('.').all(label);
    // Four numbers are an address or nothing: 256.1.1.1 is no host name.
    let numeric = s.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    s.parse::<std::net::IpAddr>().is_ok() || (name && !numeric)
}

pub fn is_url(s: &str, schemes: &[&str]) -> bool {
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
pub fn is_reference(s: &str) -> bool {
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

pub fn is_repository_component(s: &str) -> bool {
    spelled(s, lower, |c| lower(c) || matches!(c, b'.' | b'_' | b'-')) && s.bytes().last().is_some_and(lower)
}

pub fn is_tag(s: &str) -> bool {
    s.len() <= 128
        && spelled(
            s,
            |c| alphanumeric(c) || c == b'_',
            |c| alphanumeric(c) || matches!(c, b'.' | b'_' | b'-'),
        )
}

/// An https URL, or an ssh one, which may name a user; never a password.
pub fn is_git_url(s: &str) -> bool {
    let user = |u: &str| spelled(u, |c| c.is_ascii_lowercase(), |c| lower(c) || matches!(c, b'_' | b'-'));
    match s.strip_prefix("ssh://") {
        Some(rest) => match rest.split_once('@') {
            Some((name, host)) => user(name) && is_url(&format!("https://{host}"), &["https://"]),
            None => is_url(&format!("https://{rest}"), &["https://"]),
        },
        None => is_url(s, &["https://"]),
    }
}

/// `nvidia/tegra234-p3768-0000+p3767-0005.dtb`: at most a path's worth, and nothing that leads upwards.
pub fn is_device_tree(s: &str) -> bool {
    let part = |p: &str| {
        spelled(p, alphanumeric, |c| alphanumeric(c) || matches!(c, b',' | b'_' | b'.' | b'+' | b'-'))
    };
    s.len() <= 128 && s.ends_with(".dtb") && s.split('/').all(part)
}

/// `spec.brokers[].image`, at most as deep as objects are.
pub fn is_field_path(s: &str) -> bool {
    let key = |k: &str| spelled(k, alphanumeric, |c| alphanumeric(c) || matches!(c, b'_' | b'-'));
    s.len() <= 512 && s.split('.').all(|part| key(part.strip_suffix("[]").unwrap_or(part)))
}

pub fn is_container_name(s: &str) -> bool {
    s.split_once(':')
        .is_some_and(|(name, tag)| name.len() <= 63 && is_repository_component(name) && is_tag(tag))
}

pub fn is_release_version(s: &str) -> bool {
    let Some(version) = s.strip_prefix('v') else { return false };
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let rest = &version[core.len()..];
    core.split('.').count() == 3
        && core.split('.').all(|n| (1..=9).contains(&n.len()) && n.bytes().all(|c| c.is_ascii_digit()))
        && rest.len() <= 64
        && rest.bytes().all(|c| alphanumeric(c) || matches!(c, b'.' | b'+' | b'-'))
}

pub fn is_ssh_key(s: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_each_grammar_and_their_likes() {
        let digest = crate::model::Digest::of("");
        let by_digest = format!("registry.example/a@{digest}");
        type Grammar<'a> = (&'a str, fn(&str) -> bool, &'a [&'a str], &'a [&'a str]);
        let grammars: [Grammar<'_>; 4] = [
            (
                "host",
                is_host,
                &["a", "time.example", "192.0.2.1", "2001:db8::1", "0.pool.example"],
                &["", "a..b", "-a", "a-", "256.1.1.1", "1.2.3", "a b", "a/b", "[::1]"],
            ),
            (
                "url",
                |s| is_url(s, &["https://"]),
                &["https://a", "https://a:8443/x?y", "https://[2001:db8::7]:1", "https://192.0.2.7/"],
                &[
                    "http://a",
                    "https://",
                    "https://a:0",
                    "https://a:99999",
                    "https://a b",
                    "https://[x]",
                    "https://u@a",
                    "https://::1",
                ],
            ),
            (
                "reference",
                is_reference,
                &["registry.example/a", "registry.example:5000/a/b_c:v1", "localhost/a:1", &by_digest],
                &[
                    "nginx",
                    "/a",
                    "r.example/",
                    "r.example/A",
                    "r.example/a:",
                    "r.example/a@sha256:00",
                    "r.example/a//b",
                ],
            ),
            (
                "release version",
                is_release_version,
                &["v1.34.2", "v1.34.2+k3s1", "v1.34.2-rc1+rke2r1"],
                &["1.34.2", "v1.34", "v1.34.2.1", "v1.x.2", "v1.34.2 ", "v1..2", "v"],
            ),
        ];
        for (name, check, right, wrong) in grammars {
            right.iter().for_each(|s| assert!(check(s), "{name}: {s}"));
            wrong.iter().for_each(|s| assert!(!check(s), "{name}: {s}"));
        }
    }

    #[test]
    fn an_ssh_key_says_its_type_twice() {
        let encode = |kind: &str| {
            let mut blob = u32::try_from(kind.len()).unwrap().to_be_bytes().to_vec();
            blob.extend(kind.bytes());
            blob.extend([0; 36]);
            base64::engine::general_purpose::STANDARD.encode(blob)
        };
        let good = encode("ssh-ed25519");
        assert!(is_ssh_key(&format!("ssh-ed25519 {good}")));
        assert!(is_ssh_key(&format!("ssh-ed25519 {good} ops@site")));
        for bad in [
            format!("ssh-rsa {good}"),
            format!("ssh-dss {}", encode("ssh-dss")),
            format!("ssh-ed25519 {good}\nssh-ed25519 {good}"),
            format!("ssh-ed25519 {}", &good[..8]),
            "ssh-ed25519 /////w==".into(),
            "ssh-ed25519".into(),
        ] {
            assert!(!is_ssh_key(&bad), "{bad}");
        }
    }
}
