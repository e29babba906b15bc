//! The kernels, compiled beforehand. `cargo run -p gristmill-kernels --example compile-kernels` makes the files anew.

/// The kernels of one family.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) family: &'static str,
    /// For any GPU of compute capability 8.0 or later.
    pub(crate) ptx: &'static str,
    /// For certain GPUs.
    pub(crate) cubins: &'static [Cubin],
}

/// Machine code.
#[derive(Debug)]
pub(crate) struct Cubin {
    pub(crate) capability: (i32, i32),
    pub(crate) code: &'static [u8],
}

macro_rules! modules {
    ($($family:literal),* $(,)?) => {
        &[$(Module { family: $family, ptx: include_str!(concat!("../cuda/generated/", $family, ".ptx")), cubins: &[] }),*]
    };
}

pub(crate) const MODULES: &[Module] = modules![
    "adamw",
    "attention",
    "gemm",
    "glu",
    "linear_ce",
    "nf4",
    "norms",
    "outer",
    "pool",
    "residual",
    "rotary",
    "scan",
    "signs",
    "softmax",
    "topk"
];
