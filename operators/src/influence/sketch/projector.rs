//! What makes the rows of a sketch while a backward pass goes by.

use gristmill_kernels::gemm::{GemmOptions, MatmulOptions, Matrix, MatrixMut, PackedWeights, Precision, Values, gemm};
use gristmill_kernels::outer::{Outer, Strides};

use super::LARGEST_DIMENSION;
use super::norms::squared_norm;
use super::sides::{Sketch, SketchModule};
use crate::models::gradients::{Gradient, LinearGradient, Projections, Tap};
use crate::models::{Batch, Compute, ModelError, Parameter, Result};

/// What has a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RowsOf {
    /// Each document.
    #[default]
    Documents,
    /// Each token: what its δ and x add to the gradient of its document's loss. The rows of a document's tokens sum to that of the document. In a language model
    /// the row of a token is that of the place that predicts the next one, and the last token of a document has zeros.
    Tokens,
}

/// Of what norms are computed. They are those of gradients themselves, neither projected nor scaled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NormsOf {
    /// None.
    #[default]
    Nothing,
    /// The gradients of each module, and with them of all together.
    Modules,
}

/// Makes the rows of a [`Sketch`] of a batch, as the [`Tap`] of a backward pass, in memory that it uses again.
#[derive(Debug)]
pub struct Projector<'s> {
    sketch: &'s Sketch,
    rows_of: RowsOf,
    norms_of: NormsOf,
    documents: usize,
    tokens: usize,
    rows: Vec<f32>,
    /// Squares, `[documents, modules]`.
    norms: Vec<f64>,
    scratch: Scratch,
}

/// Memory that is used again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// δ·Lᵀ, `[tokens, p]`.
    left: Vec<f32>,
    /// x·Rᵀ, `[tokens, q]`.
    right: Vec<f32>,
    /// 0, 1, …: where tokens begin, each a segment of its own.
    offsets: Vec<i64>,
    /// What norms need.
    pub(super) products: [Vec<f32>; 2],
}

impl<'s> Projector<'s> {
    /// One row for each document, and no norms.
    pub fn new(sketch: &'s Sketch) -> Self {
        Self {
            sketch,
            rows_of: RowsOf::Documents,
            norms_of: NormsOf::Nothing,
            documents: 0,
            tokens: 0,
            rows: Vec::new(),
            norms: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// The same with rows of documents or of tokens.
    #[must_use]
    pub fn with_rows(self, rows_of: RowsOf) -> Self {
        Self { rows_of, ..self }
    }

    /// The same with norms of gradients.
    #[must_use]
    pub fn with_norms(self, norms_of: NormsOf) -> Self {
        Self { norms_of, ..self }
    }

    /// Makes room for a batch, and sets all to 0. To be called before each backward pass.
    pub fn prepare(&mut self, batch: &Batch) {
        (self.documents, self.tokens) = (batch.documents(), batch.tokens());
        self.rows.clear();
        self.rows.resize(self.count() * self.sketch.width(), 0.0);
        self.norms.clear();
        if self.norms_of == NormsOf::Modules {
            self.norms.resize(self.documents * self.sketch.modules().len(), 0.0);
        }
    }

    /// The sketch that rows are of.
    pub const fn sketch(&self) -> &'s Sketch {
        self.sketch
    }

    /// All rows, which are no longer here.
    pub(crate) fn take_rows(&mut self) -> Vec<f32> {
        std::mem::take(&mut self.rows)
    }

    /// All rows, `[documents, width]` or `[tokens, width]`.
    pub fn rows(&self) -> &[f32] {
        &self.rows
    }

    /// One row, `[width]`.
    ///
    /// # Panics
    /// Where there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        let width = self.sketch.width();
        &self.rows[row * width..(row + 1) * width]
    }

    /// How many rows there are.
    pub const fn count(&self) -> usize {
        match self.rows_of {
            RowsOf::Documents => self.documents,
            RowsOf::Tokens => self.tokens,
        }
    }

    /// L2 norms of the gradients of each module for a document, `[modules]`; nothing where none were asked for.
    ///
    /// # Panics
    /// Where there is no such document.
    pub fn module_norms(&self, document: usize) -> impl ExactSizeIterator<Item = f64> + '_ {
        self.squares(document).iter().map(|square| square.sqrt())
    }

    /// The L2 norm of the gradient of all modules together for a document, if it was asked for.
    ///
    /// # Panics
    /// Where there is no such document.
    pub fn norm(&self, document: usize) -> Option<f64> {
        (self.norms_of == NormsOf::Modules).then(|| self.squares(document).iter().sum::<f64>().sqrt())
    }

    /// The first module and value of a row that is infinite or not a number.
    ///
    /// # Panics
    /// Where there is no such row.
    pub fn not_finite(&self, row: usize) -> Option<(&'s SketchModule, f32)> {
        let row = self.row(row);
        // A sum of numbers times 0 is 0, and of anything else is not a number.
        if row.iter().map(|value| value * 0.0).sum::<f32>() == 0.0 {
            return None;
        }
        let (place, &value) = row.iter().enumerate().find(|(_, value)| !value.is_finite())?;
        let module = self.sketch.modules().iter().find(|module| place < module.offset + module.size())?;
        Some((module, value))
    }

    fn squares(&self, document: usize) -> &[f64] {
        let modules = match self.norms_of {
            NormsOf::Nothing => 0,
            NormsOf::Modules => self.sketch.modules().len(),
        };
        &self.norms[document * modules..(document + 1) * modules]
    }

    fn project(&mut self, compute: Compute<'_>, number: usize, gradient: &LinearGradient<'_>) -> Result<()> {
        let module = &self.sketch.modules()[number];
        let LinearGradient { x, delta, offsets, .. } = *gradient;
        let (documents, tokens) = (offsets.len() - 1, x.len() / module.inputs.max(1));
        if documents != self.documents || (self.rows_of == RowsOf::Tokens && tokens != self.tokens) {
            return Err(tap(format!(
                "{} has gradients of {documents} documents and {tokens} tokens, and there is room for {} and {}",
                module.name, self.documents, self.tokens
            )));
        }
        let packed = &self.sketch.packed()?[number];
        let Scratch { left, right, offsets: each, .. } = &mut self.scratch;
        let left = side(compute, packed.left.as_ref(), delta, tokens, left)?;
        let right = side(compute, packed.right.as_ref(), x, tokens, right)?;
        let offsets = match self.rows_of {
            RowsOf::Documents => offsets,
            RowsOf::Tokens => {
                each.clear();
                each.extend(0..=tokens as i64);
                each
            }
        };
        let &SketchModule { p, q, offset, .. } = module;
        let width = self.sketch.width();
        if p.max(q) <= LARGEST_DIMENSION {
            let outer = Outer {
                tokens,
                modules: 1,
                p,
                q,
                a: Strides::interleaved(1, p),
                b: Strides::interleaved(1, q),
                out: Strides { row: width, module: p * q },
                accumulate: false,
            };
            if offsets.len() > 1 {
                outer.run(compute.workers, left, right, offsets, &mut self.rows[offset..], None)?;
            }
            return Ok(());
        }
        for (row, place) in self.rows.chunks_exact_mut(width).zip(offsets.windows(2)) {
            let place = place[0] as usize..place[1] as usize;
            let left = &left[place.start * p..place.end * p];
            let right = &right[place.start * q..place.end * q];
            product(compute, left, right, [place.len(), p, q], &mut row[offset..offset + p * q])?;
        }
        Ok(())
    }

    fn measure(&mut self, compute: Compute<'_>, number: usize, gradient: &LinearGradient<'_>) -> Result<()> {
        let module = &self.sketch.modules()[number];
        let modules = self.sketch.modules().len();
        for (document, place) in gradient.offsets.windows(2).enumerate() {
            let place = place[0] as usize..place[1] as usize;
            let x = &gradient.x[place.start * module.inputs..place.end * module.inputs];
            let delta = &gradient.delta[place.start * module.outputs..place.end * module.outputs];
            let sizes = [place.len(), module.outputs, module.inputs];
            self.norms[document * modules + number] = squared_norm(compute, delta, x, sizes, &mut self.scratch)?;
        }
        Ok(())
    }
}

impl Tap for Projector<'_> {
    fn wants(&self, parameter: &Parameter) -> bool {
        self.sketch.module_of(parameter).is_some()
    }

    fn take(&mut self, compute: Compute<'_>, gradient: &Gradient<'_>) -> Result<()> {
        let Gradient::Linear(linear) = gradient else { return Ok(()) };
        let Some(number) = self.sketch.module_of(linear.module.weight()) else { return Ok(()) };
        self.project(compute, number, linear)?;
        if self.norms_of == NormsOf::Modules {
            self.measure(compute, number, linear)?;
        }
        Ok(())
    }

    fn projections(&self) -> Option<Projections<'_>> {
        let whole = self.rows_of == RowsOf::Documents && self.norms_of == NormsOf::Nothing;
        whole.then(|| self.sketch.projections()).flatten()
    }

    fn take_projected(&mut self, rows: Vec<f32>) -> Result<()> {
        if rows.len() != self.rows.len() {
            return Err(tap(format!("{} projected numbers, and there is room for {}", rows.len(), self.rows.len())));
        }
        self.rows = rows;
        Ok(())
    }
}

fn tap(message: String) -> ModelError {
    ModelError::Tap(message.into())
}

/// Rows of x or δ times one side of a module; themselves where that is the identity.
fn side<'a>(
    compute: Compute<'_>,
    packed: Option<&PackedWeights>,
    values: &'a [f32],
    rows: usize,
    to: &'a mut Vec<f32>,
) -> Result<&'a [f32]> {
    let Some(packed) = packed else { return Ok(values) };
    let (inputs, outputs) = (packed.inputs(), packed.outputs());
    to.resize(rows * outputs, 0.0);
    let options = MatmulOptions { threads: compute.threads, ..MatmulOptions::default() };
    let values = Matrix::row_major(Values::F32(values), rows, inputs)?;
    packed.matmul(values, MatrixMut::row_major(to, rows, outputs)?, &options)?;
    Ok(to)
}

/// aᵀ·b of `[rows, p]` and `[rows, q]`, written to `[p, q]`.
pub(super) fn product(compute: Compute<'_>, a: &[f32], b: &[f32], sizes: [usize; 3], to: &mut [f32]) -> Result<()> {
    let [rows, p, q] = sizes;
    let options = GemmOptions { precision: Precision::F32, accumulate: false, threads: compute.threads, engine: None };
    let a = Matrix::row_major(Values::F32(a), rows, p)?.transposed();
    let b = Matrix::row_major(Values::F32(b), rows, q)?;
    Ok(gemm(a, b, MatrixMut::row_major(to, p, q)?, &options)?)
}
