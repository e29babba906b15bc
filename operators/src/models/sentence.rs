//! What the files of sentence-transformers say beside a model: how token states become one embedding, and how long a text may be.

use std::path::Path;

use serde_json::Value;

use super::error::{ModelError, Result};
use super::files::ModelFiles;
use crate::{ResourceIdentity, Resources};

/// The settings of a sentence-transformers model; all absent where there are no such files.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sentence {
    /// Name of the pooling that is on: the key of its configuration without `pooling_mode_`.
    pub(crate) pooling: Option<String>,
    /// Whether embeddings have length 1.
    pub(crate) normalize: bool,
    /// The most tokens of a text.
    pub(crate) longest: Option<usize>,
}

impl Sentence {
    /// Reads `modules.json` and what it names.
    pub(crate) fn read(location: &str, resources: &Resources) -> Result<(Self, Vec<ResourceIdentity>)> {
        let files = ModelFiles::new(location, resources);
        let mut sentence = Self::default();
        let Some(modules) = files.read_if_there("modules.json")? else { return Ok((sentence, Vec::new())) };
        let path = files.path("modules.json");
        let malformed = |message: &str| ModelError::Malformed { path: path.clone(), message: message.to_owned() };
        let modules = parse(&path, &modules)?;
        for module in modules.as_array().ok_or_else(|| malformed("a list is expected"))? {
            let text = |key: &str| module.get(key).and_then(Value::as_str).unwrap_or_default();
            match text("type").rsplit('.').next().unwrap_or_default() {
                "Transformer" => {}
                "Normalize" => sentence.normalize = true,
                "Pooling" => {
                    let name = format!("{}/config.json", text("path"));
                    sentence.pooling = Some(pooling(&files.path(&name), &files.read(&name)?)?);
                }
                other => {
                    return Err(ModelError::Unsupported {
                        path: path.clone(),
                        key: "type".into(),
                        value: other.to_owned(),
                        allowed: "one of Transformer, Pooling and Normalize".into(),
                    });
                }
            }
        }
        if let Some(bytes) = files.read_if_there("sentence_bert_config.json")? {
            let config = parse(&files.path("sentence_bert_config.json"), &bytes)?;
            sentence.longest =
                config.get("max_seq_length").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        }
        Ok((sentence, files.identities()))
    }
}

fn pooling(path: &Path, bytes: &[u8]) -> Result<String> {
    let config = parse(path, bytes)?;
    // Newer files name it, older ones have a switch for each.
    if let Some(name) = config.get("pooling_mode").and_then(Value::as_str) {
        return Ok(name.to_owned());
    }
    let on: Vec<&str> = config
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| **value == Value::Bool(true))
        .filter_map(|(key, _)| key.strip_prefix("pooling_mode_"))
        .collect();
    match on[..] {
        [one] => Ok(one.to_owned()),
        _ => Err(ModelError::Malformed {
            path: path.into(),
            message: format!(
                "one pooling_mode is expected to be on, found {}",
                if on.is_empty() { "none".into() } else { on.join(", ") }
            ),
        }),
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes)
        .map_err(|error| ModelError::Malformed { path: path.into(), message: error.to_string() })
}
