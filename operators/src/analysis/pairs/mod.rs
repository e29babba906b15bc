//! What the columns of `gradient_pairs` say: which tensors find the original of a rewritten sample, and how alike they and the whole gradient judge.
//!
//! [`PairTable`] reads the columns of one run or of several that had parts of the rows, [`report`] makes the figures, and [`families`] the JSON files in which such
//! studies keep their numbers.
//!
//! ```
//! use gristmill_operators::analysis::pairs::{Candidate, PairRow, PairTable, report};
//!
//! // Two tensors; the first is for the second original, the second for the first one.
//! let candidate = |id: &str, products: [f64; 2]| Candidate {
//!     id: id.to_owned(),
//!     products: products.to_vec(),
//!     self_products: vec![1.0, 1.0],
//!     ..Candidate::default()
//! };
//! let row = PairRow {
//!     id: "sample_7".to_owned(),
//!     self_products: vec![1.0, 1.0],
//!     truth: Some(Some(1)),
//!     candidates: vec![candidate("sample_3", [0.1, 0.4]), candidate("sample_7", [0.9, 0.2])],
//! };
//! let tensors = ["first.weight", "second.weight"].map(str::to_owned).to_vec();
//! let table = PairTable::new(tensors, Vec::new(), vec![row])?;
//! let report = report(&table, 3);
//! assert_eq!(report.full.accuracy, Some(1.0));
//! assert_eq!(report.tensors.iter().map(|tensor| tensor.accuracy).collect::<Vec<_>>(), [Some(1.0), Some(0.0)]);
//! # Ok::<(), gristmill_operators::OperatorError>(())
//! ```

mod families;
mod figures;
mod greedy;
mod read;
mod similarities;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::ops::Range;

pub use families::{FamilyNames, families};
pub use figures::{
    ComponentFigures, Divergent, PairReport, ProjectionFigures, Retrieval, TensorFigures, component, report,
};
pub use greedy::GreedyStep;

use crate::config::invalid;
use crate::{OperatorError, Result};

/// What messages call the analysis.
const KIND: &str = "pairs";

/// Key of a field's metadata under which `gradient_pairs` writes the names of tensors, a JSON list.
pub const TENSORS: &str = "gristmill.tensors";
/// Key of a field's metadata under which `gradient_pairs` writes the numbers of dimensions of projections, a JSON list.
pub const PROJECTIONS: &str = "gristmill.projections";

/// Samples with what was measured of them and of their candidates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairTable {
    tensors: Vec<String>,
    projections: Vec<u64>,
    rows: Vec<PairRow>,
}

/// A sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairRow {
    /// Its id.
    pub id: String,
    /// ⟨g, g⟩ by each tensor.
    pub self_products: Vec<f64>,
    /// Which of the candidates it was made from, from 0; `Some(None)` where it is none of them, `None` where that is not known.
    pub truth: Option<Option<usize>>,
    /// The originals that it was compared with, in the order of the search.
    pub candidates: Vec<Candidate>,
}

/// An original that a sample was compared with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidate {
    /// Its id.
    pub id: String,
    /// Its score in the search, if there was one.
    pub bm25: Option<f64>,
    /// Cosine of the gradients by all tensors; absent where one of them is 0.
    pub cosine: Option<f64>,
    /// ⟨g, h⟩ by each tensor.
    pub products: Vec<f64>,
    /// ⟨h, h⟩ by each tensor.
    pub self_products: Vec<f64>,
    /// Cosines of projected gradients.
    pub projected: Vec<Option<f64>>,
}

impl PairTable {
    /// A table of rows that have numbers for these tensors and projections, which are named by their numbers of dimensions. Rows are put in the order of the numbers at the end
    /// of their ids.
    ///
    /// # Errors
    /// A row with other numbers of products, without candidates, or with an id that another has.
    pub fn new(tensors: Vec<String>, projections: Vec<u64>, mut rows: Vec<PairRow>) -> Result<Self> {
        let mut seen = HashSet::new();
        for row in &rows {
            let wrong = |message: String| Err(invalid(KIND, "", format!("sample '{}': {message}", row.id)));
            if !seen.insert(&row.id) {
                return wrong("it is there twice".to_owned());
            }
            if row.candidates.is_empty() {
                return wrong("it has no candidates".to_owned());
            }
            let counts = row.candidates.iter().flat_map(|one| [one.products.len(), one.self_products.len()]);
            if let Some(count) = counts.chain([row.self_products.len()]).find(|&count| count != tensors.len()) {
                return wrong(format!("{count} products for {} tensors", tensors.len()));
            }
            if row.candidates.iter().any(|one| one.projected.len() != projections.len()) {
                return wrong(format!("other numbers of projected cosines than {}", projections.len()));
            }
            if let Some(Some(truth)) =
                row.truth.filter(|truth| truth.is_some_and(|truth| truth >= row.candidates.len()))
            {
                return wrong(format!("candidate {truth} is said to be the true one of {}", row.candidates.len()));
            }
        }
        rows.sort_by_cached_key(|row| order(&row.id));
        Ok(Self { tensors, projections, rows })
    }

    /// Puts tables of parts of the samples together.
    ///
    /// # Errors
    /// No table, tables of other tensors or projections, and a sample that is in two of them.
    pub fn combine(tables: Vec<Self>) -> Result<Self> {
        let mut tables = tables.into_iter();
        let Some(first) = tables.next() else { return Err(invalid(KIND, "", "there is no table to combine")) };
        let Self { tensors, projections, mut rows } = first;
        for (number, table) in (2..).zip(tables) {
            if table.tensors != tensors || table.projections != projections {
                let message = format!("table {number} has other tensors or projections than the first one");
                return Err(invalid(KIND, "", message));
            }
            rows.extend(table.rows);
        }
        Self::new(tensors, projections, rows)
    }

    /// Checks that the samples are those of these ids, all of them and no other.
    ///
    /// # Errors
    /// Samples that are missing, or are not to be there.
    pub fn expect_samples<'a>(&self, ids: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let mut there: HashMap<&str, bool> = self.rows.iter().map(|row| (row.id.as_str(), false)).collect();
        let missing: Vec<&str> = ids.into_iter().filter(|id| there.insert(id, true).is_none()).collect();
        let name = |mut ids: Vec<&str>| {
            ids.sort_by_cached_key(|id| order(id));
            let more = if ids.len() > 5 { format!(" and {} more", ids.len() - 5) } else { String::new() };
            format!("{}{more}", ids.iter().take(5).copied().collect::<Vec<_>>().join(", "))
        };
        if !missing.is_empty() {
            return Err(invalid(KIND, "", format!("samples are missing: {}", name(missing))));
        }
        let other: Vec<&str> = there.into_iter().filter(|(_, expected)| !expected).map(|(id, _)| id).collect();
        if !other.is_empty() {
            return Err(invalid(
                KIND,
                "",
                format!("there are samples that are not among those expected: {}", name(other)),
            ));
        }
        Ok(())
    }

    /// Names of the tensors, in the order of the model's parameters.
    #[must_use]
    pub fn tensors(&self) -> &[String] {
        &self.tensors
    }

    /// Numbers of dimensions of the projections.
    #[must_use]
    pub fn projections(&self) -> &[u64] {
        &self.projections
    }

    /// The samples, in the order of the numbers at the end of their ids.
    #[must_use]
    pub fn rows(&self) -> &[PairRow] {
        &self.rows
    }
}

/// Cuts rows into so many parts of ⌈rows / parts⌉ each; the last ones may be shorter or empty.
///
/// ```
/// use gristmill_operators::analysis::pairs::partition;
///
/// assert_eq!(partition(10, 7), [0..2, 2..4, 4..6, 6..8, 8..10, 10..10, 10..10]);
/// ```
#[must_use]
pub fn partition(rows: usize, parts: usize) -> Vec<Range<usize>> {
    let size = rows.div_ceil(parts.max(1));
    (0..parts).map(|part| (part * size).min(rows)..((part + 1) * size).min(rows)).collect()
}

/// What ids are ordered by: the number at the end, then the text. Ids without a number come last.
fn order(id: &str) -> (bool, u128, String) {
    let digits = id.len() - id.trim_end_matches(|character: char| character.is_ascii_digit()).len();
    let number = id[id.len() - digits..].parse().ok();
    (number.is_none(), number.unwrap_or(0), id.to_owned())
}

fn column_type(column: &str, found: &impl ToString, expected: &str) -> OperatorError {
    OperatorError::ColumnType {
        kind: KIND.to_owned(),
        column: column.to_owned(),
        found: found.to_string(),
        expected: expected.to_owned(),
    }
}
