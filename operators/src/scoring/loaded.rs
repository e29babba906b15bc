//! Models that are in memory: see [`crate::loaded`]. The same model with another adapter is another model.

use std::sync::Arc;

use gristmill_kernels::device::DeviceError;

use super::device::Device;
use super::reader::{Precision, unusable};
use crate::config::invalid;
use crate::loaded::{FileState, Loaded, local_files};
use crate::models::{AdapterOptions, LoadOptions, Model, ModelError};
use crate::{ResourceIdentity, Resources, Result};

/// Tokens of a batch on a device, at most, unless a single window has more.
const DEVICE_TOKENS: usize = 16_384;

/// What a loaded model is known by.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    location: String,
    adapter: Option<String>,
    precision: Precision,
    device: Device,
    /// Whether it was loaded with what gradients need.
    gradients: bool,
    /// The state of the files of both.
    files: Vec<FileState>,
}

static LOADED: Loaded<Key, Model> = Loaded::new();

/// The model at a location, with an adapter, and the identities of the files of both.
pub(super) fn load(
    kind: &str,
    location: &str,
    adapter: Option<&str>,
    precision: Precision,
    device: Device,
    resources: &Resources,
) -> Result<(Arc<Model>, Vec<ResourceIdentity>)> {
    get(kind, (location, adapter), (precision, device, false), resources)
}

/// The same of a model whose gradients can be computed.
#[cfg(feature = "influence")]
pub(super) fn load_for_gradients(
    kind: &str,
    location: &str,
    adapter: Option<&str>,
    precision: Precision,
    device: Device,
    resources: &Resources,
) -> Result<(Arc<Model>, Vec<ResourceIdentity>)> {
    get(kind, (location, adapter), (precision, device, true), resources)
}

fn get(
    kind: &str,
    (location, adapter): (&str, Option<&str>),
    (precision, device, gradients): (Precision, Device, bool),
    resources: &Resources,
) -> Result<(Arc<Model>, Vec<ResourceIdentity>)> {
    let key = Key {
        location: location.to_owned(),
        adapter: adapter.map(str::to_owned),
        precision,
        device,
        gradients,
        files: local_files(location).into_iter().chain(adapter.into_iter().flat_map(local_files)).collect(),
    };
    LOADED.get(key, || {
        let options = adapter.map(|location| AdapterOptions { location, apply: precision.apply() });
        let how = LoadOptions { gradients, ..precision.into() };
        let loaded = Model::load_adapted(location, options, resources, how);
        let (mut model, identities) = loaded.map_err(|error| match (&error, adapter) {
            (ModelError::Adapter(_), Some(adapter)) => unusable(adapter, &error),
            _ => unusable(location, &error),
        })?;
        if let Some(machine) = device.open().map_err(|message| invalid(kind, "device", message))? {
            match model.move_to(&machine, DEVICE_TOKENS) {
                // A GPU that cannot have the model was not asked for by name; one that fails is an error all the same.
                Err(ModelError::NotOnDevice { .. } | ModelError::Device(DeviceError::OutOfMemory { .. }))
                    if device == Device::Auto => {}
                moved => moved.map_err(|error| unusable(location, &error))?,
            }
        }
        Ok((model, identities))
    })
}

/// What a run that continues must agree with: results have other bits on another kind of device. The CPU is the same everywhere.
pub(super) fn computed_on(location: &str, device: &str) -> ResourceIdentity {
    let hash = blake3::hash(device.as_bytes()).to_hex().to_string();
    ResourceIdentity { location: format!("device of {location}"), hash }
}

#[cfg(test)]
mod tests {
    use super::computed_on;

    #[test]
    fn kinds_of_devices_have_identities_of_their_own() {
        let [one, other] = ["H100 (9.0)", "A100 (8.0)"].map(|name| computed_on("org/model", name));
        assert_eq!(one.location, "device of org/model");
        assert_eq!(one.location, other.location);
        assert_ne!(one.hash, other.hash);
    }
}
