//! DeBERTa-v2 and v3 against what transformers gave: models whose weights follow from the names of their tensors.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use gristmill_kernels::workers::{Serial, Threads};
use safetensors::Dtype;
use serde_json::{Value, json};

use super::deberta_fixture::{Fixture, MODELS, write_weights};
use super::disentangled::{Distances, Shared};
use super::{Batch, Compute, LoadOptions, Model, Precision};
use crate::scoring::{ClassifyKind, EmbedKind};
use crate::{OperatorSpec, Registry, Resources, apply, conformance};

const ALONE: Compute<'static> = Compute { workers: &Serial, threads: 1 };

fn model(fixture: &Fixture, name: &str) -> Model {
    load(fixture.folder(name, &fixture.config(name), Dtype::F32).path(), Precision::F32)
}

fn load(folder: &Path, precision: Precision) -> Model {
    Model::load(&folder.to_string_lossy(), &Resources::local(), LoadOptions { precision, ..LoadOptions::default() })
        .unwrap()
        .0
}

fn packed(texts: &[Vec<u32>]) -> Batch {
    let mut batch = Batch::default();
    texts.iter().for_each(|text| batch.push(text));
    batch
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

#[test]
fn every_setting_gives_the_hidden_states_and_logits_of_transformers() {
    let fixture = Fixture::read();
    let batch = packed(&fixture.texts());
    for (name, outputs) in MODELS {
        let model = model(&fixture, name);
        assert_eq!((model.kind(), model.layers()), ("deberta-v2", 2));
        let mut states = 0;
        model
            .every_hidden_state(ALONE, &batch, |layer, state| {
                let off = difference(state, &fixture.floats(&format!("{name}/hidden_states.{layer}")));
                println!("{name}, hidden states {layer}: {off:e}");
                assert!(off <= 1e-5, "{name}, hidden states {layer}: {off:e}");
                states += 1;
            })
            .unwrap();
        assert_eq!(states, 3);
        let logits = model.classify(ALONE, &batch).unwrap();
        assert_eq!(logits.as_ref().map(|logits| logits.len() / 3), outputs, "{name}");
        if let Some(logits) = logits {
            let off = difference(&logits, &fixture.floats(&format!("{name}/logits")));
            assert!(off <= 1e-5, "{name}, logits: {off:e}");
        }
    }
    assert_eq!(model(&fixture, "v3").problem(), Some("regression"));
}

#[test]
fn a_text_has_the_same_bits_alone_and_in_a_batch_and_on_threads() {
    let fixture = Fixture::read();
    // The last one is of several blocks of queries.
    let long: Vec<u32> = (0..1500).map(|i| 4 + i * i % 28).collect();
    let texts = [fixture.texts(), vec![Vec::new(), long]].concat();
    let threads = Threads::new(2);
    for (name, _) in MODELS {
        let model = model(&fixture, name);
        let texts: Vec<Vec<u32>> =
            texts.iter().filter(|text| model.most_positions().is_none_or(|most| text.len() <= most)).cloned().collect();
        assert_eq!(texts.len() == 5, ["v3", "v2-xlarge", "keys-alone"].contains(&name), "{name}");
        let together = model.hidden_states(ALONE, &packed(&texts)).unwrap();
        let shared = model.hidden_states(Compute { workers: &threads, threads: 2 }, &packed(&texts)).unwrap();
        let alone: Vec<f32> =
            texts.iter().flat_map(|text| model.hidden_states(ALONE, &Batch::of(text)).unwrap()).collect();
        let bits = |values: &[f32]| -> Vec<u32> { values.iter().map(|value| value.to_bits()).collect() };
        assert_eq!(bits(&together), bits(&shared), "{name} on threads");
        assert_eq!(bits(&together), bits(&alone), "{name} alone");
    }
}

#[test]
fn half_precision_changes_results_by_its_rounding() {
    let fixture = Fixture::read();
    let batch = packed(&fixture.texts());
    for (name, _) in MODELS {
        let single = model(&fixture, name).hidden_states(ALONE, &batch).unwrap();
        let stored = fixture.folder(name, &fixture.config(name), Dtype::BF16);
        for model in [load(stored.path(), Precision::F32), load(stored.path(), Precision::Bf16)] {
            let off = difference(&single, &model.hidden_states(ALONE, &batch).unwrap());
            // Numbers of bfloat16 are 2^-8 apart relatively; hidden states are of magnitude 3.
            assert!(off > 1e-4 && off < 0.15, "{name}: {off}");
        }
    }
}

#[test]
fn texts_may_be_longer_than_the_model_was_trained_with_where_positions_are_relative() {
    let fixture = Fixture::read();
    let relative = model(&fixture, "v3");
    assert_eq!((relative.most_positions(), relative.trained_positions()), (None, Some(16)));
    let absolute = model(&fixture, "own-projections");
    assert_eq!((absolute.most_positions(), absolute.trained_positions()), (Some(32), Some(32)));
    let error = absolute.hidden_states(ALONE, &Batch::of(&[5; 33])).unwrap_err().to_string();
    assert!(error.contains("is 33, and at most 32"), "{error}");
}

#[test]
fn both_spellings_of_terms_and_the_forms_of_both_generations_are_read() {
    let fixture = Fixture::read();
    let batch = packed(&fixture.texts());
    let expected = model(&fixture, "v3").classify(ALONE, &batch).unwrap();
    let older = |config: &mut Value| {
        config["pos_att_type"] = json!("c2p | P2C");
        config["torch_dtype"] = config["dtype"].take();
        config["transformers_version"] = json!("4.46.0");
        config.as_object_mut().unwrap().remove("dtype");
        config.as_object_mut().unwrap().remove("tie_word_embeddings");
        config["max_relative_positions"] = json!(16);
    };
    let mut config = fixture.config("v3");
    older(&mut config);
    let folder = fixture.folder("v3", &config, Dtype::F32);
    assert_eq!(load(folder.path(), Precision::F32).classify(ALONE, &batch).unwrap(), expected);

    // A model of embeddings, saved without the prefix, and the heads of the training beside it.
    let mut shapes = fixture.shapes("keys-alone");
    for name in [
        "lm_predictions.lm_head.bias",
        "cls.predictions.bias",
        "mask_predictions.classifier.weight",
        "pooler.dense.bias",
    ] {
        shapes.insert(name.into(), vec![8]);
    }
    shapes.insert("embeddings.position_embeddings.weight".into(), vec![32, 8]);
    write_weights(folder.path(), shapes, Dtype::F32);
    std::fs::write(folder.path().join("config.json"), fixture.metadata["keys-alone"].clone()).unwrap();
    let states = load(folder.path(), Precision::F32).hidden_states(ALONE, &batch).unwrap();
    assert!(difference(&states, &fixture.floats("keys-alone/hidden_states.2")) <= 1e-5);
}

#[test]
fn a_folder_with_its_tokenizer_is_read_by_the_operators() {
    let fixture = Fixture::read();
    let (mut config, mut shapes) = (fixture.config("v3"), fixture.shapes("v3"));
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tokens/tests/testdata/small-deberta-v3.json");
    config["vocab_size"] = json!(47);
    shapes.insert("deberta.embeddings.word_embeddings.weight".into(), vec![47, 8]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    std::fs::copy(tokenizer, folder.path().join("tokenizer.json")).unwrap();
    write_weights(folder.path(), shapes, Dtype::F32);
    conformance::check(&ClassifyKind, &json!({"model": folder.path()}));
    conformance::check(&EmbedKind, &json!({"model": folder.path(), "pooling": "mean"}));

    // Where nothing is said of the context, it is what the model was trained with: a long text is read in windows.
    let words = ["the", "fox", "and", "dog"];
    let long: Vec<&str> = (0..60).map(|place| words[place * place / 3 % words.len()]).collect();
    let text: ArrayRef = Arc::new(StringArray::from(vec![long.join(" ")]));
    let batch = RecordBatch::try_from_iter([("text", text)]).unwrap();
    let scored = |config: Value| {
        let spec = OperatorSpec::new("classify", config);
        let operator = Registry::standard().bind(&spec, &batch.schema(), &Resources::local()).unwrap();
        let scored = apply(operator.as_ref(), [batch.clone()]).unwrap().batches.remove(0);
        let metadata = scored["classify_metadata"].as_struct();
        ["highest_score", "lowest_score"].map(|field| metadata[field].as_primitive::<Float64Type>().value(0))
    };
    let [highest, lowest] = scored(json!({"model": folder.path()}));
    assert!(highest > lowest, "{highest} {lowest}");
    let [highest, lowest] = scored(json!({"model": folder.path(), "context_length": 512}));
    assert_eq!(highest, lowest);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let fixture = Fixture::read();
    for (model, key, value, expected) in [
        ("v3", "pos_att_type", json!(["c2p", "p2p"]), "'pos_att_type' is [\"c2p\",\"p2p\"]"),
        ("v3", "pos_att_type", json!(7), "a list of \"c2p\" and \"p2c\""),
        ("v3", "norm_rel_ebd", json!("rms"), "'norm_rel_ebd' is \"rms\""),
        ("v3", "position_buckets", json!(1), "whole number from 2 to 29"),
        ("v3", "position_buckets", json!(30), "'position_buckets' is 30"),
        ("v3", "position_buckets", json!(2.5), "'position_buckets' is 2.5"),
        ("v3", "position_buckets", json!(10), "has shape [16, 8], and [20, 8] is expected"),
        ("v3", "num_attention_heads", json!(3), "'hidden_size' is 8"),
        ("v3", "pooler_hidden_act", json!("mish"), "'pooler_hidden_act' is \"mish\""),
        ("v3", "pooler_hidden_size", json!(4), "'pooler_hidden_size' is 4, and 8"),
        ("v3", "share_att_key", json!(false), "no tensor 'deberta.encoder.layer.0.attention.self.pos_key_proj.weight'"),
        ("v3", "position_biased_input", json!(true), "no tensor 'deberta.embeddings.position_embeddings.weight'"),
        ("v3", "conv_kernel_size", json!(3), "no tensor 'deberta.encoder.conv.conv.weight'"),
        (
            "v3",
            "norm_rel_ebd",
            json!("none"),
            "without a place in the architecture deberta-v2: 'deberta.encoder.LayerNorm.",
        ),
        ("v2-xlarge", "attention_head_size", json!(8), "'attention_head_size' is 8, and 4"),
        ("v2-xlarge", "conv_kernel_size", json!(4), "'conv_kernel_size' is 4"),
        ("v2-xlarge", "conv_groups", json!(2), "'conv_groups' is 2"),
        ("v2-xlarge", "conv_act", json!("selu"), "'conv_act' is \"selu\""),
        ("own-projections", "embedding_size", json!(8), "has shape [2, 6], and [2, 8] is expected"),
    ] {
        let mut config = fixture.config(model);
        config[key] = value;
        let folder = fixture.folder(model, &config, Dtype::F32);
        let location = folder.path().to_string_lossy();
        let error = Model::load(&location, &Resources::local(), LoadOptions::default()).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(&*location), "{key}: {error}");
    }
}

/// Buckets, `max_relative_positions`, and the distances ahead of a query at which `make_log_bucket_position` of transformers begins another bucket.
const EDGES: [(usize, usize, &[i64]); 5] = [
    (8, 16, &[5, 7, 10, 16]),
    (7, 32, &[4, 10, 32, 100]),
    (32, 128, &[17, 19, 22, 25, 28, 32, 37, 43, 49, 56, 64, 74, 84, 97, 111, 128]),
    (
        64,
        4096,
        &[
            33, 38, 44, 52, 60, 70, 82, 96, 112, 131, 154, 179, 210, 245, 287, 335, 392, 458, 536, 627, 733, 857, 1002,
            1171, 1370, 1602, 1873, 2190, 2561, 2995, 3502, 4096,
        ],
    ),
    (
        256,
        512,
        &[
            129, 130, 131, 133, 134, 136, 137, 139, 140, 142, 143, 145, 146, 148, 150, 151, 153, 155, 156, 158, 160,
            161, 163, 165, 167, 169, 170, 172, 174, 176, 178, 180, 182, 184, 186, 188, 190, 192, 194, 196, 198, 201,
            203, 205, 207, 210, 212, 214, 216, 219, 221, 224, 226, 229, 231, 234, 236, 239, 241, 244, 247, 249, 252,
            255, 258, 260, 263, 266, 269, 272, 275, 278, 281, 284, 287, 290, 294, 297, 300, 303, 307, 310, 313, 317,
            320, 324, 327, 331, 335, 338, 342, 346, 349, 353, 357, 361, 365, 369, 373, 377, 381, 385, 390, 394, 398,
            403, 407, 411, 416, 420, 425, 430, 434, 439, 444, 449, 454, 459, 464, 469, 474, 479, 484, 490, 495, 500,
            506, 512,
        ],
    ),
];

#[test]
fn distances_share_the_rows_that_they_share_in_transformers() {
    for (span, farthest, edges) in EDGES {
        let distances = Distances { span, shared: Some(Shared { middle: span / 2, farthest }) };
        let begins = |distance: &i64| distances.row(-*distance) != distances.row(1 - distance);
        let found: Vec<i64> = (span as i64 / 2 + 1..5000).filter(begins).collect();
        assert_eq!(found, edges, "{span} {farthest}");
        for distance in 0..5000 {
            // The two sides mirror each other, but for the row that would be one beyond the last.
            let (behind, ahead) = (distances.row(distance), distances.row(-distance));
            assert_eq!(behind, (2 * span - ahead).min(2 * span - 1), "{span} {farthest} {distance}");
        }
    }
    let plain = Distances { span: 4, shared: None };
    let rows: Vec<usize> = (-6..6).map(|distance| plain.row(distance)).collect();
    assert_eq!(rows, [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 7, 7]);
}
