//! How many texts go forward and back together. It bounds memory, and does not change results.

use crate::models::Model;

/// Tokens of a batch on the CPU, at most, unless a single text has more.
const TOKENS: usize = 1024;

/// The same on a device, which many rows at once keep busy.
const DEVICE_TOKENS: usize = 8192;

/// Results of layers that are kept on the CPU for the way back, in bytes.
pub(super) const KEPT_BYTES: usize = 256 << 20;

/// Tokens of a batch, at most, unless a single text has more.
pub(super) fn batch_tokens(model: &Model) -> usize {
    if model.device().is_some() { DEVICE_TOKENS } else { TOKENS }
}
