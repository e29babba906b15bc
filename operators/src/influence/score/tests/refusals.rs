//! What is refused, and rows that are put aside.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Array, ArrayRef, FixedSizeListArray, Float32Array, RecordBatch};
use arrow_schema::DataType;
use serde_json::{Value, json};

use super::{TEXTS, corpus, merged, model, run, run_all, texts_as_queries};

#[test]
fn configurations_that_mean_nothing_are_refused() {
    let (_kept, wanted) = texts_as_queries(&[TEXTS[0]]);
    let base = json!({"model": model(), "queries": wanted});
    for (more, says) in [
        (json!({"method": "cosin"}), "'cosin' is not allowed, did you mean 'cosine'?"),
        (json!({"dimension": 65}), "fewer than the 65 rows of its projection"),
        (json!({"dimension": 2}), "a projection of 2 rows; 4 to 128 are allowed, and 0 for none"),
        (json!({"modules": {"include": ["nothing.*"]}}), "no linear layer matches"),
        (json!({"normalize": true}), "'normalize': the method 'cosine' has no use for it"),
        (json!({"statistics": "x.arrow"}), "'statistics': the method 'cosine' has no use for it"),
        (json!({"method": "dot", "mixing": {"share": 0.5}}), "'mixing': the method 'dot' has no use for it"),
        (json!({"method": "trackstar", "mixing": {"share": 1.5}}), "'mixing.share': 1.5; 0 to 1 is allowed"),
        (json!({"method": "trackstar"}), "'statistics': the key is missing"),
        (json!({"method": "trackstar", "fit_rows": 0}), "'fit_rows': 0; at least 1"),
        (json!({"method": "kfac", "damping": {"factor": 0.2}}), "'damping.inversion': the method 'kfac' has 'factored"),
        (json!({"method": "identity", "dimension": 8}), "'dimension': the method 'identity' has no use for it"),
        (json!({"method": "identity", "rank": 0}), "'rank': 0; at least 1"),
        (json!({"method": "representation", "layer": 9}), "'layer': 9; the model has 0 to 2"),
        (json!({"method": "representation", "answer": "text"}), "'answer': the method 'representation' has no use"),
        (json!({"column": "txt"}), "no column 'txt', did you mean 'text'?"),
        (json!({"gradients": "gradient"}), "no column 'gradient'"),
        (json!({"gradients": "text"}), "the column is none that `gradient` made"),
        (json!({"queries": {"path": "nowhere.jsonl"}}), "nowhere.jsonl"),
        (json!({"answer": "text", "span": {"start": 1}}), "'span'"),
        (json!({"precision": "nf4"}), "four bits"),
        (json!({"method": "identity", "normalizer": "adafactor"}), "'normalizer': the method 'identity' has no use"),
        (json!({"normalizer": "adafactor"}), "'second_moments': the key is missing"),
        (json!({"second_moments": "x.arrow"}), "'second_moments': it has no use without 'normalizer'"),
        (json!({"normalizer": "adafactor", "gradients": "g"}), "'normalizer': gradients of a column are as they are"),
        (json!({"method": "datainf", "labels": "true"}), "'labels': the method 'datainf' has no use for it"),
        (json!({"method": "datainf"}), "'factors': the key is missing"),
        (json!({"candidates": {}}), "'candidates': the method 'cosine' has no use for it"),
        (json!({"method": "identity", "candidate_rows": "x.arrow"}), "'candidate_rows': it has no use without"),
        (json!({"method": "identity", "candidates": {"method": "dot"}}), "'candidate_rows': the key is missing"),
        (
            json!({"method": "identity", "candidates": {"method": "ekfac"}}),
            "'candidates.method': 'ekfac' is no cheaper",
        ),
        (json!({"method": "identity", "candidates": {"keep": 0}}), "'candidates.keep': 0; at least 1"),
        (json!({"method": "identity", "candidates": {"margin": 1.5}}), "'candidates.margin': 1.5; 0 to 1"),
        (
            json!({"method": "identity", "candidates": {"method": "dot", "normalize": true}}),
            "'candidates.normalize': the method 'dot' has no use for it",
        ),
    ] {
        let message = run_all("influence", merged(&base, more), &[corpus()]).unwrap_err().to_string();
        assert!(message.contains(says), "{message}\nshould say {says}");
    }
}

#[test]
fn gradients_of_something_else_are_refused_and_it_is_said_of_what() {
    let (_kept, wanted) = texts_as_queries(&[TEXTS[0]]);
    let stored_by = json!({"model": model(), "dimension": 8});
    let config = merged(&stored_by, json!({"queries": wanted, "gradients": "gradient"}));
    for (more, says) in [
        (json!({"seed": 7}), "the projection differs: seed is 7, and 0 is expected"),
        (json!({"dimension": 4}), "dimension is 4, and 8 is expected"),
        (json!({"modules": {"exclude": ["*.mlp.*"]}}), "the projection differs"),
        (json!({"reduction": "sum"}), "the loss differs: reduction is \"sum\", and \"mean\" is expected"),
        (json!({"context_length": 20}), "the loss differs: context_length is 20"),
        (json!({"precision": "bf16"}), "the model differs: precision is \"bf16\""),
        (json!({"per_token": true}), "has gradients of tokens"),
    ] {
        let stored = run("gradient", merged(&stored_by, more), &corpus());
        let message = run_all("influence", config.clone(), &[stored]).unwrap_err().to_string();
        assert!(message.contains(says), "{message}\nshould say {says}");
    }
}

#[test]
fn rows_whose_gradients_are_not_finite_are_put_aside() {
    let (_kept, wanted) = texts_as_queries(&[TEXTS[0]]);
    let stored_by = json!({"model": model(), "dimension": 8});
    let stored = run("gradient", stored_by.clone(), &corpus());
    let config: Value = merged(&stored_by, json!({"queries": wanted, "gradients": "gradient"}));
    let whole = run("influence", config.clone(), &stored);
    let lists = stored["gradient"].as_fixed_size_list();
    let mut values = lists.values().as_primitive::<Float32Type>().values().to_vec();
    values[lists.value_length() as usize * 3 + 5] = f32::NAN;
    let DataType::FixedSizeList(item, size) = lists.data_type().clone() else { panic!() };
    let broken = FixedSizeListArray::new(item, size, Arc::new(Float32Array::from(values)), None);
    let columns = stored.columns().iter().enumerate();
    let place = stored.schema().index_of("gradient").unwrap();
    let columns = columns
        .map(|(column, array)| if column == place { Arc::new(broken.clone()) as ArrayRef } else { Arc::clone(array) });
    let stored = RecordBatch::try_new(stored.schema(), columns.collect()).unwrap();
    let output = run_all("influence", config, &[stored.slice(0, 2), stored.slice(2, 6)]).unwrap();
    assert_eq!(output.quarantined.len(), 1);
    assert_eq!(output.quarantined[0].positions, [3]);
    assert!(output.quarantined[0].error.contains("column 'gradient' has NaN"), "{}", output.quarantined[0].error);
    let kept = arrow_select::concat::concat_batches(&output.batches[0].schema(), &output.batches).unwrap();
    let others: arrow_array::BooleanArray = (0..8).map(|row| Some(row != 3)).collect();
    let expected = arrow_select::filter::filter(&whole["influence"], &others).unwrap();
    assert_eq!(&kept["influence"], &expected);
}
