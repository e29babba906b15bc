//! What is differentiated: a loss for each document, never a mean over documents.

use crate::models::Batch;
use crate::models::error::{ModelError, Result};

/// The loss of each document of a batch.
///
/// Losses are those that transformers computes for a document alone, so gradients do not depend on what a document is batched with.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Loss<'a> {
    /// Of a language model: the negative log-likelihood of tokens given those before them.
    Tokens(TokenLoss<'a>),
    /// Of a classifier: the cross-entropy of a label for each document, `[documents]` (`problem_type` `single_label_classification`).
    Labels(&'a [usize]),
    /// Of a classifier: for each document the mean over labels of the binary cross-entropy of what is 0 to 1 for each label,
    /// `[documents, labels]` (`multi_label_classification`).
    MultiLabel(&'a [f32]),
    /// Of a classifier: for each document the mean over labels of the squared difference from a value for each label, `[documents, labels]`
    /// (`regression`).
    Regression(&'a [f32]),
}

impl Loss<'_> {
    /// What messages call it.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Tokens(_) => "tokens",
            Self::Labels(_) => "labels",
            Self::MultiLabel(_) => "several labels",
            Self::Regression(_) => "values",
        }
    }
}

/// Which tokens are to be predicted, and what each counts: the loss of a document is the sum over its tokens of weight times negative
/// log-likelihood.
#[derive(Clone, Copy, Debug)]
pub struct TokenLoss<'a> {
    /// `[tokens]`. Tokens of weight 0 are no targets, and nothing is computed for them. That of the first token of a document is not
    /// read, since nothing predicts it. See [`token_weights`].
    pub weights: &'a [f32],
    /// Tokens to be predicted in place of those that are there, `[tokens]`: such as tokens drawn from the model's own distribution, which make
    /// Fisher information of squared gradients.
    pub targets: Option<&'a [u32]>,
}

/// How losses of the tokens of a document are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Their mean.
    Mean,
    /// Their sum.
    Sum,
}

/// Weights of a [`TokenLoss`], `[tokens]`: of the tokens of each document that `is_target` takes, given the numbers of a document and
/// of a token in it. The first token of a document is none.
///
/// ```
/// use gristmill_operators::models::Batch;
/// use gristmill_operators::models::gradients::{Reduction, token_weights};
///
/// let mut batch = Batch::default();
/// batch.push(&[5, 6, 7]);
/// batch.push(&[8, 9]);
/// assert_eq!(token_weights(&batch, Reduction::Mean, |_, _| true), [0.0, 0.5, 0.5, 0.0, 1.0]);
/// // An answer that begins at the third token.
/// assert_eq!(token_weights(&batch, Reduction::Mean, |_, token| token >= 2), [0.0, 0.0, 1.0, 0.0, 0.0]);
/// ```
pub fn token_weights(batch: &Batch, reduction: Reduction, is_target: impl Fn(usize, usize) -> bool) -> Vec<f32> {
    let mut weights = vec![0.0; batch.tokens()];
    for (document, rows) in batch.offsets().windows(2).enumerate() {
        let targets = || (1..(rows[1] - rows[0]) as usize).filter(|&token| is_target(document, token));
        let weight = match reduction {
            Reduction::Mean => 1.0 / targets().count().max(1) as f32,
            Reduction::Sum => 1.0,
        };
        for token in targets() {
            weights[rows[0] as usize + token] = weight;
        }
    }
    weights
}

/// The losses of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Losses {
    /// Of each document, `[documents]`; 0 where it has no target.
    pub documents: Vec<f64>,
    /// How many targets each document has, `[documents]`: tokens, or one for a classifier. Without one its gradients are 0.
    pub targets: Vec<usize>,
    /// The negative log-likelihood of each token that is a target, not weighted, `[tokens]`, and 0 of others; empty for a classifier.
    pub tokens: Vec<f32>,
}

impl Losses {
    /// How many documents have no target: those of fewer than two tokens, and those of which all weights are 0.
    pub fn without_targets(&self) -> usize {
        self.targets.iter().filter(|&&targets| targets == 0).count()
    }

    /// Whether all are numbers.
    pub(super) fn expect_finite(&self) -> Result<()> {
        let wrong = self.documents.iter().position(|loss| !loss.is_finite());
        wrong.map_or(Ok(()), |document| Err(ModelError::NotFinite { document, loss: self.documents[document] }))
    }
}

/// Whether there are as many as there should be.
pub(super) fn expect_length(what: &'static str, found: usize, expected: usize) -> Result<()> {
    if found == expected { Ok(()) } else { Err(ModelError::Length { what, expected, found }) }
}
