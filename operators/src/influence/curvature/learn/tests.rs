//! The operator: what it learns of streams, how these are put together, and what it refuses.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use serde_json::{Value, json};

use super::super::{Covariances, Factors, Layers, Statistic};
use super::file::from_batch;
use super::{GradientStatisticsConfig, GradientStatisticsKind, Origin, next_fit, read_factors};
use crate::ResourceIdentity;
use crate::influence::Modules;
use crate::models::gradients::{Backward, Loss, Reduction, TokenLoss, token_weights};
use crate::models::tests::{ALONE, packed};
use crate::models::{LoadOptions, Model};
use crate::operator::OperatorKind;
use crate::scoring::Device;
use crate::scoring::reader::{Reader, Reading};
use crate::tables::write_arrow;
use crate::tokens::Tokenizer;
use crate::{OperatorSpec, Output, Resources, Result, apply};

const TEXTS: [Option<&str>; 7] = [
    Some("The quick brown fox jumps over the lazy dog."),
    None,
    Some("A much longer text, of which not all tokens are read, since the context is short: it goes on and on."),
    Some(""),
    Some("Colourless green ideas sleep furiously."),
    Some("1, 2, 3, 4"),
    Some("The quick brown fox jumps over the lazy dog."),
];

fn model() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models/llama").to_string_lossy().into_owned()
}

fn table(texts: &[Option<&str>]) -> RecordBatch {
    let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
    RecordBatch::try_from_iter_with_nullable([("text", texts, true)]).unwrap()
}

fn spec(config: &Value) -> OperatorSpec {
    let mut all = json!({"model": model(), "context_length": 16, "modules": {"include": ["*.0.*"]}});
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    OperatorSpec::new("gradient_statistics", GradientStatisticsKind.complete(&all).unwrap())
}

fn run(spec: &OperatorSpec, batches: &[RecordBatch]) -> Result<Output> {
    let operator = GradientStatisticsKind.bind(spec, &batches[0].schema(), &Resources::local())?;
    apply(operator.as_ref(), batches.to_vec())
}

/// The file that is learned from streams, each of several batches.
fn learn(spec: &OperatorSpec, streams: &[&[RecordBatch]]) -> Result<Vec<RecordBatch>> {
    let mut parts = Vec::new();
    for batches in streams {
        let output = run(spec, batches)?;
        assert_eq!(output.accounted(), batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>());
        parts.extend(output.batches);
    }
    GradientStatisticsKind.combine(spec, &mut parts.into_iter().map(Ok))
}

fn factors(batches: &[RecordBatch]) -> Factors {
    batches.iter().flat_map(|batch| from_batch(batch).unwrap()).map(|(factor, _)| factor).collect()
}

fn write(folder: &Path, name: &str, batches: &[RecordBatch]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, write_arrow(batches).unwrap()).unwrap();
    path.to_string_lossy().into_owned()
}

#[test]
fn streams_add_up_whatever_their_batches() {
    for statistics in [
        json!({"kfac": {"labels": "true"}}),
        json!({"kfac": {"labels": "sampled", "seed": 3}}),
        json!({"diagonal": {}}),
        json!({"adafactor": {}}),
        json!({"gram": {"dimension": 4}}),
    ] {
        let spec = spec(&json!({"statistics": statistics}));
        let whole = learn(&spec, &[&[table(&TEXTS)]]).unwrap();
        let single: Vec<RecordBatch> = TEXTS.iter().map(|text| table(&[*text])).collect();
        assert_eq!(learn(&spec, &[&single]).unwrap(), whole, "{statistics}");
        let parts = learn(&spec, &[&[table(&TEXTS[..3])], &[table(&TEXTS[3..4])], &[table(&TEXTS[4..])]]).unwrap();
        let (whole, parts) = (factors(&whole), factors(&parts));
        assert_eq!(whole.iter().len(), parts.iter().len());
        for (whole, part) in whole.iter().zip(parts.iter()) {
            assert_eq!((&whole.module, whole.statistic, whole.count), (&part.module, part.statistic, part.count));
            if whole.statistic.is_sum() {
                let most = whole.values.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
                assert!(whole.values.iter().zip(&part.values).all(|(a, b)| (a - b).abs() <= 1e-13 * most));
                // Two of seven texts have nothing to predict.
                assert!(
                    whole.count == 5
                        || matches!(whole.statistic, Statistic::ActivationCovariance | Statistic::GradientCovariance)
                );
            }
        }
    }
}

#[test]
fn sums_are_those_of_the_taps() {
    let (model, _) =
        Model::load(&model(), &Resources::local(), LoadOptions { gradients: true, ..LoadOptions::default() }).unwrap();
    let (tokenizer, _) = Tokenizer::load(&self::model(), &Resources::local()).unwrap();
    let mut texts = Vec::new();
    for text in TEXTS.iter().flatten().filter(|text| !text.is_empty()) {
        let mut ids = Vec::new();
        tokenizer.encode(text, true, &mut ids).unwrap();
        ids.truncate(16);
        texts.push(ids);
    }
    let modules = Modules { include: vec!["*.0.*".to_owned()], exclude: Vec::new() };
    let mut tap = Covariances::new(Layers::of(&model, &modules, false).unwrap());
    let batch = packed(&texts);
    let weights = token_weights(&batch, Reduction::Mean, |_, _| true);
    let loss = Loss::Tokens(TokenLoss { weights: &weights, targets: None });
    Backward::new(&model).unwrap().run(ALONE, &batch, loss, &mut tap).unwrap();
    let expected = tap.into_factors().with_eigenvectors().unwrap();
    let spec = spec(&json!({"statistics": {"kfac": {"labels": "true"}}}));
    assert_eq!(factors(&learn(&spec, &[&[table(&TEXTS)]]).unwrap()), expected);
}

#[test]
fn files_are_read_and_those_of_something_else_refused() {
    let folder = tempfile::tempdir().unwrap();
    let resources = Resources::local();
    let of_kfac = spec(&json!({"statistics": {"kfac": {}}}));
    let kfac = write(folder.path(), "kfac.arrow", &learn(&of_kfac, &[&[table(&TEXTS)]]).unwrap());
    let goal: GradientStatisticsConfig =
        serde_json::from_value(spec(&json!({"statistics": {"ekfac_lambda": {}}})).config).unwrap();

    // Two fits, one after another.
    let first = next_fit(&goal, None, None, Some(10)).unwrap().unwrap();
    assert_eq!((first.key, first.rows, &first.spec.config), ("factors", Some(10), &of_kfac.config));
    let second = next_fit(&goal, Some(&kfac), None, None).unwrap().unwrap();
    assert_eq!((second.key, second.spec.config["factors"].as_str()), ("statistics", Some(kfac.as_str())));
    assert_eq!(GradientStatisticsKind.fit(&second.spec.config).unwrap(), None);
    assert_eq!(GradientStatisticsKind.fit(&serde_json::to_value(&goal).unwrap()).unwrap().unwrap().key, "factors");
    let lambda = learn(&second.spec, &[&[table(&TEXTS[..4])], &[table(&TEXTS[4..])]]).unwrap();
    assert!(factors(&lambda).iter().all(|factor| factor.statistic == Statistic::Lambda && factor.count == 5));
    let lambda = write(folder.path(), "lambda.arrow", &lambda);
    assert_eq!(next_fit(&goal, Some(&kfac), Some(&lambda), None).unwrap(), None);

    let model = model();
    let reading = Reading {
        model: &model,
        adapter: None,
        tokenizer: None,
        column: "text",
        precision: goal.precision,
        device: Device::Cpu,
        context_length: Some(16),
        preferred_length: None,
    };
    let mut reader = Reader::for_gradients("test", reading, &resources).unwrap();
    // What was learned on another kind of device may be used here; a run that goes on must agree with it.
    assert_eq!(reader.resources(), reader.identities);
    let device = ResourceIdentity { location: "device of a model".to_owned(), hash: "0123".to_owned() };
    reader.computed_on = Some(device.clone());
    assert_eq!(reader.resources().last(), Some(&device));
    let expected = |statistics: Value| {
        let config = spec(&json!({"statistics": statistics})).config;
        Origin::of(&serde_json::from_value(config).unwrap(), &reader, None)
    };
    let origin = expected(json!({"kfac": {}}));
    let (factors, _) = read_factors(&kfac, &resources, &origin).unwrap();
    assert!(factors.get("model.layers.0.mlp.up_proj", Statistic::ActivationEigenvectors).is_ok());
    assert!(read_factors(&lambda, &resources, &expected(json!({"ekfac_lambda": {}}))).is_ok());
    let refused =
        |location: &str, expected: Origin| read_factors(location, &resources, &expected).unwrap_err().to_string();
    for (expected, says) in [
        (Origin { model_hash: "0123".to_owned(), ..origin.clone() }, "with the model"),
        (Origin { tokenizer_hash: "0123".to_owned(), ..origin.clone() }, "the tokenizer"),
        (Origin { reduction: super::StatisticsReduction::Sum, ..origin.clone() }, "mean, and sum is expected"),
        (Origin { bias: true, ..origin.clone() }, "biases false"),
        (Origin { precision: crate::scoring::Precision::Bf16, ..origin.clone() }, "precision f32"),
        (expected(json!({"diagonal": {}})), "has 'kfac', and 'diagonal'"),
    ] {
        let message = refused(&kfac, expected);
        assert!(message.contains(says) && message.contains("kfac.arrow"), "{message}");
    }
    let other_basis = Origin { factors_hash: Some("0123".to_owned()), ..expected(json!({"ekfac_lambda": {}})) };
    assert!(refused(&lambda, other_basis).contains("covariances"));
    let gram = learn(&spec(&json!({"statistics": {"gram": {"dimension": 4}}})), &[&[table(&TEXTS)]]).unwrap();
    let gram = write(folder.path(), "gram.arrow", &gram);
    assert!(read_factors(&gram, &resources, &expected(json!({"gram": {"dimension": 4}}))).is_ok());
    assert!(refused(&gram, expected(json!({"gram": {"dimension": 8}}))).contains("projection"));
    let text = write(folder.path(), "text.arrow", &[table(&TEXTS)]);
    assert!(refused(&text, origin.clone()).contains("no column"));
}

#[test]
fn what_cannot_be_learned_is_said() {
    let complete = |config: Value| GradientStatisticsKind.complete(&config).unwrap_err().to_string();
    assert!(complete(json!({"model": "m", "statistics": {"adafactor": {}}, "bias": true})).contains("'adafactor'"));
    assert!(complete(json!({"model": "m", "statistics": {"kfac": {}}, "factors": "f"})).contains("ekfac_lambda"));
    assert!(complete(json!({"model": "m"})).contains("statistics"));
    assert!(complete(json!({"model": "m", "statistics": {"kfacs": {}}})).contains("kfac"));
    let nothing = spec(&json!({"statistics": {"diagonal": {}}}));
    let message = learn(&nothing, &[&[table(&TEXTS[1..2])]]).unwrap_err().to_string();
    assert!(message.contains("no text"), "{message}");
    let lambda = spec(&json!({"statistics": {"ekfac_lambda": {}}}));
    assert!(run(&lambda, &[table(&TEXTS)]).unwrap_err().to_string().contains("'kfac' first"));
    let none = spec(&json!({"statistics": {"diagonal": {}}, "modules": {"include": ["*.nothing"]}}));
    assert!(run(&none, &[table(&TEXTS)]).unwrap_err().to_string().contains("no linear layer"));
}
