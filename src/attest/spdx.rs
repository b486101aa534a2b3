//! A bill as an SPDX 2.3 document (JSON).

use super::{Bill, Kind};
use serde_json::{Value as Json, json};

/// The predicate type of an attestation that holds one.
pub const PREDICATE: &str = "https://spdx.dev/Document";
/// The document's name in a release.
pub const FILE: &str = "sbom.spdx.json";

const ROOT: &str = "SPDXRef-release";

/// The document.
pub fn document(bill: &Bill) -> Json {
    let named = format!("{}-{}", bill.name, bill.version);
    let mut packages = vec![json!({
        "SPDXID": ROOT,
        "name": bill.name,
        "versionInfo": bill.version,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "supplier": "NOASSERTION",
    })];
    let mut relationships = vec![relationship("SPDXRef-DOCUMENT", "DESCRIBES", ROOT)];
    for (n, component) in bill.components.iter().enumerate() {
        let id = format!("SPDXRef-{}", n + 1);
        let purpose = match component.kind {
            Kind::Package => "LIBRARY",
            Kind::Container => "CONTAINER",
            Kind::Release => "APPLICATION",
        };
        let mut package = json!({
            "SPDXID": id,
            "name": component.name,
            "versionInfo": component.version,
            "primaryPackagePurpose": purpose,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "supplier": "NOASSERTION",
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION",
            "copyrightText": "NOASSERTION",
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": component.purl,
            }],
        });
        if let Some(digest) = component.digest {
            package["checksums"] = json!([{ "algorithm": "SHA256", "checksumValue": digest.hex() }]);
        }
        packages.push(package);
        relationships.push(relationship(ROOT, "CONTAINS", &id));
    }
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": named,
        "documentNamespace": format!("urn:uuid:{}", bill.identity),
        "creationInfo": {
            "created": bill.epoch.rfc3339(),
            "creators": [format!("Tool: forge-{}", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relationships,
    })
}

fn relationship(from: &str, kind: &str, to: &str) -> Json {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

#[cfg(test)]
mod tests {
    use super::super::tests::bill;
    use super::*;

    #[test]
    fn every_component_hangs_on_the_release() {
        let document = document(&bill());
        let packages = document["packages"].as_array().unwrap();
        assert_eq!(packages.len(), 3);
        assert_eq!(document["relationships"].as_array().unwrap().len(), 3);
        assert_eq!(document["creationInfo"]["created"], "2025-11-22T00:00:00Z");
        assert!(document["documentNamespace"].as_str().unwrap().starts_with("urn:uuid:"));
    }
}
