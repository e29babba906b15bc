//! Against figures worked out by hand, of twenty rows.

use std::collections::BTreeMap;

use super::*;

/// Twenty rows in order of score, of which eight are trained, with two ties.
fn twenty() -> Vec<InfluenceRow> {
    let trained = [1, 1, 0, 1, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1];
    let scores =
        [10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 2.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -12.0];
    let row = |index: usize| InfluenceRow {
        index: index as u64,
        score: scores[index],
        trained: Some(trained[index] == 1),
        group: Some(if trained[index] == 1 { "train_half" } else { "held_out_half" }.to_owned()),
        experiment: (index < 15).then(|| "half-split".to_owned()),
    };
    // In another order than that of their positions.
    (0..20).map(|number| row(number * 7 % 20)).collect()
}

#[test]
fn twenty_rows_by_hand() {
    let found = influence(&twenty()).unwrap();
    assert_eq!((found.rows, found.expected), (20, 0.4));
    assert_eq!(found.by_status, BTreeMap::from([("trained", 8), ("untrained", 12), ("unknown", 0)]));
    assert_eq!(found.by_group, BTreeMap::from([("train_half".to_owned(), 8), ("held_out_half".to_owned(), 12)]));
    assert_eq!(found.by_experiment, BTreeMap::from([("half-split".to_owned(), 15)]));

    // Of three equal scores two are in the upper half: rows 8 and 9, and not row 10, which is trained.
    let half = found.by_score.top_half;
    assert_eq!((half.rows, half.trained, half.precision, half.recall), (10, 5, 0.5, 0.625));
    // 0.5 is above 0.4 and not above 0.4 + 0.1.
    assert_eq!(found.by_score.verdict, Verdict::Fair);
    let at: Vec<(usize, usize)> = found.by_score.at.iter().map(|at| (at.rows, at.trained)).collect();
    assert_eq!(at, [(2, 2), (5, 3), (10, 5), (15, 7), (20, 8)]);
    let top = found.by_score.at[0];
    assert_eq!((top.precision, top.recall, top.f1), (1.0, 0.25, 0.4));

    // By magnitude: 12 and 10 (both trained), 9, 8, 7, 6 and 6, 5 and 5, 4 and 4: the lower row comes first, so that row 6 with 4 is the tenth.
    let half = found.by_magnitude.top_half;
    assert_eq!((half.rows, half.trained), (10, 6));
    assert_eq!(found.by_magnitude.verdict, Verdict::Good);
    let at: Vec<usize> = found.by_magnitude.at.iter().map(|at| at.trained).collect();
    assert_eq!(at, [2, 4, 6, 6, 8]);

    // Trained: 10, 9, 7, 5, 4, 2, -2, -12: sum 23; untrained: 8, 6, 3, 2, 2, 1, 0, -1, -3, -4, -5, -6: sum 3.
    let scores = found.by_score.statistics;
    assert_eq!((scores.trained.mean, scores.untrained.mean), (Some(2.875), Some(0.25)));
    assert_eq!((scores.trained.median, scores.untrained.median), (Some(4.5), Some(0.5)));
    assert_eq!((scores.trained.min, scores.trained.max), (Some(-12.0), Some(10.0)));
    assert_eq!(scores.difference.mean, Some(2.625));
    assert_eq!(scores.difference.median, Some(4.0));
    assert_eq!((scores.difference.min, scores.difference.max), (Some(-6.0), Some(2.0)));
    // Squares of the trained: 423; 423 / 8 - 2.875².
    let deviation = (423.0_f64 / 8.0 - 2.875 * 2.875).sqrt();
    assert!((scores.trained.std.unwrap() - deviation).abs() < 1e-12);
    let magnitudes = found.by_magnitude.statistics;
    assert_eq!(magnitudes.trained.mean, Some(51.0 / 8.0));
    assert_eq!(magnitudes.untrained.mean, Some(41.0 / 12.0));
    let group = found.groups["train_half"];
    assert_eq!((group.score, group.magnitude), (scores.trained, magnitudes.trained));

    // FAIR by score, and the mean of the trained is the higher one.
    assert!(found.trained_mean_higher);
    assert_eq!(found.verdict, Verdict::Good);
}

#[test]
fn verdicts_are_raised_by_the_means() {
    for (share, expected, higher, by_share, of_all) in [
        (0.7, 0.5, true, Verdict::Good, Verdict::Excellent),
        (0.7, 0.5, false, Verdict::Good, Verdict::Good),
        (0.6, 0.5, true, Verdict::Fair, Verdict::Good),
        (0.51, 0.5, false, Verdict::Fair, Verdict::Fair),
        (0.5, 0.5, true, Verdict::Poor, Verdict::Poor),
        (0.0, 1.0, false, Verdict::Poor, Verdict::Poor),
    ] {
        assert_eq!(Verdict::of_share(share, expected), by_share, "{share}");
        assert_eq!(by_share.of_all(higher), of_all, "{share}");
    }
    assert_eq!(serde_json::to_value(Verdict::Excellent).unwrap(), Verdict::Excellent.name());
}

#[test]
fn rows_of_unknown_status_and_of_one_status() {
    let mut rows = twenty();
    rows.push(InfluenceRow { index: 20, score: 100.0, ..InfluenceRow::default() });
    let found = influence(&rows).unwrap();
    assert_eq!((found.rows, found.by_status["unknown"], found.by_score.top_half.trained), (20, 1, 5));
    rows.retain(|row| row.trained == Some(true));
    let found = influence(&rows).unwrap();
    assert_eq!((found.expected, found.verdict, found.by_score.statistics.difference.mean), (1.0, Verdict::Poor, None));
    rows.retain(|_| false);
    assert!(influence(&rows).unwrap_err().to_string().contains("'trained' and 'untrained' are allowed"));
    rows.push(InfluenceRow { index: 7, score: f64::NAN, ..InfluenceRow::default() });
    assert!(influence(&rows).unwrap_err().to_string().contains("row 7: score NaN"));
}

#[test]
fn ranked_statistics_of_twenty_rows_by_hand() {
    // Functions in turns: <FN> has the even rows, <GN> the odd ones, and the last two rows are of none.
    let functions: Vec<Option<String>> =
        (0..20).map(|row| (row < 18).then(|| if row % 2 == 0 { "<FN>" } else { "<GN>" }.to_owned())).collect();
    // 10, 9, …, 1, 0, 0, -1, …: rows 10 and 11 tie, and the last row has none.
    let value = |row: i32| f64::from(if row <= 10 { 10 - row } else { 11 - row });
    let first: Vec<Option<f64>> = (0..20).map(|row| (row < 19).then(|| value(row))).collect();
    let columns = [
        ScoreColumn { name: "f_bm25_score".to_owned(), values: first.clone() },
        ScoreColumn { name: "g_bm25_score".to_owned(), values: first.clone() },
        ScoreColumn {
            name: "h_bm25_score".to_owned(),
            values: first.iter().map(|value| value.map(|value| -value)).collect(),
        },
    ];
    let found = ranked_statistics(&functions, &columns).unwrap();
    let column = &found.scores[0];
    assert_eq!((found.rows, column.without, column.all.as_ref().unwrap().count), (20, 1, 19));
    // <FN>: 10, 8, 6, 4, 2, 0, -1, -3, -5: sum 21, magnitudes 39. <GN>: 9, 7, 5, 3, 1, 0, -2, -4, -6: sum 13, magnitudes 37.
    let [(name, of), (other, others)] = column.functions.as_slice() else { unreachable!("{:?}", column.functions) };
    assert_eq!((name.as_str(), of.count, of.mean, of.mean_magnitude), ("<FN>", 9, 21.0 / 9.0, 39.0 / 9.0));
    assert_eq!((other.as_str(), others.count, others.mean, others.mean_magnitude), ("<GN>", 9, 13.0 / 9.0, 37.0 / 9.0));
    assert_eq!((of.min, of.max, others.min, others.max), (-5.0, 10.0, -6.0, 9.0));
    // Ranks of <FN>: 1, 3, 5, 7, 9, 11.5, 13, 15, 17; of <GN>: 2, 4, 6, 8, 10, 11.5, 14, 16, 18.
    assert_eq!((of.average_rank, others.average_rank), (81.5 / 9.0, 89.5 / 9.0));
    assert_eq!(of.mean_of_top, BTreeMap::from([(5, 6.0), (10, 21.0 / 9.0), (20, 21.0 / 9.0)]));
    assert_eq!(of.mean_of_bottom, BTreeMap::from([(5, -7.0 / 5.0), (10, 21.0 / 9.0), (20, 21.0 / 9.0)]));
    let pairs: Vec<(&str, &str, bool)> = found
        .correlations
        .iter()
        .map(|pair| (pair.scores[0].as_str(), pair.scores[1].as_str(), pair.identical))
        .collect();
    assert_eq!(
        pairs,
        [
            ("f_bm25_score", "g_bm25_score", true),
            ("f_bm25_score", "h_bm25_score", false),
            ("g_bm25_score", "h_bm25_score", false)
        ]
    );
    assert!((found.correlations[1].pearson.unwrap() + 1.0).abs() < 1e-12);
    assert_eq!(found.correlations[0].rows, 19);
    let short = ScoreColumn { name: "x".to_owned(), values: vec![] };
    assert!(ranked_statistics(&functions, &[short]).unwrap_err().to_string().contains("'x': 0 scores for 20 rows"));
    let bad = ScoreColumn { name: "x".to_owned(), values: vec![Some(f64::INFINITY)] };
    assert!(ranked_statistics(&[None], &[bad]).unwrap_err().to_string().contains("row 0: column 'x': score inf"));
}

#[test]
fn columns_of_one_function_are_known_by_their_names() {
    for (name, is) in [
        ("f_influence_score", true),
        ("tail_patch_bm25_score", true),
        ("n_similarity_score", true),
        ("combined_bm25_score", false),
        ("_bm25_score", false),
        ("bm25_score", false),
        ("f_score", false),
    ] {
        assert_eq!(is_function_score(name), is, "{name}");
    }
}
