//! Planning and reading together, on files in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad_input;
mod columns;
mod limits;
mod real_data;
mod round_trip;
mod splits;
mod support;
