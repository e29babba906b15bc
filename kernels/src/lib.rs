//! The computing kernels of gristmill, each with a portable twin, without Arrow or tensor types in their interfaces.
//!
//! Families are of one shape; only [`gemm`] has more on the processor, where weights are packed once:
//!
//! * `cuda/<family>.cu` holds the kernels. They are compiled beforehand; the generated PTX is part of the source tree, so that
//!   building needs no CUDA.
//! * `src/<family>/launch.rs` turns buffers and shapes into [`launch::Launch`]es: which kernel, how many threads, which
//!   arguments. It is written once, for every machine that can run a launch.
//! * `src/<family>/cpu.rs` is the twin on the CPU, fast in its own right. It takes slices, works in single precision, and
//!   divides its work by [`workers::Workers`], which the caller chooses.
//! * `src/<family>/cases.rs` is the table of cases. It computes each answer in double precision, and says how far off a
//!   result may be and why. [`check`] runs it on every machine there is: the twin, a GPU, and in tests the CUDA kernels
//!   themselves on the CPU.
//!
//! | family | what |
//! |---|---|
//! | [`adamw`] | AdamW on many tensors at once, with clipping by the norm of all gradients |
//! | [`attention`] | attention of packed documents without matrices of scores, forward and backward |
//! | [`gemm`] | linear layers |
//! | [`glu`] | SiLU and GELU, alone or as a gate, forward and backward |
//! | [`linear_ce`] | a language model's head with its cross-entropy, forward and backward, without the logits |
//! | [`nf4`] | weights in four bits: quantising, the way back, and products with them |
//! | [`norms`] | RMSNorm and LayerNorm, forward and backward |
//! | [`outer`] | sums of outer products over ragged segments: projected gradients of each document |
//! | [`pool`] | one row for each document, rows of length 1 |
//! | [`residual`] | the stream that a transformer's layers read and add to: embeddings, norms, clamps |
//! | [`rotary`] | rotary position embedding, forward and backward |
//! | [`scan`] | many byte patterns in many documents, and in columns of strings |
//! | [`signs`] | random signs for projection matrices, each from its place alone |
//! | [`softmax`] | softmax over rows, forward and backward |
//! | [`topk`] | the best rows of an index for each of many queries, tile after tile |
//!
//! # Promises
//!
//! A result has the same bits on every call. Rows do not depend on rows beside them. A CPU twin has the same bits whatever the
//! number of workers, and on every processor: wide and narrow instructions add in the same order, and products are fused into
//! sums everywhere or nowhere. (Of [`gemm`], see there.) Sums over all rows (gradients of weights) are made from pieces whose number
//! follows from the shape alone.
//!
//! Values that are not numbers, and infinities, spread as the formulas say, and only within their row.
//!
//! # GPUs
//!
//! With the feature `cuda`, `gpu::Gpu` opens an NVIDIA GPU at run time. No CUDA toolkit is needed to build or to run, only the
//! driver. Without a driver or without a GPU, opening is an error, never a panic.

pub mod adamw;
pub mod attention;
pub mod check;
pub mod device;
pub mod gemm;
#[cfg(feature = "cuda")]
mod generated;
pub mod glu;
#[cfg(feature = "cuda")]
pub mod gpu;
pub mod launch;
pub mod linear_ce;
mod math;
pub mod nf4;
pub mod norms;
pub mod outer;
pub mod pool;
pub mod residual;
pub mod rotary;
pub mod scan;
pub mod signs;
mod simd;
pub mod softmax;
pub mod topk;
pub mod workers;
