//! A service's configuration: what the image has of it and what the grant has of it → the one file that the service reads.
//!
//! For services that, unlike k3s, read no directory of files one over the other. Both are JSON, merged as RFC 7396 says.
//! Called by the service's unit before each start, so that a new image and a new grant are both heard of.

use crate::host::fs;
use anyhow::{Context as _, ensure};
use serde_json::Value;
use std::io::Read as _;
use std::path::Path;

/// The largest file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Writes `base` with `patch` over it to `to`, readable by root alone.
///
/// # Errors
/// When one is not there, is too large or no JSON; what the disk says.
pub fn merge(base: &Path, patch: &Path, to: &Path) -> anyhow::Result<()> {
    let mut merged = read(base)?;
    apply(&mut merged, read(patch)?);
    let text = serde_json::to_vec_pretty(&merged)?;
    fs::write_atomic(to, &text, 0o600).with_context(|| format!("writing {}", to.display()))
}

fn read(path: &Path) -> anyhow::Result<Value> {
    let reading = || format!("reading {}", path.display());
    let mut bytes = vec![];
    fs::open_regular(path)
        .and_then(|f| f.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .with_context(reading)?;
    ensure!(bytes.len() as u64 <= MAX_FILE, "{} is larger than {MAX_FILE} bytes", path.display());
    serde_json::from_slice(&bytes).with_context(reading)
}

/// RFC 7396 §2.
fn apply(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Some(table) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            table.remove(&key);
        } else {
            apply(table.entry(key).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The examples of RFC 7396, appendix A, but for those with another value of the same kind.
    #[test]
    fn a_patch_does_what_the_rfc_says() {
        for (mut target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            apply(&mut target, patch);
            assert_eq!(target, result);
        }
    }

    #[test]
    fn a_file_is_written_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("base"), r#"{"modules": {"edged": {"hostnameOverride": "image"}}}"#).unwrap();
        let granted = || merge(&path("base"), &path("grant"), &path("to"));
        assert!(granted().unwrap_err().to_string().contains("grant"));
        std::fs::write(path("grant"), r#"{"modules": {"edged": {"hostnameOverride": "barn-7"}}"#).unwrap();
        granted().unwrap_err();
        assert!(!path("to").exists());
        std::fs::write(path("grant"), r#"{"modules": {"edged": {"hostnameOverride": "barn-7"}}}"#).unwrap();
        granted().unwrap();
        let text = std::fs::read_to_string(path("to")).unwrap();
        assert!(text.contains("barn-7") && !text.contains("image"), "{text}");
    }
}
