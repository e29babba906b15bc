//! Where in a corpus a token budget is reached.

/// Finds the first rows that together reach a token budget, over counts in corpus order.
///
/// `count_tokens` sees one split at a time, so a host adds up the counts of the finished parts in their order. Parts
/// whose totals are known can be taken whole; only the part with the row that reaches the budget is read.
///
/// ```
/// use gristmill_operators::tokens::TokenBudget;
///
/// let mut budget = TokenBudget::new(100);
/// assert!(budget.push_part(2, 70));     // two rows with 70 tokens do not reach it
/// assert!(!budget.push_part(3, 45));    // the next three do: look at them one by one
/// for count in [10, 25, 10] {
///     budget.push(Some(count));
/// }
/// assert_eq!(budget.final_index(), Some(3));
/// assert_eq!(budget.total(), 105);      // the row that reaches the budget is counted, later ones are not
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBudget {
    budget: u64,
    rows: u64,
    total: u64,
    final_index: Option<u64>,
}

impl TokenBudget {
    /// A budget of so many tokens. One of 0 is reached by the first row.
    #[must_use]
    pub fn new(budget: u64) -> Self {
        Self { budget, rows: 0, total: 0, final_index: None }
    }

    /// Adds the next row's count, null counting as 0, and says whether the budget is reached. Rows behind the one that
    /// reaches it change nothing.
    pub fn push(&mut self, count: Option<u64>) -> bool {
        if self.final_index.is_none() {
            self.total = self.total.saturating_add(count.unwrap_or(0));
            if self.total >= self.budget {
                self.final_index = Some(self.rows);
            }
            self.rows += 1;
        }
        self.final_index.is_some()
    }

    /// Adds `rows` rows with `tokens` tokens together, if they do not reach the budget. Otherwise returns false and adds
    /// nothing: push the rows one by one.
    pub fn push_part(&mut self, rows: u64, tokens: u64) -> bool {
        let total = self.total.saturating_add(tokens);
        if self.final_index.is_some() || (rows > 0 && total >= self.budget) {
            return false;
        }
        self.total = total;
        self.rows += rows;
        true
    }

    /// Position, from 0, of the row with which the budget is reached; `None` while it is not.
    #[must_use]
    pub fn final_index(&self) -> Option<u64> {
        self.final_index
    }

    /// Tokens up to and including the row that reaches the budget, or of all rows so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The budget.
    #[must_use]
    pub fn budget(&self) -> u64 {
        self.budget
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_that_reaches_the_budget_is_found() {
        let cases: [(u64, &[Option<u64>], Option<u64>, u64); 7] = [
            (10, &[Some(4), Some(5), Some(1), Some(9)], Some(2), 10),
            (10, &[Some(4), None, Some(7)], Some(2), 11),
            (10, &[Some(4), Some(5)], None, 9),
            (10, &[], None, 0),
            (0, &[Some(0), Some(3)], Some(0), 0),
            (5, &[Some(5), Some(5)], Some(0), 5),
            (u64::MAX, &[Some(u64::MAX - 1), Some(7)], Some(1), u64::MAX),
        ];
        for (budget, counts, final_index, total) in cases {
            let mut by_row = TokenBudget::new(budget);
            for &count in counts {
                by_row.push(count);
            }
            assert_eq!((by_row.final_index(), by_row.total()), (final_index, total), "{budget} over {counts:?}");

            // Parts of any length give the same answer.
            for length in 1..=counts.len() {
                let mut by_part = TokenBudget::new(budget);
                for part in counts.chunks(length) {
                    let tokens = part.iter().flatten().fold(0u64, |sum, count| sum.saturating_add(*count));
                    if !by_part.push_part(part.len() as u64, tokens) {
                        part.iter().for_each(|&count| {
                            by_part.push(count);
                        });
                    }
                }
                assert_eq!(by_part, by_row, "{budget} over parts of {length} of {counts:?}");
            }
        }
    }
}
