//! Models that are in memory: an operator that is bound again, for another split or another host, gets the one that is there.
//!
//! A model stays as long as an operator holds it. One in a local folder is loaded again when its files have changed since. The same model with
//! another adapter is another model.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use super::reader::{Precision, unusable};
use crate::models::{AdapterOptions, Model};
use crate::{ResourceIdentity, Resources, Result};

/// What a loaded model is known by.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    location: String,
    adapter: Option<String>,
    precision: Precision,
    /// The state of the files of both.
    files: Vec<FileState>,
}

/// Name, size and time of a file.
type FileState = (String, u64, Option<SystemTime>);

struct Loaded {
    model: Weak<Model>,
    identities: Vec<ResourceIdentity>,
}

static LOADED: Mutex<Option<HashMap<Key, Loaded>>> = Mutex::new(None);

/// The model at a location, with an adapter, and the identities of the files of both.
pub(super) fn load(
    location: &str,
    adapter: Option<&str>,
    precision: Precision,
    resources: &Resources,
) -> Result<(Arc<Model>, Vec<ResourceIdentity>)> {
    let key = Key {
        location: location.to_owned(),
        adapter: adapter.map(str::to_owned),
        precision,
        files: files(location).into_iter().chain(adapter.into_iter().flat_map(files)).collect(),
    };
    // Held while a model is loaded, so that splits that begin together do not load it twice.
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let loaded = loaded.get_or_insert_default();
    if let Some(known) = loaded.get(&key)
        && let Some(model) = known.model.upgrade()
    {
        return Ok((model, known.identities.clone()));
    }
    let options = adapter.map(|location| AdapterOptions { location, apply: precision.apply() });
    let (model, identities) = Model::load_adapted(location, options, resources, precision.into())
        .map_err(|error| unusable(location, &error))?;
    let model = Arc::new(model);
    loaded.retain(|_, known| known.model.strong_count() > 0);
    loaded.insert(key, Loaded { model: Arc::downgrade(&model), identities: identities.clone() });
    Ok((model, identities))
}

/// Names, sizes and times of the files in a local folder; none of other locations.
fn files(location: &str) -> Vec<FileState> {
    let folder = Path::new(location.strip_prefix("file://").unwrap_or(location));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter_map(|entry| {
            let metadata = std::fs::metadata(entry.path()).ok()?;
            Some((entry.file_name().to_string_lossy().into_owned(), metadata.len(), metadata.modified().ok()))
        })
        .collect();
    files.sort();
    files
}
