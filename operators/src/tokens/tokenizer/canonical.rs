//! A `tokenizer.json` of any age in the form that the library reads.

use serde_json::Value;

/// The text in the library's own form.
pub(super) fn canonical(json: &str) -> Result<String, String> {
    let mut file: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
    if let Some(stage) = file.get_mut("pre_tokenizer") {
        unwrap(stage);
    }
    tokenizers::canonicalize_value(&mut file).map_err(|error| error.to_string())?;
    serde_json::to_string_pretty(&file).map_err(|error| error.to_string())
}

/// A sequence of one is that one. The library reads `Metaspace` only where it is by itself, and the files of DeBERTa-v2 and v3 have it as a
/// sequence of one.
fn unwrap(stage: &mut Value) {
    while stage.get("type").and_then(Value::as_str) == Some("Sequence") {
        match stage.get_mut("pretokenizers").and_then(Value::as_array_mut).map(Vec::as_mut_slice) {
            Some([only]) => *stage = only.take(),
            _ => return,
        }
    }
}
