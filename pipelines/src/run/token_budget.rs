//! Where in the output a token budget is reached.

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use futures::TryStreamExt;
use gristmill_datasets::run::Manifest;
use gristmill_operators::tokens::TokenBudget;
use serde::Serialize;

use crate::definition::TokenBudgetDefinition;
use crate::error::{PipelineError, Result};
use crate::inspect;
use crate::run::mill::Mill;

/// The answer, with the keys of the published token counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct BudgetReport {
    /// Whether the output has so many tokens.
    reached_target_token_count: bool,
    /// Position, from 0, of the row of the output with which the budget is reached.
    final_index: Option<u64>,
    /// The budget.
    target_token_count: u64,
    /// Tokens up to and including that row, or of all rows.
    actual_token_count: u64,
    /// The same under the key that the published counter writes, which its readers expect.
    acutal_token_count: u64,
}

/// Adds the counts up in the order of the output, until the budget is reached.
pub(crate) async fn find(mill: &Mill, manifest: &Manifest, wanted: &TokenBudgetDefinition) -> Result<BudgetReport> {
    let mut budget = TokenBudget::new(wanted.tokens);
    let mut records: Vec<_> = manifest.records.iter().collect();
    records.sort_by_key(|record| record.split);
    'parts: for part in records.iter().filter_map(|record| record.part.as_deref()) {
        let mut batches = inspect::columns_of(mill.part(part).await?, vec![wanted.column.clone()]).await?;
        while let Some(batch) = batches.try_next().await? {
            if add(&mut budget, &batch, &wanted.column)? {
                break 'parts;
            }
        }
    }
    Ok(BudgetReport {
        reached_target_token_count: budget.final_index().is_some(),
        final_index: budget.final_index(),
        target_token_count: wanted.tokens,
        actual_token_count: budget.total(),
        acutal_token_count: budget.total(),
    })
}

fn add(budget: &mut TokenBudget, batch: &RecordBatch, column: &str) -> Result<bool> {
    let engine = |error: arrow_schema::ArrowError| PipelineError::Engine(error.to_string());
    let Some(counts) = batch.column_by_name(column) else { return Ok(false) };
    let counts = arrow_cast::cast(counts, &DataType::UInt64).map_err(engine)?;
    let counts = counts.as_primitive::<UInt64Type>();
    Ok((0..counts.len()).any(|row| budget.push(counts.is_valid(row).then(|| counts.value(row)))))
}
