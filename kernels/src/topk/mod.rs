//! The k rows of a stored index that agree best with each of many queries, a tile of rows after the other.
//!
//! The score of a row is its dot product with the query, in single precision. For each query the k best are kept: the higher score
//! first, of equal scores the smaller row number first. That is an order of all pairs of score and row, so the result is the same
//! however rows are divided into tiles, in whichever order tiles come, and whether they went through one state or
//! through several that were merged. A score has the same bits too: it depends on its row, its query and the width, and on the
//! machine that computes it, never on rows, queries or tiles beside it.
//!
//! A score that is not a number never enters; such scores are counted for each query, since they mean that an index or a query is
//! damaged. Plus infinity ranks first, minus infinity last but before an empty place.
//!
//! On the CPU, [`Queries`] are packed once and [`Best`] is the state, whose memory is two k entries for each query. On a GPU,
//! [`Search`] gives the launches; there are never more scores in memory than those of one tile and one block of queries.
//!
//! ```
//! use gristmill_kernels::topk::{Best, Queries, Rows, Scored};
//! use gristmill_kernels::workers::Serial;
//!
//! let queries = Queries::pack(&[1.0, 0.0, 0.0, 1.0], 2)?;
//! let mut best = Best::new(queries.len(), 2)?;
//! queries.update(&Serial, Rows::F32(&[3.0, 1.0, 5.0, 2.0]), 0, &mut best)?;
//! queries.update(&Serial, Rows::F32(&[4.0, 2.0]), 2, &mut best)?;
//! assert_eq!(best.ranked(0), [Scored { score: 5.0, row: 1 }, Scored { score: 4.0, row: 2 }]);
//! assert_eq!(best.ranked(1), [Scored { score: 2.0, row: 1 }, Scored { score: 2.0, row: 2 }]);
//! # Ok::<(), gristmill_kernels::launch::ShapeError>(())
//! ```

mod best;
mod cases;
mod cpu;
mod launch;
mod stored;

pub use best::{Best, NO_ROW, Scored};
pub(crate) use cases::FAMILY;
pub use cpu::Queries;
pub use launch::{Ranking, Search, Workspace};
pub use stored::Rows;
