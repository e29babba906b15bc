//! The computing kernels of gristmill, each with a portable twin, without Arrow or tensor types in their interfaces.
//!
//! [`scan`] finds many byte patterns in many documents.

pub mod scan;
