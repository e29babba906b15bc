//! Where models compute: on the CPU, or on a GPU.

use std::borrow::Cow;
use std::fmt;

use gristmill_kernels::device::Device as Machine;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The configuration without where a model is to compute: where it does compute is among the resources of a run, if results depend on it.
pub(crate) fn identity(config: &Value) -> Value {
    let mut config = config.clone();
    if let Some(map) = config.as_object_mut() {
        map.shift_remove("device");
    }
    config
}

/// Where a model computes.
///
/// In a configuration it is a text: `auto`, `cpu`, `cuda` for the first GPU, or `cuda:N`.
///
/// A GPU needs a program built with the feature `cuda`, and nothing but the NVIDIA driver. Results have other bits than on the CPU, and so they have
/// between kinds of GPUs: a run that was begun on one is not continued on another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The first GPU, if the program was built for GPUs, there is one, and it can hold the model; else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| text.parse().ok()).flatten()
        };
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            other => other
                .strip_prefix("cuda:")
                .and_then(number)
                .map(Self::Cuda)
                .ok_or_else(|| format!("'{other}' is not allowed; allowed: auto, cpu, cuda, cuda:N")),
        }
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl JsonSchema for Device {
    fn schema_name() -> Cow<'static, str> {
        "Device".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Where a model computes: auto (a GPU if there is one, else the CPU), cpu, cuda for the first GPU, or cuda:N.",
            "type": "string",
            "pattern": "^(auto|cpu|cuda(:[0-9]+)?)$",
        })
    }
}

impl Device {
    /// The GPU that is asked for; `None` where the CPU computes.
    ///
    /// # Errors
    /// A GPU that was named and cannot be opened.
    pub(super) fn open(self) -> Result<Option<Machine>, String> {
        match self {
            Self::Cpu => Ok(None),
            Self::Auto => Ok(open_gpu(0).ok()),
            Self::Cuda(number) => open_gpu(number).map(Some),
        }
    }
}

#[cfg(feature = "cuda")]
fn open_gpu(number: usize) -> Result<Machine, String> {
    gristmill_kernels::gpu::Gpu::open(number).map(Machine::new).map_err(|error| error.to_string())
}

#[cfg(not(feature = "cuda"))]
fn open_gpu(_: usize) -> Result<Machine, String> {
    Err("this program was built without the feature cuda".into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::Device;

    #[test]
    fn devices_are_texts() {
        for (text, device) in
            [("auto", Device::Auto), ("cpu", Device::Cpu), ("cuda", Device::Cuda(0)), ("cuda:3", Device::Cuda(3))]
        {
            assert_eq!(Device::try_from(text.to_owned()), Ok(device));
            assert_eq!(Device::try_from(device.to_string()), Ok(device));
        }
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:+1", "cuda:99999999999999999999", "CPU"] {
            let error = Device::try_from(text.to_owned()).unwrap_err();
            assert_eq!(error, format!("'{text}' is not allowed; allowed: auto, cpu, cuda, cuda:N"));
        }
        assert!(Device::Cpu.open().unwrap().is_none());
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_gpu_that_is_named_must_be_there() {
        assert!(Device::Auto.open().unwrap().is_none());
        assert_eq!(Device::Cuda(1).open().unwrap_err(), "this program was built without the feature cuda");
    }
}
