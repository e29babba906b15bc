//! Where the files of a model come from: a folder on the local disk, or anything that a host can read.
//!
//! On the local disk weights are read tensor by tensor. From elsewhere a file is held while its tensors are read. Every file that is
//! read leaves its identity for the run's fingerprint.

use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::error::{ModelError, Result};
use crate::tokens::resolve_location;
use crate::{ResourceIdentity, Resources};

/// The files of one model.
#[derive(Debug)]
pub(crate) struct ModelFiles<'a> {
    /// As the configuration names the model.
    location: String,
    /// The folder or URL that names of files are appended to.
    folder: String,
    resources: &'a Resources,
    identities: RefCell<Vec<ResourceIdentity>>,
}

/// The content of a file of weights.
#[derive(Debug)]
pub(crate) enum Content {
    /// On the local disk.
    Disk(PathBuf),
    /// Read whole.
    Memory(Bytes),
}

impl<'a> ModelFiles<'a> {
    /// Files of a folder, a URL, or a repository on the Hugging Face Hub.
    pub(crate) fn new(location: &str, resources: &'a Resources) -> Self {
        // A model is found as its tokenizer is.
        let tokenizer = resolve_location(location);
        let folder = match tokenizer.strip_suffix("/tokenizer.json") {
            Some(folder) => folder.to_owned(),
            None => location.trim_end_matches('/').to_owned(),
        };
        Self { location: location.to_owned(), folder, resources, identities: RefCell::default() }
    }

    /// What was read so far.
    pub(crate) fn identities(&self) -> Vec<ResourceIdentity> {
        self.identities.borrow().clone()
    }

    /// What messages call a file.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("{}/{name}", self.folder))
    }

    fn local(&self) -> Option<&Path> {
        (!self.folder.contains("://")).then(|| Path::new(self.folder.strip_prefix("file://").unwrap_or(&self.folder)))
    }

    /// Whether there is such a file, as far as can be told without reading it.
    pub(crate) fn is_on_disk(&self, name: &str) -> bool {
        self.local().is_some_and(|folder| folder.join(name).exists())
    }

    /// Says what an adapter in the place of a model is to be given as.
    pub(crate) fn expect_model(&self) -> Result<()> {
        if self.is_on_disk("config.json") || !self.is_on_disk("adapter_config.json") {
            return Ok(());
        }
        let message =
            "no such file; there is adapter_config.json, and an adapter is given beside the model that it belongs to"
                .to_owned();
        Err(ModelError::Read { path: self.path("config.json"), message })
    }

    /// Reads a file whole.
    pub(crate) fn read(&self, name: &str) -> Result<Bytes> {
        let path = self.path(name);
        let location = path.to_string_lossy();
        let (bytes, identity) = self.resources.read(&location).map_err(|error| unreadable(&path, error))?;
        self.note(name, identity.hash);
        Ok(bytes)
    }

    /// Reads a file that need not be there.
    pub(crate) fn read_if_there(&self, name: &str) -> Result<Option<Bytes>> {
        let path = self.path(name);
        let location = path.to_string_lossy();
        let read = self.resources.read_if_there(&location).map_err(|error| unreadable(&path, error))?;
        Ok(read.map(|(bytes, identity)| {
            self.note(name, identity.hash);
            bytes
        }))
    }

    /// A file of weights.
    pub(crate) fn content(&self, name: &str) -> Result<Content> {
        let Some(folder) = self.local() else { return Ok(Content::Memory(self.read(name)?)) };
        let path = folder.join(name);
        let unreadable = |error: std::io::Error| ModelError::Read { path: path.clone(), message: error.to_string() };
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(&path).map_err(unreadable)?).map_err(unreadable)?;
        self.note(name, hasher.finalize().to_hex().to_string());
        Ok(Content::Disk(path))
    }

    fn note(&self, name: &str, hash: String) {
        let location = format!("{}/{name}", self.location.trim_end_matches('/'));
        self.identities.borrow_mut().push(ResourceIdentity { location, hash });
    }
}

fn unreadable(path: &Path, error: crate::OperatorError) -> ModelError {
    let message = match error {
        crate::OperatorError::Resource { message, .. } => message,
        other => other.to_string(),
    };
    ModelError::Read { path: path.to_owned(), message }
}
