//! gristmill grinds text corpora: a streaming dataflow processor for large collections of documents.
//!
//! This crate is the facade. What it is made of can be used alone:
//!
//! * [`operators`]: composable operators on Arrow record batches (blocklist match, token counting, tokenization,
//!   sampling). Needs Arrow only.
//! * [`datasets`]: locations, formats, splits, part files and the commit log.
//! * [`pipelines`]: pipeline files, planning, running, and the DataFusion hosts of operators.
//!
//! A whole pipeline from Rust:
//!
//! ```no_run
//! use std::sync::Arc;
//! use gristmill::pipelines::{Environment, PipelineFile, run};
//!
//! # async fn main_() -> Result<(), Box<dyn std::error::Error>> {
//! let text = std::fs::read_to_string("pipeline.yaml")?;
//! let file = PipelineFile::parse("pipeline.yaml", &text, &["source.limit=1000"])?;
//! let environment = Environment::standard()?;
//! let report = run::run(&file, &environment, &run::RunOptions::default(), Arc::new(run::Unobserved)).await?;
//! println!("{} of {} rows kept", report.rows_out, report.rows_in);
//! # Ok(())
//! # }
//! ```

pub use gristmill_datasets as datasets;
pub use gristmill_operators as operators;
pub use gristmill_pipelines as pipelines;
