//! End-to-end behaviour: the binary as a user runs it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub
)]

mod analyze;
mod bad_input;
mod commands;
mod endpoint;
mod faults;
mod full_disk;
mod hosts;
mod hub;
mod influence;
mod kills;
mod models;
mod overlap;
mod rank;
mod report;
mod s3;
mod secrets;
mod support;
