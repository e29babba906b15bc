//! Definitions without the credentials that locations in them may carry.
//!
//! A pipeline may name `https://user:password@host/…` or a signed address. Reading needs them; what is recorded of a run,
//! shown or hashed must not hold them. A signature is no part of an input's identity either: it changes with every day.

use serde_json::Value;

/// The value with every location in it as it may be shown. Texts that are no locations stay as they are.
///
/// ```
/// use gristmill_pipelines::without_credentials;
/// use serde_json::json;
///
/// let shown = without_credentials(json!({"terms": "https://me:secret@host/terms.txt", "keep": "a = 'b'"}));
/// assert_eq!(shown, json!({"terms": "https://host/terms.txt", "keep": "a = 'b'"}));
/// ```
#[must_use]
pub fn without_credentials(value: Value) -> Value {
    match value {
        Value::String(text) if is_location(&text) => Value::String(gristmill_datasets::redact(&text)),
        Value::Array(items) => items.into_iter().map(without_credentials).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, without_credentials(value))).collect(),
        other => other,
    }
}

/// Whether the text begins with a scheme: other texts, such as SQL, are part of what a run computes and stay whole.
fn is_location(text: &str) -> bool {
    let scheme = text.trim_start().split("://").next().unwrap_or_default();
    scheme.len() < text.trim_start().len()
        && !scheme.is_empty()
        && scheme.chars().all(|character| character.is_ascii_alphanumeric() || matches!(character, '+' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_locations_lose_their_credentials() {
        let cases = [
            (json!("https://u:p@host/a?part=1&X-Amz-Signature=0f"), json!("https://host/a?part=1")),
            (json!(["https://u:p@host/a", {"b": "http://u:p@host"}]), json!(["https://host/a", {"b": "http://host"}])),
            (json!("hf://datasets/org/name@main/a"), json!("hf://datasets/org/name@main/a")),
            (
                json!("url LIKE 'https://u:p@host/%' AND token = 'x'"),
                json!("url LIKE 'https://u:p@host/%' AND token = 'x'"),
            ),
            (json!("a/b.jsonl"), json!("a/b.jsonl")),
            (json!(7), json!(7)),
        ];
        for (given, expected) in cases {
            assert_eq!(without_credentials(given), expected);
        }
    }
}
