//! Sums over the texts of one stream.

use std::sync::Arc;

use arrow_array::RecordBatch;

use super::super::{Covariances, Factors, Grams, Lambdas, Layers, MomentsOf, SecondMoments};
use super::KIND;
use super::config::{GradientStatisticsConfig, Learned};
use super::file::{schema, to_batch};
use crate::columns::TextColumn;
use crate::config::invalid;
use crate::influence::sketch::{Projector, Sketch};
use crate::models::gradients::{Backward, Loss, Losses, Tap, TokenLoss, drawn_targets, token_weights};
use crate::models::{Batch, ModelError};
use crate::operator::{Output, Pass};
use crate::scoring::reader::{COMPUTE, Reader};
use crate::{OperatorError, Result};

/// A batch has at most so many tokens, unless a single text has more. It bounds memory, and does not change results.
const BATCH_TOKENS: usize = 1024;

/// Results of layers that are kept for the way back, in bytes. The same holds.
const KEPT_BYTES: usize = 256 << 20;

/// What all passes share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: GradientStatisticsConfig,
    pub(super) reader: Reader,
    pub(super) layers: Layers,
    /// For eigenvalues in the basis of K-FAC.
    pub(super) kfac: Option<Arc<Factors>>,
    /// For Gram matrices.
    pub(super) sketch: Option<Sketch>,
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
    /// Texts that wait for a batch: the row, and its tokens.
    waiting: Vec<(u64, Vec<u32>)>,
    waiting_tokens: usize,
}

impl LearningPass {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let layers = shared.layers.clone();
        let sums = match &shared.config.statistics {
            Learned::Kfac { .. } => Sums::Covariances(Covariances::new(layers)),
            Learned::EkfacLambda { .. } => Sums::Lambdas(Lambdas::new(layers, shared.kfac.clone().unwrap_or_default())),
            Learned::Diagonal { .. } => Sums::Moments(SecondMoments::new(layers, MomentsOf::Elements)),
            Learned::Adafactor {} => Sums::Moments(SecondMoments::new(layers, MomentsOf::RowsAndColumns)),
            Learned::Gram { .. } => Sums::Grams(Grams::default()),
        };
        Self { shared, sums, rows: 0, waiting: Vec::new(), waiting_tokens: 0 }
    }

    /// Adds the texts that wait.
    fn run(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_tokens = 0;
        if waiting.is_empty() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let mut batch = Batch::default();
        waiting.iter().for_each(|(_, ids)| batch.push(ids));
        self.add(&shared, &batch).map_err(|error| match error {
            ModelError::NotFinite { document, loss } => {
                let (row, message) =
                    (waiting[document].0, format!("its loss is {loss}, and nothing can be learned from it"));
                OperatorError::Row { kind: KIND.to_owned(), row, message }
            }
            other => invalid(KIND, "model", other.to_string()),
        })
    }

    fn add(&mut self, shared: &Shared, batch: &Batch) -> Result<(), ModelError> {
        let Shared { config, reader, sketch, .. } = shared;
        let weights = token_weights(batch, config.reduction.into(), |_, _| true);
        let drawn = config.statistics.drawn().map(|seed| {
            let keys: Vec<u64> =
                batch.offsets().windows(2).map(|rows| key(&batch.ids()[rows[0] as usize..rows[1] as usize])).collect();
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
                    let width = module.p * module.q;
                    for document in 0..batch.documents() {
                        let row = &projector.row(document)[module.offset..module.offset + width];
                        grams.add(&module.name, row, width).map_err(ModelError::from)?;
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
    fn push(&mut self, batch: &RecordBatch, _: &mut Output) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let texts = TextColumn::of(KIND, batch, &shared.config.column)?;
        let mut ids = Vec::new();
        for text in texts.iter() {
            let row = self.rows;
            self.rows += 1;
            let Some(text) = text else { continue };
            let failed = |error: String| OperatorError::Row { kind: KIND.to_owned(), row, message: error };
            shared.reader.tokenizer.encode(text, true, &mut ids).map_err(|error| failed(error.to_string()))?;
            ids.truncate(shared.reader.context_length);
            if ids.len() < 2 {
                continue;
            }
            if self.waiting_tokens + ids.len() > BATCH_TOKENS {
                self.run()?;
            }
            self.waiting_tokens += ids.len();
            self.waiting.push((row, ids.clone()));
        }
        Ok(())
    }

    fn finish(&mut self, output: &mut Output) -> Result<()> {
        self.run()?;
        let sums = std::mem::replace(&mut self.sums, Sums::Grams(Grams::default()));
        let factors = match sums {
            Sums::Covariances(sums) => sums.into_factors(),
            Sums::Lambdas(sums) => sums.into_factors(),
            Sums::Moments(sums) => sums.into_factors(),
            Sums::Grams(sums) => sums.into_factors(),
        };
        // All rows are in the sums; each statistic is a batch of its own, since they are large.
        output.keep_as(RecordBatch::new_empty(schema()), self.rows);
        for factor in factors {
            output.keep_as(to_batch(factor, &self.shared.origin)?, 0);
        }
        Ok(())
    }
}
