//! Where operators get term lists, tokenizers and other files from.
//!
//! Operators know no network and no async runtime: a host hands them a [`Resources`] that resolves whatever locations it
//! supports. [`Resources::local`] reads the local disk.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{OperatorError, Result};

/// Reads a whole resource. Implemented by hosts that know more than the local disk.
pub trait ReadResource: Debug + Send + Sync {
    /// The bytes at `location`, a path or a URL; the error is a message without secrets.
    fn read(&self, location: &str) -> std::result::Result<Bytes, String>;
}

/// What a resource was when it was read: goes into the run's fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResourceIdentity {
    /// The location as written in the configuration.
    pub location: String,
    /// BLAKE3 of the content, in hexadecimal.
    pub hash: String,
}

/// Access to resources for operators that are being bound.
#[derive(Clone, Debug)]
pub struct Resources {
    reader: Arc<dyn ReadResource>,
}

impl Resources {
    /// Resources read through `reader`.
    #[must_use]
    pub fn new(reader: Arc<dyn ReadResource>) -> Self {
        Self { reader }
    }

    /// Resources on the local disk.
    #[must_use]
    pub fn local() -> Self {
        Self::new(Arc::new(LocalDisk))
    }

    /// Reads a resource whole.
    pub fn read(&self, location: &str) -> Result<(Bytes, ResourceIdentity)> {
        let bytes = self
            .reader
            .read(location)
            .map_err(|message| OperatorError::Resource { location: location.to_owned(), message })?;
        let hash = blake3::hash(&bytes).to_hex().to_string();
        Ok((bytes, ResourceIdentity { location: location.to_owned(), hash }))
    }
}

#[derive(Debug)]
struct LocalDisk;

impl ReadResource for LocalDisk {
    fn read(&self, location: &str) -> std::result::Result<Bytes, String> {
        let path = location.strip_prefix("file://").unwrap_or(location);
        std::fs::read(path).map(Bytes::from).map_err(|error| error.to_string())
    }
}
