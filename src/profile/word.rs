//! How a validated word is declared: one row of a macro gives the type, its check, its messages and its JSON Schema.

use super::fragment::{Node, Value};
use super::shape::{Reader, Wrong};

/// The text of `node` after `${VAR}`: read from the environment where `env_ok`, refused elsewhere.
pub fn text(node: &Node, reader: &mut Reader<'_>, what: &str, env_ok: bool) -> Option<String> {
    let Value::String(typed) = &node.value else {
        return reader.mismatch(node, &format!("{what}, which is a string"));
    };
    let mut text = String::new();
    let mut rest = typed.as_str();
    while let Some((before, variable)) = rest.split_once("${") {
        let Some((name, after)) = variable.split_once('}') else {
            reader.wrong(node.place, Wrong::new("`${` without `}`", "name a variable, as in `${MIRROR}`"));
            return None;
        };
        if !env_ok {
            let key = reader.path.last().cloned().unwrap_or_default();
            let message = format!("`{key}` does not read the environment, but holds `${{{name}}}`");
            let help =
                "only `os.mirror`, `sign.key` and `publish.ref` do: a variable must not change what is built";
            reader.wrong(node.place, Wrong::new(message, help));
            return None;
        }
        let Some(value) = (reader.env)(name) else {
            let message = format!("the environment has no `{name}`");
            reader.wrong(node.place, Wrong::new(message, format!("set it: `export {name}=…`")));
            return None;
        };
        text.push_str(before);
        text.push_str(&value); // never searched again: a value names no other variable
        rest = after;
    }
    text.push_str(rest);
    Some(text)
}

/// Declares words: `Type: "what it is", "pattern", "what is right", check;`, the check being `fn(&str) -> bool`.
macro_rules! word {
    ($( $(#[doc = $doc:literal])+ $name:ident : $what:literal, $pattern:literal, $rule:literal, $check:expr $(, $env:ident)? ; )+) => { $(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Checks `text`.
            ///
            /// # Errors
            /// What is wrong, and what would be right.
            pub fn parse(text: &str) -> Result<$name, $crate::profile::shape::Wrong> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    return Ok($name(text.into()));
                }
                let shown: String = text.chars().take(80).collect();
                Err($crate::profile::shape::Wrong::new(format!("`{shown}` is not {}", $what), $rule))
            }

            /// The word.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl $crate::profile::shape::Shape for $name {
            fn read(
                node: &$crate::profile::fragment::Node,
                reader: &mut $crate::profile::shape::Reader<'_>,
            ) -> Option<Self> {
                #[allow(unused_mut, unused_assignments, reason = "only words marked so read the environment")]
                let mut env_ok = false;
                $( env_ok = stringify!($env) == "env"; )?
                let text = $crate::profile::word::text(node, reader, $what, env_ok)?;
                match $name::parse(&text) {
                    Ok(word) => Some(word),
                    Err(wrong) => {
                        reader.wrong(node.place, wrong);
                        None
                    }
                }
            }

            fn schema(_: &mut $crate::profile::shape::Definitions) -> serde_json::Value {
                serde_json::json!({ "type": "string", "pattern": $pattern })
            }
        }
    )+ };
}
pub(super) use word;

/// Declares a choice between words: an enum, each variant with its spelling and its documentation.
macro_rules! choice {
    (
        $(#[doc = $doc:literal])+
        pub enum $name:ident : $what:literal { $( $(#[doc = $variant_doc:literal])+ $variant:ident = $word:literal, )+ }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        pub enum $name { $( $(#[doc = $variant_doc])+ #[serde(rename = $word)] $variant, )+ }

        impl $name {
            /// The word in the profile.
            pub fn as_str(self) -> &'static str {
                match self { $( $name::$variant => $word, )+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::profile::shape::Shape for $name {
            fn read(
                node: &$crate::profile::fragment::Node,
                reader: &mut $crate::profile::shape::Reader<'_>,
            ) -> Option<Self> {
                let text = $crate::profile::word::text(node, reader, $what, false)?;
                let choices = [$(($word, $name::$variant)),+];
                $crate::profile::word::choose(&text, &choices, $what, node, reader)
            }

            fn schema(_: &mut $crate::profile::shape::Definitions) -> serde_json::Value {
                serde_json::json!({ "enum": [$($word),+] })
            }
        }
    };
}
pub(super) use choice;

/// The value of the word `text`, or a fault that lists the words and names the nearest.
pub fn choose<T: Copy>(
    text: &str,
    choices: &[(&str, T)],
    what: &str,
    node: &Node,
    reader: &mut Reader<'_>,
) -> Option<T> {
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Some(*value);
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let shown: String = text.chars().take(80).collect();
    let message = match super::suggest::nearest(text, &words) {
        Some(near) => format!("`{shown}` is not {what}, did you mean `{near}`?"),
        None => format!("`{shown}` is not {what}"),
    };
    let list = words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    reader.wrong(node.place, Wrong::new(message, format!("expected one of {list}")));
    None
}
