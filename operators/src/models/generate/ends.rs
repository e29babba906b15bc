//! The tokens with which a model ends texts.

use serde_json::Value;

use crate::models::error::{ModelError, Result};
use crate::models::files::ModelFiles;
use crate::{ResourceIdentity, Resources};

const KEY: &str = "eos_token_id";

/// The tokens that end texts of the model at a location: `eos_token_id`, a number or a list, of `generation_config.json`, or of
/// `config.json` where the other file is not there or does not say. None where neither says. The identities are those of the files that were read.
///
/// # Errors
/// A file that is not JSON, or ids that are not whole numbers of 32 bits.
pub fn end_tokens(location: &str, resources: &Resources) -> Result<(Vec<u32>, Vec<ResourceIdentity>)> {
    let files = ModelFiles::new(location, resources);
    let mut ends = None;
    if let Some(bytes) = files.read_if_there("generation_config.json")? {
        ends = read(&files, "generation_config.json", &bytes)?;
    }
    if ends.is_none() {
        ends = read(&files, "config.json", &files.read("config.json")?)?;
    }
    Ok((ends.unwrap_or_default(), files.identities()))
}

fn read(files: &ModelFiles<'_>, name: &str, bytes: &[u8]) -> Result<Option<Vec<u32>>> {
    let path = files.path(name);
    let config: Value = serde_json::from_slice(bytes)
        .map_err(|error| ModelError::Malformed { path: path.clone(), message: error.to_string() })?;
    let value = match config.get(KEY) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    let one = std::slice::from_ref(value);
    let list = value.as_array().map_or(one, Vec::as_slice);
    let ids: Option<Vec<u32>> = list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect();
    ids.map(Some).ok_or_else(|| ModelError::Unsupported {
        path,
        key: KEY.into(),
        value: value.to_string(),
        allowed: "a token id or a list of them".into(),
    })
}
