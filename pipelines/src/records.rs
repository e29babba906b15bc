//! Records in any place that can be written to: folders of the local disk, or one object for each key.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use gristmill_datasets::{Location, Stores, store_error};
use gristmill_operators::records::{FolderRecords, Found, OpenRecords, RecordKey, Records, Stored};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Requests to a store that are under way at once.
const CONCURRENCY: usize = 64;

/// Opens records through stores.
#[derive(Debug)]
pub(crate) struct StoredRecords {
    pub(crate) stores: Stores,
    pub(crate) runtime: Handle,
}

impl OpenRecords for StoredRecords {
    fn open(&self, location: &str) -> Result<Arc<dyn Records>, String> {
        let parsed = Location::parse(location).map_err(|error| error.to_string())?;
        if let Location::File { path } = &parsed {
            return Ok(Arc::new(FolderRecords::open(path)?));
        }
        if !parsed.is_writable() {
            return Err("nothing can be written there; allowed: a path, s3://, gs://, az://".to_owned());
        }
        let (store, folder) = self.stores.open_location(&parsed).map_err(|error| error.to_string())?;
        let places = Arc::new(Semaphore::new(CONCURRENCY));
        Ok(Arc::new(ObjectRecords {
            store,
            folder,
            location: parsed.to_string(),
            runtime: self.runtime.clone(),
            places,
        }))
    }
}

/// One object for each key, `<folder>/<two digits>/<64 digits>`. An object is there as a whole or not at all.
struct ObjectRecords {
    store: Arc<dyn ObjectStore>,
    folder: Path,
    location: String,
    runtime: Handle,
    places: Arc<Semaphore>,
}

impl ObjectRecords {
    fn path(&self, key: &RecordKey) -> Path {
        let name = key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Path::from(format!("{}/{}/{name}", self.folder, &name[..2]))
    }
}

impl Records for ObjectRecords {
    fn get(&self, key: RecordKey, found: Found) {
        let (store, path, places) = (Arc::clone(&self.store), self.path(&key), Arc::clone(&self.places));
        let location = self.location.clone();
        self.runtime.spawn(async move {
            // The semaphore is never closed.
            let _place = places.acquire_owned().await;
            let value = match store.get(&path).await {
                Ok(object) => object.bytes().await.map(Some),
                Err(Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            };
            found(value.map_err(|error| store_error(&location, error).to_string()));
        });
    }

    fn put(&self, key: RecordKey, value: Bytes, stored: Stored) {
        let (store, path, places) = (Arc::clone(&self.store), self.path(&key), Arc::clone(&self.places));
        let location = self.location.clone();
        self.runtime.spawn(async move {
            let _place = places.acquire_owned().await;
            let put = store.put(&path, value.into()).await;
            stored(put.map(drop).map_err(|error| store_error(&location, error).to_string()));
        });
    }
}

impl fmt::Debug for ObjectRecords {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ObjectRecords").field("location", &self.location).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use gristmill_datasets::StoreOptions;
    use tokio::sync::oneshot::channel;

    use super::*;

    async fn get(records: &Arc<dyn Records>, key: RecordKey) -> Option<Bytes> {
        let (sender, receiver) = channel();
        records.get(key, Box::new(move |found| sender.send(found).unwrap()));
        receiver.await.unwrap().unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn records_are_kept_on_disk_and_in_stores_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let open = StoredRecords { stores: Stores::new(StoreOptions::default()), runtime: Handle::current() };
        let path = folder.path().join("answers with spaces");
        for location in ["memory:///a/b", path.to_str().unwrap(), &format!("file://{}/c", folder.path().display())] {
            let records = open.open(location).unwrap();
            assert_eq!(get(&records, [171; 32]).await, None, "{location}");
            let (sender, receiver) = channel();
            records.put([171; 32], "value".into(), Box::new(move |stored| sender.send(stored).unwrap()));
            receiver.await.unwrap().unwrap();
            for records in [&records, &open.open(location).unwrap()] {
                assert_eq!(get(records, [171; 32]).await.unwrap(), "value", "{location}");
                assert_eq!(get(records, [172; 32]).await, None, "{location}");
            }
        }
        assert!(path.is_dir());
        let object = open.stores.read_all(&format!("memory:///a/b/ab/{}", "ab".repeat(32))).await.unwrap();
        assert_eq!(object, "value");
        for location in ["hf://datasets/o/n/a", "https://host/a"] {
            assert!(open.open(location).unwrap_err().contains("nothing can be written there"), "{location}");
        }
    }
}
