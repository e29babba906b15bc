//! A language model in this process.

use std::sync::Arc;

use super::Answerer;
use crate::scoring::Precision;
use crate::{OperatorError, Resources, Result};

/// The model at a location, with the tokenizer beside it or another one.
pub(super) fn open(
    _kind: &'static str,
    location: &str,
    _tokenizer: Option<&str>,
    _precision: Precision,
    _resources: &Resources,
) -> Result<Arc<dyn Answerer>> {
    let message = "this build asks endpoints only".to_owned();
    Err(OperatorError::Resource { location: location.to_owned(), message })
}
