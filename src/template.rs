//! The files of `templates/`, embedded: the only place that does so.

/// Archive keyrings by distribution: OpenPGP certificates. Their origin is told in `templates/keyrings/README.md`.
pub const KEYRINGS: [(&str, &[u8]); 2] = [
    ("debian", include_bytes!("../templates/keyrings/debian-archive-keyring.pgp")),
    ("ubuntu", include_bytes!("../templates/keyrings/ubuntu-archive-keyring.pgp")),
];
