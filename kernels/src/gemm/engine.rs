//! Which micro-kernels there are, and which of them this machine can run.

#![allow(unsafe_code, reason = "micro-kernels need features of the processor")]

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::amx::{self, Amx};
#[cfg(target_arch = "x86_64")]
use super::avx2::{Avx2Bf16, Avx2F32};
#[cfg(target_arch = "x86_64")]
use super::avx512::{Avx512Dot, Avx512F32, Avx512Widening};
use super::driver::{Job, Pieces, Right, multiply, multiply_pieces};
use super::element::{Bf16, Rounded};
use super::matrix::{Matrix, MatrixMut};
use super::portable::Portable;
use super::{GemmError, Precision};

/// A way to compute, named by the instructions that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// Any processor. f32 and bf16.
    Portable,
    /// x86-64 with AVX2 and FMA. f32, and bf16 widened in registers.
    Avx2,
    /// x86-64 with AVX-512F. f32, and bf16 widened in registers.
    Avx512,
    /// x86-64 with AVX-512F and AVX512-BF16. bf16.
    Avx512Bf16,
    /// x86-64 with AMX-BF16, where the operating system allows its use. bf16.
    Amx,
}

impl Engine {
    /// All of them, the slowest first.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

    /// Those that this machine can run, the fastest last. The first call asks Linux for AMX's tile registers, if the processor has
    /// them.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|engine| engine.is_available()).collect()
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        match self {
            Self::Portable => true,
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            Self::Avx512Bf16 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16"),
            Self::Amx => amx::available(),
        }
        #[cfg(not(target_arch = "x86_64"))]
        matches!(self, Self::Portable)
    }

    /// Whether it computes with operands of this precision.
    pub fn computes(self, precision: Precision) -> bool {
        match precision {
            Precision::F32 => matches!(self, Self::Portable | Self::Avx2 | Self::Avx512),
            Precision::Bf16 => true,
        }
    }

    /// The fastest one that this machine can run.
    pub fn best(precision: Precision) -> Self {
        let fit = |engine: &Self| engine.computes(precision) && engine.is_available();
        Self::ALL.into_iter().rev().find(fit).unwrap_or(Self::Portable)
    }

    /// `wanted`, if it can be used, or the best.
    pub(super) fn choose(wanted: Option<Self>, precision: Precision) -> Result<Self, GemmError> {
        let Some(engine) = wanted else { return Ok(Self::best(precision)) };
        if !engine.computes(precision) {
            return Err(GemmError::EngineUnsuitable { engine, precision });
        }
        if !engine.is_available() {
            return Err(GemmError::EngineUnavailable(engine));
        }
        Ok(engine)
    }

    /// left · right in f32. [`Engine::choose`] has allowed it.
    pub(super) fn multiply_f32(self, left: Matrix<'_>, right: Right<'_, f32>, out: &mut MatrixMut<'_>, job: Job<'_>) {
        match self {
            // SAFETY: `choose` lets engines through only where the processor has the features.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { multiply::<Avx2F32>(left, right, out, job) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { multiply::<Avx512F32>(left, right, out, job) },
            // SAFETY: needs no features.
            _ => unsafe { multiply::<Portable<f32, f32>>(left, right, out, job) },
        }
    }

    /// left · right in bf16. [`Engine::choose`] has allowed it.
    pub(super) fn multiply_bf16(self, left: Matrix<'_>, right: Right<'_, Bf16>, out: &mut MatrixMut<'_>, job: Job<'_>) {
        match self {
            // SAFETY: `choose` lets engines through only where the processor has the features.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { multiply::<Avx2Bf16>(left, right, out, job) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { multiply::<Avx512Widening>(left, right, out, job) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => unsafe { multiply::<Avx512Dot>(left, right, out, job) },
            // SAFETY: as above, and the process has leave to use the tile registers.
            #[cfg(target_arch = "x86_64")]
            Self::Amx => unsafe { multiply::<Amx>(left, right, out, job) },
            // SAFETY: needs no features.
            _ => unsafe { multiply::<Portable<Rounded, Bf16>>(left, right, out, job) },
        }
    }

    /// left · right in f32, in pieces. [`Engine::choose`] has allowed it.
    pub(super) fn pieces_f32(
        self,
        left: Matrix<'_>,
        right: &[f32],
        pieces: Pieces<'_>,
        each: &mut dyn FnMut(Range<usize>, &mut [f32]),
    ) {
        match self {
            // SAFETY: `choose` lets engines through only where the processor has the features.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { multiply_pieces::<Avx2F32>(left, right, pieces, each) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { multiply_pieces::<Avx512F32>(left, right, pieces, each) },
            // SAFETY: needs no features.
            _ => unsafe { multiply_pieces::<Portable<f32, f32>>(left, right, pieces, each) },
        }
    }

    /// left · right in bf16, in pieces. [`Engine::choose`] has allowed it.
    pub(super) fn pieces_bf16(
        self,
        left: Matrix<'_>,
        right: &[Bf16],
        pieces: Pieces<'_>,
        each: &mut dyn FnMut(Range<usize>, &mut [f32]),
    ) {
        match self {
            // SAFETY: `choose` lets engines through only where the processor has the features.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { multiply_pieces::<Avx2Bf16>(left, right, pieces, each) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { multiply_pieces::<Avx512Widening>(left, right, pieces, each) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => unsafe { multiply_pieces::<Avx512Dot>(left, right, pieces, each) },
            // SAFETY: as above, and the process has leave to use the tile registers.
            #[cfg(target_arch = "x86_64")]
            Self::Amx => unsafe { multiply_pieces::<Amx>(left, right, pieces, each) },
            // SAFETY: needs no features.
            _ => unsafe { multiply_pieces::<Portable<Rounded, Bf16>>(left, right, pieces, each) },
        }
    }
}
