//! Reading an operator's configuration: unknown keys, wrong types and missing keys get errors that name the key.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::nearest;
use crate::{OperatorError, Result};

/// Reads a configuration; `null` stands for an empty one.
pub fn parse<T: DeserializeOwned + JsonSchema>(kind: &str, config: &Value) -> Result<T> {
    let empty = Value::Object(serde_json::Map::new());
    let config = if config.is_null() { &empty } else { config };
    check_keys::<T>(kind, config)?;
    serde_path_to_error::deserialize(config).map_err(|error| OperatorError::InvalidValue {
        kind: kind.to_owned(),
        key: error.path().to_string(),
        message: plain(&error.inner().to_string()),
    })
}

/// What serde says about a value, in the words of a pipeline file instead of those of Rust: `invalid type: string "many",
/// expected u32` becomes `expected a whole number of at least 0, found "many"`.
#[must_use]
pub fn plain(message: &str) -> String {
    if let Some(key) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        return format!("the key '{key}' is missing");
    }
    if let Some((value, allowed)) =
        message.strip_prefix("unknown variant `").and_then(|rest| rest.split_once("`, expected "))
    {
        let allowed: Vec<&str> = allowed.split('`').skip(1).step_by(2).collect();
        let near = nearest(value, allowed.iter().copied()).map(|name| format!(", did you mean '{name}'?"));
        return format!("'{value}' is not allowed{}; allowed: {}", near.unwrap_or_default(), allowed.join(", "));
    }
    let given = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    match given.and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((found, expected)) => format!("expected {}, found {}", expected_in_words(expected), found_in_words(found)),
        None => message.to_owned(),
    }
}

fn expected_in_words(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of at least 0",
        "a nonzero u8" | "a nonzero u16" | "a nonzero u32" | "a nonzero u64" | "a nonzero usize" => {
            "a whole number of at least 1"
        }
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" => "text",
        "a sequence" => "a list",
        _ if expected.starts_with("struct ") => "a map of keys and values",
        _ => expected,
    }
}

fn found_in_words(found: &str) -> &str {
    match found {
        "map" => "a map",
        "sequence" => "a list",
        "null" | "unit value" => "nothing",
        _ => ["string ", "integer `", "floating point `", "boolean `"]
            .iter()
            .find_map(|kind| found.strip_prefix(kind))
            .map_or(found, |value| value.trim_end_matches('`')),
    }
}

/// Reads a configuration and writes it again, so that every default is spelt out.
pub fn complete<T: DeserializeOwned + Serialize + JsonSchema>(kind: &str, config: &Value) -> Result<Value> {
    let parsed: T = parse(kind, config)?;
    serde_json::to_value(parsed).map_err(|error| invalid(kind, "", error.to_string()))
}

/// JSON Schema of a configuration type.
#[must_use]
pub fn schema<T: JsonSchema>() -> Value {
    schemars::schema_for!(T).to_value()
}

/// An error about one value.
#[must_use]
pub fn invalid(kind: &str, key: &str, message: impl Into<String>) -> OperatorError {
    OperatorError::InvalidValue { kind: kind.to_owned(), key: key.to_owned(), message: message.into() }
}

fn check_keys<T: JsonSchema>(kind: &str, config: &Value) -> Result<()> {
    let schema = schema::<T>();
    let (Some(given), Some(properties)) = (config.as_object(), schema.get("properties").and_then(Value::as_object))
    else {
        return Ok(());
    };
    let Some(key) = given.keys().find(|key| !properties.contains_key(key.as_str())) else { return Ok(()) };
    Err(OperatorError::UnknownKey {
        kind: kind.to_owned(),
        key: key.clone(),
        nearest: nearest(key, properties.keys().map(String::as_str)),
        allowed: properties.keys().cloned().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_speak_of_files_and_not_of_types() {
        for (message, expected) in [
            ("invalid type: string \"many\", expected u32", "expected a whole number of at least 0, found \"many\""),
            ("invalid value: integer `-1`, expected u64", "expected a whole number of at least 0, found -1"),
            ("invalid type: floating point `0.5`, expected i32", "expected a whole number, found 0.5"),
            ("invalid type: string \"maybe\", expected a boolean", "expected true or false, found \"maybe\""),
            ("invalid type: sequence, expected a string", "expected text, found a list"),
            ("invalid type: null, expected struct Sink", "expected a map of keys and values, found nothing"),
            ("invalid type: string \"a, expected b\", expected f64", "expected a number, found \"a, expected b\""),
            ("missing field `path`", "the key 'path' is missing"),
            (
                "unknown variant `wrd`, expected `substring` or `word`",
                "'wrd' is not allowed, did you mean 'word'?; allowed: substring, word",
            ),
            (
                "unknown variant `x`, expected one of `unicode`, `ascii`, `exact`",
                "'x' is not allowed; allowed: unicode, ascii, exact",
            ),
            ("something else", "something else"),
        ] {
            assert_eq!(plain(message), expected);
        }
    }
}
