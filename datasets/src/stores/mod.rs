//! The stores that locations lie in.

mod environment;
pub(crate) mod errors;
mod glob;
mod list;
mod local;
pub(crate) mod redact;

#[cfg(feature = "azure")]
mod azure;
#[cfg(feature = "gcs")]
mod gcs;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "http")]
pub(crate) mod network;
#[cfg(feature = "s3")]
mod profile;
#[cfg(feature = "s3")]
mod s3;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use tokio::runtime::Handle;

pub use environment::Environment;
pub(crate) use errors::denied;
pub use errors::store_error;
#[cfg(feature = "hf")]
pub(crate) use glob::Pattern;
#[cfg(feature = "hf")]
pub(crate) use list::{Entry, folder_of, is_data_file, nothing, pattern_of, select};
pub use list::{FoundFile, ListOptions};
#[cfg(feature = "http")]
pub use network::retry_after;
pub use redact::redact;

use crate::location::Location;
use crate::{DatasetError, Result};

/// How stores are reached.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The variables that settings and credentials come from.
    pub environment: Environment,
    /// The runtime that drives network connections; the caller's own where absent. A program that computes on the threads
    /// of its runtime gives a second one here, so that connections do not starve.
    pub io_runtime: Option<Handle>,
    /// How requests are repeated.
    pub retry: RetryPolicy,
    /// How long a server may be silent in the middle of an answer.
    pub read_timeout: Duration,
    /// How many requests to the Hub may wait for an answer at the same time.
    pub hub_requests: usize,
}

/// When and how often a request that failed for now is repeated: after 429, 5xx, lost connections and cut bodies, with
/// exponentially growing random waits, or with the wait that the server names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often at most for one request; on the Hub, for one stretch of a file without any progress.
    pub most_retries: usize,
    /// The first wait.
    pub first_wait: Duration,
    /// The longest wait that is not named by the server.
    pub longest_wait: Duration,
    /// The longest wait that a server may name. The Hub counts requests in windows of five minutes.
    pub longest_named_wait: Duration,
}

/// All stores of a process, by location. A clone shares the connections; clients are made on first use, one for each bucket
/// or host.
///
/// # Example
/// ```
/// use gristmill_datasets::{ListOptions, StoreOptions, Stores};
/// use object_store::ObjectStoreExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> gristmill_datasets::Result<()> {
/// let stores = Stores::new(StoreOptions::default());
/// let (store, path) = stores.open("memory:///corpus/a.jsonl")?;
/// store.put(&path, "{}\n".into()).await.map_err(|error| gristmill_datasets::store_error("memory:///corpus", error))?;
/// let files = stores.list(&["memory:///corpus/**/*.jsonl".to_owned()], &ListOptions::default()).await?;
/// assert_eq!(files[0].url, "memory:///corpus/a.jsonl");
/// assert_eq!(stores.read_all(&files[0].url).await?, "{}\n");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Stores {
    shared: Arc<Shared>,
}

struct Shared {
    options: StoreOptions,
    local: Arc<LocalFileSystem>,
    memory: Arc<InMemory>,
    /// By scheme and bucket, or by scheme, host and query.
    clients: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
    /// Web addresses with the credentials they were given with, by what is shown of them. What is recorded of a run holds
    /// only the latter, and is opened with the former.
    #[cfg(feature = "http")]
    addresses: Mutex<HashMap<String, url::Url>>,
    #[cfg(feature = "http")]
    network: std::sync::OnceLock<reqwest::Client>,
    #[cfg(feature = "hf")]
    hub: std::sync::OnceLock<Arc<crate::hub::Hub>>,
}

impl Stores {
    /// Makes the registry; nothing is connected yet.
    #[must_use]
    pub fn new(options: StoreOptions) -> Self {
        install_crypto_provider();
        Self {
            shared: Arc::new(Shared {
                options,
                local: Arc::new(LocalFileSystem::new()),
                memory: Arc::new(InMemory::new()),
                clients: Mutex::new(HashMap::new()),
                #[cfg(feature = "http")]
                addresses: Mutex::new(HashMap::new()),
                #[cfg(feature = "http")]
                network: std::sync::OnceLock::new(),
                #[cfg(feature = "hf")]
                hub: std::sync::OnceLock::new(),
            }),
        }
    }

    /// The store of a location and the path in it. Letters of patterns stand for themselves here.
    ///
    /// # Errors
    /// [`DatasetError::Location`] when the location cannot be read or its kind was left out of this build,
    /// [`DatasetError::Setting`] when the environment holds wrong settings for it.
    pub fn open(&self, url: &str) -> Result<(Arc<dyn ObjectStore>, Path)> {
        self.open_location(&Location::parse(url)?)
    }

    /// The same as [`Stores::open`] for a location that was read before.
    ///
    /// # Errors
    /// As [`Stores::open`].
    pub fn open_location(&self, location: &Location) -> Result<(Arc<dyn ObjectStore>, Path)> {
        if let Some(store) = bucket_key(location).and_then(|key| self.shared.clients.lock().get(&key).map(Arc::clone)) {
            return Ok((store, path_in(location)?));
        }
        let store: Arc<dyn ObjectStore> = match location {
            Location::File { .. } => Arc::<LocalFileSystem>::clone(&self.shared.local),
            Location::Memory { .. } => Arc::<InMemory>::clone(&self.shared.memory),
            #[cfg(feature = "s3")]
            Location::S3 { bucket, .. } => self.bucket(location, || s3::connect(self, bucket))?,
            #[cfg(feature = "gcs")]
            Location::Gcs { bucket, .. } => self.bucket(location, || gcs::connect(self, bucket))?,
            #[cfg(feature = "azure")]
            Location::Azure { account, container, .. } => {
                self.bucket(location, || azure::connect(self, account.as_deref(), container))?
            }
            #[cfg(feature = "http")]
            Location::Http { url } => {
                let url = self.with_credentials(location, url);
                let store = self.client(http::base(&url).to_string(), || http::connect(self, &url))?;
                return Ok((store, http::path(&url)?));
            }
            #[cfg(feature = "hf")]
            Location::Hub(hub) => self.hub()?.store(hub),
            #[allow(unreachable_patterns)]
            other => return Err(left_out(other)),
        };
        Ok((store, path_in(location)?))
    }

    /// Uses `store` for every location in the bucket that `bucket` names, such as `s3://name`, in place of a client made
    /// from the environment: a program's own client, or a store of another kind.
    ///
    /// # Example
    /// ```
    /// use std::sync::Arc;
    /// use gristmill_datasets::{StoreOptions, Stores};
    /// use object_store::{ObjectStoreExt, memory::InMemory};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let stores = Stores::new(StoreOptions::default());
    /// stores.register("s3://corpora", Arc::new(InMemory::new()))?;
    /// let (store, path) = stores.open("s3://corpora/terms.txt")?;
    /// store.put(&path, "moth".into()).await?;
    /// assert_eq!(stores.read_all("s3://corpora/terms.txt").await?, "moth");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`DatasetError::Location`] when the location is not in a bucket of S3, Google Cloud Storage or Azure.
    pub fn register(&self, bucket: &str, store: Arc<dyn ObjectStore>) -> Result<()> {
        let location = Location::parse(bucket)?;
        let key = bucket_key(&location).ok_or_else(|| DatasetError::Location {
            location: location.to_string(),
            message: "is in no bucket; allowed: s3://name, gs://name, az://name".to_owned(),
        })?;
        self.shared.clients.lock().insert(key, store);
        Ok(())
    }

    /// Reads a small file as a whole: a term list, a tokenizer, a configuration.
    ///
    /// # Errors
    /// As [`store_error`] maps them.
    pub async fn read_all(&self, url: &str) -> Result<Bytes> {
        let location = Location::parse(url)?;
        let failure = |error| store_error(&location.to_string(), error);
        let (store, path) = self.open_location(&location)?;
        store.get(&path).await.map_err(failure)?.bytes().await.map_err(failure)
    }

    /// The variables that settings come from.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.shared.options.environment
    }

    /// How the stores are reached.
    #[must_use]
    pub fn options(&self) -> &StoreOptions {
        &self.shared.options
    }

    #[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
    fn bucket(
        &self,
        location: &Location,
        connect: impl FnOnce() -> Result<Arc<dyn ObjectStore>>,
    ) -> Result<Arc<dyn ObjectStore>> {
        self.client(bucket_key(location).unwrap_or_default(), connect)
    }

    #[cfg(feature = "http")]
    fn client(
        &self,
        key: String,
        connect: impl FnOnce() -> Result<Arc<dyn ObjectStore>>,
    ) -> Result<Arc<dyn ObjectStore>> {
        let mut clients = self.shared.clients.lock();
        if let Some(client) = clients.get(&key) {
            return Ok(Arc::clone(client));
        }
        let client = connect()?;
        clients.insert(key, Arc::clone(&client));
        Ok(client)
    }

    /// Remembers an address with credentials, or finds them for one that was recorded without.
    #[cfg(feature = "http")]
    fn with_credentials(&self, location: &Location, url: &url::Url) -> url::Url {
        let shown = location.to_string();
        let mut addresses = self.shared.addresses.lock();
        if shown == url.as_str() {
            return addresses.get(&shown).unwrap_or(url).clone();
        }
        addresses.insert(shown, url.clone());
        url.clone()
    }

    #[cfg(feature = "http")]
    fn network(&self) -> Result<reqwest::Client> {
        if let Some(client) = self.shared.network.get() {
            return Ok(client.clone());
        }
        let client = network::client(self.shared.options.read_timeout, reqwest::redirect::Policy::limited(10))?;
        Ok(self.shared.network.get_or_init(|| client).clone())
    }

    #[cfg(feature = "http")]
    pub(crate) fn connector(&self) -> Result<network::Connector> {
        Ok(network::Connector {
            client: self.network()?,
            io_runtime: self.shared.options.io_runtime.clone(),
            retry: self.shared.options.retry.clone(),
            authorization: None,
        })
    }

    #[cfg(feature = "http")]
    pub(crate) fn retry_config(&self) -> object_store::RetryConfig {
        let retry = &self.shared.options.retry;
        object_store::RetryConfig {
            backoff: object_store::BackoffConfig {
                init_backoff: retry.first_wait,
                max_backoff: retry.longest_wait,
                base: 2.0,
            },
            max_retries: retry.most_retries,
            // It is counted from the begin of a request to the last byte of its body, so a limit would end long reads of
            // large files at the first cut. The number of retries bounds the waits.
            retry_timeout: Duration::from_secs(24 * 60 * 60),
        }
    }

    #[cfg(feature = "hf")]
    pub(crate) fn hub(&self) -> Result<&Arc<crate::hub::Hub>> {
        if let Some(hub) = self.shared.hub.get() {
            return Ok(hub);
        }
        let hub = Arc::new(crate::hub::Hub::new(&self.shared.options)?);
        Ok(self.shared.hub.get_or_init(|| hub))
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clients = self.shared.clients.lock().len();
        formatter.debug_struct("Stores").field("clients", &clients).finish_non_exhaustive()
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            environment: Environment::of_process(),
            io_runtime: None,
            retry: RetryPolicy::default(),
            read_timeout: Duration::from_secs(60),
            hub_requests: 32,
        }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            most_retries: 10,
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(20),
            longest_named_wait: Duration::from_secs(5 * 60),
        }
    }
}

/// Chooses the cryptography behind all TLS connections of this process. [`Stores::new`] does so, too; a program that makes
/// TLS connections before calls it first. Calling it again does nothing.
pub fn install_crypto_provider() {
    #[cfg(feature = "http")]
    {
        // It fails when one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

/// What stores of buckets are known by.
fn bucket_key(location: &Location) -> Option<String> {
    match location {
        Location::S3 { bucket, .. } => Some(format!("s3://{bucket}")),
        Location::Gcs { bucket, .. } => Some(format!("gs://{bucket}")),
        Location::Azure { account, container, .. } => {
            Some(format!("az://{container}@{}", account.as_deref().unwrap_or_default()))
        }
        _ => None,
    }
}

fn path_in(location: &Location) -> Result<Path> {
    Path::parse(location.path())
        .map_err(|error| DatasetError::Location { location: location.to_string(), message: redact(&error.to_string()) })
}

fn left_out(location: &Location) -> DatasetError {
    let feature = match location {
        Location::S3 { .. } => "s3",
        Location::Gcs { .. } => "gcs",
        Location::Azure { .. } => "azure",
        Location::Http { .. } => "http",
        _ => "hf",
    };
    DatasetError::Location {
        location: location.to_string(),
        message: format!("this build cannot reach such locations; build it with the cargo feature '{feature}'"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("s3://bucket/a", "s3", cfg!(feature = "s3"))]
    #[case("gs://bucket/a", "gcs", cfg!(feature = "gcs"))]
    #[case("abfss://files@account.dfs.core.windows.net/a", "azure", cfg!(feature = "azure"))]
    #[case("https://host/a", "http", cfg!(feature = "http"))]
    #[case("hf://datasets/o/n/a", "hf", cfg!(feature = "hf"))]
    fn kinds_that_were_left_out_name_their_feature(#[case] url: &str, #[case] feature: &str, #[case] is_built: bool) {
        let environment = Environment::of([("HOME", "/nonexistent")]);
        let opened = Stores::new(StoreOptions { environment, ..StoreOptions::default() }).open(url);
        match opened {
            Ok((_, path)) => assert!(is_built && path.as_ref() == "a"),
            Err(error) => {
                assert!(!is_built, "{error}");
                assert!(error.to_string().contains(&format!("cargo feature '{feature}'")), "{error}");
            }
        }
    }

    #[cfg(feature = "http")]
    #[test]
    fn clients_are_shared() {
        let stores = Stores::new(StoreOptions::default());
        let (first, _) = stores.open("https://host/a").unwrap();
        let (second, _) = stores.clone().open("https://host/folder/b").unwrap();
        let (other, _) = stores.open("https://other/a").unwrap();
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &other));
    }
}
