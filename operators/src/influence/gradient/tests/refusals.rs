//! Configurations and rows that cannot be used.

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use super::*;

#[test]
fn wrong_configurations_are_refused_with_what_is_allowed() {
    let batch = table(&[Some("a text")]);
    for (config, expected) in [
        (json!({"dimension": 3}), "a projection of 3 rows; 4 to 128 are allowed, and 0 for none"),
        (json!({"dimension": 128}), "fewer than the 128 rows of its projection"),
        (json!({"modules": {"include": ["nothing"]}}), "no linear layer matches"),
        (json!({"column": "txt"}), "no column 'txt', did you mean 'text'?"),
        (json!({"answer": "reply"}), "no column 'reply'"),
        (json!({"span": {"start": "text"}}), "column 'text' has type Utf8, expected whole numbers"),
        (json!({"span": {"start": 4, "end": 4}}), "from 4 to before 4 there is no token"),
        (json!({"span": {"start": 1}, "answer": "text"}), "give one of both"),
        (json!({"output": "f64"}), "'f64' is not allowed"),
        (json!({"signs": "bergson-0.26", "seed": 3}), "have no seed"),
        (json!({"context_length": 0}), "0 tokens"),
        (json!({"precision": "nf4"}), "four bits"),
    ] {
        let error = error(config, &batch);
        assert!(error.contains(expected), "{error}");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models/bert-classifier");
    assert!(error(json!({"model": folder}), &batch).contains("without the head of a language model"));
}

#[test]
fn rows_that_have_no_span_are_quarantined_by_position() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a text of words"; 4]));
    let starts: ArrayRef = Arc::new(Int64Array::from(vec![1, -1, 3, 2]));
    let ends: ArrayRef = Arc::new(Int64Array::from(vec![3, 3, 2, 4]));
    let batch = RecordBatch::try_from_iter([("text", texts), ("start", starts), ("end", ends)]).unwrap();
    let output = run_all(json!({"span": {"start": "start", "end": "end"}}), &batch).unwrap();
    let errors: Vec<(u64, &str)> =
        output.quarantined.iter().map(|row| (row.positions[0], row.error.as_str())).collect();
    assert_eq!(
        errors,
        [
            (1, "column 'start' is -1; a token's place is at least 0"),
            (2, "the span begins at token 3, and ends before token 2"),
        ]
    );
    assert_eq!(output.rows(), 2);
    let kept = &output.batches[0];
    // The two that are left have what they have alone.
    let alone = run(json!({"span": {"start": "start", "end": "end"}}), &batch.slice(3, 1));
    let width = description(kept).width();
    assert_eq!(values(kept)[width..], values(&alone));
}

/// A copy of the model of which some weights are changed.
fn changed(folder: &Path, change: impl Fn(&str, &mut [f32])) {
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(Path::new(&model()).join(file), folder.join(file)).unwrap();
    }
    let bytes = std::fs::read(Path::new(&model()).join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let changed: Vec<_> = tensors
        .tensors()
        .into_iter()
        .map(|(name, tensor)| {
            assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
            let mut values: Vec<f32> =
                tensor.data().chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
            change(&name, &mut values);
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (name, tensor.shape().to_vec(), bytes)
        })
        .collect();
    let views = changed
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

#[test]
fn losses_and_gradients_that_are_not_finite_are_quarantined_and_others_stay() {
    let (one, other) = ("a text of some words", "zq zq zq");
    let folder = tempfile::tempdir().unwrap();
    let (tokenizer, _) = crate::tokens::Tokenizer::load(&model(), &Resources::local()).unwrap();
    let ids = |text: &str| {
        let mut ids = Vec::new();
        tokenizer.encode(text, false, &mut ids).unwrap();
        ids
    };
    // The embedding of a token that only one of the texts has is not a number.
    let odd = *ids(other).iter().find(|id| !ids(one).contains(id)).unwrap() as usize;
    changed(folder.path(), |name, values| {
        if name == "model.embed_tokens.weight" {
            let hidden = 64;
            values[odd * hidden] = f32::NAN;
        }
    });
    let batch = table(&[Some(one), Some(other), Some(one)]);
    let config = json!({"model": folder.path()});
    let output = run_all(config.clone(), &batch).unwrap();
    assert_eq!(output.quarantined.len(), 1);
    assert_eq!(output.quarantined[0].positions, [1]);
    assert_eq!(output.quarantined[0].error, "the loss is NaN");
    assert_eq!(values(&output.batches[0]), values(&run(config, &table(&[Some(one), Some(one)]))));

    // What is learned of texts is learned of the others alone.
    for statistics in
        [json!({"kfac": {"labels": "sampled"}}), json!({"kfac": {"labels": "true"}}), json!({"gram": {"dimension": 4}})]
    {
        let learn = |texts: &RecordBatch| {
            let config = json!({"model": folder.path(), "statistics": statistics});
            let spec = crate::OperatorSpec::new("gradient_statistics", config);
            let operator = crate::Registry::standard().bind(&spec, &texts.schema(), &Resources::local()).unwrap();
            crate::apply(operator.as_ref(), [texts.clone()]).unwrap()
        };
        let learned = learn(&batch);
        assert_eq!((learned.quarantined.len(), learned.accounted()), (1, 3));
        assert_eq!(learned.quarantined[0].positions, [1]);
        assert!(learned.quarantined[0].error.contains("nothing can be learned from the row: "));
        assert_eq!(learned.batches, learn(&table(&[Some(one), Some(one)])).batches);
    }

    // Weights so large that gradients have no place in f16.
    changed(folder.path(), |name, values| {
        if name.ends_with("layers.1.mlp.down_proj.weight") {
            values.iter_mut().for_each(|value| *value *= 1e-5);
        }
        if name.ends_with("layers.1.mlp.up_proj.weight") {
            values.iter_mut().for_each(|value| *value *= 1e7);
        }
    });
    let output = run_all(json!({"model": folder.path(), "output": "f16", "reduction": "sum"}), &batch).unwrap();
    assert_eq!(output.quarantined.len(), 3, "{:?}", output.batches);
    let error = &output.quarantined[0].error;
    assert!(error.contains("of the gradient of model.layers.") && error.contains("f16 has no numbers of"), "{error}");
    assert_eq!((output.rows(), output.accounted()), (0, 3));
}
