//! What all passes of a step share: the model, the originals, and what is kept of them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::RecordBatch;

use super::cache::Cache;
use super::candidates::Search;
use super::config::GradientPairsConfig;
use super::measure::{Measured, Measuring, Tensors};
use super::projection::Projection;
use super::samples::{Conversation, Encoder, Sample, SampleColumns, id_of, is_id};
use super::{Accumulate, KIND};
use crate::config::invalid;
use crate::loaded::{FileState, Loaded, local_files};
use crate::models::chat::ChatTemplate;
use crate::models::{self, AdapterOptions, Apply, Compute, LoadOptions, Model, ModelError};
use crate::scoring::Precision;
use crate::tokens::Tokenizer;
use crate::{OperatorError, ResourceIdentity, Resources, Result, require_column, tables};

/// A model of which gradients can be computed, by its location, adapter, precision, and the state of its files.
static MODELS: Loaded<(String, Option<String>, Precision, Vec<FileState>), Model> = Loaded::new();
/// By the configuration, and the state of all files that it names.
static STUDIES: Loaded<(String, Vec<FileState>), Study> = Loaded::new();

/// What a configuration names.
#[derive(Debug)]
pub(super) struct Study {
    model: Arc<Model>,
    pub(super) tensors: Tensors,
    pub(super) projection: Option<Projection>,
    pub(super) encoder: Encoder,
    pub(super) originals: Originals,
    /// Absent where candidates are given.
    pub(super) search: Option<Search>,
    accumulate: Accumulate,
    cache: Cache,
}

/// The samples that rows are compared with.
#[derive(Debug)]
pub(super) struct Originals {
    pub(super) ids: Vec<String>,
    rows: HashMap<String, usize>,
    samples: Vec<Sample>,
}

impl Study {
    /// The study of a completed configuration, with the identities of all that was read.
    pub(super) fn open(
        config: &GradientPairsConfig,
        written: &str,
        resources: &Resources,
    ) -> Result<(Arc<Self>, Vec<ResourceIdentity>)> {
        let locations = [Some(&config.model), config.adapter.as_ref(), config.tokenizer.as_ref()];
        let files = locations.into_iter().flatten().chain([&config.originals.path]);
        let files = files.flat_map(|location| local_files(location)).collect();
        STUDIES.get((written.to_owned(), files), || Self::read(config, resources))
    }

    fn read(config: &GradientPairsConfig, resources: &Resources) -> Result<(Self, Vec<ResourceIdentity>)> {
        let location = &config.model;
        let refused = |message: String| OperatorError::Resource { location: location.clone(), message };
        let (model, mut identities) = load(config, resources)?;
        let (tokenizer, identity) = Tokenizer::load(config.tokenizer.as_ref().unwrap_or(location), resources)?;
        identities.push(identity);
        if !model.is_language_model() {
            return Err(refused(format!(
                "a model of the kind '{}' without the head of a language model",
                model.kind()
            )));
        }
        if tokenizer.vocab_size() > model.vocabulary() {
            let (tokens, last) = (model.vocabulary(), tokenizer.vocab_size() - 1);
            return Err(refused(format!(
                "its vocabulary has {tokens} tokens, and the tokenizer gives ids up to {last}; they do not belong together"
            )));
        }
        let columns = [config.columns()?, config.originals.columns()?];
        let template = if columns.iter().any(|columns| matches!(columns, SampleColumns::Messages(_))) {
            let (template, more) =
                ChatTemplate::load(location, resources).map_err(|error| unusable(location, &error))?;
            identities.extend(more);
            let message = "it has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json), which messages need; \
                           texts in 'prompt' and 'answer' need none";
            Some(template.ok_or_else(|| refused(message.to_owned()))?)
        } else {
            None
        };
        let encoder = Encoder { tokenizer, template, most_positions: model.most_positions() };
        let tensors = Tensors::new(&model, &config.tensors).map_err(|message| invalid(KIND, "tensors", message))?;
        let projection = config.projection.as_ref();
        let projection = projection.map(|projection| Projection::new(projection, tensors.sizes())).transpose()?;

        let (table, more) = tables::read(&config.originals.path, resources)?;
        identities.extend(more);
        let (originals, questions) = Originals::new(config, &table, &columns[1], &encoder)?;
        let search = match config.candidates {
            Some(_) => None,
            None => Some(Search::new(questions, config)?),
        };
        // Some files are read more than once.
        let mut seen = std::collections::HashSet::new();
        identities.retain(|identity| seen.insert(identity.location.clone()));
        let (accumulate, cache) = (config.accumulate, Cache::new(config.cache_bytes));
        Ok((Self { model, tensors, projection, encoder, originals, search, accumulate, cache }, identities))
    }

    /// Measures a sample against some of the originals.
    pub(super) fn measure(
        &self,
        compute: Compute<'_>,
        sample: &Sample,
        originals: &[usize],
    ) -> models::Result<Measured> {
        let Self { model, tensors, projection, accumulate, cache, .. } = self;
        let projection = projection.as_ref();
        let originals: Vec<_> = originals.iter().map(|&row| (row, &self.originals.samples[row])).collect();
        let measuring = Measuring { model, tensors, accumulate: *accumulate, projection, cache };
        measuring.measure(compute, sample, &originals)
    }
}

impl Originals {
    /// Reads the table, with the question of each original. All that could go wrong with an original later goes wrong here.
    fn new(
        config: &GradientPairsConfig,
        table: &RecordBatch,
        columns: &SampleColumns,
        encoder: &Encoder,
    ) -> Result<(Self, Vec<Option<String>>)> {
        let path = &config.originals.path;
        let of_table = |message: String| OperatorError::Resource { location: path.clone(), message };
        if table.num_rows() == 0 {
            return Err(of_table("it has no rows".to_owned()));
        }
        let (column, found) = require_column(KIND, table.schema_ref(), &config.originals.id)
            .map_err(|error| of_table(error.to_string()))?;
        if !is_id(found) {
            let message =
                format!("column '{}' has type {found}, and texts or whole numbers are expected", config.originals.id);
            return Err(of_table(message));
        }
        let ids = table.column(column);
        let conversations = columns.read(table).map_err(|error| of_table(error.to_string()))?;
        let mut originals = Self { ids: Vec::new(), rows: HashMap::new(), samples: Vec::new() };
        let mut questions = Vec::new();
        for (row, conversation) in conversations.into_iter().enumerate() {
            let id = id_of(ids, row).ok_or_else(|| of_table(format!("row {row} has no {}", config.originals.id)))?;
            let of_row = |message: String| of_table(format!("row {row} ('{id}'): {message}"));
            let conversation = conversation.map_err(of_row)?.ok_or_else(|| of_row("there is no sample".to_owned()))?;
            originals.samples.push(encoder.encode(&conversation).map_err(of_row)?);
            questions.push(conversation.question().map(str::to_owned));
            if let Some(other) = originals.rows.insert(id.clone(), row) {
                return Err(of_row(format!("row {other} has the same {}", config.originals.id)));
            }
            originals.ids.push(id);
        }
        Ok((originals, questions))
    }

    /// The row of the original of an id.
    pub(super) fn row(&self, id: &str) -> Option<usize> {
        self.rows.get(id).copied()
    }
}

impl Search {
    /// What is searched in: each original needs a question.
    fn new(questions: Vec<Option<String>>, config: &GradientPairsConfig) -> Result<Self> {
        let missing = |row| OperatorError::Resource {
            location: config.originals.path.clone(),
            message: format!(
                "row {row} has no message of the user to search in; name the candidates in a column with 'candidates'"
            ),
        };
        let questions = questions.into_iter().enumerate().map(|(row, question)| question.ok_or_else(|| missing(row)));
        Self::over(questions.collect::<Result<_>>()?)
    }
}

impl Conversation {
    /// The question, for a search.
    pub(super) fn asked(&self) -> Result<&str, String> {
        self.question().ok_or_else(|| "it has no message of the user to search with".to_owned())
    }
}

fn load(config: &GradientPairsConfig, resources: &Resources) -> Result<(Arc<Model>, Vec<ResourceIdentity>)> {
    let GradientPairsConfig { model: location, adapter, precision, .. } = config;
    let files = local_files(location).into_iter().chain(adapter.iter().flat_map(|adapter| local_files(adapter)));
    MODELS.get((location.clone(), adapter.clone(), *precision, files.collect()), || {
        let adapter = adapter.as_deref();
        let options = adapter.map(|location| AdapterOptions { location, apply: Apply::Merged });
        let gradients = LoadOptions { gradients: true, ..LoadOptions::from(*precision) };
        Model::load_adapted(location, options, resources, gradients).map_err(|error| match (&error, adapter) {
            (ModelError::Adapter(_), Some(adapter)) => unusable(adapter, &error),
            _ => unusable(location, &error),
        })
    })
}

fn unusable(location: &str, error: &ModelError) -> OperatorError {
    OperatorError::Resource { location: location.to_owned(), message: error.to_string() }
}
