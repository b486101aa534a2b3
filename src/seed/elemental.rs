//! The registration of Elemental's boxes, as its live medium and Edge Image Builder take it. The same for every box: names and
//! labels are the registration's own, at the server.

use super::yaml::to_yaml;
use super::{Elemental, Files};
use serde_json::json;

/// The seed's files.
pub fn files(registration: &Elemental) -> Files {
    // Never `emulate-tpm`: with one seed, every box would be the same box.
    let mut settings = json!({ "url": registration.url.as_str(), "auth": registration.auth });
    if let Some(authority) = &registration.authority {
        settings["ca-cert"] = json!(authority);
    }
    let config = json!({ "elemental": { "registration": settings } });
    vec![("livecd-cloud-config.yaml", to_yaml(&config))]
}

#[cfg(test)]
mod tests {
    use super::super::tests::text;
    use super::*;

    #[test]
    fn the_registration_is_spelled_as_its_operator_reads_it() {
        let registration = Elemental {
            url: zeroize::Zeroizing::new("https://rancher.example/elemental/registration/t0ken".into()),
            authority: Some("-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n".into()),
            auth: "tpm".into(),
        };
        assert_eq!(
            text(&files(&registration), "livecd-cloud-config.yaml"),
            "elemental:\n  registration:\n    auth: tpm\n    ca-cert: |\n      -----BEGIN CERTIFICATE-----\n      AA\n      \
             -----END CERTIFICATE-----\n    url: \"https://rancher.example/elemental/registration/t0ken\"\n"
        );
    }
}
