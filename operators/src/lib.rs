//! Operators on Arrow record batches: the working parts of gristmill, usable on their own.
//!
//! An operator is described by an [`OperatorSpec`] (its kind, name and configuration), bound to an input schema by a
//! [`Registry`], and run as a [`Pass`] over one ordered stream of batches. Everything here is synchronous and needs Arrow
//! only: no query engine, no async runtime, no network. The plan nodes and SQL functions of `gristmill-pipelines` are
//! thin hosts around the same trait.
//!
//! ```
//! # #[cfg(feature = "sample")] {
//! use std::sync::Arc;
//! use arrow_array::{RecordBatch, StringArray};
//! use gristmill_operators::{apply, OperatorSpec, Registry, Resources};
//!
//! let ids = StringArray::from(vec!["a", "b", "c"]);
//! let batch = RecordBatch::try_from_iter([("id", Arc::new(ids) as _)])?;
//! let spec = OperatorSpec::new("sample", serde_json::json!({"fraction": 1.0}));
//! let operator = Registry::standard().bind(&spec, &batch.schema(), &Resources::local())?;
//! let output = apply(operator.as_ref(), [batch])?;
//! assert_eq!(output.rows(), 3);
//! # }
//! # Ok::<(), gristmill_operators::OperatorError>(())
//! ```
//!
//! Cargo features keep the tree small: `blocklist`, `fasttext`, `tokens`, `models`, `influence`, `rank` and `sample` each add their operators, `parquet` lets term
//! lists and queries be Parquet files.

#[cfg(feature = "blocklist")]
pub mod blocklist;
mod columns;
pub mod config;
pub mod conformance;
mod error;
#[cfg(feature = "fasttext")]
pub mod fasttext;
mod guard;
#[cfg(feature = "influence")]
pub mod influence;
#[cfg(any(feature = "fasttext", feature = "models"))]
mod loaded;
#[cfg(feature = "models")]
pub mod models;
pub mod network;
mod operator;
#[cfg(feature = "rank")]
pub mod rank;
pub mod records;
mod registry;
mod resources;
#[cfg(feature = "sample")]
pub mod sample;
pub mod scores;
#[cfg(feature = "models")]
pub mod scoring;
#[cfg(feature = "tables")]
pub mod tables;
#[cfg(feature = "tokens")]
pub mod tokens;

pub use columns::{TextColumn, default_array, require_column};
pub use error::{OperatorError, Result, nearest};
pub use guard::{Guarded, RowPredicate};
pub use operator::{Fit, Operator, OperatorKind, OperatorSpec, Output, Pass, Quarantined, Rejected, RowEffect, apply};
pub use registry::Registry;
pub use resources::{ReadResource, ResourceIdentity, Resources};
