//! Secrets where none may be: an image may be published, so no key, password hash or token is let into one.
//!
//! Each is looked for as strictly as its format allows. A program that reads keys has `-----BEGIN … PRIVATE KEY-----` in it,
//! and its manual has `$6$`: neither is a secret.

use regex::bytes::Regex;
use std::io::{self, Read};
use std::sync::LazyLock;

/// What to do about one.
pub const HELP: &str = "an image may be published: secrets arrive with the bundle or the grant";

/// The longest text that decides about a secret, in bytes; what is longer begins like one and is one.
const LONGEST: usize = 8 << 10;
/// How much of a stream is looked at together, in bytes.
const WINDOW: usize = 1 << 20;

/// What kind a secret is of, for a sentence, and what it looks like. Each begins with fixed letters, by which whole disks are
/// searched at the speed at which they are read.
const KINDS: [(&str, &str); 8] = [
    // RFC 7468 and OpenSSH, encrypted ones included; also with escaped line ends, as in JSON.
    (
        "a private key",
        r"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----(?:\s|\\[nr]){1,8}(?:[A-Za-z0-9+/]{24}|Proc-Type:|Version:|Comment:)",
    ),
    // crypt(5): the methods that are in use, each with a whole hash.
    (
        "a password hash",
        r"\$1\$[./A-Za-z0-9]{1,8}\$[./A-Za-z0-9]{22}|\$5\$(?:rounds=\d{1,9}\$)?[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]{43}|\$6\$(?:rounds=\d{1,9}\$)?[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]{86}|\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}|\$(?:7|y|gy)\$[./A-Za-z0-9]{3,}\$[./A-Za-z0-9]{1,86}\$[./A-Za-z0-9]{43}",
    ),
    // k3s and RKE2: `K10`, the SHA-256 of the cluster's authority, and credentials.
    ("a cluster's join token", r"K10[0-9a-f]{64}::[A-Za-z0-9.:_-]{4}"),
    ("an age secret key", r"AGE-SECRET-KEY-1[0-9A-Z]{58}"),
    // RFC 7519, signed: a service account's, among others.
    ("a signed token", r"eyJ[A-Za-z0-9_-]{12,2048}\.eyJ[A-Za-z0-9_-]{12,4096}\.[A-Za-z0-9_-]{43}"),
    // What `docker login` and `podman login` write.
    ("a registry's password", r#""auth"\s{0,4}:\s{0,4}"[A-Za-z0-9+/]{12,1024}={0,2}""#),
    ("a code host's token", r"(?:ghp_|gho_|ghu_|ghs_|ghr_)[A-Za-z0-9]{36}|glpat-[A-Za-z0-9_-]{20}"),
    ("a WireGuard key", r"PrivateKey\s{0,4}=\s{0,4}[A-Za-z0-9+/]{43}="),
];

/// A secret, and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secret {
    /// "a private key".
    pub what: &'static str,
    /// Its first byte.
    pub start: u64,
}

/// All kinds as one pattern, and each alone. None where a pattern of ours were none, which a test rules out.
static PATTERNS: LazyLock<Option<(Regex, Vec<Regex>)>> = LazyLock::new(|| {
    let each: Vec<String> = KINDS.iter().map(|(_, pattern)| format!("(?-u:{pattern})")).collect();
    let alone = each.iter().map(|p| Regex::new(&format!("^{p}")).ok()).collect::<Option<_>>()?;
    Some((Regex::new(&each.join("|")).ok()?, alone))
});

/// The first secret in `text`.
pub fn find(text: &str) -> Option<Secret> {
    all(text.as_bytes()).next()
}

/// Tells every secret in what `reader` gives; how many bytes that were.
///
/// # Errors
/// What the reader says, when what came before is told.
pub fn search(reader: &mut dyn Read, found: &mut dyn FnMut(Secret)) -> io::Result<u64> {
    let mut window = vec![];
    let mut passed = 0;
    loop {
        let read = (&mut *reader).take(WINDOW as u64).read_to_end(&mut window);
        let ended = !matches!(read, Ok(more) if more == WINDOW);
        // What begins in the last bytes may go on in the next ones.
        let decided = if ended { window.len() } else { window.len() - LONGEST };
        for secret in all(&window).take_while(|secret| secret.start < decided as u64) {
            found(Secret { start: passed + secret.start, ..secret });
        }
        passed += decided as u64;
        if ended {
            return read.map(|_| passed);
        }
        window.drain(..decided);
    }
}

fn all(bytes: &[u8]) -> impl Iterator<Item = Secret> + '_ {
    PATTERNS.iter().flat_map(move |(any, alone)| {
        any.find_iter(bytes).filter_map(move |hit| {
            let kind = alone.iter().position(|one| one.is_match(hit.as_bytes()))?;
            Some(Secret { what: KINDS[kind].0, start: hit.start() as u64 })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No file of ours is to hold what is looked for.
    fn examples() -> Vec<(String, &'static str)> {
        let body = "MC4CAQAwBQYDK2VwBCIEIA".repeat(2);
        let begin = |label: &str| ["-----BEGIN ", label, "PRIVATE ", "KEY-----"].concat();
        vec![
            (format!("{}\n{body}", begin("")), "a private key"),
            (format!("x {}\\n{body}", begin("OPENSSH ")), "a private key"),
            (format!("{}\r\nProc-Type: 4,ENCRYPTED", begin("RSA ")), "a private key"),
            (["root:$", "6$saltsalt$", &"0123456789".repeat(9)[..86], ":1:"].concat(), "a password hash"),
            (["$", "y$j9T$saltsalt$", &"0123456789".repeat(5)[..43]].concat(), "a password hash"),
            (["$", "2y$10$", &"0123456789".repeat(6)[..53]].concat(), "a password hash"),
            (format!("token: K10{}::server:abc", "0f".repeat(32)), "a cluster's join token"),
            (format!("AGE-SECRET-KEY-{}", "1Q".repeat(30)), "an age secret key"),
            (
                format!("eyJ{}.eyJ{}.{}", "hbGciOiJSUzI1NiJ9", "pc3MiOiJrdWJl", "a".repeat(43)),
                "a signed token",
            ),
            (
                ["{\"auths\":{\"r\":{\"au", "th\": \"dXNlcjpwYXNzd29yZA==\"}}}"].concat(),
                "a registry's password",
            ),
            (format!("PrivateKey = {}=", "a".repeat(43)), "a WireGuard key"),
        ]
    }

    #[test]
    fn secrets_are_found_and_their_likes_are_not() {
        for (text, what) in examples() {
            assert_eq!(find(&text).map(|s| s.what), Some(what), "{text}");
        }
        let begin = ["-----BEGIN ", "PRIVATE ", "KEY-----"].concat();
        for text in [
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAMCowBQYDK2VwAyEA",
            "-----BEGIN CERTIFICATE-----\nMCowBQYDK2VwAyEAMCowBQYDK2VwAyEA",
            // As it stands in programs and their manuals.
            &format!("{begin}\0{begin}"),
            &format!("{begin}\n...\n"),
            "cost: $5$ or $6$",
            "K10 is a mountain",
        ] {
            assert_eq!(find(text), None, "{text}");
        }
    }

    #[test]
    fn a_stream_is_searched_across_its_windows_and_nothing_is_told_twice() {
        let (text, what) = examples().remove(3);
        let places =
            [0, WINDOW - LONGEST - 1, WINDOW - LONGEST, WINDOW - 20, 2 * WINDOW - LONGEST, 3 * WINDOW];
        for place in places {
            let mut bytes = vec![b' '; place];
            bytes.extend_from_slice(text.as_bytes());
            bytes.resize(place + text.len() + 100, b' ');
            let mut found = vec![];
            let length = search(&mut bytes.as_slice(), &mut |secret| found.push(secret)).unwrap();
            assert_eq!(length, bytes.len() as u64);
            assert_eq!(found, [Secret { what, start: place as u64 + 5 }], "at {place}");
        }
    }
}
