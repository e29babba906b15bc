//! Sums over the texts of one stream.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::RecordBatch;

use super::super::{Covariances, Grams, Lambdas, Layers, MomentsOf, Rotations, SecondMoments};
use super::KIND;
use super::config::{GradientStatisticsConfig, Learned};
use super::file::{schema, to_batch};
use crate::Result;
use crate::config::invalid;
use crate::influence::batches::{KEPT_BYTES, batch_tokens};
use crate::influence::gradient::GradientConfig;
use crate::influence::gradient::documents::{self, Row};
use crate::influence::sketch::{Projector, Sketch};
use crate::models::gradients::{Backward, Loss, Losses, Tap, TokenLoss, drawn_targets, token_weights};
use crate::models::{Batch, ModelError};
use crate::operator::{Output, Pass};
use crate::scoring::reader::{COMPUTE, Reader};

/// What all passes share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: GradientStatisticsConfig,
    /// Which tokens have a loss.
    pub(super) losses: GradientConfig,
    pub(super) reader: Reader,
    pub(super) layers: Layers,
    /// For eigenvalues in the basis of K-FAC.
    pub(super) rotations: Arc<Rotations>,
    /// For Gram matrices.
    pub(super) sketch: Option<Sketch>,
    /// λ of DataInf, by layer.
    pub(super) dampings: BTreeMap<String, f64>,
    /// What statistics are made with, as JSON.
    pub(super) origin: String,
}

/// The sums of a pass.
enum Sums {
    Covariances(Covariances),
    Lambdas(Lambdas),
    Moments(SecondMoments),
    Grams(Grams),
}

pub(super) struct LearningPass {
    shared: Arc<Shared>,
    sums: Sums,
    /// Rows of earlier batches.
    rows: u64,
    quarantined: u64,
    /// Texts that wait for a batch.
    waiting: Vec<Text>,
    waiting_tokens: usize,
}

/// A text that can be learned from.
struct Text {
    row: u64,
    ids: Vec<u32>,
    targets: Range<usize>,
    /// The row alone.
    batch: RecordBatch,
}

impl LearningPass {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let layers = shared.layers.clone();
        let sums = match &shared.config.statistics {
            Learned::Kfac { .. } => Sums::Covariances(Covariances::new(layers)),
            Learned::EkfacLambda { .. } => Sums::Lambdas(Lambdas::sharing(layers, Arc::clone(&shared.rotations))),
            Learned::Diagonal { .. } => Sums::Moments(SecondMoments::new(layers, MomentsOf::Elements)),
            Learned::Adafactor {} => Sums::Moments(SecondMoments::new(layers, MomentsOf::RowsAndColumns)),
            Learned::Gram { .. } | Learned::DataInf { .. } => Sums::Grams(Grams::default()),
        };
        Self { shared, sums, rows: 0, quarantined: 0, waiting: Vec::new(), waiting_tokens: 0 }
    }

    /// Adds the texts that wait. Those whose loss is not finite are put aside; the others have the same numbers without them.
    fn run(&mut self, output: &mut Output) -> Result<()> {
        let mut waiting = std::mem::take(&mut self.waiting);
        self.waiting_tokens = 0;
        let (shared, mut later) = (Arc::clone(&self.shared), Vec::new());
        loop {
            if waiting.is_empty() {
                let Some(next) = later.pop() else { break };
                waiting = next;
            }
            let mut batch = Batch::default();
            waiting.iter().for_each(|text| batch.push(&text.ids));
            let (place, wrong) = match self.add(&shared, &batch, &waiting) {
                Ok(()) => {
                    waiting.clear();
                    continue;
                }
                Err(ModelError::NotFinite { document, loss }) => (document, format!("its loss is {loss}")),
                Err(ModelError::NotNumbers { prompt }) => {
                    (prompt, "what the model predicts of it are no numbers".to_owned())
                }
                Err(error) if error.is_out_of_memory() && waiting.len() > 1 => {
                    later.push(waiting.split_off(waiting.len() / 2));
                    continue;
                }
                Err(error) => return Err(invalid(KIND, "model", error.to_string())),
            };
            let Text { row, batch, .. } = waiting.remove(place);
            output.quarantine_at(batch, format!("nothing can be learned from the row: {wrong}"), row);
            self.quarantined += 1;
        }
        Ok(())
    }

    fn add(&mut self, shared: &Shared, batch: &Batch, texts: &[Text]) -> Result<(), ModelError> {
        let Shared { config, reader, sketch, .. } = shared;
        let weights = token_weights(batch, config.reduction.into(), |document, token| {
            texts.get(document).is_some_and(|text| text.targets.contains(&token))
        });
        let drawn = config.statistics.drawn().map(|seed| {
            let keys: Vec<u64> = texts.iter().map(|text| key(&text.ids)).collect();
            drawn_targets(&reader.model, COMPUTE, batch, seed, &keys)
        });
        let drawn = drawn.transpose()?;
        let loss = Loss::Tokens(TokenLoss { weights: &weights, targets: drawn.as_deref() });
        let mut backward = Backward::new(&reader.model)?.with_kept_bytes(KEPT_BYTES);
        let mut run = |tap: &mut dyn Tap| -> Result<Losses, ModelError> { backward.run(COMPUTE, batch, loss, tap) };
        match (&mut self.sums, sketch) {
            (Sums::Covariances(tap), _) => run(tap).map(|_| ()),
            (Sums::Lambdas(tap), _) => run(tap).map(|_| ()),
            (Sums::Moments(tap), _) => run(tap).map(|_| ()),
            (Sums::Grams(_), None) => Ok(()),
            (Sums::Grams(grams), Some(sketch)) => {
                let mut projector = Projector::new(sketch);
                projector.prepare(batch);
                run(&mut projector)?;
                for module in sketch.modules() {
                    let width = module.size();
                    let damping = shared.dampings.get(&module.name);
                    for document in 0..batch.documents() {
                        let row = &projector.row(document)[module.offset..module.offset + width];
                        let added = match damping {
                            Some(&damping) => grams.add_normalized(&module.name, row, width, damping),
                            None => grams.add(&module.name, row, width),
                        };
                        added.map_err(ModelError::from)?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// A number that depends on the tokens of a text alone: what is drawn for a text is the same wherever it stands.
fn key(ids: &[u32]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    ids.iter().for_each(|id| {
        hasher.update(&id.to_le_bytes());
    });
    let hash = hasher.finalize();
    hash.as_bytes()[..8].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

impl Pass for LearningPass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        for (place, row) in documents::read(KIND, &shared.losses, &shared.reader, batch)?.into_iter().enumerate() {
            let number = self.rows;
            self.rows += 1;
            let document = match row {
                Row::Null => continue,
                Row::Unreadable(message) => {
                    output.quarantine_at(batch.slice(place, 1), message, number);
                    self.quarantined += 1;
                    continue;
                }
                Row::Document(document) => document,
            };
            if document.targets.is_empty() {
                continue;
            }
            if self.waiting_tokens + document.ids.len() > batch_tokens(&shared.reader.model) {
                self.run(output)?;
            }
            self.waiting_tokens += document.ids.len();
            let (ids, targets, batch) = (document.ids, document.targets, batch.slice(place, 1));
            self.waiting.push(Text { row: number, ids, targets, batch });
        }
        Ok(())
    }

    fn finish(&mut self, output: &mut Output) -> Result<()> {
        self.run(output)?;
        let sums = std::mem::replace(&mut self.sums, Sums::Grams(Grams::default()));
        let factors = match sums {
            Sums::Covariances(sums) => sums.into_factors(),
            Sums::Lambdas(sums) => sums.into_factors(),
            Sums::Moments(sums) => sums.into_factors(),
            Sums::Grams(sums) => sums.into_factors(),
        };
        // All other rows are in the sums; each statistic is a batch of its own, since they are large.
        output.keep_as(RecordBatch::new_empty(schema()), self.rows - self.quarantined);
        for factor in factors {
            output.keep_as(to_batch(factor, &self.shared.origin)?, 0);
        }
        Ok(())
    }
}
