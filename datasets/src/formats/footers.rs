//! Footers of Parquet files, read once.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use parquet::file::metadata::ParquetMetaData;

use crate::split::SourceFile;

/// A cache of Parquet footers, shared by cloning. Keyed by location, size, entity tag and time of change, so a footer of
/// a replaced file is never used; bounded to 256 MiB of decoded footers, the oldest leaves first.
#[derive(Clone, Default)]
pub struct Footers(Arc<Mutex<Cache>>);

#[derive(Default)]
struct Cache {
    entries: HashMap<Key, Arc<ParquetMetaData>>,
    order: VecDeque<Key>,
    bytes: usize,
}

/// The file as planned, and whether the page index was read with the footer.
type Key = (SourceFile, bool);

const CAPACITY: usize = 256 << 20;

impl Footers {
    pub(crate) fn get(&self, file: &SourceFile, with_pages: bool) -> Option<Arc<ParquetMetaData>> {
        self.0.lock().entries.get(&(file.clone(), with_pages)).map(Arc::clone)
    }

    pub(crate) fn put(&self, file: &SourceFile, with_pages: bool, footer: &Arc<ParquetMetaData>) {
        let key = (file.clone(), with_pages);
        let mut cache = self.0.lock();
        if cache.entries.insert(key.clone(), Arc::clone(footer)).is_some() {
            return;
        }
        cache.order.push_back(key);
        cache.bytes += footer.memory_size();
        while cache.bytes > CAPACITY && cache.order.len() > 1 {
            let Some(oldest) = cache.order.pop_front() else { break };
            if let Some(footer) = cache.entries.remove(&oldest) {
                cache.bytes -= footer.memory_size();
            }
        }
    }
}

impl fmt::Debug for Footers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cache = self.0.lock();
        formatter.debug_struct("Footers").field("files", &cache.entries.len()).field("bytes", &cache.bytes).finish()
    }
}
