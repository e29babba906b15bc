//! What an operator needs beside its rows, once for all splits: computing the gradients of queries takes a while.

use std::sync::Arc;

use super::KIND;
use super::config::{InfluenceConfig, Method};
use super::engine::Engine;
use super::methods::Ingredients;
use crate::influence::curvature::{GradientStatisticsConfig, Learned, Origin, read_factors};
use crate::influence::gradient::SketchDescription;
use crate::influence::queries::Queries;
use crate::loaded::{FileState, Loaded, local_files};
use crate::scoring::Device;
use crate::scoring::reader::{Reader, Reading};
use crate::{ResourceIdentity, Resources, Result};

/// A model with what scores its texts.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) reader: Reader,
    pub(super) engine: Engine,
    /// Names of scores.
    pub(super) names: Vec<String>,
    /// What a column of projected gradients must be, where rows can come from one.
    pub(super) description: Option<SketchDescription>,
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
        let text =
            serde_json::to_string(config).map_err(|error| crate::config::invalid(KIND, "", error.to_string()))?;
        let run_folder = |path: &str| format!("{}/data", path.trim_end_matches('/'));
        let places = [
            Some(config.model.clone()),
            config.adapter.clone(),
            config.tokenizer.clone(),
            config.statistics.clone(),
            config.factors.clone(),
        ];
        let places =
            places.into_iter().flatten().chain([config.queries.path.clone(), run_folder(&config.queries.path)]);
        let files = places.flat_map(|place| local_files(&place)).collect();
        PREPARED.get((text, files), || Self::new(config, resources))
    }

    fn new(config: &InfluenceConfig, resources: &Resources) -> Result<(Self, Vec<ResourceIdentity>)> {
        let reading = Reading {
            model: &config.model,
            adapter: config.adapter.as_deref(),
            tokenizer: config.tokenizer.as_deref(),
            column: &config.column,
            precision: config.precision,
            device: Device::Cpu,
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
        let mut identities = reader.identities.clone();
        let (queries, of_queries) =
            Queries::read(&config.queries, &reader.tokenizer, reader.context_length, resources)?;
        identities.extend(of_queries);
        let names = queries.aggregation.names();
        let (mut statistics, mut factors) = (None, None);
        if let Some(goal) = config.learned() {
            let mut hash = None;
            if let (Some(location), Learned::EkfacLambda { labels, seed }) = (&config.factors, &goal.statistics) {
                let statistics = Learned::Kfac { labels: *labels, seed: *seed };
                let of_kfac = GradientStatisticsConfig { statistics, ..goal.clone() };
                let (read, identity) = read_factors(location, resources, &Origin::of(&of_kfac, &reader, None))?;
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
        let ingredients = Ingredients { config, model: &reader.model, queries, statistics, factors };
        let engine = ingredients.engine()?;
        let description = match &engine {
            Engine::Sketch { sketch, .. } => Some(SketchDescription::new(&config.gradient(), &reader, sketch)),
            Engine::Exact { .. } | Engine::Representation { .. } => None,
        };
        Ok((Self { reader, engine, names, description, config: config.clone() }, identities))
    }
}
