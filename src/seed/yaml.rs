//! JSON values → YAML text (1.2, block style): sorted as JSON has them, every scalar spelled so that no reader takes it for
//! another type.

use serde_json::Value;
use std::fmt::Write as _;

/// The value as a YAML document, ending in a newline.
///
/// A string stands bare only where every version of YAML reads it as that string; text of several lines stands as a block.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => object(&mut out, map, 0),
        Value::Array(items) if !items.is_empty() => array(&mut out, items, 0),
        scalar => {
            out.push_str(&self::scalar(scalar, 0));
            out.push('\n');
        }
    }
    out
}

fn object(out: &mut String, map: &serde_json::Map<String, Value>, depth: usize) {
    for (n, (key, value)) in map.iter().enumerate() {
        // The first key of a list's item stands behind its dash.
        if n > 0 || !out.ends_with("- ") {
            indent(out, depth);
        }
        out.push_str(&word(key));
        out.push(':');
        nested(out, value, depth);
    }
}

fn array(out: &mut String, items: &[Value], depth: usize) {
    for item in items {
        indent(out, depth);
        match item {
            Value::Object(map) if !map.is_empty() => {
                out.push_str("- ");
                object(out, map, depth + 1);
            }
            other => {
                out.push('-');
                nested(out, other, depth);
            }
        }
    }
}

/// What follows a key's colon or an item's dash.
fn nested(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            object(out, map, depth + 1);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            array(out, items, depth + 1);
        }
        scalar => {
            out.push(' ');
            out.push_str(&self::scalar(scalar, depth + 1));
            out.push('\n');
        }
    }
}

fn indent(out: &mut String, depth: usize) {
    (0..depth).for_each(|_| out.push_str("  "));
}

fn scalar(value: &Value, depth: usize) -> String {
    match value {
        Value::String(text) if is_block(text) => {
            let mut block = String::from("|");
            for line in text.lines() {
                block.push('\n');
                indent(&mut block, depth);
                block.push_str(line);
            }
            block
        }
        Value::String(text) => word(text),
        other => other.to_string(),
    }
}

/// Whole lines of printable ASCII, none of which could be taken for indentation.
fn is_block(text: &str) -> bool {
    text.ends_with('\n')
        && text.lines().all(|line| {
            !line.is_empty()
                && !line.starts_with(' ')
                && !line.ends_with(' ')
                && line.bytes().all(|b| (0x20..0x7f).contains(&b))
        })
}

/// A string: bare where that is safe, else in double quotes with JSON's escapes, all of which YAML knows.
fn word(text: &str) -> String {
    if is_bare(text) {
        return text.into();
    }
    let mut quoted = String::new();
    for c in serde_json::Value::from(text).to_string().chars() {
        match c {
            // Printable for JSON, not for YAML (section 5.1).
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c)); // a String takes everything
            }
            c => quoted.push(c),
        }
    }
    quoted
}

fn is_bare(text: &str) -> bool {
    // YAML 1.1, which cloud-init and Go's old parsers read, has more words for true and false.
    let taken = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
        && !taken.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn maps_lists_and_scalars() {
        let value = json!({
            "users": [{ "name": "ops", "keys": ["ssh-ed25519 AAAA c"] }, {}, [], [[1, 2]]],
            "yes": "no", "n": 1.5, "empty": "", "port": "8443", "path": "/etc/x", "truth": true, "none": null,
            "pem": "-----BEGIN-----\nAA\n-----END-----\n", "odd": "a\n b\n", "bell": "\u{7}\u{85}",
        });
        assert_eq!(
            to_yaml(&value),
            concat!(
                "bell: \"\\u0007\\u0085\"\n",
                "empty: \"\"\n",
                "\"n\": 1.5\n",
                "none: null\n",
                "odd: \"a\\n b\\n\"\n",
                "path: /etc/x\n",
                "pem: |\n  -----BEGIN-----\n  AA\n  -----END-----\n",
                "port: \"8443\"\n",
                "truth: true\n",
                "users:\n",
                "  - keys:\n      - \"ssh-ed25519 AAAA c\"\n    name: ops\n",
                "  - {}\n  - []\n  -\n    -\n      - 1\n      - 2\n",
                "\"yes\": \"no\"\n",
            )
        );
    }
}
