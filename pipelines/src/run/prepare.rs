//! From a definition to something that can run: files found, splits cut, steps bound, fingerprint taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::{DataType, SchemaRef};
use gristmill_datasets::run::{Fingerprint, RunFolder, RunPlan};
use gristmill_datasets::{
    DatasetError, Footers, Format, ListOptions, OpenFile, PartOptions, ReadOptions, SourceFile, SourcePlan, SplitSize,
};
use gristmill_operators::rank::RankShape;
use gristmill_operators::{OperatorError, OperatorSpec, Resources};
use serde_json::{Map, Value, json};

use crate::chain::{Chain, StepError, StepSpec};
use crate::definition::{PipelineFile, RANK, SourceDefinition, StepDefinition};
use crate::environment::Environment;
use crate::error::{PipelineError, Result};
use crate::run::driver::folder_url;
use crate::run::fits::{self, Learning};
use crate::run::mill::output_columns;
use crate::run::ranking;
use crate::run::spec::{RunSpec, decode_schema, encode_schema};
use crate::secrets::without_credentials;

/// A pipeline whose source has been looked at and whose steps are bound.
#[derive(Debug)]
pub struct Prepared {
    /// What the splits share.
    pub spec: RunSpec,
    /// Files, splits and fingerprint.
    pub plan: RunPlan,
    /// The bound steps.
    pub chain: Chain,
    /// Schema of the parts.
    pub output_schema: SchemaRef,
    /// The ranking that the parts become, if the sink makes one.
    pub ranking: Option<RankShape>,
    /// Whether the run folder had a plan of these files that could be taken over without reading them again.
    pub plan_reused: bool,
    /// Whether the run folder holds this very plan, which never changes again.
    pub plan_written: bool,
}

/// A pipeline whose steps are bound to the source's schema, without a plan.
#[derive(Debug)]
pub struct Validated {
    /// The files of the source.
    pub files: Vec<SourceFile>,
    /// Schema of the rows that reading gives.
    pub schema: SchemaRef,
    /// The bound steps.
    pub chain: Chain,
    /// Schema of the parts.
    pub output_schema: SchemaRef,
    /// The ranking that the parts become, if the sink makes one.
    pub ranking: Option<RankShape>,
    /// What a step has to learn from the corpus before it can be bound. The chain then ends with the operator that learns it, and what follows in the
    /// pipeline was not looked at.
    pub learning: Option<Learning>,
}

/// Prepares a pipeline for running. `folder` is the run folder's URL.
///
/// # Errors
///
/// Also where a step has something to learn from the corpus that was not learned in the run folder yet; see [`planned_fit`](super::planned_fit).
pub async fn prepare(file: &PipelineFile, environment: &Environment, folder: &str) -> Result<Prepared> {
    let steps = complete_steps(file, environment)?;
    let (steps, learning) = fits::recall(file, environment, folder, steps).await?;
    if let Some(Learning { index, step, key, .. }) = learning {
        let message =
            format!("step '{step}': '{key}' is learned from the corpus first, which a run does; or give it a file");
        return Err(file.step_error(index, key, message).into());
    }
    prepare_steps(file, environment, folder, steps, false).await
}

/// Prepares steps that have all they need. `is_fit` says that the last one is put there to learn.
pub(super) async fn prepare_steps(
    file: &PipelineFile,
    environment: &Environment,
    folder: &str,
    mut steps: Vec<StepSpec>,
    is_fit: bool,
) -> Result<Prepared> {
    let pipeline = file.pipeline();
    steps.extend(ranking_step(file, environment)?);
    let read = read_options(file, &pipeline.source)?;
    let files = find_files(file, environment).await?;
    let found = hash_of(&files)?;
    let planning = planning_options(&read)?;
    let known = known_plan(environment, folder)
        .await?
        .filter(|known| known.definition["found"] == found && known.definition["read"] == planning);
    let plan_reused = known.is_some();
    let written = known.as_ref().map(|known| (known.name.clone(), known.created_ms, known.fingerprint.value.clone()));
    let source = match known {
        Some(known) => taken_over(known)?,
        None => gristmill_datasets::plan(open_files(environment, &files)?, &read)
            .await
            .map_err(|error| source_error(file, error))?,
    };
    let for_run = Environment { resources: environment.resources.clone().for_run(folder), ..environment.clone() };
    let mut bound = bind(file, &steps, &read, Arc::clone(&source.schema), &for_run, is_fit)?;
    // What is learned does not depend on steps that only add columns for others, and these may be models.
    if is_fit && bound.chain.needed_by_last().contains(&false) {
        let mut needed = bound.chain.needed_by_last().into_iter();
        steps.retain(|_| needed.next().unwrap_or(true));
        bound = bind(file, &steps, &read, source.schema, &for_run, is_fit)?;
    }
    check_ranking(file, bound.ranking.as_ref()).await?;
    // The chain may need fewer columns than the source has; what is not needed is not read.
    let read = ReadOptions { columns: bound.columns_read.clone(), ..read };
    let parts = part_options(file)?;
    let resources: BTreeMap<String, String> = bound
        .chain
        .resources()
        .into_iter()
        .map(|resource| {
            let location = fits::relative_text(&resource.location, folder).unwrap_or(&resource.location);
            (gristmill_datasets::redact(location), resource.hash)
        })
        .collect();
    let sink = json!({"parts": parts, "columns": bound.columns_written, "rejected": pipeline.sink.common().rejected});
    let specs: Map<String, Value> = [
        ("source".to_owned(), planning_options(&read)?),
        ("steps".to_owned(), fits::relative(step_values(&steps, environment)?, folder)),
        ("sink".to_owned(), sink),
    ]
    .into_iter()
    .collect();
    let fingerprint = Fingerprint::of_run(specs, &files, &resources, &bound.output_schema);
    let source = SourcePlan { schema: Arc::clone(&bound.schema), ..source };
    let definition = json!({
        "pipeline": without_credentials(json!(pipeline)),
        "found": found,
        "read": planning,
        "schema": encode_schema(&bound.full_schema),
    });
    let mut plan = RunPlan::new(pipeline.name.clone(), fingerprint, &source, definition);
    let written = written.filter(|(_, _, fingerprint)| *fingerprint == plan.fingerprint.value);
    let plan_written = written.is_some();
    if let Some((name, created_ms, _)) = written {
        (plan.name, plan.created_ms) = (name, created_ms);
    }
    let spec = RunSpec {
        folder: folder.to_owned(),
        fingerprint: plan.fingerprint.value.clone(),
        splits: plan.total(),
        read,
        schema: bound.schema,
        steps,
        parts,
        columns: bound.columns_written,
        rejected: pipeline.sink.common().rejected,
        label: bound.label,
    };
    Ok(Prepared {
        spec,
        plan,
        chain: bound.chain,
        output_schema: bound.output_schema,
        ranking: bound.ranking,
        plan_reused,
        plan_written,
    })
}

/// Binds every step against the source's schema, without reading rows beyond what the schema takes.
pub async fn validate(file: &PipelineFile, environment: &Environment) -> Result<Validated> {
    let mut steps = complete_steps(file, environment)?;
    let learning = fits::first(file, &environment.registry, &steps)?;
    match &learning {
        Some(learning) => steps = fits::learning_steps(file, &environment.registry, &steps, learning)?,
        None => steps.extend(ranking_step(file, environment)?),
    }
    let read = read_options(file, &file.pipeline().source)?;
    part_options(file)?;
    let files = find_files(file, environment).await?;
    let schema = gristmill_datasets::source_schema(open_files(environment, &files)?, &read)
        .await
        .map_err(|error| source_error(file, error))?;
    let bound = bind(file, &steps, &read, schema, environment, learning.is_some())?;
    check_ranking(file, bound.ranking.as_ref()).await?;
    Ok(Validated {
        files,
        schema: bound.schema,
        chain: bound.chain,
        output_schema: bound.output_schema,
        ranking: bound.ranking,
        learning,
    })
}

/// The files of a pipeline's source, in order, pinned to what they are now.
pub async fn find_files(file: &PipelineFile, environment: &Environment) -> Result<Vec<SourceFile>> {
    let source = &file.pipeline().source;
    let options = ListOptions {
        paths_file: source.paths_file.clone(),
        config: source.config.clone(),
        // For files that are not a data set of a hub, the split is the key of a JSON object.
        split: source.split.clone().filter(|_| source.patterns().iter().any(|pattern| pattern.starts_with("hf://"))),
    };
    let patterns = parts_of_runs(file, environment, source.patterns()).await?;
    let found = environment.stores.list(&patterns, &options).await.map_err(|error| source_error(file, error))?;
    let files: Vec<SourceFile> = found
        .into_iter()
        .map(|found| {
            let named = Format::of_name(found.name());
            let (format, compression) = match (source.format, named) {
                (Some(format), named) => (format, named.map(|(_, compression)| compression).unwrap_or_default()),
                (None, Some(named)) => named,
                (None, None) => {
                    let message = format!(
                        "'{}': the format cannot be told from the name; set source.format to one of parquet, jsonl, json, csv, tsv, arrow",
                        found.url
                    );
                    return Err(file.error("source.path", message).into());
                }
            };
            Ok(found.into_source(format, compression))
        })
        .collect::<Result<_>>()?;
    if let (Some(split), None) = (&source.split, &options.split)
        && !files.iter().any(|file| file.format == Format::Json)
    {
        let message = format!(
            "source.split: '{split}' selects nothing here; it is the split of a data set of the Hub \
             (hf://datasets/<owner>/<name>) or the key of a .json file that holds an object of row lists"
        );
        return Err(file.error("source.split", message).into());
    }
    Ok(files)
}

/// A folder that holds a run stands for its ranking or for the parts that its manifest names, not for whatever lies below it.
async fn parts_of_runs(file: &PipelineFile, environment: &Environment, patterns: Vec<String>) -> Result<Vec<String>> {
    let mut expanded = Vec::with_capacity(patterns.len());
    for pattern in patterns {
        let is_folder = !pattern.contains(['*', '?', '[', '{']) && Format::of_name(&pattern).is_none();
        let url = match folder_url(&pattern) {
            Ok(url) if is_folder => url,
            _ => {
                expanded.push(pattern);
                continue;
            }
        };
        let (store, path) = environment.stores.open(&url).map_err(|error| source_error(file, error))?;
        let folder = RunFolder::new(store, path, url.clone());
        let Some(plan) = folder.read_plan().await? else {
            expanded.push(pattern);
            continue;
        };
        let unfinished = || {
            let message = format!("source: {url} holds a run that is not finished; finish it first, or name its parts");
            PipelineError::from(file.error("source.path", message))
        };
        if plan.definition["pipeline"]["sink"].get(RANK).is_some() {
            let ranking = ranking::ranking_of(environment, &url).await?.ok_or_else(unfinished)?;
            expanded.push(format!("{url}/{}", ranking.path));
            continue;
        }
        let manifest = folder.read_manifest().await?.ok_or_else(unfinished)?;
        let mut records = manifest.records;
        records.sort_by_key(|record| record.split);
        expanded.extend(records.into_iter().filter_map(|record| record.part).map(|part| format!("{url}/{part}")));
    }
    Ok(expanded)
}

/// The steps with every default filled in.
pub fn complete_steps(file: &PipelineFile, environment: &Environment) -> Result<Vec<StepSpec>> {
    file.pipeline()
        .steps
        .iter()
        .enumerate()
        .map(|(index, step)| {
            if environment.registry.kind(&step.kind).is_ok_and(|kind| !kind.is_step()) {
                let hint =
                    if step.kind == RANK { "; a ranking of the whole corpus is made by the sink 'rank'" } else { "" };
                let message = format!(
                    "step '{}': '{}' is no step, since what it gives depends on where a split ends{hint}",
                    step.name, step.kind
                );
                return Err(file.step_error(index, "", message).into());
            }
            let step = with_source_columns(step, &file.pipeline().source, environment);
            StepSpec::complete(&step, &environment.registry).map_err(|error| step_error(file, index, &step.name, error))
        })
        .collect()
}

/// Operators read `text` and `id` by default; where the source names its columns otherwise, so do they.
fn with_source_columns(step: &StepDefinition, source: &SourceDefinition, environment: &Environment) -> StepDefinition {
    let mut step = step.clone();
    let Ok(kind) = environment.registry.kind(&step.kind) else { return step };
    let schema = kind.config_schema();
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return step };
    let Some(config) = step.config.as_object_mut() else { return step };
    for (key, property) in properties {
        let column = match property.get("default").and_then(Value::as_str) {
            Some("text") if key == "column" => &source.text,
            Some("id") if key == "by" => &source.id,
            _ => continue,
        };
        config.entry(key.clone()).or_insert_with(|| column.clone().into());
    }
    step
}

/// An operator's error with the place in the pipeline file that it is about.
pub(crate) fn step_error(file: &PipelineFile, index: usize, name: &str, error: OperatorError) -> PipelineError {
    let key = match &error {
        OperatorError::UnknownKey { key, .. } | OperatorError::InvalidValue { key, .. } => key.clone(),
        OperatorError::MissingColumn { column, .. } | OperatorError::ColumnType { column, .. } => {
            key_of(file, index, |_, value| value == column).unwrap_or_else(|| "column".to_owned())
        }
        OperatorError::DuplicateColumn { column, .. } => {
            key_of(file, index, |key, _| key == column).unwrap_or_else(|| "name".to_owned())
        }
        OperatorError::UnknownKind { .. } => String::new(),
        OperatorError::Resource { location, .. } => {
            key_of(file, index, |_, value| value == location).unwrap_or_default()
        }
        _ => return PipelineError::Operator { step: name.to_owned(), source: error },
    };
    file.step_error(index, &key, format!("step '{name}': {error}")).into()
}

/// The key of a step's configuration that is meant, by key and text of its value.
fn key_of(file: &PipelineFile, index: usize, is_meant: impl Fn(&str, &str) -> bool) -> Option<String> {
    let config = file.pipeline().steps.get(index)?.config.as_object()?;
    config
        .iter()
        .find(|(key, value)| value.as_str().is_some_and(|text| is_meant(key, text)))
        .map(|(key, _)| key.clone())
}

/// The operator that a ranking puts behind the last step.
fn ranking_step(file: &PipelineFile, environment: &Environment) -> Result<Option<StepSpec>> {
    let Some(sink) = file.pipeline().sink.ranking() else { return Ok(None) };
    let completed = environment.registry.complete(&sink.operator(&file.pipeline().source.id));
    let operator = completed.map_err(|error| ranking_error(file, error))?;
    Ok(Some(StepSpec { operator, when: None }))
}

/// What is wrong with a ranking, with its place in the pipeline file.
fn ranking_error(file: &PipelineFile, error: OperatorError) -> PipelineError {
    let key = match &error {
        OperatorError::UnknownKey { key, .. } | OperatorError::InvalidValue { key, .. } => key.clone(),
        OperatorError::MissingColumn { column, .. } | OperatorError::ColumnType { column, .. } => {
            let by = file.pipeline().sink.ranking().is_some_and(|sink| sink.by == *column);
            if by { "by" } else { "columns" }.to_owned()
        }
        _ => return PipelineError::Operator { step: RANK.to_owned(), source: error },
    };
    file.error(&format!("sink.{RANK}.{key}"), format!("sink: {error}")).into()
}

/// Whether the ranking can be written in its format.
async fn check_ranking(file: &PipelineFile, shape: Option<&RankShape>) -> Result<()> {
    let (Some(shape), Some(sink)) = (shape, file.pipeline().sink.ranking()) else { return Ok(()) };
    ranking::check(shape, &sink.ranking_options())
        .await
        .map_err(|error| file.error(&format!("sink.{RANK}.columns"), error.to_string()).into())
}

struct Bound {
    chain: Chain,
    /// What the source offers.
    full_schema: SchemaRef,
    /// What is read of it.
    schema: SchemaRef,
    columns_read: Option<Vec<String>>,
    columns_written: Option<Vec<String>>,
    output_schema: SchemaRef,
    ranking: Option<RankShape>,
    label: Option<String>,
}

fn bind(
    file: &PipelineFile,
    steps: &[StepSpec],
    read: &ReadOptions,
    full_schema: SchemaRef,
    environment: &Environment,
    is_fit: bool,
) -> Result<Bound> {
    let sink = file.pipeline().sink.common();
    let attach = |schema: &SchemaRef, resources: &Resources| {
        let bound = Chain::bind(steps, schema, &environment.registry, resources);
        bound.map_err(|StepError { index, name, source }| match steps[index].operator.kind.as_str() {
            RANK => ranking_error(file, source),
            _ => step_error(file, index, &name, source),
        })
    };
    let mut chain = attach(&full_schema, &environment.resources)?;
    let label = sink.metrics.as_ref().and_then(|metrics| metrics.label.clone());
    if let Some(label) = &label {
        check_label(file, &full_schema, &chain, label)?;
    }
    if let Some(budget) = &sink.token_budget {
        check_budget(file, chain.output_schema(), &budget.column)?;
    }
    let mut schema = Arc::clone(&full_schema);
    let mut columns_read = read.columns.clone();
    let ranking = ranking::shape(&chain)?;
    // Whether the columns that come out are named somewhere, so that no other needs to be read.
    let names = is_fit || ranking.is_some() || chain.specs().any(|step| step.operator.kind == "select");
    if (sink.sidecar || names) && !sink.rejected {
        let mut needed = chain.required_columns();
        needed.extend([read.id.clone()]);
        needed.extend(label.clone().filter(|label| full_schema.column_with_name(label).is_some()));
        if read.provenance {
            needed.extend(["_source".to_owned(), "_row".to_owned()]);
        }
        let fields: Vec<_> =
            full_schema.fields().iter().filter(|field| needed.contains(field.name())).map(Arc::clone).collect();
        let narrow = arrow_schema::Schema::new_with_metadata(fields, full_schema.metadata().clone());
        if narrow.fields().len() < full_schema.fields().len() {
            schema = Arc::new(narrow);
            columns_read = Some(
                schema
                    .fields()
                    .iter()
                    .map(|field| field.name().clone())
                    // Provenance is not a column of the files.
                    .filter(|name| !(read.provenance && matches!(name.as_str(), "_source" | "_row")))
                    .collect(),
            );
            chain = attach(&schema, &environment.resources)?;
        }
    }
    let ranking = ranking.and(ranking::shape(&chain)?);
    let columns_written = sink.sidecar.then(|| sidecar_columns(&full_schema, chain.output_schema(), &read.id));
    let (_, output_schema) = output_columns(chain.output_schema(), columns_written.as_deref())?;
    Ok(Bound { chain, full_schema, schema, columns_read, columns_written, output_schema, ranking, label })
}

/// The id and every column that is not the source's; provenance belongs to them.
fn sidecar_columns(source: &SchemaRef, output: &SchemaRef, id: &str) -> Vec<String> {
    let names = output.fields().iter().map(|field| field.name());
    names
        .filter(|name| {
            let provenance = matches!(name.as_str(), "_source" | "_row");
            name.as_str() == id || provenance || source.column_with_name(name).is_none()
        })
        .cloned()
        .collect()
}

/// The label is a boolean column of the source, or one that a step adds.
fn check_label(file: &PipelineFile, source: &SchemaRef, chain: &Chain, label: &str) -> Result<()> {
    let path = format!("sink.{}.metrics.label", file.pipeline().sink.kind());
    let schemas = || std::iter::once(source).chain(chain.operators().map(|operator| operator.output_schema()));
    match schemas().find_map(|schema| schema.field_with_name(label).ok()) {
        Some(field) if *field.data_type() == DataType::Boolean => Ok(()),
        Some(field) => {
            let message = format!("label: column '{label}' has type {}, expected Boolean", field.data_type());
            Err(file.error(&path, message).into())
        }
        None => {
            let mut names: Vec<&str> =
                schemas().flat_map(|schema| schema.fields().iter().map(|field| field.name().as_str())).collect();
            names.sort_unstable();
            names.dedup();
            let nearest = gristmill_operators::nearest(label, names.iter().copied())
                .map(|name| format!(", did you mean '{name}'?"))
                .unwrap_or_default();
            let message = format!("label: no column '{label}'{nearest}; columns: {}", names.join(", "));
            Err(file.error(&path, message).into())
        }
    }
}

/// The column of a token budget is an integer column of the output.
fn check_budget(file: &PipelineFile, output: &SchemaRef, column: &str) -> Result<()> {
    let path = format!("sink.{}.token_budget.column", file.pipeline().sink.kind());
    let found = output.field_with_name(column).ok();
    if found.is_some_and(|field| field.data_type().is_integer()) {
        return Ok(());
    }
    let names: Vec<&str> = output.fields().iter().map(|field| field.name().as_str()).collect();
    let what = found.map_or_else(
        || format!("no column '{column}'"),
        |field| format!("column '{column}' has type {}, expected an integer", field.data_type()),
    );
    let nearest = gristmill_operators::nearest(column, names.iter().copied())
        .filter(|name| name != column)
        .map(|name| format!(", did you mean '{name}'?"))
        .unwrap_or_default();
    Err(file.error(&path, format!("token_budget: {what}{nearest}; columns: {}", names.join(", "))).into())
}

fn read_options(file: &PipelineFile, source: &SourceDefinition) -> Result<ReadOptions> {
    let split_size = match &source.split_size {
        None => SplitSize::default(),
        Some(text) => text.to_text().parse().map_err(|error| {
            PipelineError::from(file.error("source.split_size", format!("source.split_size: {error}")))
        })?,
    };
    let options = ReadOptions {
        text: source.text.clone(),
        // Operators ask for the columns they need; a text column that the file names must be there in any case.
        require_text: file.sets("source.text"),
        id: source.id.clone(),
        columns: source.columns.clone(),
        split_size,
        skip: source.skip,
        limit: source.limit,
        json_split: source
            .split
            .clone()
            .filter(|_| !source.patterns().iter().any(|pattern| pattern.starts_with("hf://"))),
        batch_rows: source.batch_rows,
        // The place of a row is part of a ranking.
        provenance: source.provenance || file.pipeline().sink.ranking().is_some(),
        ..ReadOptions::default()
    };
    options.validate().map_err(|error| source_error(file, error))?;
    Ok(options)
}

/// What of the read options can change the rows or their splits: batch sizes cannot.
fn planning_options(read: &ReadOptions) -> Result<Value> {
    let mut value = serde_json::to_value(read).map_err(|error| PipelineError::Engine(error.to_string()))?;
    if let Some(map) = value.as_object_mut() {
        map.remove("batch_rows");
        map.remove("batch_bytes");
    }
    Ok(value)
}

fn part_options(file: &PipelineFile) -> Result<PartOptions> {
    let sink = &file.pipeline().sink;
    let options = sink.part_options();
    options.validate().map_err(|error| {
        let place = match &error {
            DatasetError::Setting { key, .. } => format!("sink.{}.{key}", sink.kind()),
            _ => format!("sink.{}", sink.kind()),
        };
        file.error(&place, error.to_string())
    })?;
    Ok(options)
}

fn open_files(environment: &Environment, files: &[SourceFile]) -> Result<Vec<OpenFile>> {
    let footers = Footers::default();
    files
        .iter()
        .map(|file| {
            let (store, path) = environment.stores.open(&file.url)?;
            Ok(OpenFile::new(store, path, file.clone()).with_footers(footers.clone()))
        })
        .collect()
}

/// What the files were when they were found, in short: a plan of a hundred thousand files need not hold them twice.
fn hash_of(files: &[SourceFile]) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    serde_json::to_writer(&mut hasher, files).map_err(|error| PipelineError::Engine(error.to_string()))?;
    Ok(hasher.finalize().to_hex().to_string())
}

async fn known_plan(environment: &Environment, folder: &str) -> Result<Option<RunPlan>> {
    let (store, path) = environment.stores.open(folder)?;
    Ok(RunFolder::new(store, path, folder.to_owned()).read_plan().await?)
}

fn taken_over(known: RunPlan) -> Result<SourcePlan> {
    let schema = known.definition["schema"].as_str().unwrap_or_default();
    let schema = decode_schema(schema).map_err(|error| PipelineError::Engine(error.to_string()))?;
    Ok(SourcePlan { files: known.files, splits: known.splits, schema })
}

/// The steps for the fingerprint, as far as results depend on them, with their names beside them so that differences are told by name.
fn step_values(steps: &[StepSpec], environment: &Environment) -> Result<Value> {
    steps
        .iter()
        .map(|step| {
            let engine = |error: String| PipelineError::Engine(error);
            let kind = environment.registry.kind(&step.operator.kind).map_err(|error| engine(error.to_string()))?;
            let operator = OperatorSpec { config: kind.identity(&step.operator.config), ..step.operator.clone() };
            let mut value = serde_json::to_value(&operator).map_err(|error| engine(error.to_string()))?;
            if let (Some(map), Some(when)) = (value.as_object_mut(), &step.when) {
                map.insert("when".to_owned(), when.clone().into());
            }
            Ok(without_credentials(value))
        })
        .collect()
}

/// Errors about the source's settings and columns belong to a place in the file.
fn source_error(file: &PipelineFile, error: DatasetError) -> PipelineError {
    let path = match &error {
        DatasetError::Setting { key, .. } => format!("source.{key}"),
        DatasetError::MissingColumn { column, .. } => {
            let source = &file.pipeline().source;
            let key = if *column == source.text {
                "text"
            } else if *column == source.id {
                "id"
            } else {
                "columns"
            };
            format!("source.{key}")
        }
        DatasetError::Location { .. } | DatasetError::NotFound { .. } | DatasetError::NoData { .. } => {
            if file.sets("source.paths_file") { "source.paths_file" } else { "source.path" }.to_owned()
        }
        _ => return error.into(),
    };
    file.error(&path, format!("source: {error}")).into()
}
