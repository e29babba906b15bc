//! Attention of packed documents: o = softmax(s · q kᵀ) v for each document and head, and its gradient.
//!
//! Documents lie one after another without padding, and cumulative lengths say where each begins. A query sees keys of its own
//! document alone. Queries and keys may differ in number, as when a document is continued with the keys of its beginning kept;
//! positions are then aligned at the end: the last query has the position of the last key. [`Mask`] says which keys a query
//! sees by their positions. Several heads of queries may share a head of keys and values (grouped queries, Ainslie et al., 2023).
//!
//! No matrix of queries by keys is ever stored: keys are taken in blocks, with a running maximum and sum of each query
//! (Milakov and Gimelshein, 2018; FlashAttention-2, Dao, 2023). The backward pass computes the weights again, from the logarithm of the
//! sum of exponentials that the forward pass gives for each query.
//!
//! A query that sees no key, or no score above minus infinity, has zeros as its result, a log-sum-exp of minus infinity, and no part in
//! gradients. A query that holds a value that is not a number, or a score of plus infinity, has a result of not numbers. Such values
//! in keys and values do the same to the queries that see them, and can do it to other queries of the document: a weight of
//! zero times infinity is not a number. They never reach other documents.
//!
//! The bits of a document do not depend on the others in the batch. On the CPU, queries computed in several calls, with the keys before
//! them given again, have the bits of one call: keys are taken in blocks that are counted from the beginning of the document, and a
//! key that a query does not see adds nothing to its sums. See [`KEY_BLOCK`].
//!
//! ```
//! use gristmill_kernels::attention::{Attention, Documents, Forward, Heads, Mask};
//! use gristmill_kernels::workers::Serial;
//!
//! // Documents of two tokens and of one; one head of width 1. The second token sees both keys alike, the others one each.
//! let attention = Attention { query_heads: 1, key_heads: 1, width: 1, scale: 1.0, mask: Mask::CAUSAL };
//! let documents = Documents::same(3, &[0, 2, 3][..]);
//! let (q, k, v) = ([0.0; 3], [1.0; 3], [1.0, 3.0, 5.0]);
//! let (mut o, mut log_sums) = ([0.0; 3], [0.0; 3]);
//! attention.forward(&Serial, documents, Forward {
//!     q: Heads::dense(&q[..], 1, 1),
//!     k: Heads::dense(&k[..], 1, 1),
//!     v: Heads::dense(&v[..], 1, 1),
//!     o: Heads::dense(&mut o[..], 1, 1),
//!     log_sums: Some(&mut log_sums[..]),
//! })?;
//! assert!(o.iter().zip([1.0, 2.0, 5.0]).all(|(o, expected)| (o - expected).abs() < 1e-6));
//! assert!((log_sums[1] - 2_f32.ln()).abs() < 1e-6);
//! # Ok::<(), gristmill_kernels::launch::ShapeError>(())
//! ```

mod cases;
mod cpu;
mod launch;
mod reference;
mod shape;

pub(crate) use cases::FAMILY;

/// Keys that the CPU takes together. Where no query of a document sees its first keys, as with a window, leaving out a multiple of so
/// many does not change a bit.
pub const KEY_BLOCK: usize = cpu::KEYS;

/// Attention with a number of heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Heads of queries: a multiple of those of keys.
    pub query_heads: usize,
    /// Heads of keys and values. Query head h belongs to key head h / (query_heads / key_heads).
    pub key_heads: usize,
    /// Elements of a head, 1 to 256.
    pub width: usize,
    /// What products of queries and keys are multiplied by; mostly 1 / √width.
    pub scale: f32,
    /// Which keys a query sees.
    pub mask: Mask,
}

/// Which keys a query sees, by positions in the document: those from `left` before its own to `right` after it.
///
/// With n queries and m keys in a document, query i has position i + m - n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    /// How far back a query sees; all the way if left out.
    pub left: Option<usize>,
    /// How far ahead a query sees; all the way if left out.
    pub right: Option<usize>,
}

impl Mask {
    /// Every query sees every key of its document.
    pub const ALL: Self = Self { left: None, right: None };
    /// A query sees the keys up to its own position.
    pub const CAUSAL: Self = Self { left: None, right: Some(0) };

    /// A query sees `left` keys before its position and `right` after it, and the one at it.
    pub const fn window(left: usize, right: usize) -> Self {
        Self { left: Some(left), right: Some(right) }
    }
}

/// A buffer of rows with heads: element i of head h of row r is at `r * row_stride + h * head_stride + i`. So queries, keys
/// and values can be parts of one buffer, whether projections lie beside each other or heads do.
///
/// On a GPU buffers of half precision are read fastest where the address and both strides are multiples of 16 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Heads<B> {
    /// Begins at the first element of the first head of the first row.
    pub buffer: B,
    /// Elements from a row to the next.
    pub row_stride: usize,
    /// Elements from a head to the next.
    pub head_stride: usize,
}

impl<B> Heads<B> {
    /// A buffer `[rows, heads, width]` with nothing in between.
    pub const fn dense(buffer: B, heads: usize, width: usize) -> Self {
        Self { buffer, row_stride: heads * width, head_stride: width }
    }
}

/// Where documents begin. Offsets are cumulative lengths, `[documents + 1]`: from 0, not falling, to the number of rows.
#[derive(Clone, Copy, Debug)]
pub struct Documents<R> {
    /// Rows of queries in all.
    pub query_rows: usize,
    /// Rows of keys in all.
    pub key_rows: usize,
    /// Offsets of queries.
    pub query_offsets: R,
    /// Offsets of keys.
    pub key_offsets: R,
}

impl<R: Copy> Documents<R> {
    /// Documents with as many keys as queries.
    pub const fn same(rows: usize, offsets: R) -> Self {
        Self { query_rows: rows, key_rows: rows, query_offsets: offsets, key_offsets: offsets }
    }
}

/// Buffers of a forward pass: R to be read, W to be written, S sums to be written.
#[derive(Clone, Copy, Debug)]
pub struct Forward<R, W, S> {
    /// Queries, `[query rows, query heads, width]`.
    pub q: Heads<R>,
    /// Keys, `[key rows, key heads, width]`.
    pub k: Heads<R>,
    /// Values, `[key rows, key heads, width]`.
    pub v: Heads<R>,
    /// Results, `[query rows, query heads, width]`.
    pub o: Heads<W>,
    /// Natural logarithm of the sum of e^score of each query, `[query rows, query heads]`, if wanted: a backward pass needs it.
    pub log_sums: Option<S>,
}

/// Buffers of a backward pass: R to be read, W to be written, S sums to be read.
#[derive(Clone, Copy, Debug)]
pub struct Backward<R, W, S> {
    /// As in the forward pass.
    pub q: Heads<R>,
    /// As in the forward pass.
    pub k: Heads<R>,
    /// As in the forward pass.
    pub v: Heads<R>,
    /// Results of the forward pass.
    pub o: Heads<R>,
    /// Gradient of the results, `[query rows, query heads, width]`.
    pub d_o: Heads<R>,
    /// Of the forward pass, `[query rows, query heads]`.
    pub log_sums: S,
    /// Gradient of the queries.
    pub dq: Heads<W>,
    /// Gradient of the keys.
    pub dk: Heads<W>,
    /// Gradient of the values.
    pub dv: Heads<W>,
}
