//! The head of a language model and its cross-entropy in one: h·Wᵀ, log-softmax, gather, and their gradients, without ever holding
//! the logits.
//!
//! For hidden states h `[tokens, width]` and a head W `[vocabulary, width]` the logits are x = `logit_scale`·(h·Wᵀ + b). A forward
//! pass walks over them in tiles and keeps of each row the largest logit and the sum of exponentials relative to it (Milakov and
//! Gimelshein, "Online normalizer calculation for softmax", 2018). A backward pass computes the same tiles again and turns them into
//! softmax(x) - onehot, with the log-sum-exp that the forward pass has left; each tile is multiplied with W (gradient of h) and with h
//! (gradient of W) while it is there.
//!
//! What a forward pass gives, each where it is asked for:
//!
//! * `loss` of given tokens, -log p: one token for each row, or lists of any length, as the choices of a question are. With
//!   `label_smoothing` ε it is (1 - ε)·(-log p) + ε·(mean over the vocabulary of -log p), as in PyTorch.
//! * `log_sum_exp` of each row's logits, which the backward pass needs.
//! * `best`, the token with the largest logit, of equal ones that with the smallest number, and its log-probability.
//! * `rank` of each row's given token: how many tokens come before it, if those with larger logits come first, and of those with equal ones
//!   those with smaller numbers.
//!
//! # Ignored rows
//!
//! A token of [`IGNORED`] has the loss 0, the rank -1 and the gradient 0, whatever its row is and whatever its weight is, which
//! is not read. Any other token outside of the vocabulary is an error on the CPU; a GPU makes its loss and its gradient not a number.
//!
//! # Values that are not numbers
//!
//! A logit that is not a number, or is +∞, makes everything in its row not a number, with `best` and `rank` -1; so do logits that are all
//! -∞. Single logits of -∞ have the probability 0. Other rows are not affected, but the gradient of the head is a sum
//! over rows.
//!
//! # Memory
//!
//! On the CPU, [`LinearCe::forward_memory`] and [`LinearCe::backward_memory`] say how much is taken beside the arguments; it depends
//! on the width alone. On a GPU the caller brings it: [`LinearCe::forward_workspace`] is 1280 bytes for each row, and
//! [`LinearCe::backward_workspace`] does not depend on the number of rows from 1024 on.
//!
//! # What results depend on
//!
//! Rows have the same bits alone and among any others. The vocabulary is divided into parts by its size alone, and the
//! parts' results are put together in their order. The gradient of the head adds up rows in their order.
//!
//! ```
//! use gristmill_kernels::gemm::{Matrix, Precision, Values};
//! use gristmill_kernels::linear_ce::{Gradients, Head, Ids, LinearCe, Scores, Tokens};
//! use gristmill_kernels::workers::Serial;
//!
//! // Three tokens of width 2, and two rows: the tokens to come are 1, and nobody knows.
//! let weights = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
//! let head = Head::with_gradients(Matrix::row_major(Values::F32(&weights), 3, 2)?, None, Precision::F32)?;
//! let (hidden, ids) = ([2.0, 1.0, 0.5, 0.5], [1, -100]);
//! let linear_ce = LinearCe { width: 2, vocabulary: 3, logit_scale: 1.0, label_smoothing: 0.0 };
//! let (mut loss, mut log_sum_exp, mut rank) = ([0.0; 2], [0.0; 2], [0; 2]);
//! linear_ce.forward(
//!     &Serial,
//!     &hidden,
//!     &head,
//!     Tokens { ids: Ids::I32(&ids), offsets: None },
//!     Scores { rank: Some(&mut rank), ..Scores::new(&mut loss, &mut log_sum_exp) },
//! )?;
//! // Logits 2, 1 and 3.
//! assert!((loss[0] - 2.407_606).abs() < 1e-5 && loss[1] == 0.0);
//! assert_eq!(rank, [2, -1]);
//!
//! let mut dh = [0.0; 4];
//! let gradients = Gradients { hidden: Some(&mut dh), head: None };
//! linear_ce.backward(&Serial, &hidden, &head, Ids::I32(&ids), &log_sum_exp, &[1.0, 1.0], gradients)?;
//! assert!((dh[0] - 0.909_969).abs() < 1e-5 && dh[2] == 0.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cases;
mod cpu;
#[cfg(test)]
mod cpu_tests;
mod head;
mod launch;
mod problem;
mod reference;
mod rows;

pub(crate) use cases::FAMILY;
pub use cpu::{Gradients, HeadGradients, Scores};
pub use head::Head;
pub use launch::{
    BackwardWorkspace, GradientBuffers, HeadBuffers, HeadGradientBuffers, IdBuffer, RowBuffers, ScoreBuffers,
    TokenBuffers,
};

use crate::launch::{ShapeError, expect_len};

/// What stands in place of a token that is not to be predicted.
pub const IGNORED: i64 = -100;

/// The head of a language model with its cross-entropy. See the [module](self) for an example.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearCe {
    /// Elements of a hidden state.
    pub width: usize,
    /// Number of tokens that there are; at most 2^31 - 1.
    pub vocabulary: usize,
    /// What logits are multiplied by, mostly 1.
    pub logit_scale: f32,
    /// What share of a token's probability is spread over the vocabulary, 0 to 1; mostly 0.
    pub label_smoothing: f32,
}

/// Numbers of tokens.
#[derive(Clone, Copy, Debug)]
pub enum Ids<'a> {
    /// In 32 bits.
    I32(&'a [i32]),
    /// In 64 bits.
    I64(&'a [i64]),
}

impl Ids<'_> {
    /// How many there are.
    pub const fn len(&self) -> usize {
        match self {
            Self::I32(ids) => ids.len(),
            Self::I64(ids) => ids.len(),
        }
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of them.
    fn get(&self, index: usize) -> i64 {
        match self {
            Self::I32(ids) => i64::from(ids[index]),
            Self::I64(ids) => ids[index],
        }
    }
}

/// The tokens of which losses are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// Their numbers, or [`IGNORED`].
    pub ids: Ids<'a>,
    /// Those of row r are `offsets[r]..offsets[r + 1]`, `[rows + 1]` offsets that begin at 0, do not fall, and end at the number of ids. Without them
    /// there is one for each row.
    pub offsets: Option<&'a [i64]>,
}

impl Tokens<'_> {
    /// Those of some rows.
    fn range(&self, rows: std::ops::Range<usize>) -> std::ops::Range<usize> {
        // `LinearCe::expect_tokens` has seen that offsets are not negative.
        match self.offsets {
            Some(offsets) => offsets[rows.start] as usize..offsets[rows.end] as usize,
            None => rows,
        }
    }
}

impl LinearCe {
    /// Whether ids are tokens of the vocabulary or ignored ones.
    fn expect_ids(&self, ids: Ids<'_>) -> Result<(), ShapeError> {
        let wrong = |id: i64| id != IGNORED && !usize::try_from(id).is_ok_and(|id| id < self.vocabulary);
        let index = match ids {
            Ids::I32(ids) => ids.iter().position(|&id| wrong(i64::from(id))),
            Ids::I64(ids) => ids.iter().position(|&id| wrong(id)),
        };
        index.map_or(Ok(()), |index| {
            let allowed = "-100 or a number below the size of the vocabulary";
            Err(ShapeError::Value { name: "ids", index, allowed, actual: ids.get(index) })
        })
    }

    /// Whether tokens belong to so many rows.
    fn expect_tokens(&self, tokens: Tokens<'_>, rows: usize) -> Result<(), ShapeError> {
        self.expect_ids(tokens.ids)?;
        let Some(offsets) = tokens.offsets else { return expect_len("ids", tokens.ids.len(), rows) };
        expect_len("offsets", offsets.len(), rows + 1)?;
        let wrong =
            |index: usize, allowed| ShapeError::Value { name: "offsets", index, allowed, actual: offsets[index] };
        if offsets[0] != 0 {
            return Err(wrong(0, "0"));
        }
        if let Some(index) = offsets.windows(2).position(|pair| pair[1] < pair[0]) {
            return Err(wrong(index + 1, "no less than the one before"));
        }
        if usize::try_from(offsets[rows]) != Ok(tokens.ids.len()) {
            return Err(wrong(rows, "the number of ids"));
        }
        Ok(())
    }
}
