//! The configuration of Flight Control's agent, `/etc/flightctl/config.yaml`, with everything in it (its late binding).

use super::yaml::to_yaml;
use super::{Files, Flightctl, Seed};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// The seed's files.
pub fn files(seed: &Seed, agent: &Flightctl) -> Files {
    let mut service = json!({ "server": agent.server });
    if let Some(authority) = &agent.authority {
        service["certificate-authority-data"] = json!(STANDARD.encode(authority));
    }
    let mut enrollment = json!({
        "service": service,
        "authentication": {
            "client-certificate-data": STANDARD.encode(&agent.certificate),
            "client-key-data": STANDARD.encode(agent.key.as_bytes()),
        },
    });
    if let Some(ui) = &agent.ui {
        enrollment["enrollment-ui-endpoint"] = json!(ui);
    }
    // The name is a label: the agent's own is the digest of its key.
    let mut labels = json!(seed.labels);
    labels["alias"] = json!(seed.name);
    let config = json!({ "enrollment-service": enrollment, "default-labels": labels });
    vec![("etc/flightctl/config.yaml", to_yaml(&config))]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{seed, text};
    use super::*;

    #[test]
    fn the_agent_is_told_its_service_and_labels() {
        let agent = Flightctl {
            server: "https://agent-api.example:7443".into(),
            authority: Some("authority".into()),
            ui: None,
            certificate: "certificate".into(),
            key: zeroize::Zeroizing::new("key".into()),
        };
        assert_eq!(
            text(&files(&seed(), &agent), "etc/flightctl/config.yaml"),
            "default-labels:\n  alias: till-1\n  region: eu\n  tier: retail\nenrollment-service:\n  authentication:\n    \
             client-certificate-data: Y2VydGlmaWNhdGU\u{3d}\n    client-key-data: a2V5\n  service:\n    \
             certificate-authority-data: YXV0aG9yaXR5\n    server: \"https://agent-api.example:7443\"\n"
                .replace("Y2VydGlmaWNhdGU=", "\"Y2VydGlmaWNhdGU=\"")
        );
    }
}
