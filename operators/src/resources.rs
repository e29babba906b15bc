//! Where operators get term lists, tokenizers and other files from.
//!
//! Operators know no network and no async runtime: a host hands them a [`Resources`] that resolves whatever locations it
//! supports, posts to servers and keeps records. [`Resources::local`] reads and keeps on the local disk, and has no network.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::ErrorKind;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::network::Network;
use crate::records::{FolderRecords, OpenRecords, Records};
use crate::{OperatorError, Result};

/// Reads a whole resource. Implemented by hosts that know more than the local disk.
pub trait ReadResource: Debug + Send + Sync {
    /// The bytes at `location`, a path or a URL; the error is a message without secrets.
    fn read(&self, location: &str) -> std::result::Result<Bytes, String>;

    /// The same of a resource that need not be there. A host that cannot tell what is absent from what cannot be read says of both that they are not there.
    fn read_if_there(&self, location: &str) -> std::result::Result<Option<Bytes>, String> {
        Ok(self.read(location).ok())
    }
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
    records: Arc<dyn OpenRecords>,
    network: Option<Arc<dyn Network>>,
    run_folder: Option<Arc<str>>,
}

impl Resources {
    /// Resources read through `reader`, records on the local disk, and no network.
    #[must_use]
    pub fn new(reader: Arc<dyn ReadResource>) -> Self {
        Self { reader, records: Arc::new(LocalDisk), network: None, run_folder: None }
    }

    /// The same with a network.
    #[must_use]
    pub fn with_network(self, network: Arc<dyn Network>) -> Self {
        Self { network: Some(network), ..self }
    }

    /// The same with records opened through `records`.
    #[must_use]
    pub fn with_records(self, records: Arc<dyn OpenRecords>) -> Self {
        Self { records, ..self }
    }

    /// The same for a run whose folder is `folder`, a path or a URL: operators keep there what a resumed run shall find.
    #[must_use]
    pub fn for_run(self, folder: &str) -> Self {
        Self { run_folder: Some(folder.into()), ..self }
    }

    /// Resources on the local disk.
    #[must_use]
    pub fn local() -> Self {
        Self::new(Arc::new(LocalDisk))
    }

    /// The same where these resources, by location, are found before any other.
    #[must_use]
    pub fn over(self, resources: BTreeMap<String, Bytes>) -> Self {
        let reader: Arc<dyn ReadResource> = Arc::new(Overlaid { resources, below: Arc::clone(&self.reader) });
        Self { reader, ..self }
    }

    /// Reads a resource whole.
    pub fn read(&self, location: &str) -> Result<(Bytes, ResourceIdentity)> {
        let bytes = self
            .reader
            .read(location)
            .map_err(|message| OperatorError::Resource { location: location.to_owned(), message })?;
        let identity = identity(location, &bytes);
        Ok((bytes, identity))
    }

    /// Reads a resource whole that need not be there.
    pub fn read_if_there(&self, location: &str) -> Result<Option<(Bytes, ResourceIdentity)>> {
        let bytes = self
            .reader
            .read_if_there(location)
            .map_err(|message| OperatorError::Resource { location: location.to_owned(), message })?;
        Ok(bytes.map(|bytes| {
            let identity = identity(location, &bytes);
            (bytes, identity)
        }))
    }

    /// The network, where the host has one.
    #[must_use]
    pub fn network(&self) -> Option<&Arc<dyn Network>> {
        self.network.as_ref()
    }

    /// The folder of the run that operators are bound for, where they are bound for one.
    #[must_use]
    pub fn run_folder(&self) -> Option<&str> {
        self.run_folder.as_deref()
    }

    /// Opens the records at a location.
    pub fn open_records(&self, location: &str) -> Result<Arc<dyn Records>> {
        let unusable = |message| OperatorError::Resource { location: location.to_owned(), message };
        self.records.open(location).map_err(unusable)
    }
}

fn identity(location: &str, bytes: &[u8]) -> ResourceIdentity {
    ResourceIdentity { location: location.to_owned(), hash: blake3::hash(bytes).to_hex().to_string() }
}

#[derive(Debug)]
struct Overlaid {
    resources: BTreeMap<String, Bytes>,
    below: Arc<dyn ReadResource>,
}

impl ReadResource for Overlaid {
    fn read(&self, location: &str) -> std::result::Result<Bytes, String> {
        self.resources.get(location).map_or_else(|| self.below.read(location), |bytes| Ok(bytes.clone()))
    }

    fn read_if_there(&self, location: &str) -> std::result::Result<Option<Bytes>, String> {
        let found = self.resources.get(location);
        found.map_or_else(|| self.below.read_if_there(location), |bytes| Ok(Some(bytes.clone())))
    }
}

#[derive(Debug)]
struct LocalDisk;

impl OpenRecords for LocalDisk {
    fn open(&self, location: &str) -> std::result::Result<Arc<dyn Records>, String> {
        let path = location.strip_prefix("file://").unwrap_or(location);
        if path.contains("://") {
            return Err("only folders of the local disk are reached here".to_owned());
        }
        Ok(Arc::new(FolderRecords::open(path)?))
    }
}

impl ReadResource for LocalDisk {
    fn read(&self, location: &str) -> std::result::Result<Bytes, String> {
        let path = location.strip_prefix("file://").unwrap_or(location);
        std::fs::read(path).map(Bytes::from).map_err(|error| error.to_string())
    }

    fn read_if_there(&self, location: &str) -> std::result::Result<Option<Bytes>, String> {
        match std::fs::read(location.strip_prefix("file://").unwrap_or(location)) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}
