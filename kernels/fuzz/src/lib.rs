//! What the fuzz targets check. The same code runs on stable Rust, driven by proptest, in `kernels/tests/`.

pub mod scan;
