//! Where corpora lie and where results go: locations, formats, splits, part files and the commit log.
//!
//! A source is resolved to immutable [`SourceFile`]s and cut into [`Split`]s; a split is read as Arrow record batches,
//! unreadable rows beside them. Results are written as part files with attempt-unique names, and a split is done when its
//! commit record was created.
//!
//! Crate features: `s3`, `gcs`, `azure`, `http` and `hf` each add a kind of location; local files and memory are always there.

mod error;
mod formats;
#[cfg(feature = "hf")]
mod hub;
mod location;
mod parts;
mod planning;
pub mod run;
mod split;
mod stores;

pub use error::{DatasetError, Result};
pub use formats::{Chunk, Footers, OpenFile, ReadOptions, SplitSize, UnreadableRow, is_dataset_metadata, read_split};
pub use location::{HubKind, HubLocation, Location};
pub use parts::{
    ArrowCompression, ArrowOptions, JsonlOptions, ParquetCompression, ParquetOptions, PartOptions, PartSummary,
    PartWriter, QuarantineRow, REJECTED_REASON, REJECTED_STEP, quarantine_batch, quarantine_schema, rejected_batch,
    rejected_schema,
};
pub use planning::{plan, source_schema};
pub use split::{Compression, Format, SourceFile, SourcePlan, Split, SplitUnit};
#[cfg(feature = "http")]
pub use stores::retry_after;
pub use stores::{
    Environment, FoundFile, ListOptions, RetryPolicy, StoreOptions, Stores, install_crypto_provider, redact,
    store_error,
};
