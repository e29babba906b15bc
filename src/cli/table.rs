//! Tables as people read them.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use gristmill::datasets::run::StepCount;
pub(super) use gristmill::pipelines::numbers::{bytes, count, percent, seconds};

/// A table with a header. Columns named in `numbers` are aligned to the right.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>, numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row.into_iter().map(Cell::new).collect::<Vec<_>>());
    }
    for &column in numbers {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A count with its noun: `1 row`, `2,000 rows`.
pub(super) fn number(value: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(value), if value == 1 { "" } else { "s" })
}

/// What each step did: rows in, out and aside, and its share of the time.
pub(super) fn steps(steps: &[StepCount], rows_in: u64, unreadable: u64) -> Table {
    let total: f64 = steps.iter().map(|step| step.seconds).sum();
    let mut rows = vec![vec![
        "source".to_owned(),
        String::new(),
        count(rows_in),
        count(rows_in - unreadable.min(rows_in)),
        String::new(),
        count(unreadable),
        String::new(),
        String::new(),
    ]];
    rows.extend(steps.iter().map(|step| {
        let flagged: Vec<String> =
            step.verdicts.iter().map(|verdict| percent(verdict.flagged as f64, step.rows_in as f64)).collect();
        vec![
            step.name.clone(),
            step.kind.clone(),
            count(step.rows_in),
            count(step.rows_out),
            count(step.rows_rejected),
            count(step.rows_quarantined),
            flagged.join(", "),
            percent(step.seconds, total),
        ]
    }));
    table(
        &["step", "operator", "rows in", "rows out", "rejected", "quarantined", "flagged", "time"],
        rows,
        &[2, 3, 4, 5, 6, 7],
    )
}
