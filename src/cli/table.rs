//! Tables, numbers and times as people read them.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use gristmill::datasets::run::StepCount;

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

/// 1234567 as 1,234,567.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in decimal units.
pub(super) fn bytes(number: f64) -> String {
    let mut value = number;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{value:.0} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} PB")
}

/// A duration such as 1h 02m, 3m 04s or 5.1s.
pub(super) fn seconds(value: f64) -> String {
    let whole = value.round() as u64;
    match whole {
        0..60 => format!("{value:.1}s"),
        60..3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        _ => format!("{}h {:02}m", whole / 3600, whole % 3600 / 60),
    }
}

/// A share of a whole.
pub(super) fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.1} %", part / whole * 100.0) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_read_them() {
        assert_eq!([count(0), count(999), count(1000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([bytes(12.0), bytes(1500.0), bytes(30_309_285.0)], ["12 B", "1.5 kB", "30.3 MB"]);
        assert_eq!([seconds(0.25), seconds(184.0), seconds(3720.0)], ["0.2s", "3m 04s", "1h 02m"]);
        assert_eq!([percent(1.0, 3.0), percent(1.0, 0.0)], ["33.3 %", ""]);
    }
}
