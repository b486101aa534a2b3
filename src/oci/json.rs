//! Values to and from canonical JSON: keys sorted by their bytes, no spaces, no trailing newline.
//!
//! OCI's documents are known by the digest of their bytes, so equal values must be equal bytes. The types of `oci-spec`
//! hold labels in hash maps whose order is random; going through [`serde_json::Value`] sorts them, as long as no crate
//! of the build turns `preserve_order` on (a test here holds that).

use serde::Serialize;
use serde::de::DeserializeOwned;

/// `value` as canonical JSON.
///
/// # Errors
/// When a map of `value` has keys that are no strings.
pub fn canonical(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&serde_json::to_value(value)?)
}

/// Reads a document of at most [`MAX_DOCUMENT`](super::MAX_DOCUMENT) bytes.
///
/// # Errors
/// When it is larger, no JSON, or not of this shape. Nesting is bounded by serde_json (128 levels).
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadDocument> {
    if bytes.len() as u64 > super::MAX_DOCUMENT {
        return Err(BadDocument::TooLarge(bytes.len() as u64));
    }
    Ok(serde_json::from_slice(bytes)?)
}

/// A document that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadDocument {
    /// Its length in bytes, which is over the limit.
    #[error("{0} bytes, more than a document may have")]
    TooLarge(u64),
    /// What the parser says.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn keys_are_sorted_whatever_the_map() {
        let map: HashMap<String, u32> = (0..100).map(|i| (format!("k{i:03}"), i)).collect();
        let text = String::from_utf8(canonical(&map).unwrap()).unwrap();
        let expected: Vec<String> = (0..100).map(|i| format!("\"k{i:03}\":{i}")).collect();
        assert_eq!(text, format!("{{{}}}", expected.join(",")));
        assert_eq!(
            canonical(&serde_json::json!({"b": 1, "a": {"d": 1, "c": 2}})).unwrap(),
            br#"{"a":{"c":2,"d":1},"b":1}"#
        );
    }

    #[test]
    fn depth_and_size_bombs_are_refused() {
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        assert!(parse::<serde_json::Value>(&deep).is_err());
        let large = vec![b' '; super::super::MAX_DOCUMENT as usize + 1];
        assert!(matches!(parse::<serde_json::Value>(&large), Err(BadDocument::TooLarge(_))));
    }
}
