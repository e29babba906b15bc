//! Losses of tokens on a device, and their gradient by the hidden states.

use gristmill_kernels::device::{Array, Device};
use gristmill_kernels::launch::Float;
use gristmill_kernels::linear_ce::{
    BackwardWorkspace, GradientBuffers, HeadBuffers, IGNORED, IdBuffer, LinearCe, RowBuffers, ScoreBuffers,
    TokenBuffers,
};
use gristmill_kernels::residual::{Embedding, EmbeddingBuffers};

use super::weights::{Head, Weights};
use crate::models::batch::Batch;
use crate::models::error::{ModelError, Result};
use crate::models::gradients::{Losses, Targets, TokenLoss};

/// What the head makes of the rows of a batch, in memory that is used again. Rows without a target are ignored by the kernels.
#[derive(Debug)]
pub(super) struct HeadLoss<T> {
    chosen: Targets,
    targets: Array<i64>,
    weights: Array<f32>,
    losses: Array<f32>,
    log_sums: Array<f32>,
    /// Forward.
    workspace: Array<f32>,
    /// Back.
    values: Array<T>,
    sums: Array<f32>,
    /// Of hidden states.
    gradient: Array<T>,
    /// 0, 1, …: rows as they are.
    rows: Array<i32>,
}

impl<T: Float> HeadLoss<T> {
    pub(super) fn new(device: &Device) -> Self {
        Self {
            chosen: Targets::default(),
            targets: device.empty(),
            weights: device.empty(),
            losses: device.empty(),
            log_sums: device.empty(),
            workspace: device.empty(),
            values: device.empty(),
            sums: device.empty(),
            gradient: device.empty(),
            rows: device.empty(),
        }
    }

    /// Chooses targets, and makes room for all that comes of them.
    pub(super) fn prepare(&mut self, batch: &Batch, loss: TokenLoss<'_>, weights: &Weights<T>) -> Result<()> {
        let tokens = batch.tokens();
        let linear_ce = linear_ce(weights);
        self.chosen.choose(batch, loss, linear_ce.vocabulary)?;
        let (mut ids, mut of_rows) = (vec![IGNORED; tokens], vec![0.0; tokens]);
        let Targets { rows, ids: chosen, weights: counts, .. } = &self.chosen;
        for ((&row, &id), &weight) in rows.iter().zip(chosen).zip(counts) {
            (ids[row], of_rows[row]) = (id, weight);
        }
        self.targets.upload(&ids)?;
        self.weights.upload(&of_rows)?;
        self.rows.upload(&(0..i32::try_from(tokens).unwrap_or(i32::MAX)).collect::<Vec<_>>())?;
        self.losses.resize(tokens)?;
        self.log_sums.resize(tokens)?;
        self.workspace.resize(linear_ce.forward_workspace(tokens))?;
        let (values, sums) = linear_ce.backward_workspace(tokens);
        self.values.resize(values)?;
        self.sums.resize(sums)?;
        self.gradient.resize(tokens * weights.hidden)?;
        Ok(())
    }

    /// Losses of the batch that was prepared, whose hidden states these are.
    pub(super) fn losses(
        &mut self,
        device: &Device,
        weights: &Weights<T>,
        batch: &Batch,
        hidden: &Array<T>,
    ) -> Result<Losses> {
        let scores = ScoreBuffers {
            loss: self.losses.write(),
            log_sum_exp: self.log_sums.write(),
            best: None,
            best_log_probability: None,
            rank: None,
            workspace: self.workspace.write(),
        };
        let tokens = TokenBuffers { ids: IdBuffer::I64(self.targets.read()), offsets: None };
        let head = HeadBuffers { weights: head(weights)?.read(), bias: None };
        device.run(&linear_ce(weights).forward_launches(hidden.read(), head, tokens, scores)?)?;
        let of_rows = self.losses.download()?;
        let of_targets: Vec<f32> = self.chosen.rows.iter().map(|&row| of_rows[row]).collect();
        self.chosen.losses(batch, &of_targets)
    }

    /// Overwrites the gradient of hidden states, in single precision as the stream is, when losses were computed.
    pub(super) fn backward(
        &mut self,
        device: &Device,
        weights: &Weights<T>,
        hidden: &Array<T>,
        gradient: &mut Array<f32>,
    ) -> Result<()> {
        let rows = RowBuffers {
            hidden: hidden.read(),
            ids: IdBuffer::I64(self.targets.read()),
            log_sum_exp: self.log_sums.read(),
            weights: self.weights.read(),
        };
        let workspace = BackwardWorkspace { values: self.values.write(), sums: self.sums.write() };
        let gradients = GradientBuffers { hidden: Some(self.gradient.write()), head: None, workspace };
        let head = HeadBuffers { weights: head(weights)?.read(), bias: None };
        device.run(&linear_ce(weights).backward_launches(rows, head, gradients)?)?;
        gradient.resize(hidden.len())?;
        let buffers = EmbeddingBuffers {
            tokens: self.gradient.read(),
            positions: None,
            segment: None,
            ids: self.rows.read(),
            x: gradient.write(),
        };
        Ok(device.run(&Embedding { width: weights.hidden }.launches(buffers)?)?)
    }
}

const fn linear_ce<T>(weights: &Weights<T>) -> LinearCe {
    LinearCe { width: weights.hidden, vocabulary: weights.vocabulary, logit_scale: 1.0, label_smoothing: 0.0 }
}

/// The head's weights, where the model is a language model.
pub(super) fn head<T>(weights: &Weights<T>) -> Result<&Array<T>> {
    match &weights.head {
        Head::LanguageModel(head) => Ok(head.as_ref().unwrap_or(&weights.embeddings.tokens)),
        Head::None | Head::Classifier(_) => {
            Err(ModelError::NotOnDevice { what: "gradients of other losses than tokens'" })
        }
    }
}
