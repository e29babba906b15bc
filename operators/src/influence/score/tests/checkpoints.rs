//! What Adam makes of gradients, and scores of several checkpoints.

use std::path::Path;

use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use super::statistics::{dot, gradients};
use super::{TEXTS, corpus, merged, model, run_all, score, table, texts_as_queries};
use crate::conformance;
use crate::influence::InfluenceKind;
use crate::models::tests::reference;
use crate::models::{LoadOptions, Model};
use crate::{OperatorKind, Resources};

/// Writes a state for the weights of a model's layers, and gives the moments of each in the order of a row of gradients: by layer, outputs and inputs.
fn state(model: &str, names: &[(String, usize, usize)], path: &Path) -> (Vec<f64>, Vec<f64>) {
    let (model, _) =
        Model::load(model, &Resources::local(), LoadOptions { gradients: true, ..LoadOptions::default() }).unwrap();
    let draw = |name: &str, place: usize| {
        let hash = blake3::hash(format!("{name} {place}").as_bytes());
        f32::from(hash.as_bytes()[0]) / 255.0
    };
    let (mut first, mut second, mut tensors) = (Vec::new(), Vec::new(), Vec::new());
    for (name, outputs, inputs) in names {
        let parameter = format!("{name}.weight");
        let shape = model.parameters().find(|one| one.name() == parameter).unwrap().shape().to_vec();
        let elements = outputs * inputs;
        let means: Vec<f32> = (0..elements).map(|place| (draw(name, place) - 0.5) * 2e-2).collect();
        let squares: Vec<f32> = (0..elements).map(|place| draw(name, elements + place) * 1e-3).collect();
        // In the checkpoint of GPT-2 rows are inputs.
        let stored = |values: &[f32]| -> Vec<u8> {
            let flipped = shape[0] != *outputs;
            let at =
                |place: usize| if flipped { values[place % outputs * inputs + place / outputs] } else { values[place] };
            (0..elements).flat_map(|place| at(place).to_le_bytes()).collect()
        };
        assert!(outputs != inputs || !name.contains("c_"), "which side is which cannot be seen");
        tensors.push((format!("{parameter}.exp_avg"), shape.clone(), stored(&means)));
        tensors.push((format!("{parameter}.exp_avg_sq"), shape.clone(), stored(&squares)));
        first.extend(means.into_iter().map(f64::from));
        second.extend(squares.into_iter().map(f64::from));
    }
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
    (first, second)
}

#[test]
fn less_is_the_cosine_with_the_step_of_adam() {
    for (name, modules) in [("llama", json!({"include": ["*.0.mlp.*"]})), ("gpt2", json!({"include": ["*.0.mlp.*"]}))] {
        let Some(model) = reference(name) else {
            println!("skipped: there is no model {name}");
            continue;
        };
        let model = model.to_string_lossy().into_owned();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optimizer.safetensors");
        let (_kept, wanted) = texts_as_queries(&[TEXTS[0], TEXTS[6]]);
        let base = json!({"model": model, "dimension": 0, "modules": modules});
        let (description, rows) = gradients(&base, &corpus());
        let (_, of_queries) = gradients(&base, &table(&[Some(TEXTS[0]), Some(TEXTS[6])]));
        let names: Vec<_> =
            description.projection.modules.iter().map(|one| (one.name.clone(), one.outputs, one.inputs)).collect();
        let (first, second) = state(&model, &names, &path);
        let step = |row: &[f64]| -> Vec<f64> {
            let each = row.iter().zip(&first).zip(&second);
            each.map(|((g, m), v)| (0.9 * m + 0.1 * g) / (0.999 * v + 0.001 * g * g + 1e-8).sqrt()).collect()
        };
        let config = json!({"queries": wanted, "method": "less", "optimizer": path});
        let config = merged(&base, config);
        let scores = score(config.clone(), &corpus());
        for (row, scores) in rows.iter().zip(&scores) {
            let nothing = row.iter().all(|&value| value == 0.0);
            let row = step(row);
            for (query, &got) in of_queries.iter().zip(scores) {
                // A text without a token to predict has no gradient, and no score.
                let expected = dot(&row, query) / (dot(&row, &row) * dot(query, query)).sqrt();
                let expected = if nothing { 0.0 } else { expected };
                assert!((f64::from(got) - expected).abs() <= 2e-5, "{name}: {got} {expected}");
            }
        }
        // One moment that cannot be is named; otherwise every row would be at fault.
        let wrong = folder.path().join("wrong.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 4;
        bytes[last..].copy_from_slice(&(-1.0_f32).to_le_bytes());
        std::fs::write(&wrong, bytes).unwrap();
        let message = run_all("influence", merged(&config, json!({"optimizer": wrong})), &[corpus()]).unwrap_err();
        let message = message.to_string();
        assert!(
            message.contains("wrong.safetensors") && message.contains(".exp_avg_sq' has -1 at element "),
            "{message}"
        );
        assert!(message.ends_with("it must be at least 0"), "{message}");
        if name == "llama" {
            let projected = merged(&config, json!({"dimension": 8}));
            conformance::check(&InfluenceKind, &InfluenceKind.complete(&projected).unwrap());
        }
    }
}

#[test]
fn scores_of_checkpoints_are_added_with_their_weights() {
    let (_kept, wanted) = texts_as_queries(&[TEXTS[0], TEXTS[6]]);
    let other = format!("{}/../tests/fixtures/models/llama", env!("CARGO_MANIFEST_DIR"));
    let base = json!({"model": model(), "queries": wanted, "method": "cosine", "dimension": 8});
    let one = score(base.clone(), &corpus());
    let second = score(merged(&base, json!({"reduction": "sum", "model": other})), &corpus());
    let both =
        merged(&base, json!({"reduction": "sum", "weight": 0.5, "checkpoints": [{"model": other, "weight": 0.25}]}));
    conformance::check(&InfluenceKind, &InfluenceKind.complete(&both).unwrap());
    // The cosine is the same for sums and means.
    for ((one, second), both) in
        one.iter().flatten().zip(second.iter().flatten()).zip(score(both, &corpus()).iter().flatten())
    {
        assert!((0.5 * one + 0.25 * second - both).abs() < 1e-6, "{one} {second} {both}");
    }
}

#[test]
fn what_checkpoints_lack_is_said() {
    let (_kept, wanted) = texts_as_queries(&[TEXTS[0]]);
    let base = json!({"model": model(), "queries": wanted});
    let less = |more: Value| merged(&json!({"method": "less", "optimizer": "nowhere/state.safetensors"}), more);
    for (more, says) in [
        (json!({"method": "less"}), "'optimizer': the method 'less' needs Adam's state"),
        (less(json!({})), "nowhere/state.safetensors"),
        (less(json!({"betas": [0.9, 1.0]})), "'betas': 1; 0 to below 1 is allowed"),
        (less(json!({"epsilon": 0.0})), "'epsilon': 0; numbers above 0"),
        (less(json!({"checkpoints": [{"model": model()}]})), "'checkpoints[0].optimizer': the method 'less' needs"),
        (json!({"optimizer": "x"}), "'optimizer': the method 'cosine' has no use for it"),
        (json!({"method": "identity", "weight": 2.0}), "'weight': the method 'identity' has no use for it"),
        (json!({"checkpoints": [{"model": "nowhere/at/all"}]}), "nowhere/at/all"),
        (json!({"gradients": "g", "checkpoints": [{"model": model()}]}), "'gradients': it is of one checkpoint"),
    ] {
        let message = run_all("influence", merged(&base, more), &[corpus()]).unwrap_err().to_string();
        assert!(message.contains(says), "{message}\nshould say {says}");
    }
}
