//! Running pipelines: preparing, grinding splits, driving, reporting.

mod apart;
mod driver;
mod estimate;
mod judgments;
pub mod metrics;
mod mill;
mod node;
mod prepare;
mod progress;
mod report;
mod spec;
mod token_budget;

pub use driver::{Observer, RunOptions, Unobserved, folder_url, run, run_folder};
pub use estimate::{Estimate, Spread, estimate};
pub use mill::{Mill, Taste};
pub use node::{SplitExec, work_list};
pub(crate) use prepare::step_error;
pub use prepare::{Prepared, Validated, complete_steps, find_files, prepare, validate};
pub use progress::{Progress, Snapshot};
pub use report::RunReport;
pub use spec::{RunSpec, WorkItem, decode_schema, encode_schema};
