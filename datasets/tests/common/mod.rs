//! What several tests need.

#![allow(dead_code)]

pub mod hub;
pub mod s3;
