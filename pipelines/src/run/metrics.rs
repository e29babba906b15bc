//! Classification reports of verdict columns: the numbers of scikit-learn's `classification_report` and the 2×2 table.
//!
//! The table is always given, also when one of its rows or columns is empty. A ratio whose denominator is 0 is 0, as
//! scikit-learn's `zero_division=0` has it.

use std::collections::BTreeMap;

use gristmill_datasets::run::{StepCount, VerdictCount};
use serde::Serialize;

use crate::definition::MetricsDefinition;

/// Precision, recall and F1 of one class, or an average over classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ClassReport {
    /// Right among those called so.
    pub precision: f64,
    /// Found among those that are so.
    pub recall: f64,
    /// Harmonic mean of both.
    #[serde(rename = "f1-score")]
    pub f1: f64,
    /// Rows of the class.
    pub support: u64,
}

/// The report of one verdict column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VerdictReport {
    /// Rows judged.
    pub rows: u64,
    /// Rows with verdict true.
    pub filtered_documents: u64,
    /// The same as a share of the rows.
    pub percent_filtered: f64,
    /// Comparison with the label column, where one is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labelled: Option<LabelledReport>,
}

/// Comparison of verdicts with a label.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelledReport {
    /// True negatives.
    pub tn: u64,
    /// False positives.
    pub fp: u64,
    /// False negatives.
    pub r#fn: u64,
    /// True positives.
    pub tp: u64,
    /// False positives among all that are false.
    pub fpr: f64,
    /// Right verdicts among all.
    pub accuracy: f64,
    /// The class of rows whose label is false.
    #[serde(rename = "False")]
    pub negative: ClassReport,
    /// The class of rows whose label is true.
    #[serde(rename = "True")]
    pub positive: ClassReport,
    /// Mean of both classes.
    #[serde(rename = "macro avg")]
    pub macro_average: ClassReport,
    /// Mean of both classes, weighted by their rows.
    #[serde(rename = "weighted avg")]
    pub weighted_average: ClassReport,
}

/// Reports by verdict column.
#[must_use]
pub fn of_steps(steps: &[StepCount], definition: &MetricsDefinition, rows: u64) -> BTreeMap<String, VerdictReport> {
    let wanted = |column: &String| definition.verdicts.as_ref().is_none_or(|verdicts| verdicts.contains(column));
    let labelled = definition.label.is_some();
    steps
        .iter()
        .flat_map(|step| step.verdicts.iter().map(move |verdict| (step.rows_out, verdict)))
        .filter(|(_, verdict)| wanted(&verdict.column))
        .map(|(judged, verdict)| (verdict.column.clone(), report(verdict, judged.min(rows), labelled)))
        .collect()
}

fn report(count: &VerdictCount, rows: u64, labelled: bool) -> VerdictReport {
    VerdictReport {
        rows,
        filtered_documents: count.flagged,
        percent_filtered: ratio(count.flagged, rows) * 100.0,
        labelled: labelled.then(|| compare(count)),
    }
}

fn compare(count: &VerdictCount) -> LabelledReport {
    let VerdictCount { true_positives: tp, false_positives: fp, false_negatives: fn_, true_negatives: tn, .. } = *count;
    let total = tp + fp + fn_ + tn;
    let positive = class(tp, fp, fn_);
    let negative = class(tn, fn_, fp);
    let mean = |weight_negative: f64, weight_positive: f64| {
        let of = |get: fn(&ClassReport) -> f64| get(&negative) * weight_negative + get(&positive) * weight_positive;
        ClassReport { precision: of(|c| c.precision), recall: of(|c| c.recall), f1: of(|c| c.f1), support: total }
    };
    LabelledReport {
        tn,
        fp,
        r#fn: fn_,
        tp,
        fpr: ratio(fp, fp + tn),
        accuracy: ratio(tp + tn, total),
        negative,
        positive,
        macro_average: mean(0.5, 0.5),
        weighted_average: mean(ratio(negative.support, total), ratio(positive.support, total)),
    }
}

fn class(right: u64, wrongly_called: u64, missed: u64) -> ClassReport {
    let precision = ratio(right, right + wrongly_called);
    let recall = ratio(right, right + missed);
    let f1 = ratio(2 * right, 2 * right + wrongly_called + missed);
    ClassReport { precision, recall, f1, support: right + missed }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(tp: u64, fp: u64, fn_: u64, tn: u64) -> VerdictCount {
        VerdictCount {
            column: "v".to_owned(),
            flagged: tp + fp,
            true_positives: tp,
            false_positives: fp,
            false_negatives: fn_,
            true_negatives: tn,
        }
    }

    /// Expected values: `sklearn.metrics.classification_report(output_dict=True, zero_division=0)`, version 1.7.
    #[test]
    fn agrees_with_scikit_learn() {
        let report = compare(&count(30, 10, 20, 140));
        let close = |left: f64, right: f64| assert!((left - right).abs() < 1e-12, "{left} {right}");
        close(report.positive.precision, 0.75);
        close(report.positive.recall, 0.6);
        close(report.positive.f1, 2.0 / 3.0);
        close(report.negative.precision, 0.875);
        close(report.negative.recall, 0.933_333_333_333_333_3);
        close(report.negative.f1, 0.903_225_806_451_612_9);
        close(report.macro_average.f1, 0.784_946_236_559_139_8);
        close(report.weighted_average.f1, 0.844_086_021_505_376_3);
        close(report.accuracy, 0.85);
        close(report.fpr, 10.0 / 150.0);
        assert_eq!(report.weighted_average.support, 200);
    }

    #[test]
    fn one_class_only_still_gives_the_table() {
        let report = compare(&count(0, 0, 0, 7));
        assert_eq!((report.tn, report.fp, report.r#fn, report.tp), (7, 0, 0, 0));
        assert_eq!((report.accuracy, report.fpr, report.positive.f1), (1.0, 0.0, 0.0));
        let empty = compare(&count(0, 0, 0, 0));
        assert_eq!((empty.accuracy, empty.macro_average.f1), (0.0, 0.0));
    }
}
