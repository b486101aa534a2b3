//! Secrets where none may be: an image may be published, so no key, password hash or token is let into one.

/// What to do about one.
pub const HELP: &str = "an image may be published: secrets arrive with the bundle or the grant";

/// What kind of secret a text holds, for a sentence; and its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secret {
    /// "a private key".
    pub what: &'static str,
    /// Where it begins.
    pub start: usize,
}

/// The first secret in `text`.
pub fn find(text: &str) -> Option<Secret> {
    let found = [
        ("a private key", private_key(text)),
        ("a password hash", password_hash(text)),
        ("a cluster's join token", join_token(text)),
        ("an age secret key", text.find("AGE-SECRET-KEY-1")),
    ];
    let secrets = found.into_iter().filter_map(|(what, start)| Some(Secret { what, start: start? }));
    secrets.min_by_key(|secret| secret.start)
}

/// RFC 7468 and OpenSSH: `-----BEGIN … PRIVATE KEY-----`, encrypted ones included.
fn private_key(text: &str) -> Option<usize> {
    text.match_indices("-----BEGIN ").map(|(at, _)| at).find(|at| {
        let label = text[*at..].lines().next().unwrap_or_default();
        label.contains("PRIVATE KEY-----")
    })
}

/// crypt(5): `$ID$…$HASH`, with 22 characters of hash at least in all methods that are in use.
fn password_hash(text: &str) -> Option<usize> {
    const METHODS: [&str; 9] = ["$1$", "$2a$", "$2b$", "$2y$", "$5$", "$6$", "$7$", "$y$", "$gy$"];
    text.match_indices('$').map(|(at, _)| at).find(|at| {
        let rest = &text[*at..];
        METHODS.iter().any(|method| rest.starts_with(method)) && {
            let hash = rest.split(|c: char| !(c.is_ascii_alphanumeric() || "$./=,".contains(c))).next();
            hash.is_some_and(|hash| hash.len() >= 28)
        }
    })
}

/// k3s and RKE2: `K10` + the CA's SHA-256 in hex + `::` + credentials.
fn join_token(text: &str) -> Option<usize> {
    text.match_indices("K10").map(|(at, _)| at).find(|at| {
        let rest = &text.as_bytes()[at + 3..];
        rest.len() > 66 && rest[..64].iter().all(u8::is_ascii_hexdigit) && rest[64..].starts_with(b"::")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_and_their_likes_are_not() {
        let token = format!("token: K10{}::server:abc", "0f".repeat(32));
        let pem = ["-----BEGIN ENCRYPTED ", "PRIVATE KEY-----\n"].concat();
        let ssh = ["x\n-----BEGIN OPENSSH ", "PRIVATE KEY-----\n"].concat();
        for (text, what) in [
            (pem.as_str(), Some("a private key")),
            (ssh.as_str(), Some("a private key")),
            ("root:$6$saltsalt$0123456789abcdef0123456789:1:", Some("a password hash")),
            ("$y$j9T$saltsaltsalt$0123456789abcdefghij", Some("a password hash")),
            (token.as_str(), Some("a cluster's join token")),
            ("-----BEGIN PUBLIC KEY-----", None),
            ("-----BEGIN CERTIFICATE-----", None),
            ("cost: $5$ or $6$", None),
            ("K10 is a mountain", None),
        ] {
            assert_eq!(find(text).map(|s| s.what), what, "{text}");
        }
    }
}
