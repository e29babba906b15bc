//! Scores against those of other programs, and the operators.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod goldens;
mod operators;
