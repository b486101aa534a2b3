//! The shipping proof: which cases an artifact passed, as an attestation that anyone checks with the release's key.
//!
//! in-toto attestation framework, predicate "Test Result" 0.1, in a DSSE envelope; `cosign verify-blob-attestation` reads it.

use super::Outcome;
use crate::model::Digest;
use crate::sign::Signer;
use crate::sign::dsse::{self, Envelope, IN_TOTO, Statement};

/// The type of the predicate.
pub const PREDICATE: &str = "https://in-toto.io/attestation/test-result/v0.1";

/// What is attested of `artifact`, by its digest and name.
///
/// # Errors
/// What the signer says.
pub fn attest(
    artifact: Digest,
    name: &str,
    outcomes: &[Outcome],
    signer: &dyn Signer,
) -> anyhow::Result<Envelope> {
    let names = |passed: bool| -> Vec<&str> {
        outcomes.iter().filter(|o| o.failure.is_none() == passed).map(|o| o.case.as_str()).collect()
    };
    let predicate = serde_json::json!({
        "result": if outcomes.iter().all(|o| o.failure.is_none()) { "PASSED" } else { "FAILED" },
        "configuration": [{ "name": "forge test", "annotations": { "version": env!("CARGO_PKG_VERSION") } }],
        "passedTests": names(true),
        "failedTests": names(false),
    });
    let statement = Statement::about(artifact, name, PREDICATE, predicate);
    dsse::seal(signer, IN_TOTO, &serde_json::to_vec(&statement)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::PrivateKey;
    use crate::trial::Case;

    #[test]
    fn one_case_that_failed_fails_the_artifact() {
        let key = PrivateKey::generate().unwrap();
        let outcome = |case, failure: Option<&str>| Outcome {
            case,
            seconds: 1,
            failure: failure.map(String::from),
            console: String::new(),
        };
        let digest = Digest::of("disk");
        let result = |outcomes: &[Outcome]| {
            let envelope = attest(digest, "disk.raw.zst", outcomes, &key).unwrap();
            let statement = dsse::open_statement(&envelope, digest, key.public_key()).unwrap();
            statement.into_inner().predicate
        };
        let passed = result(&[outcome(Case::Joins, None)]);
        assert_eq!((&passed["result"], &passed["passedTests"][0]), (&"PASSED".into(), &"joins".into()));
        let failed = result(&[outcome(Case::Joins, None), outcome(Case::Proxy, Some("it has not joined"))]);
        assert_eq!((&failed["result"], &failed["failedTests"][0]), (&"FAILED".into(), &"proxy".into()));
    }
}
