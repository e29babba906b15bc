//! Queries: what a model wrote or should write, and whose sources are looked for.
//!
//! Queries are the rows of a small table ([`tables::read`](crate::tables::read)). A query is a prompt with its completion, or a text. It is tokenised as one
//! text, with the special tokens that the tokenizer adds, and the loss of a query is that of its completion's tokens. Those are all tokens of the
//! whole text from the first one on that the prompt by itself does not have at that place: a token in which prompt and completion meet, such as `▁wolf`
//! of `"the "` and `"wolf"`, is the completion's. The first token of a text is predicted by nothing, and never a target.

mod aggregate;
mod config;
mod table;

#[cfg(test)]
mod tests;

pub(crate) use aggregate::Aggregation;
pub use config::{Aggregate, LossOn, QueriesConfig};

use crate::tokens::Tokenizer;
use crate::{OperatorError, ResourceIdentity, Resources, Result, tables};

/// A query as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    /// Special tokens included.
    pub(crate) ids: Vec<u32>,
    /// The first token whose loss counts, at least 1 and less than the number of tokens.
    pub(crate) first_target: usize,
}

impl Query {
    /// The tokens of a prompt and its completion, and which of them are the completion's, special tokens behind it included. An empty completion has none.
    pub(crate) fn join(tokenizer: &Tokenizer, prompt: &str, completion: &str) -> Result<Self, String> {
        let encode = |text: &str, special_tokens: bool| {
            let mut ids = Vec::new();
            tokenizer.encode(text, special_tokens, &mut ids).map_err(|error| error.to_string())?;
            Ok::<_, String>(ids)
        };
        let ids = encode(&format!("{prompt}{completion}"), true)?;
        if completion.is_empty() {
            let first_target = ids.len().max(1);
            return Ok(Self { ids, first_target });
        }
        let before = [tokenizer.prefix(), &encode(prompt, false)?].concat();
        let shared = ids.iter().zip(&before).take_while(|(whole, prompt)| whole == prompt).count();
        Ok(Self { ids, first_target: shared.max(1) })
    }
}

/// The queries of a table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Queries {
    /// In the order of the table.
    pub(crate) queries: Vec<Query>,
    /// What their scores become.
    pub(crate) aggregation: Aggregation,
}

impl Queries {
    /// Reads and tokenises the queries of a complete configuration. None may have more than `longest` tokens, which a model is given at once.
    ///
    /// # Errors
    /// A table that cannot be read or has no row, columns that are not there or of another type, rows without a value, a query that has no token to predict
    /// or too many tokens, and two queries of one name.
    pub(crate) fn read(
        config: &QueriesConfig,
        tokenizer: &Tokenizer,
        longest: usize,
        resources: &Resources,
    ) -> Result<(Self, Vec<ResourceIdentity>)> {
        let location = config.path.as_str();
        let unusable = |message: String| OperatorError::Resource { location: location.to_owned(), message };
        let (table, identities) = tables::read(location, resources)?;
        let rows = table::rows(config, &table).map_err(unusable)?;
        let mut queries = Vec::with_capacity(rows.len());
        for (number, row) in rows.iter().enumerate() {
            let of_row = |message: String| unusable(format!("row {number} ('{}'): {message}", row.name));
            let mut query = Query::join(tokenizer, &row.prompt, &row.completion).map_err(of_row)?;
            if config.loss_on == Some(LossOn::All) {
                query.first_target = 1;
            }
            if query.first_target >= query.ids.len() {
                let tokens = query.ids.len();
                let message = if row.prompt.is_empty() || query.first_target == 1 {
                    format!("no token to predict: the text has {tokens} tokens, and at least 2 are needed")
                } else {
                    "no token to predict: the completion is empty".to_owned()
                };
                return Err(of_row(message));
            }
            if query.ids.len() > longest {
                return Err(of_row(format!("{} tokens; at most {longest} are allowed", query.ids.len())));
            }
            queries.push(query);
        }
        let aggregation = Aggregation::new(config.aggregate, &rows).map_err(unusable)?;
        Ok((Self { queries, aggregation }, identities))
    }
}
