//! Figures against those that are computed by hand or by trying everything.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use arrow_array::Array as _;
use arrow_array::builder::{BooleanBuilder, Float64Builder, StringBuilder, UInt64Builder};
use arrow_array::{
    ArrayRef, FixedSizeListArray, Float64Array, ListArray, RecordBatch, StringArray, StructArray, UInt32Array,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, Schema};
use serde_json::{Value, json};

use super::*;

/// Numbers between -1 and 1 that look random.
fn noise(seed: u64) -> f64 {
    let mut value = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (value ^ (value >> 31)) as f64 / 2.0_f64.powi(63) - 1.0
}

/// Gradients of two elements for each tensor, and a table of their products.
fn table(samples: usize, tensors: usize, candidates: usize) -> PairTable {
    let gradient = |number: usize, tensor: usize| -> [f64; 2] {
        [0, 1].map(|place| noise((number * 1009 + tensor * 31 + place) as u64) * (1.0 + tensor as f64))
    };
    let dot = |a: [f64; 2], b: [f64; 2]| a[0] * b[0] + a[1] * b[1];
    let rows = (0..samples).map(|sample| {
        let truth = sample * 7 % candidates;
        let own = |tensor: usize| {
            // Near the true original, the less the later the tensor.
            let (one, other) = (gradient(sample * 100 + truth, tensor), gradient(90_000 + sample, tensor));
            [0, 1].map(|place| one[place] + other[place] * (0.4 + tensor as f64 / 3.0))
        };
        PairRow {
            id: format!("lima_{}", (sample * 37) % 1000),
            self_products: (0..tensors).map(|tensor| dot(own(tensor), own(tensor))).collect(),
            truth: Some(Some(truth)),
            candidates: (0..candidates)
                .map(|place| {
                    let other = |tensor| gradient(sample * 100 + place, tensor);
                    let products: Vec<f64> = (0..tensors).map(|tensor| dot(own(tensor), other(tensor))).collect();
                    let self_products: Vec<f64> =
                        (0..tensors).map(|tensor| dot(other(tensor), other(tensor))).collect();
                    let norms: f64 = self_products.iter().sum::<f64>().sqrt()
                        * (0..tensors).map(|tensor| dot(own(tensor), own(tensor))).sum::<f64>().sqrt();
                    let cosine = products.iter().sum::<f64>() / norms;
                    Candidate {
                        id: format!("lima_{}", (sample * 37 + (place + candidates - truth) * 11) % 1000),
                        bm25: Some(10.0 - place as f64),
                        cosine: Some(cosine),
                        products,
                        self_products,
                        projected: vec![Some(cosine + 0.01 * noise(place as u64)), None],
                    }
                })
                .collect(),
        }
    });
    let names = (0..tensors).map(|tensor| match tensor {
        0 => "model.embed_tokens.weight".to_owned(),
        tensor => {
            format!("model.layers.{}.{}.weight", (tensor - 1) / 2, ["mlp.up_proj", "mlp.down_proj"][(tensor - 1) % 2])
        }
    });
    PairTable::new(names.collect(), vec![1024, 4096], rows.collect()).unwrap()
}

/// Similarities by a choice of tensors, written out.
fn similarities(table: &PairTable, tensors: &[usize]) -> Vec<f64> {
    let mut all = Vec::new();
    for row in table.rows() {
        for candidate in &row.candidates {
            let sum = |values: &[f64]| tensors.iter().map(|&tensor| values[tensor]).sum::<f64>();
            let norms = sum(&row.self_products).sqrt() * sum(&candidate.self_products).sqrt();
            all.push(sum(&candidate.products) / norms);
        }
    }
    all
}

fn accuracy(table: &PairTable, tensors: &[usize]) -> f64 {
    let all = similarities(table, tensors);
    let mut right = 0;
    let mut rest = all.as_slice();
    for row in table.rows() {
        let (own, others) = rest.split_at(row.candidates.len());
        rest = others;
        let most = own.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        right += usize::from(own[row.truth.unwrap().unwrap()] == most);
    }
    right as f64 / table.rows().len() as f64
}

fn agreement(table: &PairTable, tensors: &[usize]) -> f64 {
    let all: Vec<usize> = (0..table.tensors().len()).collect();
    let (one, full) = (similarities(table, tensors), similarities(table, &all));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(&one, &full) / (dot(&one, &one) * dot(&full, &full)).sqrt()
}

fn near(one: f64, other: f64) -> bool {
    (one - other).abs() < 1e-12
}

#[test]
fn figures_of_tensors_and_of_all_are_those_written_out() {
    let table = table(60, 5, 5);
    let report = report(&table, 3);
    assert_eq!((report.samples, report.pairs, report.known), (60, 300, 60));
    assert!(near(report.chance.unwrap(), 0.2));
    for (tensor, figures) in report.tensors.iter().enumerate() {
        assert_eq!(figures.accuracy, Some(accuracy(&table, &[tensor])));
        assert!(near(figures.agreement, agreement(&table, &[tensor])));
    }
    let all = [0, 1, 2, 3, 4];
    assert_eq!(report.full.accuracy, Some(accuracy(&table, &all)));
    // The fixture is neither hopeless nor trivial.
    assert!(report.full.accuracy.unwrap() > 0.4 && report.full.accuracy.unwrap() < 1.0, "{:?}", report.full.accuracy);
    assert_eq!(report.full.wrong.len(), ((1.0 - report.full.accuracy.unwrap()) * 60.0).round() as usize);
    let first = table.rows().iter().filter(|row| row.truth == Some(Some(0))).count();
    assert!(near(report.bm25_accuracy.unwrap(), first as f64 / 60.0));
    // The cosine that is kept is that of the sums.
    let full = similarities(&table, &all);
    let kept: Vec<f64> = table.rows().iter().flat_map(|row| &row.candidates).map(|one| one.cosine.unwrap()).collect();
    assert!(full.iter().zip(&kept).all(|(&one, &other)| near(one, other)));
    let mut best: Vec<f64> = full.chunks(5).map(|row| row.iter().copied().fold(f64::NEG_INFINITY, f64::max)).collect();
    assert!(near(report.full.mean_best, best.iter().sum::<f64>() / 60.0));
    best.sort_by(f64::total_cmp);
    assert!(near(report.full.median_best, (best[29] + best[30]) / 2.0));

    assert_eq!(
        report.components.iter().map(|one| (one.component.as_str(), one.tensors)).collect::<Vec<_>>(),
        [("model.embed_tokens", 1), ("mlp.up_proj", 2), ("mlp.down_proj", 2),]
    );
    let mean = (accuracy(&table, &[2]) + accuracy(&table, &[4])) / 2.0;
    assert!(near(report.components[2].accuracy.unwrap(), mean));

    // Projections: nearly the cosines, and none at all, where the first candidate is always taken.
    let [near_full, nothing] = &report.projections[..] else { panic!("{:?}", report.projections) };
    assert!(near_full.agreement > 0.99 && near_full.dimensions == 1024);
    assert!(near(nothing.retrieval.accuracy.unwrap(), first as f64 / 60.0) && nothing.agreement == 0.0);

    let most = report.tensors.iter().map(|one| one.accuracy.unwrap()).fold(0.0, f64::max);
    let best = report.tensors.iter().position(|one| one.accuracy == Some(most)).unwrap();
    let by_tensor = similarities(&table, &[best]);
    let distance =
        |row: usize| (row * 5..row * 5 + 5).map(|place| (by_tensor[place] - full[place]).powi(2)).sum::<f64>().sqrt();
    let mut distances: Vec<f64> = (0..60).map(distance).collect();
    distances.sort_by(|one, other| other.total_cmp(one));
    assert_eq!(report.divergent.len(), 3);
    for (divergent, distance) in report.divergent.iter().zip(distances) {
        assert!(near(divergent.distance, distance) && divergent.tensor == table.tensors()[best]);
        assert_eq!((divergent.candidates.len(), divergent.by_all.len()), (5, 5));
    }
}

#[test]
fn greedy_choices_are_those_of_trying_every_tensor() {
    let table = table(25, 3, 4);
    let report = report(&table, 0);
    assert!(report.divergent.is_empty());
    type Value = fn(&PairTable, &[usize]) -> f64;
    for (steps, value) in [(&report.by_agreement, agreement as Value), (&report.by_accuracy, accuracy as Value)] {
        let mut chosen: Vec<usize> = Vec::new();
        for step in steps {
            let left = (0..3).filter(|tensor| !chosen.contains(tensor));
            let values: Vec<(usize, f64)> =
                left.map(|tensor| (tensor, value(&table, &[chosen.clone(), vec![tensor]].concat()))).collect();
            let most = values.iter().map(|(_, value)| *value).fold(f64::NEG_INFINITY, f64::max);
            // Of several that are as good the first.
            let first = values.iter().find(|(_, value)| near(*value, most)).unwrap().0;
            chosen.push(first);
            assert_eq!(step.tensor, table.tensors()[first]);
            assert!(
                near(step.agreement, agreement(&table, &chosen)) && step.accuracy == Some(accuracy(&table, &chosen))
            );
        }
        // The last step is the whole gradient.
        assert_eq!(chosen.len(), 3);
        let last = steps.last().unwrap();
        assert!(near(last.agreement, 1.0) && last.accuracy == report.full.accuracy);
    }
}

#[test]
fn equally_good_tensors_are_taken_in_their_order() {
    let candidate = |product: f64| Candidate {
        id: format!("c_{product}"),
        products: vec![product; 3],
        self_products: vec![1.0; 3],
        ..Candidate::default()
    };
    let row = |truth| PairRow {
        id: format!("s_{truth:?}"),
        self_products: vec![1.0; 3],
        truth,
        candidates: vec![candidate(0.5), candidate(0.25)],
    };
    let names: Vec<String> = ["c", "a", "b"].map(str::to_owned).to_vec();
    let table =
        PairTable::new(names.clone(), Vec::new(), vec![row(Some(Some(0))), row(Some(None)), row(None)]).unwrap();
    let report = report(&table, 1);
    for steps in [&report.by_accuracy, &report.by_agreement] {
        assert_eq!(steps.iter().map(|step| &step.tensor).collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    }
    // One of two is right: a true original that is no candidate is not found, and one that is not known does not count.
    assert_eq!((report.known, report.full.accuracy, report.bm25_accuracy), (2, Some(0.5), None));
    assert_eq!(report.full.wrong, ["s_Some(None)"]);

    // No true original is known, and a gradient that is 0.
    let mut unknown = row(None);
    unknown.self_products = vec![0.0; 3];
    let report = super::report(&PairTable::new(names, Vec::new(), vec![unknown]).unwrap(), 1);
    assert_eq!((report.full.accuracy, report.chance, report.full.mean_best), (None, None, 0.0));
    assert!(report.by_accuracy.is_empty() && report.by_agreement.len() == 3 && report.by_agreement[2].agreement == 0.0);
    let empty = super::report(&PairTable::default(), 3);
    assert_eq!((empty.samples, empty.tensors.len(), empty.divergent.len()), (0, 0, 0));
}

#[test]
fn tables_are_refused_that_do_not_fit_together() {
    let good = table(4, 3, 5);
    let rows = good.rows().to_vec();
    let of = |change: &dyn Fn(&mut Vec<PairRow>)| {
        let mut rows = rows.clone();
        change(&mut rows);
        PairTable::new(good.tensors().to_vec(), good.projections().to_vec(), rows).unwrap_err().to_string()
    };
    for (message, says) in [
        (of(&|rows| rows[1].id = rows[0].id.clone()), "sample 'lima_0': it is there twice"),
        (of(&|rows| rows[1].candidates.clear()), "it has no candidates"),
        (of(&|rows| rows[1].self_products.truncate(2)), "2 products for 3 tensors"),
        (of(&|rows| rows[1].candidates[2].products.push(0.0)), "4 products for 3 tensors"),
        (of(&|rows| rows[1].candidates[2].projected.clear()), "projected cosines than 2"),
        (of(&|rows| rows[1].truth = Some(Some(5))), "candidate 5 is said to be the true one of 5"),
    ] {
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn parts_are_put_together_in_order_and_gaps_and_overlaps_are_found() {
    let whole = table(988, 3, 5);
    for parts in [10, 50, 7] {
        let ranges = partition(988, parts);
        assert_eq!((ranges.len(), ranges.iter().map(ExactSizeIterator::len).sum::<usize>()), (parts, 988));
        assert!(ranges.windows(2).all(|two| two[0].end == two[1].start && two[0].len() >= two[1].len()));
        let part = |range: &Range<usize>| {
            let rows = whole.rows()[range.clone()].to_vec();
            PairTable::new(whole.tensors().to_vec(), whole.projections().to_vec(), rows).unwrap()
        };
        let mut tables: Vec<PairTable> = ranges.iter().map(part).collect();
        tables.reverse();
        let combined = PairTable::combine(tables.clone()).unwrap();
        assert_eq!(combined, whole);
        let ids: Vec<&str> = whole.rows().iter().map(|row| row.id.as_str()).collect();
        assert!(combined.expect_samples(ids.iter().copied()).is_ok());
        // One is missing, one overlaps another, and one is of another model.
        let gap = PairTable::combine(tables[1..].to_vec()).unwrap().expect_samples(ids.iter().copied());
        let gap = gap.map_err(|error| error.to_string());
        let missing = tables[0].rows().len();
        assert_eq!(gap.is_err(), missing > 0, "{gap:?}");
        assert!(combined.expect_samples(ids[1..].iter().copied()).unwrap_err().to_string().contains(ids[0]));
        tables.push(part(&(5..6)));
        let twice = PairTable::combine(tables.clone()).unwrap_err().to_string();
        assert!(twice.contains(&format!("'{}'", ids[5])) && twice.contains("twice"), "{twice}");
        tables.push(table(1, 2, 5));
        assert!(PairTable::combine(tables).unwrap_err().to_string().contains("other tensors"));
    }
    assert!(PairTable::combine(Vec::new()).is_err());
    // By the number at the end, and not as text.
    let ids: Vec<&str> = whole.rows().iter().take(3).map(|row| row.id.as_str()).collect();
    assert_eq!(ids, ["lima_0", "lima_1", "lima_2"]);
    assert!(partition(3, 0).is_empty());
    assert_eq!(partition(0, 3), [0..0, 0..0, 0..0]);
}

/// The shapes of published files: 988 samples of 5 originals each.
#[test]
fn families_have_the_published_names_and_shapes() {
    let table = table(988, 4, 5);
    let names = FamilyNames { setting: "paraphrased", model: "AMD-OLMo-1B", sample_size: None, part: None };
    let files = families(&table, &names).unwrap();
    let paths: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "gradient_similarity/paraphrased/AMD-OLMo-1B/sample_size_full.json",
            "gradient_similarity/random_projection/paraphrased/AMD-OLMo-1B/sample_size_full.json",
            "dot_products/paraphrased/AMD-OLMo-1B/sample_size/full/dot_products.json",
            "dot_products/paraphrased/AMD-OLMo-1B/sample_size/full/paraphrased_dot_products.json",
            "dot_products/paraphrased/AMD-OLMo-1B/sample_size/full/original_dot_products.json",
        ]
    );
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let by_sample = |value: &Value| {
        assert_eq!(value.as_object().unwrap().len(), 988);
        assert_eq!(keys(value)[..3], ["lima_0", "lima_1", "lima_2"]);
        for (row, (_, originals)) in table.rows().iter().zip(value.as_object().unwrap()) {
            let ids: Vec<String> = row.candidates.iter().map(|candidate| candidate.id.clone()).collect();
            assert_eq!(keys(originals), ids);
        }
    };
    by_sample(&files[0].1);
    let first = &table.rows()[0].candidates[3];
    assert_eq!(files[0].1["lima_0"][&first.id], json!(first.cosine));
    assert_eq!(keys(&files[1].1), ["1024", "4096"]);
    by_sample(&files[1].1["1024"]);
    assert_eq!(files[1].1["1024"]["lima_0"][&first.id], json!(first.projected[0]));
    assert_eq!(files[1].1["4096"]["lima_0"][&first.id], Value::Null);
    by_sample(&files[2].1);
    assert_eq!(keys(&files[2].1["lima_0"][&first.id]), table.tensors());
    assert_eq!(files[2].1["lima_0"][&first.id][&table.tensors()[2]], json!(first.products[2]));
    assert_eq!((files[3].1.as_object().unwrap().len(), keys(&files[3].1["lima_0"])), (988, table.tensors().to_vec()));
    assert_eq!(files[3].1["lima_0"][&table.tensors()[1]], json!(table.rows()[0].self_products[1]));
    let mut originals: Vec<&str> =
        table.rows().iter().flat_map(|row| &row.candidates).map(|candidate| candidate.id.as_str()).collect();
    originals.sort_unstable();
    originals.dedup();
    assert_eq!(files[4].1.as_object().unwrap().len(), originals.len());
    assert_eq!(files[4].1[&first.id][&table.tensors()[0]], json!(first.self_products[0]));

    let part = FamilyNames { sample_size: Some(100), part: Some(20..40), ..names.clone() };
    let files = families(&table, &part).unwrap();
    assert_eq!(files[0].0, "gradient_similarity/paraphrased/AMD-OLMo-1B/sample_size_100_part_20_40.json");
    assert_eq!(files[2].0, "dot_products/paraphrased/AMD-OLMo-1B/sample_size/100/dot_products_part_20_40.json");
    for bad in ["", "..", "org/model"] {
        assert!(families(&table, &FamilyNames { model: bad, ..names.clone() }).is_err());
    }
}

/// Batches as the step writes them, also with other types of text.
#[test]
fn columns_are_read_and_what_is_not_such_a_column_is_refused() {
    let expected = table(6, 3, 2);
    let batch = columns(&expected);
    assert_eq!(PairTable::read(std::slice::from_ref(&batch), "p", "id").unwrap(), expected);
    let parts = [batch.slice(0, 0), batch.slice(0, 2), batch.slice(2, 4)];
    assert_eq!(PairTable::read(&parts, "p", "id").unwrap(), expected);
    assert!(PairTable::read(&[], "p", "id").is_err());
    for (name, id, says) in
        [("q", "id", "no column 'q'"), ("p", "key", "no column 'key'"), ("id", "id", "what 'gradient_pairs' writes")]
    {
        let message = PairTable::read(std::slice::from_ref(&batch), name, id).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }
    let twice = PairTable::read(&[batch.clone(), batch], "p", "id").unwrap_err().to_string();
    assert!(twice.contains("it is there twice"), "{twice}");
}

fn columns(table: &PairTable) -> RecordBatch {
    let size = i32::try_from(table.tensors().len()).unwrap();
    let list = |size: i32, values: Vec<Option<f64>>, nullable| -> ArrayRef {
        let item = Arc::new(Field::new("item", DataType::Float64, nullable));
        Arc::new(FixedSizeListArray::new(item, size, Arc::new(Float64Array::from(values)), None))
    };
    let all: Vec<(&PairRow, usize)> =
        table.rows().iter().flat_map(|row| (0..row.candidates.len()).map(move |place| (row, place))).collect();
    let (mut ids, mut rows) = (StringBuilder::new(), UInt64Builder::new());
    let (mut truths, mut scores, mut cosines) = (BooleanBuilder::new(), Float64Builder::new(), Float64Builder::new());
    let [mut products, mut self_products, mut projected] = [Vec::new(), Vec::new(), Vec::new()];
    for &(row, place) in &all {
        let candidate = &row.candidates[place];
        ids.append_value(&candidate.id);
        rows.append_value(place as u64);
        truths.append_option(row.truth.map(|truth| truth == Some(place)));
        scores.append_option(candidate.bm25);
        cosines.append_option(candidate.cosine);
        products.extend(candidate.products.iter().copied().map(Some));
        self_products.extend(candidate.self_products.iter().copied().map(Some));
        projected.extend(candidate.projected.iter().copied());
    }
    let projections = i32::try_from(table.projections().len()).unwrap();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("original", Arc::new(ids.finish())),
        ("row", Arc::new(rows.finish())),
        ("is_truth", Arc::new(truths.finish())),
        ("bm25", Arc::new(scores.finish())),
        ("cosine", Arc::new(cosines.finish())),
        ("products", list(size, products, false)),
        ("self_products", list(size, self_products, false)),
        ("projected", list(projections, projected, true)),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    let structs = StructArray::new(fields.into(), columns.into_iter().map(|(_, column)| column).collect(), None);
    let item = Arc::new(Field::new("item", structs.data_type().clone(), false));
    let lengths = table.rows().iter().map(|row| row.candidates.len());
    let pairs = ListArray::new(item, OffsetBuffer::from_lengths(lengths), Arc::new(structs), None);
    let own = table.rows().iter().flat_map(|row| row.self_products.iter().copied().map(Some)).collect();
    let own = list(size, own, false);
    let metadata = StructArray::new(
        vec![
            Field::new("tokens", DataType::UInt32, false),
            Field::new("self_products", own.data_type().clone(), false),
        ]
        .into(),
        vec![Arc::new(UInt32Array::from(vec![4; table.rows().len()])), own],
        None,
    );
    let notes = [
        (TENSORS.to_owned(), json!(table.tensors()).to_string()),
        (PROJECTIONS.to_owned(), json!(table.projections()).to_string()),
    ];
    let ids = StringArray::from_iter_values(table.rows().iter().map(|row| &row.id));
    let schema = Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("p", pairs.data_type().clone(), true).with_metadata(notes.into()),
        Field::new("p_metadata", metadata.data_type().clone(), true),
    ]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), Arc::new(pairs), Arc::new(metadata)]).unwrap()
}
