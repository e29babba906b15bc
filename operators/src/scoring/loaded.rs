//! Models that are in memory: see [`crate::loaded`]. The same model with another adapter is another model.

use std::sync::Arc;

use super::reader::{Precision, unusable};
use crate::loaded::{FileState, Loaded, local_files};
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

static LOADED: Loaded<Key, Model> = Loaded::new();

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
        files: local_files(location).into_iter().chain(adapter.into_iter().flat_map(local_files)).collect(),
    };
    LOADED.get(key, || {
        let options = adapter.map(|location| AdapterOptions { location, apply: precision.apply() });
        Model::load_adapted(location, options, resources, precision.into()).map_err(|error| unusable(location, &error))
    })
}
