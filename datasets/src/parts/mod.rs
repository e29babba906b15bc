//! Part files: what a split becomes.
//!
//! A part is written once, under a name nobody else uses, and never changed. [`PartWriter`] makes files whose bytes
//! depend on the rows alone, so that a split that was done twice, with another batch size or on another machine, gives
//! the same file.

mod chunks;
mod encode;
mod options;
mod schema;
mod side;
#[cfg(test)]
mod tests;
mod upload;
mod writer;

pub use options::{ArrowCompression, ArrowOptions, JsonlOptions, ParquetCompression, ParquetOptions, PartOptions};
pub use side::{
    QuarantineRow, REJECTED_REASON, REJECTED_STEP, quarantine_batch, quarantine_schema, rejected_batch, rejected_schema,
};
pub use writer::{PartSummary, PartWriter};
