//! Running pipelines: preparing, grinding splits, driving, reporting.

mod apart;
mod driver;
mod estimate;
mod fits;
mod judgments;
pub mod metrics;
mod mill;
mod node;
mod prepare;
mod progress;
mod ranking;
mod report;
mod spec;
mod token_budget;

pub use driver::{Observer, RunOptions, Unobserved, folder_url, run, run_folder};
pub use estimate::{Estimate, Spread, estimate};
pub(crate) use fits::{Learned, learning_steps, set as set_learned};
pub use fits::{Learning, PlannedFit, fits_of, planned_fit};
pub use mill::{Mill, Taste};
pub use node::{SplitExec, work_list};
pub(crate) use prepare::step_error;
pub use prepare::{Prepared, Validated, complete_steps, find_files, prepare, validate};
pub use progress::{Progress, Snapshot};
pub use ranking::{RankedQuery, RankingReport, Score, ranking_of};
pub use report::RunReport;
pub use spec::{RunSpec, WorkItem, decode_schema, encode_schema};
