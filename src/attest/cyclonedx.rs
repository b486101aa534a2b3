//! A bill as a CycloneDX 1.6 document (JSON).

use super::{Bill, Kind};
use serde_json::{Value as Json, json};

/// The predicate type of an attestation that holds one.
pub const PREDICATE: &str = "https://cyclonedx.org/bom";
/// The document's name in a release.
pub const FILE: &str = "sbom.cdx.json";

/// The document.
pub fn document(bill: &Bill) -> Json {
    let root = format!("{}@{}", bill.name, bill.version);
    let components: Vec<Json> = bill
        .components
        .iter()
        .map(|component| {
            let kind = match component.kind {
                Kind::Package => "library",
                Kind::Container => "container",
                Kind::Release => "application",
            };
            let mut entry = json!({
                "type": kind,
                "bom-ref": component.purl,
                "name": component.name,
                "version": component.version,
                "purl": component.purl,
            });
            if let Some(digest) = component.digest {
                entry["hashes"] = json!([{ "alg": "SHA-256", "content": digest.hex() }]);
            }
            entry
        })
        .collect();
    let refs: Vec<&str> = bill.components.iter().map(|c| c.purl.as_str()).collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", bill.identity),
        "version": 1,
        "metadata": {
            "timestamp": bill.epoch.rfc3339(),
            "tools": { "components": [{ "type": "application", "name": "forge", "version": env!("CARGO_PKG_VERSION") }] },
            "component": { "type": "operating-system", "bom-ref": root, "name": bill.name, "version": bill.version },
        },
        "components": components,
        "dependencies": [{ "ref": root, "dependsOn": refs }],
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::bill;
    use super::*;

    #[test]
    fn components_are_referred_to_by_what_they_are() {
        let document = document(&bill());
        let components = document["components"].as_array().unwrap();
        assert_eq!(components.len(), 2);
        assert_eq!(components[0]["bom-ref"], document["dependencies"][0]["dependsOn"][0]);
        assert_eq!(components[1]["type"], "container");
    }
}
