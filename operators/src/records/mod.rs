//! Records that outlive the process: what was costly to get, by a key that says exactly what it was got for.
//!
//! A record that was put is never changed: two processes that put the same key put values of the same worth, and either may be found.
//! [`FolderRecords`] keeps them in a local folder; hosts that reach other places open those.

mod folder;
mod segment;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;

pub use folder::FolderRecords;

/// A key: 32 bytes of BLAKE3.
pub type RecordKey = [u8; 32];

/// What is called with the value of a key, or `None` where it has none.
pub type Found = Box<dyn FnOnce(Result<Option<Bytes>, String>) + Send>;

/// What is called when a value is as safe as the place can make it.
pub type Stored = Box<dyn FnOnce(Result<(), String>) + Send>;

/// Durable values by key. Both calls begin the work and report its end to a closure, once and on any thread; the errors are messages without
/// secrets.
pub trait Records: Debug + Send + Sync {
    /// Looks a key up.
    fn get(&self, key: RecordKey, found: Found);

    /// Keeps a value.
    fn put(&self, key: RecordKey, value: Bytes, stored: Stored);
}

/// Opens records by location. Implemented by hosts that know more than the local disk.
pub trait OpenRecords: Debug + Send + Sync {
    /// The records at `location`, a path or a URL, which is made when the first value is put; the error is a message without secrets.
    fn open(&self, location: &str) -> Result<Arc<dyn Records>, String>;
}
