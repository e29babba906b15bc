//! What steps learn from the corpus before they run.
//!
//! A step may need something that only the corpus can say, such as the document frequencies of terms. Its operator asks for that as a
//! [`Fit`]: an operator that makes partial statistics of a stream. The host runs it in the step's place, over the same source and behind the same
//! steps (but for those that only add columns that it does not read), as a run of its own in `_run/fits/<step>-<key>` of the run folder, with plan, commit log and report; so it can be killed and resumed like any run.
//! The parts are put together in the order of the splits, one at a time, into `<key>.arrow` in that folder, and the step's key is set to the place of that
//! file. Its content is a resource of the step, so the fingerprint of the run that follows covers it.

use std::sync::Arc;

use arrow_select::concat::concat_batches;
use gristmill_datasets::run::{Manifest, RunFolder, RunStatus};
use gristmill_datasets::{ArrowCompression, DatasetError, Stores, store_error};
use gristmill_operators::{Fit, OperatorError, OperatorSpec, Registry, tables};
use object_store::{ObjectStoreExt, PutPayload, WriteMultipart};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::chain::StepSpec;
use crate::definition::{ArrowSink, Pipeline, PipelineFile, SinkCommon, SinkDefinition, StepDefinition};
use crate::environment::Environment;
use crate::error::{PipelineError, Result};
use crate::run::driver::{Observer, RunOptions, drive};
use crate::run::mill::Mill;
use crate::run::prepare::{Prepared, prepare_steps, step_error};

/// Where fits are, in a run folder.
const FITS: &str = "_run/fits";
/// Files beyond this size are sent in pieces.
const PIECE_BYTES: usize = 16 << 20;
const WHOLE_BYTES: usize = 64 << 20;

/// Something that a step has to learn before it can be bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Learning {
    /// Position of the step, from 0.
    pub index: usize,
    /// Name of the step.
    pub step: String,
    /// The key of its configuration that takes what is learned.
    pub key: &'static str,
    /// Only the first so many rows of the source are learned from; all where absent.
    pub rows: Option<u64>,
    spec: OperatorSpec,
}

/// What has to be learned first of all, as a run that is planned.
#[derive(Debug)]
pub struct PlannedFit {
    /// What is learned.
    pub learning: Learning,
    /// The run folder of the fit.
    pub folder: String,
    /// The run that learns it.
    pub prepared: Prepared,
}

/// The steps with everything that they learn from the corpus, which is learned now as far as it has not been before.
pub(super) async fn learn(
    file: &PipelineFile,
    environment: &Environment,
    options: &RunOptions,
    observer: &Arc<dyn Observer>,
    folder: &str,
    mut steps: Vec<StepSpec>,
) -> Result<Vec<StepSpec>> {
    let mut progress = Learned::default();
    while let Some(learning) = progress.next(file, &environment.registry, &steps)? {
        let (location, own) = places(folder, &learning);
        let (derived, chain) = derive(file, environment, &steps, &learning, &own)?;
        observer.learning(&learning);
        let driven = drive(&derived, environment, options, observer, &own, chain, true).await?;
        if !is_there(&environment.stores, &location).await? {
            combine(&driven.mill, &driven.manifest, environment, &learning, &location).await?;
        }
        set(file, &environment.registry, &mut steps, &learning, &location)?;
    }
    Ok(steps)
}

/// The steps with what was learned in the run folder before; what is missing first of all where something is.
pub(super) async fn recall(
    file: &PipelineFile,
    environment: &Environment,
    folder: &str,
    mut steps: Vec<StepSpec>,
) -> Result<(Vec<StepSpec>, Option<Learning>)> {
    let mut progress = Learned::default();
    while let Some(learning) = progress.next(file, &environment.registry, &steps)? {
        let (location, _) = places(folder, &learning);
        if !is_there(&environment.stores, &location).await? {
            return Ok((steps, Some(learning)));
        }
        set(file, &environment.registry, &mut steps, &learning, &location)?;
    }
    Ok((steps, None))
}

/// The run that comes first where a step has something to learn that was not learned in the run folder yet.
pub async fn planned_fit(file: &PipelineFile, environment: &Environment, folder: &str) -> Result<Option<PlannedFit>> {
    let steps = super::complete_steps(file, environment)?;
    let (steps, learning) = recall(file, environment, folder, steps).await?;
    let Some(learning) = learning else { return Ok(None) };
    let (_, own) = places(folder, &learning);
    let (derived, chain) = derive(file, environment, &steps, &learning, &own)?;
    let prepared = prepare_steps(&derived, environment, &own, chain, true).await?;
    Ok(Some(PlannedFit { learning, folder: own, prepared }))
}

/// How far the fits of a run folder are, by name.
pub async fn fits_of(environment: &Environment, folder: &str) -> Result<Vec<(String, RunStatus)>> {
    let (store, root) = environment.stores.open(folder)?;
    let within = FITS.split('/').fold(root, |path, part| path.join(part));
    let listed = match store.list_with_delimiter(Some(&within)).await {
        Ok(listed) => listed,
        Err(error) => {
            return match store_error(&format!("{folder}/{FITS}"), error) {
                // A file system says so where an object store lists nothing: of a folder that is a file, for instance.
                DatasetError::NotFound { .. } => Ok(Vec::new()),
                other => Err(other.into()),
            };
        }
    };
    let mut fits = Vec::new();
    for path in listed.common_prefixes {
        let Some(name) = path.filename().map(str::to_owned) else { continue };
        let fit = RunFolder::new(Arc::clone(&store), path, format!("{folder}/{FITS}/{name}"));
        match fit.status().await {
            Ok(status) => fits.push((name, status)),
            Err(DatasetError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    fits.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(fits)
}

/// Locations of what was learned in the run folder, relative to it: a folder that was moved is still the same run.
pub(super) fn relative(value: Value, folder: &str) -> Value {
    match value {
        Value::String(text) => match relative_text(&text, folder) {
            Some(within) => Value::String(within.to_owned()),
            None => Value::String(text),
        },
        Value::Array(items) => items.into_iter().map(|item| relative(item, folder)).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, relative(value, folder))).collect(),
        other => other,
    }
}

/// The same of one location.
pub(super) fn relative_text<'a>(location: &'a str, folder: &str) -> Option<&'a str> {
    let within = location.strip_prefix(folder)?.strip_prefix('/')?;
    within.starts_with(FITS).then_some(within)
}

/// The first step that has something to learn, and what that is; `None` where no step has.
pub(crate) fn first(file: &PipelineFile, registry: &Registry, steps: &[StepSpec]) -> Result<Option<Learning>> {
    Learned::default().next(file, registry, steps)
}

/// The chain that learns, in place of the steps from the one that learns on.
pub(crate) fn learning_steps(
    file: &PipelineFile,
    registry: &Registry,
    steps: &[StepSpec],
    learning: &Learning,
) -> Result<Vec<StepSpec>> {
    let failed = |error| step_error(file, learning.index, &learning.step, error);
    let mut chain = steps[..learning.index].to_vec();
    // What makes statistics of rows cannot pass over some of them, so those are left out before it.
    if let Some(when) = steps.get(learning.index).and_then(|step| step.when.as_ref()) {
        let spec = OperatorSpec::new("filter", json!({"keep": when, "reason": "'when' does not hold"}));
        let operator = registry.complete(&spec.named(&format!("{}_when", learning.step))).map_err(failed)?;
        chain.push(StepSpec { operator, when: None });
    }
    let operator = registry.complete(&learning.spec).map_err(failed)?;
    chain.push(StepSpec { operator, when: None });
    Ok(chain)
}

/// Sets the key of the step to the place of what was learned.
pub(crate) fn set(
    file: &PipelineFile,
    registry: &Registry,
    steps: &mut [StepSpec],
    learning: &Learning,
    location: &str,
) -> Result<()> {
    let Some(step) = steps.get_mut(learning.index) else { return Ok(()) };
    if let Some(config) = step.operator.config.as_object_mut() {
        config.insert(learning.key.to_owned(), location.into());
    }
    let completed = registry.complete(&step.operator);
    step.operator = completed.map_err(|error| step_error(file, learning.index, &learning.step, error))?;
    Ok(())
}

impl Learning {
    /// The kind of operator whose `combine` puts the statistics together, with its completed configuration.
    #[must_use]
    pub fn spec(&self) -> &OperatorSpec {
        &self.spec
    }
}

/// Which keys of which steps were learned already.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    asked: Vec<(usize, &'static str)>,
}

impl Learned {
    /// What has to be learned next.
    pub(crate) fn next(
        &mut self,
        file: &PipelineFile,
        registry: &Registry,
        steps: &[StepSpec],
    ) -> Result<Option<Learning>> {
        for (index, step) in steps.iter().enumerate() {
            let failed = |error| step_error(file, index, &step.operator.name, error);
            let kind = registry.kind(&step.operator.kind).map_err(failed)?;
            let Some(Fit { spec, key, rows }) = kind.fit(&step.operator.config).map_err(failed)? else { continue };
            if self.asked.contains(&(index, key)) {
                let message = format!("asks to learn '{key}' although that was learned");
                return Err(failed(gristmill_operators::config::invalid(kind.name(), key, message)));
            }
            self.asked.push((index, key));
            let step = step.operator.name.clone();
            let spec = registry.complete(&spec.named(&step)).map_err(failed)?;
            return Ok(Some(Learning { index, step, key, rows, spec }));
        }
        Ok(None)
    }
}

/// The file that is learned, and the run folder of the fit.
fn places(folder: &str, learning: &Learning) -> (String, String) {
    let own = format!("{folder}/{FITS}/{}-{}", learning.step, learning.key);
    (format!("{own}/{}.arrow", learning.key), own)
}

/// The pipeline that learns.
fn derive(
    file: &PipelineFile,
    environment: &Environment,
    steps: &[StepSpec],
    learning: &Learning,
    own: &str,
) -> Result<(PipelineFile, Vec<StepSpec>)> {
    let pipeline = file.pipeline();
    let chain = learning_steps(file, &environment.registry, steps, learning)?;
    let mut source = pipeline.source.clone();
    source.limit = [source.limit, learning.rows].into_iter().flatten().min();
    let definition = |step: &StepSpec| StepDefinition {
        kind: step.operator.kind.clone(),
        name: step.operator.name.clone(),
        when: step.when.clone(),
        config: step.operator.config.clone(),
    };
    let common = SinkCommon {
        path: own.to_owned(),
        sidecar: false,
        rejected: false,
        judgments: None,
        token_budget: None,
        metrics: None,
    };
    let derived = Pipeline {
        name: format!("{}, {} of {}", pipeline.name, learning.key, learning.step),
        description: None,
        source,
        steps: chain.iter().map(definition).collect(),
        sink: SinkDefinition::Arrow(ArrowSink { common, compression: ArrowCompression::None }),
        max_quarantined: pipeline.max_quarantined,
        attempts: pipeline.attempts,
        tests: Vec::new(),
    };
    Ok((file.derived(derived), chain))
}

async fn is_there(stores: &Stores, location: &str) -> Result<bool> {
    match stores.find(location).await {
        Ok(_) => Ok(true),
        Err(DatasetError::NotFound { .. } | DatasetError::NoData { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Puts the parts together, one in memory at a time, and writes the file. Whoever does it again writes the same.
async fn combine(
    mill: &Mill,
    manifest: &Manifest,
    environment: &Environment,
    learning: &Learning,
    location: &str,
) -> Result<()> {
    let mut records: Vec<_> = manifest.records.iter().collect();
    records.sort_by_key(|record| record.split);
    let url = mill.folder().url();
    let parts: Vec<String> =
        records.iter().filter_map(|record| record.part.as_ref()).map(|part| format!("{url}/{part}")).collect();
    let (stores, registry, spec) =
        (environment.stores.clone(), Arc::clone(&environment.registry), learning.spec.clone());
    // Operators are synchronous, and this may compute for long.
    let work = tokio::task::spawn_blocking(move || {
        let runtime = Handle::current();
        let mut read = parts.iter().map(|part| {
            let bytes = runtime.block_on(stores.read_all(part));
            let unusable =
                |message: String| OperatorError::Resource { location: gristmill_datasets::redact(part), message };
            let batches = tables::read_arrow(part, bytes.map_err(|error| unusable(error.to_string()))?)?;
            let first = batches.first().ok_or_else(|| unusable("it holds no batch".to_owned()))?;
            Ok(concat_batches(&first.schema(), &batches)?)
        });
        let combined = registry.kind(&spec.kind)?.combine(&spec, &mut read)?;
        tables::write_arrow(&combined)
    });
    let bytes = work.await.map_err(|error| PipelineError::Engine(format!("learning died: {error}")))?;
    let bytes = bytes.map_err(|source| PipelineError::Operator { step: learning.step.clone(), source })?;
    put(mill, &format!("{}.arrow", learning.key), bytes, location).await
}

/// Writes a file that may be large. It appears under its name whole or not at all.
async fn put(mill: &Mill, name: &str, bytes: Vec<u8>, location: &str) -> Result<()> {
    let (store, path) = (mill.store(), mill.folder().path(name));
    let failed = |error| PipelineError::from(store_error(location, error));
    if bytes.len() <= WHOLE_BYTES {
        return store.put(&path, PutPayload::from(bytes)).await.map(|_| ()).map_err(failed);
    }
    let upload = store.put_multipart(&path).await.map_err(failed)?;
    let mut writer = WriteMultipart::new_with_chunk_size(upload, PIECE_BYTES);
    let bytes = bytes::Bytes::from(bytes);
    for begin in (0..bytes.len()).step_by(PIECE_BYTES) {
        writer.wait_for_capacity(4).await.map_err(failed)?;
        writer.put(bytes.slice(begin..bytes.len().min(begin + PIECE_BYTES)));
    }
    writer.finish().await.map(|_| ()).map_err(failed)
}
