//! What the step gives.

use super::*;
use crate::conformance;
use crate::influence::pairs::{Accumulate, GradientPairsKind};

#[test]
fn samples_and_products_are_those_of_transformers() {
    let expected: Value = serde_json::from_str(include_str!("../testdata/pairs.json")).unwrap();
    let samples: Vec<(String, String)> = expected["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|messages| {
            let content = |place: usize| messages[place]["content"].as_str().unwrap().to_owned();
            (content(0), content(1))
        })
        .collect();
    let encoder = encoder();
    for (number, (question, answer)) in samples.iter().enumerate() {
        let sample = encoder.encode(&conversation(question, answer)).unwrap();
        assert_eq!(json!(sample.ids), expected["ids"][number]);
        assert_eq!(json!(sample.answer), expected["answers"][number]);
    }
    // The first sample is the row, the second the one original.
    let (folder, config) = study();
    let path = folder.path().join("one.json");
    let original = json!([{"id": "mill_0", "messages": expected["messages"][1]}]);
    std::fs::write(&path, original.to_string()).unwrap();
    let first = (samples[0].0.as_str(), samples[0].1.as_str());
    let output = run(&with(&config, json!({"originals": {"path": path}})), &[rows(&[first])]).unwrap();
    let metadata = arrow_array::cast::AsArray::as_struct(output[0]["pairs_metadata"].as_ref()).clone();
    let loss = arrow_array::cast::AsArray::as_primitive::<arrow_array::types::Float64Type>(&metadata["loss"]).value(0);
    assert!((loss - expected["losses"][0].as_f64().unwrap()).abs() < 2e-6, "{loss}");
    let table = PairTable::read(&output, "pairs", "id").unwrap();
    let [row] = table.rows() else { panic!("{table:?}") };
    let pair = &row.candidates[0];
    assert!((pair.cosine.unwrap() - expected["cosine"].as_f64().unwrap()).abs() < 1e-6);
    for (place, tensor) in table.tensors().iter().enumerate() {
        let [own, other] = [0, 1].map(|sample| expected["self_products"][sample][tensor].as_f64().unwrap());
        let product = expected["products"][tensor].as_f64().unwrap();
        let scale = own.sqrt() * other.sqrt();
        assert!((row.self_products[place] - own).abs() < 1e-5 * own, "{tensor}");
        assert!((pair.self_products[place] - other).abs() < 1e-5 * other, "{tensor}");
        assert!((pair.products[place] - product).abs() < 1e-5 * scale, "{tensor}");
    }
    assert_eq!(table.tensors().len(), expected["products"].as_object().unwrap().len());
}

#[test]
fn products_are_those_of_gradients_one_at_a_time() {
    let (_folder, config) = study();
    let (model, encoder) = (model("llama"), encoder());
    let of = |samples: &[(&str, &str)]| -> Vec<(f64, Vec<(String, Vec<f32>)>)> {
        let sample = |(question, answer): &(&str, &str)| encoder.encode(&conversation(question, answer)).unwrap();
        samples.iter().map(|texts| gradients(&model, &sample(texts))).collect()
    };
    let (originals, rewritten) = (of(&ORIGINALS), of(&REWRITTEN));
    let table = table(&config, &[rows(&REWRITTEN)]);
    let names: Vec<&String> = rewritten[0].1.iter().map(|(name, _)| name).collect();
    assert_eq!(table.tensors().iter().collect::<Vec<_>>(), names);
    // Embeddings and a head of its own, norms, and every linear layer.
    assert_eq!(names.len(), model.parameters().len());
    for (number, row) in table.rows().iter().enumerate() {
        assert_eq!((row.candidates.len(), row.truth.flatten().is_some()), (5, true));
        let own = &rewritten[number].1;
        for candidate in &row.candidates {
            let other = &originals[candidate.id.strip_prefix("mill_").unwrap().parse::<usize>().unwrap()].1;
            for (tensor, ((_, own), (_, other))) in own.iter().zip(other).enumerate() {
                let (product, scale) = (dot(own, other), dot(own, own).sqrt() * dot(other, other).sqrt());
                assert!((candidate.products[tensor] - product).abs() <= 1e-12 * scale);
                assert!((candidate.self_products[tensor] - dot(other, other)).abs() <= 1e-12 * dot(other, other));
                assert!((row.self_products[tensor] - dot(own, own)).abs() <= 1e-12 * dot(own, own));
            }
            // The cosine of the dots is that of the gradients one behind the other.
            let flat = |all: &[(String, Vec<f32>)]| all.iter().flat_map(|(_, one)| one.clone()).collect::<Vec<f32>>();
            let (own, other) = (flat(own), flat(other));
            let cosine = dot(&own, &other) / (dot(&own, &own).sqrt() * dot(&other, &other).sqrt());
            assert!((candidate.cosine.unwrap() - cosine).abs() < 1e-12);
        }
    }
}

#[test]
fn gradients_of_two_samples_differ_in_every_tensor_and_repeat_bit_for_bit() {
    let (model, encoder) = (model("llama"), encoder());
    let of = |(question, answer)| gradients(&model, &encoder.encode(&conversation(question, answer)).unwrap());
    let (one, again, other) = (of(ORIGINALS[0]), of(ORIGINALS[0]), of(ORIGINALS[1]));
    assert_eq!(one, again);
    for ((name, one), (_, other)) in one.1.iter().zip(&other.1) {
        assert!(one != other, "{name}");
    }
}

/// Bits, also of numbers that are compared.
#[test]
fn results_depend_neither_on_order_nor_on_batches_nor_on_what_is_kept() {
    let (_folder, config) = study();
    // Those of a layer: random projections of all take long.
    let config = with(&config, json!({"tensors": {"include": ["*.1.*"]}, "projection": {"shares": [0.01, 0.2]}}));
    let all = rows(&REWRITTEN);
    let expected = table(&with(&config, json!({"cache_bytes": 0})), std::slice::from_ref(&all));
    let model = model("llama");
    let taken = model.parameters().filter(|parameter| parameter.name().contains(".1."));
    let elements: usize = taken.map(|parameter| parameter.elements()).sum();
    let reversed: Vec<RecordBatch> = (0..7).rev().map(|row| all.slice(row, 1)).collect();
    let twice = |bytes: usize| with(&config, json!({"cache_bytes": bytes}));
    for (how, config, batches) in [
        ("again", twice(0), vec![all.clone()]),
        ("one row a batch, backwards", twice(0), reversed.clone()),
        ("all kept", twice(1 << 30), vec![all.clone()]),
        ("all kept, backwards", twice(1 << 30), reversed.clone()),
        ("two kept", twice(elements * 9), reversed.clone()),
        ("sketches kept", twice(elements * 3), reversed),
    ] {
        assert!(table(&config, &batches) == expected, "{how}");
        assert!(table(&config, &batches) == expected, "{how}, with what is kept");
    }
    // Parts of the rows, each a run of its own.
    let parts = crate::analysis::pairs::partition(7, 3)
        .into_iter()
        .map(|part| table(&twice(1 << 30), &[all.slice(part.start, part.len())]));
    assert!(PairTable::combine(parts.collect()).unwrap() == expected);
}

#[test]
fn sums_may_be_in_single_precision() {
    let (_folder, config) = study();
    let [double, single] =
        ["f64", "f32"].map(|sums| table(&with(&config, json!({"accumulate": sums})), &[rows(&REWRITTEN)]));
    assert!(double != single);
    let cosines = |table: &PairTable| -> Vec<f64> {
        table.rows().iter().flat_map(|row| &row.candidates).map(|candidate| candidate.cosine.unwrap()).collect()
    };
    for (one, other) in cosines(&double).into_iter().zip(cosines(&single)) {
        assert!((one - other).abs() < 1e-6);
    }
    let values: Vec<f32> = (0..10_007).map(|place| ((place * 37 % 101) as f32 - 50.0) / 7.0).collect();
    let exact = dot(&values, &values);
    assert!((Accumulate::F64.dot(&values, &values) - exact).abs() < 1e-13 * exact);
    let single = Accumulate::F32.dot(&values, &values);
    assert!((single - exact).abs() < 1e-6 * exact && single != exact);
    assert_eq!(Accumulate::F64.dot(&[], &[]), 0.0);
}

#[test]
fn some_tensors_are_enough() {
    let (_folder, config) = study();
    let all = table(&config, &[rows(&REWRITTEN)]);
    let some = table(
        &with(&config, json!({"tensors": {"include": ["*.1.mlp.*", "*norm*"], "exclude": ["*.up_proj.*"]}})),
        &[rows(&REWRITTEN)],
    );
    let places: Vec<usize> =
        some.tensors().iter().map(|name| all.tensors().iter().position(|one| one == name).unwrap()).collect();
    assert_eq!(some.tensors().iter().filter(|name| name.contains("mlp")).count(), 2);
    assert!(some.tensors().iter().any(|name| name == "model.norm.weight"));
    for (some, all) in some.rows().iter().zip(all.rows()) {
        let expected: Vec<f64> = places.iter().map(|&place| all.self_products[place]).collect();
        assert_eq!(some.self_products, expected);
        let expected: Vec<f64> = places.iter().map(|&place| all.candidates[2].products[place]).collect();
        assert_eq!(some.candidates[2].products, expected);
    }
}

#[test]
fn candidates_are_searched_or_given() {
    let (_folder, config) = study();
    let all = rows(&REWRITTEN);
    // The first of the search is nearly always the truth here; one place leaves room for it alone.
    let one = table(&with(&config, json!({"top": 1})), std::slice::from_ref(&all));
    assert!(one.rows().iter().all(|row| row.candidates[0].id == row.id && row.truth == Some(Some(0))));
    let unknown = table(&with(&config, json!({"truth": null, "top": 2})), std::slice::from_ref(&all));
    assert!(unknown.rows().iter().all(|row| row.truth.is_none() && row.candidates[0].bm25 >= row.candidates[1].bm25));

    // Given ones: by any order, without a score.
    let lists = arrow_array::ListArray::new(
        Arc::new(arrow_schema::Field::new("item", arrow_schema::DataType::Utf8, true)),
        arrow_buffer::OffsetBuffer::from_lengths([2; 7]),
        Arc::new(StringArray::from_iter_values(
            (0..7)
                .flat_map(|row| [format!("mill_{}", 6 - row), "mill_1".to_owned()])
                .enumerate()
                .map(|(place, id)| if place == 11 { "mill_2".to_owned() } else { id }),
        )),
        None,
    );
    let mut columns: Vec<(&str, ArrayRef)> =
        vec![("id", Arc::clone(&all["id"])), ("messages", Arc::clone(&all["messages"]))];
    columns.push(("like", Arc::new(lists)));
    let named = RecordBatch::try_from_iter(columns).unwrap();
    let given = table(&with(&config, json!({"candidates": "like"})), &[named]);
    let searched = table(&config, &[all]);
    for (number, row) in given.rows().iter().enumerate() {
        assert_eq!(row.candidates[0].id, format!("mill_{}", 6 - number));
        let truth = row.candidates.iter().position(|candidate| candidate.id == row.id);
        assert_eq!((row.truth, row.candidates[0].bm25), (Some(truth), None));
        for candidate in &row.candidates {
            let same = searched.rows()[number].candidates.iter().find(|one| one.id == candidate.id);
            assert!(same.is_none_or(|same| same.products == candidate.products && same.cosine == candidate.cosine));
        }
    }
}

#[test]
fn samples_may_be_texts_and_lists_of_structs() {
    let (folder, config) = study();
    // The originals of the study are lists of structs; the rows become such by way of a file.
    let path = folder.path().join("rows.jsonl");
    let lines: Vec<String> = REWRITTEN
        .iter()
        .enumerate()
        .map(|(number, (question, answer))| {
            let messages = json!([{"role": "user", "content": question}, {"role": "assistant", "content": answer}]);
            json!({"id": format!("mill_{number}"), "messages": messages}).to_string()
        })
        .collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    let structs = crate::tables::read(path.to_str().unwrap(), &Resources::local()).unwrap().0;
    assert!(table(&config, &[structs]) == table(&config, &[rows(&REWRITTEN)]));

    // A prompt and an answer with the tokenizer's special tokens around them: what the template writes, written out.
    let written = |samples: &[(&str, &str)]| {
        let column = |text: &dyn Fn(&(&str, &str)) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(samples.iter().map(text)))
        };
        RecordBatch::try_from_iter([
            ("id", Arc::clone(&rows(samples)["id"])),
            ("asked", column(&|(question, _)| format!("user: {question}\nassistant:"))),
            ("answered", column(&|(_, answer)| format!(" {answer}\n"))),
        ])
        .unwrap()
    };
    let path = folder.path().join("texts.arrow");
    std::fs::write(&path, crate::tables::write_arrow(&[written(&ORIGINALS)]).unwrap()).unwrap();
    let texts = json!({
        "model": fixture("llama"), "prompt": "asked", "answer": "answered", "candidates": null, "truth": "id", "top": 7,
        "originals": {"path": path, "prompt": "asked", "answer": "answered"},
    });
    let (texts, messages) =
        (table(&texts, &[written(&REWRITTEN)]), table(&with(&config, json!({"top": 7})), &[rows(&REWRITTEN)]));
    for (texts, messages) in texts.rows().iter().zip(messages.rows()) {
        assert_eq!(texts.self_products, messages.self_products);
    }
}

#[test]
fn conformance_suite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("originals.arrow");
    let texts: Vec<String> = (0..15).map(|number| format!("the fox of label {number}")).collect();
    let labels: Vec<String> = (0..15).map(|number| format!("label {}", number % 4)).collect();
    let originals = RecordBatch::try_from_iter([
        ("id", numbers(15)),
        ("label", Arc::new(StringArray::from(labels)) as ArrayRef),
        ("text", Arc::new(StringArray::from(texts))),
    ])
    .unwrap();
    std::fs::write(&path, crate::tables::write_arrow(&[originals]).unwrap()).unwrap();
    let config = json!({
        "model": fixture("llama"), "prompt": "label", "answer": "text", "top": 2, "on_error": "quarantine",
        "originals": {"path": path, "prompt": "label", "answer": "text"}, "projection": {"shares": [0.001]},
        "tensors": {"include": ["*.1.self_attn.*"]},
    });
    conformance::check(&GradientPairsKind, &config);
}
