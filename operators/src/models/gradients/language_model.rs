//! The loss of a language model and its gradient: the head on those rows whose next token is a target.

use gristmill_kernels::linear_ce::{Head, Ids, LinearCe, Scores, Tokens};

use super::loss::{Losses, TokenLoss, expect_length};
use super::tap::{HeadGradient, range};
use crate::models::Batch;
use crate::models::error::{ModelError, Result};
use crate::models::layers::Compute;

/// The rows that have a target, and what they are to predict.
#[derive(Debug, Default)]
pub(in crate::models) struct Targets {
    /// Numbers of the rows among all tokens.
    pub(in crate::models) rows: Vec<usize>,
    /// Where documents begin among the rows, `[documents + 1]`.
    offsets: Vec<i64>,
    /// Of each row.
    pub(in crate::models) ids: Vec<i64>,
    /// Of each row.
    pub(in crate::models) weights: Vec<f32>,
}

impl Targets {
    /// Finds the rows, and their targets.
    pub(in crate::models) fn choose(&mut self, batch: &Batch, loss: TokenLoss<'_>, vocabulary: usize) -> Result<()> {
        expect_length("weights of tokens", loss.weights.len(), batch.tokens())?;
        let targets = loss.targets.unwrap_or_else(|| batch.ids());
        expect_length("targets", targets.len(), batch.tokens())?;
        if let Some(index) = targets.iter().position(|&target| target as usize >= vocabulary) {
            let allowed = format!("an id below {vocabulary}, the size of the vocabulary,");
            return Err(ModelError::Input { what: "target", index, value: targets[index].into(), allowed });
        }
        let Self { rows, offsets, ids, weights } = self;
        rows.clear();
        ids.clear();
        weights.clear();
        offsets.clear();
        offsets.push(0);
        for document in 0..batch.documents() {
            for token in range(batch.offsets(), document).skip(1) {
                if loss.weights[token] != 0.0 {
                    rows.push(token - 1);
                    ids.push(i64::from(targets[token]));
                    weights.push(loss.weights[token]);
                }
            }
            offsets.push(rows.len() as i64);
        }
        Ok(())
    }

    /// The losses of a batch, given that of each row.
    pub(in crate::models) fn losses(&self, batch: &Batch, of_rows: &[f32]) -> Result<Losses> {
        let mut tokens = vec![0.0; batch.tokens()];
        self.rows.iter().zip(of_rows).for_each(|(row, &loss)| tokens[row + 1] = loss);
        let mut losses = Losses { tokens, ..Losses::default() };
        for document in 0..batch.documents() {
            let rows = range(&self.offsets, document);
            let weighted = of_rows[rows.clone()].iter().zip(&self.weights[rows.clone()]);
            losses.documents.push(weighted.map(|(&loss, &weight)| f64::from(loss) * f64::from(weight)).sum());
            losses.targets.push(rows.len());
        }
        losses.expect_finite()?;
        Ok(losses)
    }
}

/// The rows that have a target, one behind the other, and what the head makes of them.
#[derive(Debug, Default)]
pub(super) struct TargetRows {
    chosen: Targets,
    states: Vec<f32>,
    losses: Vec<f32>,
    log_sums: Vec<f32>,
    gradient: Vec<f32>,
}

impl TargetRows {
    /// Computes the losses of a batch with these hidden states, and keeps what gradients are made from; that of hidden states, if there is
    /// `need` of it.
    pub(super) fn run(
        &mut self,
        compute: Compute<'_>,
        (head, linear_ce): (&Head, LinearCe),
        batch: &Batch,
        loss: TokenLoss<'_>,
        states: &[f32],
        need: bool,
    ) -> Result<Losses> {
        self.chosen.choose(batch, loss, linear_ce.vocabulary)?;
        let Targets { rows, ids, weights, .. } = &self.chosen;
        let count = rows.len();
        let width = linear_ce.width;
        self.states.clear();
        rows.iter().for_each(|row| self.states.extend_from_slice(&states[row * width..(row + 1) * width]));
        self.losses.resize(count, 0.0);
        self.log_sums.resize(count, 0.0);
        let ids = Ids::I64(ids);
        let scores = Scores::new(&mut self.losses, &mut self.log_sums);
        if need {
            self.gradient.resize(self.states.len(), 0.0);
            let (workers, dh) = (compute.workers, &mut self.gradient[..]);
            linear_ce.forward_backward(workers, &self.states, head, ids, weights, scores, dh)?;
        } else {
            linear_ce.forward(compute.workers, &self.states, head, Tokens { ids, offsets: None }, scores)?;
        }
        self.chosen.losses(batch, &self.losses)
    }

    /// Overwrites the gradient of all hidden states, `[tokens, hidden]`.
    pub(super) fn spread(&self, width: usize, tokens: usize, to: &mut Vec<f32>) {
        to.clear();
        to.resize(tokens * width, 0.0);
        for (row, gradient) in self.chosen.rows.iter().zip(self.gradient.chunks_exact(width.max(1))) {
            to[row * width..(row + 1) * width].copy_from_slice(gradient);
        }
    }

    /// The gradient of the head.
    pub(super) fn head_gradient<'a>(&'a self, head: &'a Head, linear_ce: LinearCe) -> HeadGradient<'a> {
        HeadGradient {
            states: &self.states,
            targets: &self.chosen.ids,
            weights: &self.chosen.weights,
            log_sums: &self.log_sums,
            offsets: &self.chosen.offsets,
            head,
            linear_ce,
        }
    }
}
