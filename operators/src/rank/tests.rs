#![allow(clippy::unwrap_used)]

use arrow_array::builder::StringDictionaryBuilder;
use arrow_array::types::{Float32Type, Int32Type};
use arrow_array::{Float32Array, Float64Array, Int64Array, StringArray, StringViewArray};
use arrow_buffer::NullBuffer;
use arrow_schema::Schema;
use serde_json::json;

use super::*;
use crate::{apply, conformance, scores};

#[test]
fn conforms() {
    for order in ["ascending", "descending"] {
        conformance::check(&RankKind, &json!({"by": "id", "k": 3, "order": order, "columns": ["text", "label"]}));
    }
    conformance::check(&RankKind, &json!({"by": "id"}));
}

/// Numbers that look random, the same at each run.
fn hash(seed: u64) -> u64 {
    u64::from_le_bytes(blake3::hash(&seed.to_le_bytes()).as_bytes()[..8].try_into().unwrap())
}

/// Rows with scores from a few values, so that many are equal; every seventh row has none, some are not numbers.
fn rows(rows: usize, queries: usize) -> RecordBatch {
    let names: Vec<String> = (0..queries).map(|query| format!("q{query}")).collect();
    let score = |place: usize| match hash(place as u64) % 19 {
        0 => f32::NAN,
        1 => f32::NEG_INFINITY,
        2 => f32::INFINITY,
        3 => -0.0,
        value => value as f32 - 10.0,
    };
    let values: Vec<f32> = (0..rows * queries).map(score).collect();
    let valid = NullBuffer::from((0..rows).map(|row| row % 7 != 3).collect::<Vec<_>>());
    let column = scores::column(queries, values, Some(valid)).unwrap();
    let texts: StringViewArray =
        (0..rows).map(|row| (row % 5 != 1).then(|| format!("a text that is not short, of row {row}"))).collect();
    let mut langs = StringDictionaryBuilder::<Int32Type>::new();
    (0..rows).for_each(|row| langs.append_value(["en", "de", "fr"][row % 3]));
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        scores::field("scores", &names).unwrap(),
        Field::new("text", DataType::Utf8View, true),
        Field::new("lang", DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)), false),
    ];
    let columns: Vec<ArrayRef> = vec![
        Arc::new((0..rows as i64).collect::<Int64Array>()),
        Arc::new(column),
        Arc::new(texts),
        Arc::new(langs.finish()),
    ];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn bound(config: &Value, input: &SchemaRef) -> (Arc<dyn Operator>, RankShape) {
    let complete = RankKind.complete(config).unwrap();
    let shape = RankShape::of(&serde_json::from_value(complete.clone()).unwrap(), input).unwrap();
    (RankKind.bind(&OperatorSpec::new(KIND, complete), input, &Resources::local()).unwrap(), shape)
}

/// The ranking of streams, each pushed in batches of so many rows.
fn ranking(config: &Value, streams: &[RecordBatch], batch: usize) -> (Vec<RecordBatch>, RankedBatches) {
    let (operator, shape) = bound(config, &streams[0].schema());
    let mut merge = RankMerge::new(&shape);
    for stream in streams {
        let batches = (0..stream.num_rows()).step_by(batch);
        let batches = batches.map(|first| stream.slice(first, batch.min(stream.num_rows() - first)));
        let part = apply(operator.as_ref(), batches).unwrap();
        assert_eq!(part.accounted(), stream.num_rows() as u64);
        part.batches.iter().for_each(|batch| merge.push(batch).unwrap());
    }
    let ended = merge.finish().unwrap();
    let mut batches = ended;
    let all = batches.by_ref().collect::<Result<Vec<_>>>().unwrap();
    (all, batches)
}

/// Query, rank, score and id of each row of a ranking.
fn lines(batches: &[RecordBatch]) -> Vec<(String, u32, f32, i64)> {
    let mut lines = Vec::new();
    for batch in batches {
        let scores = batch["score"].as_primitive::<Float32Type>();
        let ids = batch["id"].as_primitive::<arrow_array::types::Int64Type>();
        let ranks = batch["rank"].as_primitive::<arrow_array::types::UInt32Type>();
        let queries = batch["query"].as_string::<i32>();
        for row in 0..batch.num_rows() {
            lines.push((queries.value(row).to_owned(), ranks.value(row), scores.value(row), ids.value(row)));
        }
    }
    lines
}

/// By sorting everything.
fn brute(rows: &RecordBatch, k: usize, order: RankOrder) -> Vec<(String, u32, f32, i64)> {
    let lists = rows["scores"].as_fixed_size_list();
    let queries = lists.value_length() as usize;
    let values = lists.values().as_primitive::<Float32Type>();
    let mut lines = Vec::new();
    for query in 0..queries {
        let mut scored: Vec<(f32, i64)> = (0..rows.num_rows())
            .filter(|row| lists.is_valid(*row))
            .map(|row| (values.value(row * queries + query) + 0.0, row as i64))
            .filter(|(score, _)| !score.is_nan())
            .collect();
        // Stable, so that equal scores stay in the order of rows.
        scored.sort_by(|one, other| match order {
            RankOrder::Ascending => one.0.total_cmp(&other.0),
            RankOrder::Descending => other.0.total_cmp(&one.0),
        });
        let ranked = (1_u32..).zip(scored).take(k);
        lines.extend(ranked.map(|(rank, (score, row))| (format!("q{query}"), rank, score, row)));
    }
    lines
}

#[test]
fn a_ranking_is_that_of_sorting_everything_however_rows_are_divided() {
    let (total, queries) = (1500, 37);
    let whole = rows(total, queries);
    let lists = whole["scores"].as_fixed_size_list();
    let values = lists.values().as_primitive::<Float32Type>();
    let not_numbers = (0..total * queries)
        .filter(|place| lists.is_valid(place / queries) && values.value(*place).is_nan())
        .count() as u64;
    assert!(not_numbers > 100);
    for (k, order, name) in [
        (1, RankOrder::Descending, "descending"),
        (10, RankOrder::Descending, "descending"),
        (10, RankOrder::Ascending, "ascending"),
        (5000, RankOrder::Descending, "descending"),
    ] {
        let expected = brute(&whole, k, order);
        let config = json!({"by": "scores", "k": k, "order": name, "columns": ["id", "text", "lang"]});
        for (stream, batch) in [(total, total), (total, 1), (100, 33), (7, 7), (1, 1)] {
            let streams: Vec<RecordBatch> =
                (0..total).step_by(stream).map(|first| whole.slice(first, stream.min(total - first))).collect();
            let (batches, ended) = ranking(&config, &streams, batch);
            let found = lines(&batches);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found, expected, "k {k}, {name}, streams of {stream}, batches of {batch}");
            }
            assert_eq!((ended.not_numbers(), ended.rows()), (not_numbers, expected.len() as u64));
            let first = ended.query(0).unwrap().unwrap();
            assert_eq!((first.query.as_str(), first.best), ("q0", Some(f64::from(expected[0].2))));
            for batch in &batches {
                let (ids, texts) =
                    (batch["id"].as_primitive::<arrow_array::types::Int64Type>(), batch["text"].as_string::<i32>());
                for row in 0..batch.num_rows() {
                    let id = ids.value(row);
                    let text = (id % 5 != 1).then(|| format!("a text that is not short, of row {id}"));
                    assert_eq!(texts.is_valid(row).then(|| texts.value(row)), text.as_deref());
                    assert_eq!(batch["lang"].as_string::<i32>().value(row), ["en", "de", "fr"][id as usize % 3]);
                }
            }
        }
    }
}

#[test]
fn a_stream_without_columns_or_without_scores_ranks_too() {
    let whole = rows(50, 3);
    let (batches, ended) =
        ranking(&json!({"by": "scores", "k": 4, "columns": []}), &[whole.slice(0, 20), whole.slice(20, 30)], 6);
    assert_eq!(ended.rows(), 12);
    assert_eq!(batches[0].num_columns(), 3);
    let nothing = whole.slice(3, 1);
    let (batches, ended) = ranking(&json!({"by": "scores"}), &[nothing], 1);
    assert_eq!((batches.len(), ended.rows(), ended.not_numbers()), (0, 0, 0));
    assert_eq!(ended.query(1).unwrap().unwrap().best, None);
    assert_eq!(ended.query(3).unwrap(), None);
}

#[test]
fn numbers_are_one_query() {
    let numbers: Float64Array = [Some(2.0), None, Some(f64::NAN), Some(-1.0), Some(2.0)].into_iter().collect();
    let ids = StringArray::from(vec!["a", "b", "c", "d", "e"]);
    let batch =
        RecordBatch::try_from_iter([("n", Arc::new(numbers) as ArrayRef), ("id", Arc::new(ids) as ArrayRef)]).unwrap();
    let (operator, _) = bound(&json!({"by": "n", "columns": ["id"]}), &batch.schema());
    let output = apply(operator.as_ref(), [batch.clone()]).unwrap();
    assert_eq!((output.kept, output.rows_rejected(), output.rejected[0].reason.as_str()), (4, 1, "no score"));
    let (batches, ended) = ranking(&json!({"by": "n", "columns": ["id"], "order": "ascending"}), &[batch], 2);
    assert_eq!(batches[0]["id"].as_string::<i32>().iter().flatten().collect::<String>(), "dae");
    assert_eq!(batches[0]["query"].as_string::<i32>().value(0), "n");
    assert_eq!(ended.not_numbers(), 1);
}

/// A list of another program may lack single scores; they do not rank.
#[test]
fn missing_scores_do_not_rank() {
    let values: Float32Array = [Some(1.0), None, None, Some(4.0)].into_iter().collect();
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let lists = arrow_array::FixedSizeListArray::try_new(item, 2, Arc::new(values), None).unwrap();
    let batch = RecordBatch::try_from_iter([("s", Arc::new(lists) as ArrayRef)]).unwrap();
    let (batches, ended) = ranking(&json!({"by": "s"}), &[batch], 1);
    let scores = batches[0]["score"].as_primitive::<Float32Type>();
    assert_eq!((scores.values().as_ref(), ended.not_numbers()), (&[1.0, 4.0][..], 2));
    assert_eq!(batches[0]["query"].as_string::<i32>().iter().flatten().collect::<String>(), "01");
}

/// The rows that are held do not hold the batches that they came in, and are not more than twice those that can still rank.
#[test]
fn memory_is_that_of_the_best_rows() {
    let (queries, k) = (4, 5);
    let whole = rows(4000, queries);
    let (_, shape) = bound(&json!({"by": "scores", "k": k, "columns": ["id", "text", "lang"]}), &whole.schema());
    let mut candidates = Candidates::new(queries, k);
    let mut pool = Pool::new(Arc::clone(&shape.carried_schema));
    for round in 0..200_u64 {
        let columns: Vec<&ArrayRef> = shape.carried.iter().map(|&column| whole.column(column)).collect();
        // Each row is better than all before.
        let taken: Vec<u32> = (0..100).collect();
        let places: Vec<u64> = (0..100).map(|row| round * 100 + row).collect();
        for &place in &places {
            (0..queries).for_each(|query| assert!(candidates.offer(query, Entry { key: u64::MAX - 1 - place, place })));
        }
        pool.take(&columns, taken, places).unwrap();
        if pool.is_full() {
            pool.keep(&candidates.places()).unwrap();
        }
    }
    let chunks = pool.into_chunks();
    let rows: usize = chunks.iter().map(|chunk| chunk.places.len()).sum();
    let bytes: usize = chunks.iter().map(|chunk| chunk.rows.get_array_memory_size()).sum();
    assert!(rows <= 2 * k + 1024 + 100, "{rows} rows are held");
    assert!(bytes < 300 * rows, "{bytes} bytes are held for {rows} rows");
}

#[test]
fn errors_name_the_key_the_value_and_what_is_allowed() {
    let input = rows(1, 2).schema();
    for (config, says) in [
        (json!({"by": "scores", "k": 0}), vec!["'k'", "0 rows", "1 to 4294967295"]),
        (json!({"by": "scores", "order": "up"}), vec!["'order'", "'up'", "descending, ascending"]),
        (json!({"by": "scors"}), vec!["no column 'scors'", "did you mean 'scores'?"]),
        (json!({"by": "text"}), vec!["column 'text' has type Utf8View", "a column of scores", "numbers"]),
        (json!({"by": "scores", "columns": ["ids"]}), vec!["no column 'ids'", "did you mean 'id'?"]),
        (json!({"by": "scores", "columns": ["id", "id"]}), vec!["'columns.1'", "'id' is named twice"]),
        (json!({"by": "scores", "columns": ["rank"]}), vec!["'columns.0'", "a column 'rank' of its own", "select"]),
        (json!({"k": 1}), vec!["'by' is missing"]),
    ] {
        let bound = RankKind
            .complete(&config)
            .and_then(|config| RankKind.bind(&OperatorSpec::new(KIND, config), &input, &Resources::local()));
        let message = bound.unwrap_err().to_string();
        for part in says {
            assert!(message.contains(part), "{config}: {part:?} is not in {message}");
        }
    }
}
