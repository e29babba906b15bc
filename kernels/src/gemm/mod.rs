//! Products of matrices: on the processor with weights that are packed once for a model's layers, and plain products as gradients
//! need them.
//!
//! [`PackedWeights`] holds the weights of a linear layer, `[out, in]` as `nn.Linear` has them, and computes y = x·Wᵀ + b; packed from the
//! transposed matrix it computes x·W, as backward passes need. [`gemm`] multiplies two matrices of any strides. Both
//! compute in f32 or in bf16 with f32 sums ([`Precision`]), with the fastest [`Engine`] that the machine has.
//!
//! ```
//! use gristmill_kernels::gemm::{Matrix, MatrixMut, MatmulOptions, PackedWeights, Precision, Values};
//!
//! // Two outputs of three inputs.
//! let weights = [1.0, 0.0, 2.0, 0.0, 1.0, 0.5];
//! let packed = PackedWeights::pack(Matrix::row_major(Values::F32(&weights), 2, 3)?, Precision::F32)?;
//! let x = [1.0, 2.0, 3.0];
//! let mut y = [0.0; 2];
//! let options = MatmulOptions { bias: Some(&[10.0, 20.0]), ..Default::default() };
//! packed.matmul(Matrix::row_major(Values::F32(&x), 1, 3)?, MatrixMut::row_major(&mut y, 1, 2)?, &options)?;
//! assert_eq!(y, [17.0, 23.5]);
//! # Ok::<(), gristmill_kernels::gemm::GemmError>(())
//! ```
//!
//! On a GPU [`LinearLayer`] gives the launches of a linear layer, of f32, bf16 or f16.
//!
//! Weights in four bits are multiplied by the same engines: [`Nf4::matmul`](crate::nf4::Nf4::matmul).
//!
//! # What results depend on
//!
//! The bits of an element depend on its row of the left matrix, its column of the right one, the precision and the engine.
//! They do not depend on the other rows of the batch, on strides, on whether weights were packed before, or on the number of
//! threads, and they are the same on repeat.
//!
//! In bf16 both operands are rounded to the nearest bf16, ties to even; products of two such numbers are exact in f32. Engines differ in the order
//! of sums, in how they round them (the portable one rounds each product in f32, the others do not), and the two with
//! instructions for bf16 treat subnormal numbers as zero. NaN and infinity come out where IEEE 754 says, also at edges: nothing is
//! padded with a number that meets one of the caller's.
//!
//! # How it works
//!
//! The loops, the edges and the packing are the same for all engines (`driver`, `pack`); an engine is a micro-kernel, a few
//! dozen lines, that multiplies a few packed rows with a few packed columns. Weights have one packed order for each precision, which all
//! engines read, so packed weights are not bound to an engine.
//!
//! # What has run where
//!
//! `Portable` and `Avx2` are tested and measured. `Avx512`, `Avx512Bf16` and `Amx` are tested on any machine that has them, like
//! all others, but so far have been compiled only: none of the machines used had them. Their packing, edges and loops are
//! tested everywhere, with micro-kernels in plain Rust that read the same memory. The CUDA kernels have not run on a GPU: their sources
//! are tested on the processor.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod cases;
mod driver;
mod element;
mod engine;
mod launch;
mod matrix;
mod pack;
mod portable;
mod unpack;

#[cfg(test)]
mod pieces_tests;
#[cfg(test)]
mod tests;

pub(crate) use cases::FAMILY;
use driver::{Job, Pieces, Right};
pub(crate) use element::round_to_bf16;
use element::{Bf16, Buffer, WeightElement};
pub use engine::Engine;
pub use launch::{Function, LinearBuffers, LinearLayer, LinearOutput, Strides, Tile};
pub use matrix::{Layout, Matrix, MatrixMut, Values};
use pack::{pack_right, panel_len, panels};
pub(crate) use unpack::{Unpack, multiply_unpacked};

/// What operands are rounded to before they are multiplied. Sums are f32 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// IEEE 754 binary32.
    F32,
    /// bfloat16. Half the memory for weights.
    Bf16,
}

/// How [`PackedWeights::matmul`] computes.
#[derive(Clone, Copy, Debug)]
pub struct MatmulOptions<'a> {
    /// Added to each row of the result: one number for each output.
    pub bias: Option<&'a [f32]>,
    /// Adds to the result instead of overwriting it.
    pub accumulate: bool,
    /// At most this many threads; 0 and 1 mean the caller's alone. Small products take fewer, since a thread costs time to begin.
    pub threads: usize,
    /// The engine; the fastest available one, if none is named.
    pub engine: Option<Engine>,
}

impl Default for MatmulOptions<'_> {
    fn default() -> Self {
        Self { bias: None, accumulate: false, threads: 1, engine: None }
    }
}

/// How [`gemm`] computes.
#[derive(Clone, Copy, Debug)]
pub struct GemmOptions {
    /// What operands are rounded to.
    pub precision: Precision,
    /// Adds to the result instead of overwriting it.
    pub accumulate: bool,
    /// At most this many threads; 0 and 1 mean the caller's alone. Small products take fewer, since a thread costs time to begin.
    pub threads: usize,
    /// The engine; the fastest available one, if none is named.
    pub engine: Option<Engine>,
}

impl Default for GemmOptions {
    fn default() -> Self {
        Self { precision: Precision::F32, accumulate: false, threads: 1, engine: None }
    }
}

/// Why a product was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GemmError {
    /// A matrix reaches beyond its memory.
    #[error("the matrix needs {needed} elements, the memory has {found}")]
    TooShort {
        /// Elements from the first to the last.
        needed: usize,
        /// Elements that there are.
        found: usize,
    },
    /// The place of an element, or the size of the packed weights, is beyond what the machine can count.
    #[error("the matrix is too large for this machine")]
    TooLarge,
    /// A matrix to be written has rows that overlap.
    #[error("rows {row_stride} elements apart overlap: they have {columns} columns")]
    Overlapping {
        /// Elements from one row to the next.
        row_stride: usize,
        /// Columns of a row.
        columns: usize,
    },
    /// Two sizes that must agree do not.
    #[error("{what}: expected {expected}, found {found}")]
    Shape {
        /// Which size.
        what: &'static str,
        /// What it must be.
        expected: usize,
        /// What it is.
        found: usize,
    },
    /// The engine named is not one that this machine can run.
    #[error("the engine {0:?} is not available on this machine")]
    EngineUnavailable(Engine),
    /// The engine named does not compute in this precision.
    #[error("the engine {engine:?} does not compute in {precision:?}")]
    EngineUnsuitable {
        /// The engine.
        engine: Engine,
        /// What was to be computed.
        precision: Precision,
    },
}

/// Weights of a linear layer in the order in which engines read them.
///
/// Memory: outputs rounded up to 16, times inputs rounded up to 8 in f32 (4 bytes each) or 32 in bf16 (2 bytes each). See the
/// [module](self) for an example.
#[derive(Clone)]
pub struct PackedWeights {
    panels: Panels,
    outputs: usize,
    inputs: usize,
}

#[derive(Clone)]
enum Panels {
    F32(Buffer<f32>),
    Bf16(Buffer<Bf16>),
}

impl PackedWeights {
    /// Packs weights of shape `[out, in]` for y = x·Wᵀ, where x has `in` columns and y has `out`. For dx = dy·W give
    /// [`Matrix::transposed`] weights.
    ///
    /// # Errors
    ///
    /// [`GemmError::TooLarge`] where the packed size overflows.
    pub fn pack(weights: Matrix<'_>, precision: Precision) -> Result<Self, GemmError> {
        let Layout { rows: outputs, columns: inputs, .. } = weights.layout();
        let panels = match precision {
            Precision::F32 => Panels::F32(pack(weights)?),
            Precision::Bf16 => Panels::Bf16(pack(weights)?),
        };
        Ok(Self { panels, outputs, inputs })
    }

    /// Columns of the result.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the activations.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// What the weights were rounded to.
    pub fn precision(&self) -> Precision {
        match self.panels {
            Panels::F32(_) => Precision::F32,
            Panels::Bf16(_) => Precision::Bf16,
        }
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        match &self.panels {
            Panels::F32(panels) => size_of_val(panels.as_slice()),
            Panels::Bf16(panels) => size_of_val(panels.as_slice()),
        }
    }

    /// y = x·Wᵀ (+ bias) (+ y). `x` is tokens × `in`, `y` is tokens × `out`; no token, no input and no output are
    /// allowed.
    ///
    /// # Errors
    ///
    /// [`GemmError::Shape`] where sizes do not agree, [`GemmError::EngineUnavailable`] and [`GemmError::EngineUnsuitable`]
    /// where an engine is named that cannot be used. `y` is then as it was.
    pub fn matmul(&self, x: Matrix<'_>, mut y: MatrixMut<'_>, options: &MatmulOptions<'_>) -> Result<(), GemmError> {
        agree("columns of x", self.inputs, x.layout().columns)?;
        agree("columns of y", self.outputs, y.layout().columns)?;
        agree("rows of y", x.layout().rows, y.layout().rows)?;
        if let Some(bias) = options.bias {
            agree("length of the bias", self.outputs, bias.len())?;
        }
        let engine = Engine::choose(options.engine, self.precision())?;
        let job = Job { bias: options.bias, accumulate: options.accumulate, threads: options.threads };
        match &self.panels {
            Panels::F32(panels) => engine.multiply_f32(x, whole(panels, self.inputs), &mut y, job),
            Panels::Bf16(panels) => engine.multiply_bf16(x, whole(panels, self.inputs), &mut y, job),
        }
        Ok(())
    }

    /// Ranges of outputs begin at multiples of this.
    pub(crate) const COLUMNS: usize = pack::PANEL;

    /// Ranges of inputs begin at multiples of this.
    pub(crate) const DEPTH: usize = Bf16::UNIT;

    /// The outputs of `range` in pieces of `width` outputs, one after another in the same memory: `each` gets the outputs of a
    /// piece, and their values in rows that are `width` apart. Elements have the bits that [`PackedWeights::matmul`] gives
    /// them. `bias` is empty or has a number for each output, padded to a multiple of [`PackedWeights::COLUMNS`].
    ///
    /// Beside `scratch`, tokens × `width`, it takes the packed `x`: see [`PackedWeights::packed_rows_memory`].
    ///
    /// # Errors
    ///
    /// Sizes that do not agree, and a range or a width that is not whole panels.
    pub(crate) fn matmul_pieces(
        &self,
        x: Matrix<'_>,
        range: std::ops::Range<usize>,
        width: usize,
        bias: &[f32],
        scratch: &mut [f32],
        each: &mut dyn FnMut(std::ops::Range<usize>, &mut [f32]),
    ) -> Result<(), GemmError> {
        agree("columns of x", self.inputs, x.layout().columns)?;
        agree("the range's last output", range.end.min(self.outputs), range.end)?;
        agree("the range's first output", range.start / Self::COLUMNS * Self::COLUMNS, range.start)?;
        agree("width of a piece", width.max(1).next_multiple_of(Self::COLUMNS), width)?;
        if !bias.is_empty() {
            agree("length of the bias", self.outputs.next_multiple_of(Self::COLUMNS), bias.len())?;
        }
        let needed = x.layout().rows * width;
        if scratch.len() < needed {
            return Err(GemmError::TooShort { needed, found: scratch.len() });
        }
        let engine = Engine::choose(None, self.precision())?;
        let pieces = Pieces { columns: self.outputs, range, width, bias, scratch };
        match &self.panels {
            Panels::F32(panels) => engine.pieces_f32(x, panels.as_slice(), pieces, each),
            Panels::Bf16(panels) => engine.pieces_bf16(x, panels.as_slice(), pieces, each),
        }
        Ok(())
    }

    /// y += x·Wᵀ where x has some of the inputs only, and the others are taken as absent.
    ///
    /// # Errors
    ///
    /// Sizes that do not agree, and a range that does not begin, or does neither end at the last input nor, at a multiple of
    /// [`PackedWeights::DEPTH`].
    pub(crate) fn add_part(
        &self,
        x: Matrix<'_>,
        inputs: std::ops::Range<usize>,
        mut y: MatrixMut<'_>,
    ) -> Result<(), GemmError> {
        agree("columns of x", inputs.len(), x.layout().columns)?;
        agree("columns of y", self.outputs, y.layout().columns)?;
        agree("rows of y", x.layout().rows, y.layout().rows)?;
        agree("the range's first input", inputs.start / Self::DEPTH * Self::DEPTH, inputs.start)?;
        if inputs.end != self.inputs {
            agree("the range's last input", inputs.end.min(self.inputs) / Self::DEPTH * Self::DEPTH, inputs.end)?;
        }
        let engine = Engine::choose(None, self.precision())?;
        let job = Job { bias: None, accumulate: true, threads: 1 };
        match &self.panels {
            Panels::F32(panels) => engine.multiply_f32(x, part(panels, self.inputs, inputs.start), &mut y, job),
            Panels::Bf16(panels) => engine.multiply_bf16(x, part(panels, self.inputs, inputs.start), &mut y, job),
        }
        Ok(())
    }

    /// The weights of one output, which is below [`PackedWeights::outputs`], as they are after rounding: `in` numbers, in order.
    pub fn output(&self, output: usize) -> impl Iterator<Item = f32> + '_ {
        let (panel, column) = (output / pack::PANEL, output % pack::PANEL);
        (0..self.inputs).map(move |input| match &self.panels {
            Panels::F32(panels) => element(panels.as_slice(), panel * panel_len::<f32>(self.inputs), column, input),
            Panels::Bf16(panels) => element(panels.as_slice(), panel * panel_len::<Bf16>(self.inputs), column, input),
        })
    }

    /// Bytes that a product with `rows` rows and `depth` inputs packs at most at one time, whatever the engine.
    pub(crate) const fn packed_rows_memory(rows: usize, depth: usize) -> usize {
        // Rows are padded to 16 and inputs in each of up to depth / 256 blocks to 32; an alignment and a list of chunks for each.
        let blocks = depth.div_ceil(256);
        rows.next_multiple_of(16) * (depth.next_multiple_of(32) * 4 + blocks * size_of::<pack::Chunk>() * 4)
            + blocks * 512
    }
}

impl std::fmt::Debug for PackedWeights {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("PackedWeights")
            .field("outputs", &self.outputs)
            .field("inputs", &self.inputs)
            .field("precision", &self.precision())
            .finish_non_exhaustive()
    }
}

/// c = a·b (+ c), where `a` is m × k, `b` is k × n and `c` is m × n. With [`Matrix::transposed`] also a·bᵀ and aᵀ·b.
///
/// Blocks of both operands are packed on the way: memory is a few megabytes for each thread, whatever the sizes. Packing
/// is worth it from some dozen rows on; for weights that are used again, [`PackedWeights`] does it once.
///
/// ```
/// use gristmill_kernels::gemm::{GemmOptions, Matrix, MatrixMut, Values, gemm};
///
/// // The gradient of a weight matrix, δᵀ·x, over two tokens.
/// let delta = [1.0, 2.0, 3.0, 4.0];
/// let x = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0];
/// let mut gradient = [0.0; 6];
/// gemm(
///     Matrix::row_major(Values::F32(&delta), 2, 2)?.transposed(),
///     Matrix::row_major(Values::F32(&x), 2, 3)?,
///     MatrixMut::row_major(&mut gradient, 2, 3)?,
///     &GemmOptions::default(),
/// )?;
/// assert_eq!(gradient, [4.0, 3.0, 1.0, 6.0, 4.0, 2.0]);
/// # Ok::<(), gristmill_kernels::gemm::GemmError>(())
/// ```
///
/// # Errors
///
/// [`GemmError::Shape`] where sizes do not agree, [`GemmError::EngineUnavailable`] and [`GemmError::EngineUnsuitable`] where an
/// engine is named that cannot be used. `c` is then as it was.
pub fn gemm(a: Matrix<'_>, b: Matrix<'_>, mut c: MatrixMut<'_>, options: &GemmOptions) -> Result<(), GemmError> {
    agree("rows of b", a.layout().columns, b.layout().rows)?;
    agree("rows of c", a.layout().rows, c.layout().rows)?;
    agree("columns of c", b.layout().columns, c.layout().columns)?;
    let engine = Engine::choose(options.engine, options.precision)?;
    let job = Job { bias: None, accumulate: options.accumulate, threads: options.threads };
    match options.precision {
        Precision::F32 => engine.multiply_f32(a, Right::Plain(&b), &mut c, job),
        Precision::Bf16 => engine.multiply_bf16(a, Right::Plain(&b), &mut c, job),
    }
    Ok(())
}

/// One number of the panel that begins at `start`.
fn element<R: WeightElement>(panels: &[R], start: usize, column: usize, input: usize) -> f32 {
    panels[start + input / R::PAIR * R::PAIR * pack::PANEL + column * R::PAIR + input % R::PAIR].value()
}

/// Panels of weights with all of their inputs.
fn whole<R: WeightElement>(panels: &Buffer<R>, inputs: usize) -> Right<'_, R> {
    part(panels, inputs, 0)
}

/// Panels of weights from an input on, which is a multiple of [`PackedWeights::DEPTH`].
fn part<R: WeightElement>(panels: &Buffer<R>, inputs: usize, first: usize) -> Right<'_, R> {
    let panels = panels.as_slice();
    Right::Packed { panels: &panels[(first * pack::PANEL).min(panels.len())..], stride: panel_len::<R>(inputs) }
}

/// All panels of weights of shape `[out, in]`.
fn pack<R: WeightElement>(weights: Matrix<'_>) -> Result<Buffer<R>, GemmError> {
    let Layout { rows: outputs, columns: inputs, .. } = weights.layout();
    // The strides may be 0, so that sizes are not bounded by memory that exists.
    let padded = inputs.checked_next_multiple_of(R::UNIT).ok_or(GemmError::TooLarge)?;
    let size = outputs.checked_next_multiple_of(pack::PANEL).and_then(|outputs| outputs.checked_mul(padded));
    let bytes = size.and_then(|size| size.checked_mul(size_of::<R>()));
    if bytes.is_none_or(|bytes| bytes > isize::MAX as usize - 64) {
        return Err(GemmError::TooLarge);
    }
    let mut packed = Buffer::zeroed(panel_len::<R>(inputs) * panels(outputs));
    pack_right(weights.transposed(), 0..inputs, 0..outputs, packed.as_mut_slice());
    Ok(packed)
}

fn agree(what: &'static str, expected: usize, found: usize) -> Result<(), GemmError> {
    if expected == found { Ok(()) } else { Err(GemmError::Shape { what, expected, found }) }
}
