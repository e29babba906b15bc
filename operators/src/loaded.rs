//! Things that are read from resources and shared: an operator that is bound again, for another split or another host, gets what is there.
//!
//! Something stays as long as an operator holds it. What comes from local files is read again when they have changed since.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use crate::{ResourceIdentity, Result};

/// Name, size and time of a file.
pub(crate) type FileState = (String, u64, Option<SystemTime>);

/// What is in memory, by what it was made from.
pub(crate) struct Loaded<K, T>(Mutex<Option<HashMap<K, Known<T>>>>);

struct Known<T> {
    value: Weak<T>,
    identities: Vec<ResourceIdentity>,
}

impl<K: Eq + Hash, T> Loaded<K, T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// What the key stands for, with the identities of what it was read from; `load` makes it where it is not there.
    pub(crate) fn get(
        &self,
        key: K,
        load: impl FnOnce() -> Result<(T, Vec<ResourceIdentity>)>,
    ) -> Result<(Arc<T>, Vec<ResourceIdentity>)> {
        // Held while something is loaded, so that splits that begin together do not load it twice.
        let mut loaded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = loaded.get_or_insert_default();
        if let Some(known) = loaded.get(&key)
            && let Some(value) = known.value.upgrade()
        {
            return Ok((value, known.identities.clone()));
        }
        let (value, identities) = load()?;
        let value = Arc::new(value);
        loaded.retain(|_, known| known.value.strong_count() > 0);
        loaded.insert(key, Known { value: Arc::downgrade(&value), identities: identities.clone() });
        Ok((value, identities))
    }
}

/// The state of a local file, or of the files in a local folder; nothing of other locations.
pub(crate) fn local_files(location: &str) -> Vec<FileState> {
    let path = Path::new(location.strip_prefix("file://").unwrap_or(location));
    let state = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Some((name, metadata.len(), metadata.modified().ok()))
    };
    if path.is_file() {
        return state(path).into_iter().collect();
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.filter_map(|entry| state(&entry.path())).collect();
    files.sort();
    files
}
