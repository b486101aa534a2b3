//! The files of `templates/`, embedded: the only place that does so.

/// The names of the IANA time zone database (2025b), one a line, sorted.
pub const TIME_ZONES: &str = include_str!("../templates/profile/time-zones.txt");
/// Archive keyrings by distribution: OpenPGP certificates. Their origin is told in `templates/keyrings/README.md`.
pub const KEYRINGS: [(&str, &[u8]); 2] = [
    ("debian", include_bytes!("../templates/keyrings/debian-archive-keyring.pgp")),
    ("ubuntu", include_bytes!("../templates/keyrings/ubuntu-archive-keyring.pgp")),
];
