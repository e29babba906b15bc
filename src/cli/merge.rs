//! `gristmill merge`: a model with its adapter merged, as a folder that other programs open.

use gristmill::operators::models::{self, MergeOptions};
use gristmill::pipelines::{Environment, PipelineError};

use super::arguments::MergeArguments;
use super::{DONE, FAILED, print_line};

pub(super) async fn merge(arguments: MergeArguments, environment: &Environment) -> Result<u8, PipelineError> {
    let MergeArguments { model, adapter, out, shard_bytes } = arguments;
    let (resources, folder) = (environment.resources.clone(), out.clone());
    let options = MergeOptions { shard_bytes };
    let work = tokio::task::spawn_blocking(move || models::merge(&model, &adapter, &folder, &resources, options));
    match work.await {
        Ok(Ok(merged)) => {
            let (tensors, changed) = (merged.tensors, merged.changed);
            print_line(&format!(
                "{}: {tensors} tensors, {changed} of them changed, {} bytes in {} files",
                out.display(),
                merged.bytes,
                merged.files.len()
            ))?;
            Ok(DONE)
        }
        Ok(Err(error)) => {
            eprintln!("error: {error}");
            Ok(FAILED)
        }
        Err(error) => Err(PipelineError::Engine(error.to_string())),
    }
}
