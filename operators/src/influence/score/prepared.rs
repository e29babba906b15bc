//! What an operator needs beside its rows, once for all splits: computing the gradients of queries takes a while.

use std::sync::Arc;

use super::KIND;
use super::candidates::{ChoosingConfig, Chosen};
use super::config::{InfluenceConfig, Method};
use super::documents::{Document, Made};
use super::engine::Engine;
use super::methods::Ingredients;
use crate::config::invalid;
use crate::influence::curvature::{Origin, before, read_factors};
use crate::influence::gradient::SketchDescription;
use crate::influence::queries::Queries;
use crate::loaded::{FileState, Loaded, local_files};
use crate::models::ModelError;
use crate::scoring::reader::{Reader, Reading};
use crate::{OperatorError, ResourceIdentity, Resources, Result};

/// A model with what scores its texts.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) reader: Reader,
    pub(super) engine: Engine,
    /// Further checkpoints, whose scores are added.
    pub(super) checkpoints: Vec<Self>,
    /// Hash of the model's files, the tokenizer and the queries.
    pub(super) files: String,
    /// Names of scores.
    pub(super) names: Vec<String>,
    /// What a column of projected gradients must be, where rows can come from one.
    pub(super) description: Option<SketchDescription>,
    /// The rows that are scored, where not all are.
    pub(super) chosen: Option<Chosen>,
    pub(super) config: InfluenceConfig,
}

/// What it is made from: the configuration, and the state of files that it names.
type Key = (String, Vec<FileState>);

static PREPARED: Loaded<Key, Prepared> = Loaded::new();

impl Prepared {
    /// Of a complete configuration, with the identities of all that was read.
    ///
    /// # Errors
    /// A model, queries or statistics that cannot be read, or do not belong together.
    pub(super) fn of(config: &InfluenceConfig, resources: &Resources) -> Result<(Arc<Self>, Vec<ResourceIdentity>)> {
        let text = serde_json::to_string(config).map_err(|error| invalid(KIND, "", error.to_string()))?;
        let run_folder = |path: &str| format!("{}/data", path.trim_end_matches('/'));
        let places = [
            Some(config.model.clone()),
            config.adapter.clone(),
            config.tokenizer.clone(),
            config.statistics.clone(),
            config.factors.clone(),
            config.second_moments.clone(),
            config.candidate_rows.clone(),
            config.optimizer.clone(),
        ];
        let further = config.checkpoints.iter().flat_map(|checkpoint| {
            [Some(checkpoint.model.clone()), checkpoint.adapter.clone(), checkpoint.optimizer.clone()]
        });
        let places = places
            .into_iter()
            .chain(further)
            .flatten()
            .chain([config.queries.path.clone(), run_folder(&config.queries.path)]);
        let files = places.flat_map(|place| local_files(&place)).collect();
        PREPARED.get((text, files), || Self::new(config, resources))
    }

    fn new(config: &InfluenceConfig, resources: &Resources) -> Result<(Self, Vec<ResourceIdentity>)> {
        let mut all = config.at_checkpoints();
        let Some(first) = all.next() else { return Err(missing("model")) };
        let (mut first, mut identities) = Self::of_checkpoint(&first, resources)?;
        // All have the tokenizer of the first, and so the same ids.
        for checkpoint in all {
            let (checkpoint, others) = Self::of_checkpoint(&checkpoint, resources)?;
            identities.extend(others);
            first.checkpoints.push(checkpoint);
        }
        first.config = config.clone();
        Ok((first, identities))
    }

    fn of_checkpoint(config: &InfluenceConfig, resources: &Resources) -> Result<(Self, Vec<ResourceIdentity>)> {
        let reading = Reading {
            model: &config.model,
            adapter: config.adapter.as_deref(),
            tokenizer: config.tokenizer.as_deref(),
            column: &config.column,
            precision: config.precision,
            device: config.device,
            context_length: config.context_length,
            preferred_length: None,
        };
        let reader = match config.method {
            Method::Representation => Reader::new(KIND, reading, resources)?,
            _ => Reader::for_gradients(KIND, reading, resources)?,
        };
        if config.method != Method::Representation {
            reader.expect_language_model(&config.model)?;
        }
        let mut identities = reader.resources();
        let (queries, of_queries) =
            Queries::read(&config.queries, &reader.tokenizer, reader.context_length, resources)?;
        let mut files = blake3::Hasher::new();
        reader.identities.iter().chain(&of_queries).for_each(|identity| {
            files.update(identity.hash.as_bytes());
        });
        let files = files.finalize().to_hex().to_string();
        identities.extend(of_queries);
        let names = queries.aggregation.names();
        let (mut statistics, mut factors, mut moments) = (None, None, None);
        let mut hash = None;
        if let Some(goal) = config.moments() {
            let location = config.second_moments.as_ref().ok_or_else(|| missing("second_moments"))?;
            let (read, identity) = read_factors(location, resources, &Origin::of(&goal, &reader, None))?;
            hash = Some(identity.hash.clone());
            identities.push(identity);
            moments = Some(read);
        }
        if let Some(goal) = config.learned() {
            if let (Some(location), Some(before)) = (&config.factors, before(&goal)) {
                let (read, identity) = read_factors(location, resources, &Origin::of(&before, &reader, None))?;
                hash = Some(identity.hash.clone());
                identities.push(identity);
                factors = Some(read);
            }
            if let Some(location) = &config.statistics {
                let (read, identity) = read_factors(location, resources, &Origin::of(&goal, &reader, hash))?;
                identities.push(identity);
                statistics = Some(read);
            }
        }
        let mut chosen = None;
        if let Some(candidates) = &config.candidates {
            let location = config.candidate_rows.as_ref();
            let location = location.ok_or_else(|| missing("candidate_rows"))?;
            let origin = ChoosingConfig::of(config, candidates)?.origin(&files)?;
            let (read, identity) = Chosen::read(location, &origin, resources)?;
            identities.push(identity);
            chosen = Some(read);
        }
        let ingredients = Ingredients {
            config,
            model: &reader.model,
            queries,
            statistics,
            factors,
            moments,
            resources,
            identities: &mut identities,
        };
        let engine = ingredients.engine()?;
        let description = match &engine {
            Engine::Sketch { sketch, .. } => Some(SketchDescription::new(&config.gradient(), &reader, sketch)),
            Engine::Adam { .. } | Engine::Exact { .. } | Engine::Representation { .. } => None,
        };
        Ok((
            Self { reader, engine, checkpoints: Vec::new(), files, names, description, chosen, config: config.clone() },
            identities,
        ))
    }
}

/// Scores of documents, of all checkpoints together. Loss and norm are those of the first.
pub(super) fn score(prepared: &Prepared, documents: &[Document]) -> Result<Vec<Result<Made, String>>, ModelError> {
    let mut all = prepared.engine.score(&prepared.reader.model, documents)?;
    let weight = prepared.config.weight;
    if prepared.checkpoints.is_empty() && weight == 1.0 {
        return Ok(all);
    }
    let mut sums: Vec<Vec<f64>> = Vec::with_capacity(all.len());
    for made in &all {
        let numbers = made.iter().flat_map(|made| &made.values.numbers);
        sums.push(numbers.map(|&number| weight * f64::from(number)).collect());
    }
    for checkpoint in &prepared.checkpoints {
        let others = checkpoint.engine.score(&checkpoint.reader.model, documents)?;
        for ((made, sums), other) in all.iter_mut().zip(&mut sums).zip(others) {
            match other {
                Err(message) => *made = Err(format!("by {}: {message}", checkpoint.config.model)),
                Ok(other) => {
                    let numbers = sums.iter_mut().zip(other.values.numbers);
                    numbers.for_each(|(sum, number)| *sum += checkpoint.config.weight * f64::from(number));
                }
            }
        }
    }
    for (made, sums) in all.iter_mut().zip(sums) {
        if let Ok(made) = made {
            made.values.numbers = sums.into_iter().map(|sum| sum as f32).collect();
        }
    }
    Ok(all)
}

fn missing(key: &str) -> OperatorError {
    invalid(KIND, key, "the key is missing")
}
