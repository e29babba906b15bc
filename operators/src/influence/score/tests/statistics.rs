//! Methods that learn from a corpus.

use arrow_array::RecordBatch;
use serde_json::{Value, json};

use super::{TEXTS, corpus, learned, merged, model, run, score, texts_as_queries};
use crate::conformance;
use crate::influence::InfluenceKind;
use crate::influence::curvature::Eigen;
use crate::influence::gradient::SketchDescription;

/// Projected gradients of texts, and what they are of.
pub(super) fn gradients(config: &Value, texts: &RecordBatch) -> (SketchDescription, Vec<Vec<f64>>) {
    let batch = run("gradient", config.clone(), texts);
    let description = SketchDescription::of(batch.schema().field_with_name("gradient").unwrap()).unwrap();
    let values = description.decode(&batch["gradient"]).unwrap().values;
    let rows = values.chunks(description.width()).map(|row| row.iter().map(|&value| f64::from(value)).collect());
    let rows = rows.collect();
    (description, rows)
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Texts with a token to predict.
fn learned_from(rows: &[Vec<f64>]) -> Vec<&Vec<f64>> {
    rows.iter().filter(|row| row.iter().any(|&value| value != 0.0)).collect()
}

#[test]
fn trackstar_is_the_cosine_of_whitened_gradients() {
    let (_kept, wanted) = texts_as_queries(&[TEXTS[0], TEXTS[6]]);
    let modules = json!({"include": ["*.mlp.*"]});
    let base = json!({"model": model(), "dimension": 4, "modules": modules});
    let (description, rows) = gradients(&base, &corpus());
    let (_, of_queries) = gradients(&base, &super::table(&[Some(TEXTS[0]), Some(TEXTS[6])]));
    for (share, normalize) in [(0.0, true), (0.7, true), (0.7, false)] {
        let config = merged(
            &base,
            json!({"queries": wanted, "method": "trackstar", "mixing": {"share": share}, "normalize": normalize}),
        );
        let (_files, config) = learned(&config, true);
        let scores = score(config, &corpus());
        // H of each layer, and its inverse or the root of that.
        let transform = |vector: &[f64], power: f64| -> Vec<f64> {
            let each = description.projection.modules.iter().flat_map(|module| {
                let n = module.p * module.q;
                let part = |row: &[f64]| row[module.offset..module.offset + n].to_vec();
                let gram = |rows: &[Vec<f64>], count: usize| {
                    let mut gram = vec![0.0; n * n];
                    for row in rows {
                        let row = part(row);
                        (0..n * n).for_each(|place| gram[place] += row[place / n] * row[place % n] / count as f64);
                    }
                    gram
                };
                // Texts without a token to predict are not learned from.
                let count = rows.iter().filter(|row| row.iter().any(|&value| value != 0.0)).count();
                let mixed: Vec<f64> = gram(&of_queries, 2)
                    .iter()
                    .zip(gram(&rows, count))
                    .map(|(query, row)| share * query + (1.0 - share) * row)
                    .collect();
                let eigen = Eigen::of("layer", "the mixture", &mixed, n).unwrap();
                let damping = 0.1 * eigen.mean();
                let matrix = eigen.function(|value| (value.max(0.0) + damping).powf(-power));
                let own = part(vector);
                (0..n).map(|i| (0..n).map(|j| matrix[i * n + j] * own[j]).sum::<f64>()).collect::<Vec<_>>()
            });
            each.collect()
        };
        for (row, of_row) in rows.iter().zip(&scores) {
            for (query, &got) in of_queries.iter().zip(of_row) {
                let (expected, scale) = if normalize {
                    let (row, query) = (transform(row, 0.5), transform(query, 0.5));
                    let lengths = (dot(&row, &row) * dot(&query, &query)).sqrt();
                    (if lengths > 0.0 { dot(&row, &query) / lengths } else { 0.0 }, 1.0)
                } else {
                    let query = transform(query, 1.0);
                    (dot(row, &query), (dot(row, row) * dot(&query, &query)).sqrt())
                };
                assert!((f64::from(got) - expected).abs() <= 1e-4 * scale, "{share} {normalize}: {got}, {expected}");
            }
        }
    }
}

#[test]
fn datainf_is_the_mean_of_the_inverses_for_single_texts() {
    let (_kept, wanted) = texts_as_queries(&[TEXTS[0], TEXTS[6]]);
    let base = json!({"model": model(), "dimension": 4});
    let (description, rows) = gradients(&base, &corpus());
    let (_, of_queries) = gradients(&base, &super::table(&[Some(TEXTS[0]), Some(TEXTS[6])]));
    for factor in [0.1, 2.0] {
        let config = json!({"queries": wanted, "method": "datainf", "damping": {"factor": factor}});
        let (_files, config) = learned(&merged(&base, config), true);
        let scores = score(config, &corpus());
        let inverted = |query: &[f64]| -> Vec<f64> {
            let each = description.projection.modules.iter().flat_map(|module| {
                let part = |row: &[f64]| row[module.offset..module.offset + module.p * module.q].to_vec();
                let texts: Vec<Vec<f64>> = learned_from(&rows).into_iter().map(|row| part(row)).collect();
                let count = texts.len() as f64;
                let query = part(query);
                let lambda =
                    factor * texts.iter().map(|text| dot(text, text)).sum::<f64>() / count / query.len() as f64;
                let mut sum = vec![0.0; query.len()];
                for text in &texts {
                    let share = dot(text, &query) / (lambda + dot(text, text));
                    for ((sum, query), text) in sum.iter_mut().zip(&query).zip(text) {
                        *sum += (query - share * text) / lambda / count;
                    }
                }
                sum
            });
            each.collect()
        };
        for (query, of_query) in of_queries.iter().enumerate() {
            let of_query = inverted(of_query);
            for (row, scores) in rows.iter().zip(&scores) {
                let (got, expected) = (f64::from(scores[query]), dot(row, &of_query));
                let scale = (dot(row, row) * dot(&of_query, &of_query)).sqrt();
                assert!((got - expected).abs() <= 1e-5 * scale, "{got} {expected} of {scale}");
            }
        }
    }
}

#[test]
fn gradients_are_divided_by_the_roots_of_their_second_moments() {
    let (_kept, wanted) = texts_as_queries(&[TEXTS[0], TEXTS[6]]);
    let base = json!({"model": model(), "dimension": 0, "modules": {"include": ["*.0.mlp.*"]}});
    let (description, rows) = gradients(&base, &corpus());
    let (_, of_queries) = gradients(&base, &super::table(&[Some(TEXTS[0]), Some(TEXTS[6])]));
    let scaled = |row: &[f64]| -> Vec<f64> {
        let each = description.projection.modules.iter().flat_map(|module| {
            let (height, width) = (module.p, module.q);
            let part = |row: &[f64]| row[module.offset..module.offset + height * width].to_vec();
            let texts: Vec<Vec<f64>> = learned_from(&rows).into_iter().map(|row| part(row)).collect();
            let mean_square = |places: &dyn Fn(usize) -> bool, count: usize| {
                let squares = texts.iter().flatten().enumerate().filter(|(place, _)| places(place % (height * width)));
                squares.map(|(_, value)| value * value).sum::<f64>() / (count * texts.len()) as f64
            };
            let of_rows: Vec<f64> = (0..height).map(|row| mean_square(&|at| at / width == row, width)).collect();
            let of_columns: Vec<f64> =
                (0..width).map(|column| mean_square(&|at| at % width == column, height)).collect();
            let mean = of_rows.iter().sum::<f64>() / height as f64;
            let row = part(row);
            (0..height * width)
                .map(|at| row[at] / (of_rows[at / width] * of_columns[at % width] / mean).sqrt())
                .collect::<Vec<_>>()
        });
        each.collect()
    };
    let config = merged(&base, json!({"queries": wanted, "method": "cosine", "normalizer": "adafactor"}));
    let (_files, config) = learned(&config, true);
    let scores = score(config.clone(), &corpus());
    for (row, scores) in rows.iter().zip(&scores) {
        for (query, &got) in of_queries.iter().zip(scores) {
            let (row, query) = (scaled(row), scaled(query));
            let lengths = (dot(&row, &row) * dot(&query, &query)).sqrt();
            let expected = if lengths > 0.0 { dot(&row, &query) / lengths } else { 0.0 };
            assert!((f64::from(got) - expected).abs() <= 1e-5, "{got} {expected}");
        }
    }
    // TrackStar has Gram matrices of what is left, and refuses those of gradients as they are.
    let trackstar = json!({"model": model(), "queries": wanted, "method": "trackstar", "dimension": 4});
    let (_files, plain) = learned(&trackstar, true);
    let (_more, both) = learned(&merged(&trackstar, json!({"normalizer": "adafactor"})), true);
    assert_ne!(score(plain.clone(), &corpus()), score(both.clone(), &corpus()));
    conformance::check(&InfluenceKind, &both);
    let mixed = merged(&both, json!({"statistics": plain["statistics"]}));
    let message = super::run_all("influence", mixed, &[corpus()]).unwrap_err().to_string();
    assert!(message.contains("were learned with other statistics, no file, and a file "), "{message}");
}

#[test]
fn folded_k_fac_without_projection_is_k_fac_with_damping_split_alike() {
    let (_kept, wanted) = texts_as_queries(&[TEXTS[0], TEXTS[6]]);
    let damping = json!({"inversion": "factored_tikhonov", "factor": 0.1});
    let base = json!({"model": model(), "queries": wanted, "damping": damping});
    let (_files, folded) = learned(&merged(&base, json!({"method": "kfac", "dimension": 0})), true);
    let exact = merged(&base, json!({"method": "kfac_exact", "statistics": folded["statistics"]}));
    let (folded, exact) = (score(folded, &corpus()), score(exact, &corpus()));
    let scale = exact.iter().flatten().fold(0.0_f32, |most, score| most.max(score.abs()));
    for (folded, exact) in folded.iter().flatten().zip(exact.iter().flatten()) {
        assert!((folded - exact).abs() <= 1e-4 * scale, "{folded} {exact}");
    }
}

#[test]
fn stored_gradients_and_the_conformance_suite_with_statistics() {
    let (_kept, wanted) = texts_as_queries(&[TEXTS[0], TEXTS[6]]);
    let base = json!({"model": model(), "queries": wanted, "context_length": 64});
    for more in [
        json!({"method": "trackstar", "dimension": 4}),
        json!({"method": "kfac", "dimension": 8, "normalize": true}),
        json!({"method": "ekfac"}),
        json!({"method": "diagonal", "rank": 4}),
    ] {
        let (_files, config) = learned(&merged(&base, more), true);
        conformance::check(&InfluenceKind, &config);
        if config["method"] == "trackstar" {
            let stored_by = json!({"model": model(), "context_length": 64, "dimension": 4});
            let stored = run("gradient", stored_by, &corpus());
            let again = score(merged(&config, json!({"gradients": "gradient"})), &stored);
            let live = score(config, &corpus());
            assert_eq!(live, again);
        }
    }
}
