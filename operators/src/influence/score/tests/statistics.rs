//! Methods that learn from a corpus.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{TEXTS, corpus, merged, model, run, run_all, score, texts_as_queries};
use crate::influence::InfluenceKind;
use crate::influence::curvature::Eigen;
use crate::influence::gradient::SketchDescription;
use crate::{OperatorKind, Registry, conformance, tables};

/// Learns all that a configuration needs from the corpus, as a host does, and returns it with the files.
fn learned(config: &Value) -> (TempDir, Value) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = InfluenceKind.complete(config).unwrap();
    let mut keys = Vec::new();
    while let Some(fit) = InfluenceKind.fit(&config).unwrap() {
        let output = run_all(&fit.spec.kind, fit.spec.config.clone(), &[corpus()]).unwrap();
        let kind = Registry::standard();
        let kind = kind.kind(&fit.spec.kind).unwrap();
        let spec = Registry::standard().complete(&fit.spec).unwrap();
        let batches = kind.combine(&spec, &mut output.batches.into_iter().map(Ok)).unwrap();
        let path = folder.path().join(format!("{}.arrow", fit.key));
        std::fs::write(&path, tables::write_arrow(&batches).unwrap()).unwrap();
        config[fit.key] = path.to_str().unwrap().into();
        assert!(!keys.contains(&fit.key), "{} is learned twice", fit.key);
        keys.push(fit.key);
    }
    assert!(!keys.is_empty());
    (folder, config)
}

#[test]
fn trackstar_is_the_cosine_of_whitened_gradients() {
    let (_kept, wanted) = texts_as_queries(&[TEXTS[0], TEXTS[6]]);
    let modules = json!({"include": ["*.mlp.*"]});
    let base = json!({"model": model(), "dimension": 4, "modules": modules});
    let decode = |texts: &arrow_array::RecordBatch| {
        let batch = run("gradient", base.clone(), texts);
        let description = SketchDescription::of(batch.schema().field_with_name("gradient").unwrap()).unwrap();
        let values = description.decode(&batch["gradient"]).unwrap().values;
        let rows: Vec<Vec<f64>> =
            values.chunks(description.width()).map(|row| row.iter().map(|&value| f64::from(value)).collect()).collect();
        (description, rows)
    };
    let (description, rows) = decode(&corpus());
    let (_, of_queries) = decode(&super::table(&[Some(TEXTS[0]), Some(TEXTS[6])]));
    for (share, normalize) in [(0.0, true), (0.7, true), (0.7, false)] {
        let config = merged(
            &base,
            json!({"queries": wanted, "method": "trackstar", "mixing": {"share": share}, "normalize": normalize}),
        );
        let (_files, config) = learned(&config);
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
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
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
fn folded_k_fac_without_projection_is_k_fac_with_damping_split_alike() {
    let (_kept, wanted) = texts_as_queries(&[TEXTS[0], TEXTS[6]]);
    let damping = json!({"inversion": "factored_tikhonov", "factor": 0.1});
    let base = json!({"model": model(), "queries": wanted, "damping": damping});
    let (_files, folded) = learned(&merged(&base, json!({"method": "kfac", "dimension": 0})));
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
        let (_files, config) = learned(&merged(&base, more));
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
