//! `gristmill schema`: the JSON Schema of pipeline files, for editors.

use gristmill::pipelines::{Environment, PipelineError, pipeline_schema};

use super::{DONE, print_json};

pub(super) fn schema(environment: &Environment) -> Result<u8, PipelineError> {
    print_json(&pipeline_schema(&environment.registry))?;
    Ok(DONE)
}
