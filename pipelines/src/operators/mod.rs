//! Operators that are SQL expressions: `filter`, `derive` and `select`.
//!
//! They live here and not with the other operators because their expressions are DataFusion's. They implement the same
//! trait and pass the same conformance suite.

mod derive;
mod filter;
mod select;

use std::sync::Arc;

use gristmill_operators::Registry;

pub use derive::DeriveKind;
pub use filter::{FilterConfig, FilterKind};
pub use select::{SelectConfig, SelectKind};

/// Every operator of gristmill. Embedders add their own kinds to it.
#[must_use]
pub fn registry() -> Registry {
    let mut registry = Registry::standard();
    registry.add(Arc::new(FilterKind));
    registry.add(Arc::new(DeriveKind));
    registry.add(Arc::new(SelectKind));
    registry
}
