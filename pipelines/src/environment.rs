//! What pipelines run in: known operators, stores, and access to resources.

use std::sync::Arc;

use bytes::Bytes;
use gristmill_datasets::{DatasetError, StoreOptions, Stores};
use gristmill_operators::{OperatorKind, ReadResource, Registry, Resources};
use tokio::runtime::Handle;

use crate::error::{PipelineError, Result};
use crate::records::StoredRecords;
use crate::under_way::UnderWay;

/// The operator kinds that are known, the stores that can be reached, and through them the resources that operators read.
///
/// ```
/// use gristmill_pipelines::Environment;
///
/// let environment = Environment::local();
/// assert!(environment.registry.kind("filter").is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct Environment {
    /// Known operator kinds.
    pub registry: Arc<Registry>,
    /// Access to every kind of location.
    pub stores: Stores,
    /// Access to term lists, tokenizers and the like, to endpoints, and to kept answers.
    pub resources: Resources,
    /// Requests of operators that a program waits for before it ends.
    pub under_way: UnderWay,
}

impl Environment {
    /// All operators and all locations. Must be called inside a tokio runtime, which then does the reading of resources and carries the
    /// requests of operators.
    pub fn standard() -> Result<Self> {
        let runtime = Handle::try_current()
            .map_err(|_| PipelineError::Engine("Environment::standard needs a tokio runtime".to_owned()))?;
        let stores = Stores::new(StoreOptions { io_runtime: Some(runtime.clone()), ..StoreOptions::default() });
        let under_way = UnderWay::default();
        let resources = Resources::new(Arc::new(StoredResources { stores: stores.clone(), runtime: runtime.clone() }))
            .with_records(Arc::new(StoredRecords { stores: stores.clone(), runtime: runtime.clone() }));
        #[cfg(feature = "http")]
        let resources = resources.with_network(Arc::new(crate::network::HttpNetwork::new(
            runtime,
            stores.environment().clone(),
            under_way.clone(),
        )));
        Ok(Self { registry: Arc::new(crate::operators::registry()), stores, resources, under_way })
    }

    /// All operators, and resources on the local disk only. Needs no runtime.
    #[must_use]
    pub fn local() -> Self {
        Self {
            registry: Arc::new(crate::operators::registry()),
            stores: Stores::new(StoreOptions::default()),
            resources: Resources::local(),
            under_way: UnderWay::default(),
        }
    }

    /// The same with a further operator kind.
    ///
    /// An embedder's kind is used like any other: in pipeline files, as a SQL function, and in plans sent to workers that
    /// register it, too.
    #[must_use]
    pub fn with_operator(mut self, kind: Arc<dyn OperatorKind>) -> Self {
        Arc::make_mut(&mut self.registry).add(kind);
        self
    }
}

/// Resources on any location that stores reach.
#[derive(Debug)]
struct StoredResources {
    stores: Stores,
    runtime: Handle,
}

impl StoredResources {
    /// Operators bind synchronously, possibly on a thread of the runtime, which must not block on itself.
    fn get(&self, location: &str) -> std::result::Result<Bytes, DatasetError> {
        let read = || self.runtime.block_on(self.stores.read_all(location));
        std::thread::scope(|scope| {
            let message = || "the thread that read it panicked".to_owned();
            let panicked = |_| Err(DatasetError::Store { location: location.to_owned(), message: message() });
            scope.spawn(read).join().unwrap_or_else(panicked)
        })
    }
}

impl ReadResource for StoredResources {
    fn read(&self, location: &str) -> std::result::Result<Bytes, String> {
        self.get(location).map_err(|error| error.to_string())
    }

    fn read_if_there(&self, location: &str) -> std::result::Result<Option<Bytes>, String> {
        match self.get(location) {
            Ok(bytes) => Ok(Some(bytes)),
            // Stores that may not be listed refuse what is not there.
            Err(DatasetError::NotFound { .. } | DatasetError::Denied { .. }) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}
