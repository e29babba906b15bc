//! The Hugging Face Hub: data sets and models, read only.
//!
//! A revision is resolved to a commit once; listing and reading name that commit, so what a run reads cannot change under
//! it. Files are read by ranges from where the Hub redirects to, and that address is kept, because the Hub counts every
//! request that goes through it and the content servers do not.

mod cache;
mod card;
mod client;
mod repo;
mod select;
mod settings;
mod splits;
mod store;
mod tree;

use std::collections::HashMap;
use std::sync::Arc;

use object_store::ObjectStore;
use parking_lot::Mutex;

use crate::Result;
use crate::location::{HubKind, HubLocation};
use crate::stores::StoreOptions;
use client::{Client, SharedClient};
use repo::Repo;
use store::HubStore;

type RepoKey = (HubKind, String, String);

/// All repositories that a process reads.
#[derive(Debug)]
pub(crate) struct Hub {
    client: SharedClient,
    repos: Mutex<HashMap<RepoKey, Arc<Repo>>>,
}

impl Hub {
    pub(crate) fn new(options: &StoreOptions) -> Result<Self> {
        Ok(Self { client: Arc::new(Client::new(options)?), repos: Mutex::default() })
    }

    /// The store of a repository at a revision.
    pub(crate) fn store(&self, location: &HubLocation) -> Arc<dyn ObjectStore> {
        Arc::new(HubStore(self.repo(location)))
    }

    pub(crate) fn repo(&self, location: &HubLocation) -> Arc<Repo> {
        let key = (location.kind, location.repo.clone(), location.revision_or_main().to_owned());
        let mut repos = self.repos.lock();
        let repo = repos.entry(key).or_insert_with(|| Arc::new(Repo::new(Arc::clone(&self.client), location)));
        Arc::clone(repo)
    }
}
