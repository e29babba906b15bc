//! Launches of the CUDA kernels in `cuda/linear_ce.cu`.

use super::LinearCe;
use crate::launch::{
    Argument, Buffer, BufferMut, Float, Launch, ShapeError, expect_len, kernel_name, optional, optional_mut, to_grid,
    to_i32, to_i64,
};

/// Parts of the vocabulary in a forward pass, at most.
const SPLITS: usize = 64;
/// Numbers that are kept of each row and part.
const FIELDS: usize = 5;
/// A part is a multiple of this, the larger of the kernels' tiles.
const PART: usize = 128;
/// Rows of a step of the backward pass, and tokens of the vocabulary.
const ROWS: usize = 1024;
const COLUMNS: usize = 8192;
/// Tokens that are added up in one piece in the gradient of hidden states, and pieces of a step.
const SLICE: usize = 2048;
const SLICES: usize = COLUMNS / SLICE;

/// Numbers of tokens on the machine.
#[derive(Clone, Copy, Debug)]
pub enum IdBuffer<'a> {
    /// In 32 bits.
    I32(Buffer<'a, i32>),
    /// In 64 bits.
    I64(Buffer<'a, i64>),
}

impl IdBuffer<'_> {
    const fn len(&self) -> usize {
        match self {
            Self::I32(ids) => ids.len(),
            Self::I64(ids) => ids.len(),
        }
    }

    /// Where the ids from `offset` on are, and whether they are wide.
    fn arguments(&self, offset: usize) -> [Argument; 2] {
        match self {
            Self::I32(ids) => [ids.argument_at(offset), Argument::I32(0)],
            Self::I64(ids) => [ids.argument_at(offset), Argument::I32(1)],
        }
    }
}

/// The tokens of which losses are asked for, as [`Tokens`](super::Tokens).
#[derive(Clone, Copy, Debug)]
pub struct TokenBuffers<'a> {
    /// Their numbers.
    pub ids: IdBuffer<'a>,
    /// Where each row's begin and end; the kernels trust them.
    pub offsets: Option<Buffer<'a, i64>>,
}

/// A head on the machine.
#[derive(Clone, Copy, Debug)]
pub struct HeadBuffers<'a, T> {
    /// `[vocabulary, width]`.
    pub weights: Buffer<'a, T>,
    /// `[vocabulary]`.
    pub bias: Option<Buffer<'a, T>>,
}

/// What a forward pass writes, as [`Scores`](super::Scores).
#[derive(Debug)]
pub struct ScoreBuffers<'a> {
    /// For each given token.
    pub loss: BufferMut<'a, f32>,
    /// `[rows]`.
    pub log_sum_exp: BufferMut<'a, f32>,
    /// `[rows]`.
    pub best: Option<BufferMut<'a, i32>>,
    /// `[rows]`.
    pub best_log_probability: Option<BufferMut<'a, f32>>,
    /// `[rows]`; only where there is a token for each row.
    pub rank: Option<BufferMut<'a, i32>>,
    /// As long as [`LinearCe::forward_workspace`] says.
    pub workspace: BufferMut<'a, f32>,
}

/// What a backward pass reads beside the head, `[rows]` each but for the first.
#[derive(Clone, Copy, Debug)]
pub struct RowBuffers<'a, T> {
    /// Hidden states, `[rows, width]`.
    pub hidden: Buffer<'a, T>,
    /// A token for each row.
    pub ids: IdBuffer<'a>,
    /// Of the forward pass.
    pub log_sum_exp: Buffer<'a, f32>,
    /// The gradient of each row's loss.
    pub weights: Buffer<'a, f32>,
}

/// What a backward pass writes, as [`Gradients`](super::Gradients).
#[derive(Debug)]
pub struct GradientBuffers<'a, T> {
    /// Of hidden states, `[rows, width]`.
    pub hidden: Option<BufferMut<'a, T>>,
    /// Of the head.
    pub head: Option<HeadGradientBuffers<'a>>,
    /// What it works in.
    pub workspace: BackwardWorkspace<'a, T>,
}

/// Gradients of a head, which are added to what is there.
#[derive(Debug)]
pub struct HeadGradientBuffers<'a> {
    /// `[vocabulary, width]`.
    pub weights: BufferMut<'a, f32>,
    /// `[vocabulary]`.
    pub bias: Option<BufferMut<'a, f32>>,
}

/// Memory for a backward pass, as long as [`LinearCe::backward_workspace`] says.
#[derive(Debug)]
pub struct BackwardWorkspace<'a, T> {
    /// Of the hidden states' type, for some gradients of logits and for weighted hidden states.
    pub values: BufferMut<'a, T>,
    /// For sums.
    pub sums: BufferMut<'a, f32>,
}

impl LinearCe {
    /// Elements of the workspace of a forward pass: at most 320 for each row, whatever the vocabulary.
    pub const fn forward_workspace(&self, rows: usize) -> usize {
        FIELDS * self.splits() * rows
    }

    /// Elements of the workspaces of a backward pass, of values and of sums: for up to 1024 rows at most 8192 + width
    /// of the first and 5 × width of the second for each; from 1024 rows on no more.
    pub const fn backward_workspace(&self, rows: usize) -> (usize, usize) {
        let rows = if rows < ROWS { rows } else { ROWS };
        (rows * (self.stride() + self.width), rows * self.width * (SLICES + 1))
    }

    /// The launches of a forward pass, from hidden states `[rows, width]`.
    ///
    /// # Errors
    /// Lengths that do not belong together, dimensions that are too large, and ranks asked for where rows have lists of tokens.
    pub fn forward_launches<'a, T: Float>(
        &self,
        hidden: Buffer<'a, T>,
        head: HeadBuffers<'a, T>,
        tokens: TokenBuffers<'a>,
        scores: ScoreBuffers<'a>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let ScoreBuffers { loss, log_sum_exp, best, best_log_probability, rank, workspace } = scores;
        let rows = log_sum_exp.len();
        self.expect_buffers(hidden, head, rows)?;
        match tokens.offsets {
            Some(offsets) => expect_len("offsets", offsets.len(), rows + 1)?,
            None => expect_len("ids", tokens.ids.len(), rows)?,
        }
        expect_len("loss", loss.len(), tokens.ids.len())?;
        expect_len("best", best.as_ref().map_or(rows, BufferMut::len), rows)?;
        let best_rows = best_log_probability.as_ref().map_or(rows, BufferMut::len);
        expect_len("best_log_probability", best_rows, rows)?;
        expect_len("rank", rank.as_ref().map_or(rows, BufferMut::len), rows)?;
        if rank.is_some() && tokens.offsets.is_some() {
            let allowed = "one for each row";
            return Err(ShapeError::Dimension { name: "tokens to rank", allowed, actual: tokens.ids.len() });
        }
        expect_len("workspace", workspace.len(), self.forward_workspace(rows))?;
        if rows == 0 {
            return Ok(Vec::new());
        }
        let (row_count, width) = (Argument::I64(to_i64("rows", rows)?), Argument::I32(to_i32("width", self.width)?));
        let vocabulary = Argument::I32(to_i32("vocabulary", self.vocabulary)?);
        let bias = optional(head.bias.as_ref());
        let [ids, wide] = tokens.ids.arguments(0);
        let mut launches = Vec::new();
        let given = vec![
            hidden.argument(),
            head.weights.argument(),
            bias,
            optional(tokens.offsets.as_ref()),
            ids,
            wide,
            loss.argument(),
            row_count,
            width,
            vocabulary,
            Argument::F32(self.logit_scale),
        ];
        let grid = [to_grid("rows", rows.div_ceil(4))?, 1, 1];
        launches.push(Launch::new("linear_ce", kernel_name!(T, "linear_ce_given"), grid, [128, 1, 1], given));
        if self.splits() > 0 {
            let forward = vec![
                hidden.argument(),
                head.weights.argument(),
                bias,
                ids,
                wide,
                if rank.is_some() { loss.argument() } else { Argument::Address(0) },
                workspace.argument(),
                row_count,
                width,
                vocabulary,
                Argument::I32(to_i32("vocabulary", self.split())?),
                Argument::F32(self.logit_scale),
                Argument::I32(i32::from(self.label_smoothing != 0.0)),
            ];
            let grid = [tiles::<T>("rows", rows)?, self.splits() as u32, 1];
            launches.push(product::<T>(kernel_name!(T, "linear_ce_forward"), grid, forward));
        }
        let combine = vec![
            workspace.argument(),
            optional(tokens.offsets.as_ref()),
            ids,
            wide,
            loss.argument(),
            log_sum_exp.argument(),
            optional_mut(best.as_ref()),
            optional_mut(best_log_probability.as_ref()),
            optional_mut(rank.as_ref()),
            row_count,
            Argument::I32(to_i32("vocabulary", self.splits())?),
            vocabulary,
            Argument::F32(self.label_smoothing),
        ];
        launches.push(elementwise("linear_ce_combine_f32", rows, combine)?);
        Ok(launches)
    }

    /// The launches of a backward pass.
    ///
    /// # Errors
    /// Lengths that do not belong together, and dimensions that are too large.
    pub fn backward_launches<'a, T: Float>(
        &self,
        rows: RowBuffers<'a, T>,
        head: HeadBuffers<'a, T>,
        gradients: GradientBuffers<'a, T>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let count = rows.log_sum_exp.len();
        self.expect_buffers(rows.hidden, head, count)?;
        expect_len("ids", rows.ids.len(), count)?;
        expect_len("weights", rows.weights.len(), count)?;
        let GradientBuffers { hidden: dh, head: head_gradients, workspace } = gradients;
        let (values, sums) = self.backward_workspace(count);
        expect_len("workspace of values", workspace.values.len(), values)?;
        expect_len("workspace of sums", workspace.sums.len(), sums)?;
        if let Some(dh) = &dh {
            expect_len("gradient of hidden", dh.len(), rows.hidden.len())?;
        }
        if let Some(HeadGradientBuffers { weights, bias }) = &head_gradients {
            expect_len("gradient of weights", weights.len(), self.vocabulary * self.width)?;
            expect_len("gradient of bias", bias.as_ref().map_or(self.vocabulary, BufferMut::len), self.vocabulary)?;
        }
        let mut launches = Vec::new();
        for first in (0..count).step_by(ROWS) {
            let step = Step {
                linear_ce: self,
                first,
                rows: ROWS.min(count - first),
                scaled: ROWS.min(count) * self.stride(),
                inputs: rows,
                head,
                workspace: &workspace,
            };
            if head_gradients.is_some() && self.width > 0 {
                launches.push(step.scale()?);
            }
            // Where there is no vocabulary the gradient of hidden states is still to be written.
            for offset in (0..self.vocabulary.max(1)).step_by(COLUMNS) {
                let columns = COLUMNS.min(self.vocabulary - offset);
                if columns > 0 {
                    launches.push(step.gradient(offset, columns)?);
                }
                if let (Some(dh), true) = (&dh, self.width > 0) {
                    step.hidden(offset, columns, dh, &mut launches)?;
                }
                if let (Some(gradients), true) = (&head_gradients, columns > 0) {
                    step.head(offset, columns, gradients, &mut launches)?;
                }
            }
        }
        Ok(launches)
    }

    /// Tokens of a part of the vocabulary in a forward pass.
    const fn split(&self) -> usize {
        self.vocabulary.div_ceil(PART).div_ceil(SPLITS) * PART
    }

    const fn splits(&self) -> usize {
        if self.vocabulary == 0 { 0 } else { self.vocabulary.div_ceil(self.split()) }
    }

    /// Elements from one row of gradients of logits to the next.
    const fn stride(&self) -> usize {
        if self.vocabulary < COLUMNS { self.vocabulary.next_multiple_of(8) } else { COLUMNS }
    }

    fn expect_buffers<T: Float>(
        &self,
        hidden: Buffer<'_, T>,
        head: HeadBuffers<'_, T>,
        rows: usize,
    ) -> Result<(), ShapeError> {
        expect_len("hidden", hidden.len(), rows * self.width)?;
        expect_len("head", head.weights.len(), self.vocabulary * self.width)?;
        expect_len("bias", head.bias.map_or(self.vocabulary, |bias| bias.len()), self.vocabulary)
    }
}

/// Some rows of a backward pass.
struct Step<'s, 'a, T> {
    linear_ce: &'s LinearCe,
    first: usize,
    rows: usize,
    /// Where weighted hidden states begin in the workspace.
    scaled: usize,
    inputs: RowBuffers<'a, T>,
    head: HeadBuffers<'a, T>,
    workspace: &'s BackwardWorkspace<'a, T>,
}

impl<'a, T: Float> Step<'_, 'a, T> {
    fn width(&self) -> Result<Argument, ShapeError> {
        to_i32("width", self.linear_ce.width).map(Argument::I32)
    }

    fn row_count(&self) -> Result<Argument, ShapeError> {
        to_i64("rows", self.rows).map(Argument::I64)
    }

    fn stride(&self) -> Argument {
        Argument::I32(self.linear_ce.stride() as i32)
    }

    fn scale(&self) -> Result<Launch<'a>, ShapeError> {
        let [ids, wide] = self.inputs.ids.arguments(self.first);
        let arguments = vec![
            self.inputs.hidden.argument_at(self.first * self.linear_ce.width),
            ids,
            wide,
            self.inputs.weights.argument_at(self.first),
            self.workspace.values.argument_at(self.scaled),
            self.row_count()?,
            self.width()?,
            Argument::F32(self.linear_ce.logit_scale),
        ];
        elementwise(kernel_name!(T, "linear_ce_scale"), self.rows * self.linear_ce.width, arguments)
    }

    fn gradient(&self, offset: usize, columns: usize) -> Result<Launch<'a>, ShapeError> {
        let LinearCe { width, vocabulary, logit_scale, label_smoothing } = *self.linear_ce;
        let [ids, wide] = self.inputs.ids.arguments(self.first);
        let arguments = vec![
            self.inputs.hidden.argument_at(self.first * width),
            self.head.weights.argument_at(offset * width),
            self.head.bias.map_or(Argument::Address(0), |bias| bias.argument_at(offset)),
            ids,
            wide,
            self.inputs.log_sum_exp.argument_at(self.first),
            self.workspace.values.argument(),
            self.row_count()?,
            self.width()?,
            Argument::I32(to_i32("vocabulary", offset)?),
            Argument::I32(columns as i32),
            self.stride(),
            Argument::I32(to_i32("vocabulary", vocabulary)?),
            Argument::F32(logit_scale),
            Argument::F32(label_smoothing),
        ];
        let grid = [tiles::<T>("rows", self.rows)?, tiles::<T>("vocabulary", columns)?, 1];
        Ok(product::<T>(kernel_name!(T, "linear_ce_gradient"), grid, arguments))
    }

    fn hidden(
        &self,
        offset: usize,
        columns: usize,
        dh: &BufferMut<'a, T>,
        launches: &mut Vec<Launch<'a>>,
    ) -> Result<(), ShapeError> {
        let LinearCe { width, vocabulary, logit_scale, .. } = *self.linear_ce;
        let slices = columns.div_ceil(SLICE);
        if slices > 0 {
            let arguments = vec![
                self.workspace.values.argument(),
                self.head.weights.argument_at(offset * width),
                self.workspace.sums.argument(),
                self.row_count()?,
                self.width()?,
                Argument::I32(columns as i32),
                self.stride(),
                Argument::I32(SLICE as i32),
            ];
            let grid = [tiles::<T>("rows", self.rows)?, tiles::<T>("width", width)?, slices as u32];
            launches.push(product::<T>(kernel_name!(T, "linear_ce_hidden"), grid, arguments));
        }
        let [ids, wide] = self.inputs.ids.arguments(self.first);
        let arguments = vec![
            self.workspace.sums.argument(),
            ids,
            wide,
            self.inputs.weights.argument_at(self.first),
            dh.argument_at(self.first * width),
            self.row_count()?,
            self.width()?,
            Argument::I32(slices as i32),
            Argument::I32(i32::from(offset == 0)),
            Argument::I32(i32::from(offset + columns == vocabulary)),
            Argument::F32(logit_scale),
        ];
        launches.push(elementwise(kernel_name!(T, "linear_ce_hidden_combine"), self.rows * width, arguments)?);
        Ok(())
    }

    fn head(
        &self,
        offset: usize,
        columns: usize,
        gradients: &HeadGradientBuffers<'a>,
        launches: &mut Vec<Launch<'a>>,
    ) -> Result<(), ShapeError> {
        let LinearCe { width, logit_scale, .. } = *self.linear_ce;
        if width > 0 {
            let arguments = vec![
                self.workspace.values.argument(),
                self.workspace.values.argument_at(self.scaled),
                gradients.weights.argument_at(offset * width),
                self.row_count()?,
                self.width()?,
                Argument::I32(columns as i32),
                self.stride(),
            ];
            let grid = [tiles::<T>("vocabulary", columns)?, tiles::<T>("width", width)?, 1];
            launches.push(product::<T>(kernel_name!(T, "linear_ce_head"), grid, arguments));
        }
        if let Some(bias) = &gradients.bias {
            let [ids, wide] = self.inputs.ids.arguments(self.first);
            let arguments = vec![
                self.workspace.values.argument(),
                ids,
                wide,
                self.inputs.weights.argument_at(self.first),
                bias.argument_at(offset),
                self.row_count()?,
                Argument::I32(columns as i32),
                self.stride(),
                Argument::F32(logit_scale),
            ];
            launches.push(elementwise(kernel_name!(T, "linear_ce_bias"), columns, arguments)?);
        }
        Ok(())
    }
}

/// Tiles of the kernels that multiply.
fn tiles<T>(name: &'static str, count: usize) -> Result<u32, ShapeError> {
    to_grid(name, count.div_ceil(if size_of::<T>() == 4 { 64 } else { 128 }))
}

/// A kernel that multiplies, with memory for three stages of two tiles of 128 x 40 values in half precision, or for the states of
/// 64 rows in single precision, which are larger than its tiles.
fn product<'a, T: Float>(kernel: &'static str, grid: [u32; 3], arguments: Vec<Argument>) -> Launch<'a> {
    let bytes = if size_of::<T>() == 4 { 64 * 16 * FIELDS * 4 } else { 3 * 2 * 128 * 40 * 2 };
    Launch::new("linear_ce", kernel, grid, [256, 1, 1], arguments).with_shared_bytes(bytes as u32)
}

/// A kernel with a thread for each of `count` things.
fn elementwise<'a>(kernel: &'static str, count: usize, arguments: Vec<Argument>) -> Result<Launch<'a>, ShapeError> {
    Ok(Launch::new("linear_ce", kernel, [to_grid("rows", count.div_ceil(256))?, 1, 1], [256, 1, 1], arguments))
}
