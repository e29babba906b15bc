//! Gradients that transformers gave, in f32 for the larger models and in f64 for the small ones.

use serde_json::Value;

use super::{ALONE, Backward, Expected, Fixture, LARGE, MODELS, Target, each, load, norm, off, packed, reference};
use crate::models::Model;
use crate::models::gradients::DocumentNorms;

/// What is asked for. The references' own gradients in f32 differ from those in f64 by about 1e-6 of their norm.
const TOLERANCE: f64 = 1e-4;

#[test]
fn norms_and_gradients_are_those_of_the_references() {
    for name in LARGE {
        // The copies in the repository lack the list of weights.
        let data =
            std::env::var_os("GRISTMILL_DATA").map_or_else(|| "../../shared/data".into(), std::path::PathBuf::from);
        let folder = data.join("reference").join(name);
        let Ok(manifest) = std::fs::read(folder.join("manifest.json")) else {
            println!("skipped: there is no {}", folder.display());
            continue;
        };
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let names = |key: &str| -> Vec<String> {
            manifest[key]
                .as_array()
                .map_or_else(Vec::new, |names| names.iter().map(|name| name.as_str().unwrap().to_owned()).collect())
        };
        let (expected, model) = (Expected::of(&folder), load(&folder));
        let texts = expected.texts();
        let batch = packed(&texts);
        let target = Target::of(&model, &batch);
        let mut tap = DocumentNorms::new(|_| true);
        let mut backward = Backward::new(&model).unwrap();
        let losses = backward.run(ALONE, &batch, target.loss(), &mut tap).unwrap();
        for (got, expected) in losses.documents.iter().zip(expected.floats("loss")) {
            assert!((got - f64::from(expected)).abs() <= 1e-5, "{name}: loss {got}, expected {expected}");
        }
        let weights = names("linear_weights");
        let norms = expected.floats("grad_norms");
        assert_eq!(norms.len(), weights.len() * texts.len());
        let mut worst = 0_f64;
        for (document, expected) in norms.chunks_exact(weights.len()).enumerate() {
            for (weight, &expected) in weights.iter().zip(expected) {
                let got = tap.get(weight).unwrap()[document];
                let off = (got - f64::from(expected)).abs() / f64::from(expected);
                worst = worst.max(off);
                assert!(off <= TOLERANCE, "{name} {weight} document {document}: {got}, expected {expected}");
            }
        }
        let gradients = each(&mut backward, ALONE, &batch, &target);
        let mut largest = 0_f64;
        for weight in names("full_gradients") {
            let expected = expected.floats(&format!("grad.{weight}"));
            let size = expected.len() / texts.len();
            for (document, expected) in expected.chunks_exact(size).enumerate() {
                let (_, _, got) = gradients.iter().find(|(d, name, _)| *d == document && *name == weight).unwrap();
                let off = off(got, expected);
                largest = largest.max(off);
                assert!(off <= TOLERANCE, "{name} {weight} document {document}: off by {off}");
            }
        }
        println!("{name}: norms differ by {worst:e} at most, gradients by {largest:e} of their norm");
    }
}

/// What stands for chance: element i is the upper 24 bits of (i + 1)·2654435761 modulo 2³², from -1 to 1.
fn direction(index: usize) -> f64 {
    let bits = (index as u32).wrapping_add(1).wrapping_mul(2_654_435_761) >> 8;
    f64::from(bits) / f64::from(1 << 23) - 1.0
}

/// Compares gradients with what transformers gave: for each document the loss, then norm and product with the direction of each parameter, by
/// name. Says how many it compared.
fn compare(key: &str, model: &Model, texts: &[Vec<u32>], target: &Target, expected: &[f32]) -> usize {
    let batch = packed(texts);
    let row = expected.len() / texts.len();
    let mut backward = Backward::new(model).unwrap();
    let losses = backward.run(ALONE, &batch, target.loss(), &mut super::ParameterGradients::new(|_| false)).unwrap();
    let mut gradients = each(&mut backward, ALONE, &batch, target);
    gradients.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    assert_eq!(gradients.len() * 2 + texts.len(), expected.len(), "{key}: one for each parameter");
    let mut worst = 0_f64;
    for ((document, parameter, gradient), place) in gradients.iter().zip((0..).map(|i| i % ((row - 1) / 2))) {
        let of_document = &expected[document * row..(document + 1) * row];
        assert!((losses.documents[*document] - f64::from(of_document[0])).abs() <= 1e-5, "{key}: loss");
        let (length, product) = (f64::from(of_document[1 + 2 * place]), f64::from(of_document[2 + 2 * place]));
        let got: f64 = gradient.iter().enumerate().map(|(i, &g)| direction(i) * f64::from(g)).sum();
        // Gradients that cancel are as exact as what they are sums of: about 1e-7 of gradients of the size of 1.
        let scale = length.max(1e-2);
        let off = ((norm(gradient) - length).abs().max((got - product).abs())) / scale;
        worst = worst.max(off);
        assert!(
            off <= TOLERANCE,
            "{key} {parameter} document {document}: {} {got}, expected {length} {product}",
            norm(gradient)
        );
    }
    println!("{key}: differ by {worst:e} at most");
    gradients.len()
}

#[test]
fn gradients_of_small_models_are_those_of_transformers_in_double_precision() {
    let folder = reference("small").unwrap();
    let file = Expected::read(&folder.join("gradients.safetensors"));
    let mut compared = 0;
    for key in file.names() {
        let (name, kind) = key.split_once(' ').unwrap_or((&key, ""));
        let folder = folder.join(name);
        let (texts, model) = (Expected::of(&folder).texts(), load(&folder));
        let count = texts.len() * model.labels().map_or(0, <[String]>::len);
        let target = match kind {
            "multi_label" => Target::MultiLabel((0..count).map(|index| (index % 2) as f32).collect()),
            "regression" => Target::Regression((0..count).map(|index| index as f32 / 4.0 - 1.0).collect()),
            _ => Target::of(&model, &packed(&texts)),
        };
        compared += compare(&key, &model, &texts, &target, &file.floats(&key));
    }
    assert!(compared > 1500, "{compared}");
}

#[test]
fn gradients_of_every_setting_of_deberta_are_those_of_transformers_in_double_precision() {
    let fixture = Fixture::read();
    let mut compared = 0;
    for (name, _) in MODELS {
        let folder = fixture.classifier(name);
        let (mut texts, model) = (super::texts(folder.path()), load(folder.path()));
        texts.truncate(if fixture.takes_long(name) { 4 } else { 3 });
        let target = Target::of(&model, &packed(&texts));
        compared += compare(name, &model, &texts, &target, &fixture.floats(&format!("{name}/gradients")));
    }
    assert!(compared > 900, "{compared}");
}
