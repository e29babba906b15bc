//! Runs documents forward and back, and gathers what is made of each one's gradient.

use std::ops::Range;

use crate::influence::batches::{KEPT_BYTES, batch_tokens};
use crate::models::gradients::{Backward, Loss, Reduction, Tap, TokenLoss, token_weights};
use crate::models::{Batch, Model, ModelError};
use crate::scoring::reader::COMPUTE;

/// A document as a model reads it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    /// Special tokens included.
    pub(super) ids: Vec<u32>,
    /// What the loss of each token counts.
    pub(super) weights: Vec<f32>,
}

impl Document {
    /// One of which these tokens are targets.
    pub(super) fn new(ids: Vec<u32>, targets: Range<usize>, reduction: Reduction) -> Self {
        let weights = token_weights(&Batch::of(&ids), reduction, |_, token| targets.contains(&token));
        Self { ids, weights }
    }

    /// How many tokens have a loss that counts.
    pub(super) fn targets(&self) -> usize {
        self.weights.iter().skip(1).filter(|&&weight| weight != 0.0).count()
    }
}

/// What was made of a document.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Made {
    /// `None` where no loss was computed.
    pub(super) loss: Option<f64>,
    /// How many tokens have a loss that counts, if that is known.
    pub(super) tokens: Option<usize>,
    /// How many rows it stands for.
    pub(super) weight: f64,
    pub(super) values: Values,
}

/// Numbers of a document: vectors, or scores.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Values {
    pub(super) numbers: Vec<f32>,
    /// The length of what they were made from, where it is known.
    pub(super) norm: Option<f64>,
}

/// Makes numbers of the gradients of a batch's documents.
pub(super) trait Collect: Tap {
    /// Is called before each batch.
    fn prepare(&mut self, batch: &Batch);

    /// The numbers of each document of the batch that was run; or what is wrong with its gradient.
    fn collect(&mut self, documents: usize) -> Result<Vec<Result<Values, String>>, ModelError>;

    /// The numbers of a document whose gradient is 0.
    fn nothing(&self) -> Values;

    /// How many numbers of a document are held until its batch is done.
    fn held(&self) -> usize;
}

/// A batch holds at most so many numbers, unless a single document has more. The same holds.
const BATCH_NUMBERS: usize = 1 << 24;

/// Runs documents in batches. For each document there is what was made of it, or what is wrong with it: a loss
/// or a gradient that is not finite. Documents without a token to predict are not run.
pub(super) fn run(
    model: &Model,
    documents: &[Document],
    collect: &mut impl Collect,
) -> Result<Vec<Result<Made, String>>, ModelError> {
    let mut made: Vec<Option<Result<Made, String>>> = vec![None; documents.len()];
    let mut waiting = Vec::new();
    for (number, document) in documents.iter().enumerate() {
        match document.targets() {
            0 => {
                made[number] =
                    Some(Ok(Made { loss: Some(0.0), tokens: Some(0), weight: 1.0, values: collect.nothing() }))
            }
            _ => waiting.push(number),
        }
    }
    let mut backward = Backward::new(model)?.with_kept_bytes(KEPT_BYTES);
    let most = batch_tokens(model);
    let mut rest = waiting.as_slice();
    while !rest.is_empty() {
        let (mut sum, mut held) = (0, 0_usize);
        let fits = rest.iter().take_while(|&&number| {
            sum += documents[number].ids.len();
            held = held.saturating_add(collect.held());
            sum <= most && held <= BATCH_NUMBERS
        });
        let (run, behind) = rest.split_at(fits.count().max(1));
        rest = behind;
        let (mut run, mut later) = (run.to_vec(), Vec::new());
        loop {
            if run.is_empty() {
                let Some(next) = later.pop() else { break };
                run = next;
            }
            let (mut batch, mut weights) = (Batch::default(), Vec::new());
            for &number in &run {
                batch.push(&documents[number].ids);
                weights.extend_from_slice(&documents[number].weights);
            }
            collect.prepare(&batch);
            let loss = Loss::Tokens(TokenLoss { weights: &weights, targets: None });
            let losses = match backward.run(COMPUTE, &batch, loss, collect) {
                Ok(losses) => losses,
                // The others have the same numbers without it.
                Err(ModelError::NotFinite { document, loss }) => {
                    made[run.remove(document)] = Some(Err(format!("its loss is {loss}")));
                    continue;
                }
                Err(error) if error.is_out_of_memory() && run.len() > 1 => {
                    later.push(run.split_off(run.len() / 2));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let collected = collect.collect(run.len())?;
            for (place, (number, values)) in run.drain(..).zip(collected).enumerate() {
                let (loss, tokens) = (Some(losses.documents[place]), Some(losses.targets[place]));
                let of_document = |values| Made { loss, tokens, weight: 1.0, values };
                made[number] = Some(values.map(of_document));
            }
        }
    }
    Ok(made.into_iter().flatten().collect())
}
