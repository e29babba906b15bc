//! The computing kernels of gristmill, each with a portable twin, without Arrow or tensor types in their interfaces.
//!
//! [`gemm`] multiplies matrices on the processor, with weights packed once. [`scan`] finds many byte patterns in many documents.

pub mod gemm;
pub mod scan;
