//! Tables of candidates: of one stream, and of all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};

use arrow_array::builder::{FixedSizeBinaryBuilder, Float32Builder, ListBuilder, StringBuilder, UInt32Builder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, UInt32Type};
use arrow_array::{Array, ArrayRef, FixedSizeBinaryArray, Float64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use super::{Key, chance};
use crate::rank::{Candidates, Entry, Hit, Keys, RankOrder, ScoreType};
use crate::tables::read_arrow;
use crate::{OperatorError, ResourceIdentity, Resources, Result};

/// Scores of the cheaper method as keys of a ranking, the highest first.
pub(super) const fn keys() -> Keys {
    Keys { scores: ScoreType::Float32, order: RankOrder::Descending }
}

const WIDTH: i32 = size_of::<Key>() as i32;

fn item(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new_list_field(data_type, false))
}

/// What one stream gives: `key`, `queries` and `scores` of rows that are among the best of queries, in the order of the stream; then the smallest keys, with neither. The first row
/// says what they were chosen with.
pub(super) fn part_schema() -> &'static SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let list = |name, data_type| Field::new(name, DataType::List(item(data_type)), false);
        Arc::new(Schema::new(vec![
            Field::new("key", DataType::FixedSizeBinary(WIDTH), false),
            list("queries", DataType::UInt32),
            list("scores", DataType::Float32),
            Field::new("origin", DataType::Utf8, true),
        ]))
    });
    &SCHEMA
}

/// Builds a table of one stream.
pub(super) struct PartBuilder {
    keys: FixedSizeBinaryBuilder,
    queries: ListBuilder<UInt32Builder>,
    scores: ListBuilder<Float32Builder>,
    origins: StringBuilder,
    origin: Option<String>,
}

impl PartBuilder {
    pub(super) fn new(origin: &str) -> Self {
        Self {
            origins: StringBuilder::new(),
            origin: Some(origin.to_owned()),
            keys: FixedSizeBinaryBuilder::new(WIDTH),
            queries: ListBuilder::new(UInt32Builder::new()).with_field(item(DataType::UInt32)),
            scores: ListBuilder::new(Float32Builder::new()).with_field(item(DataType::Float32)),
        }
    }

    /// Adds a row that is among the best of queries.
    pub(super) fn best(&mut self, key: &Key, hits: &[Hit]) -> Result<()> {
        self.keys.append_value(key)?;
        for hit in hits {
            self.queries.values().append_value(hit.query);
            self.scores.values().append_value(keys().score_f32(hit.key));
        }
        self.queries.append(true);
        self.scores.append(true);
        self.origins.append_option(self.origin.take());
        Ok(())
    }

    /// Adds a key that is among the smallest.
    pub(super) fn smallest(&mut self, key: &Key) -> Result<()> {
        self.best(key, &[])
    }

    pub(super) fn finish(mut self) -> Result<RecordBatch> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.keys.finish()),
            Arc::new(self.queries.finish()),
            Arc::new(self.scores.finish()),
            Arc::new(self.origins.finish()),
        ];
        Ok(RecordBatch::try_new(Arc::clone(part_schema()), columns)?)
    }
}

/// Puts together what streams gave, in their order.
pub(super) struct Merge {
    keep: usize,
    margin: f64,
    sample: usize,
    queries: BTreeMap<u32, Candidates>,
    /// Keys of rows, by their number in the order in which they came.
    known: Vec<Key>,
    smallest: BTreeSet<Key>,
    origin: Option<String>,
}

impl Merge {
    pub(super) fn new(keep: u32, margin: f64, sample: u32) -> Self {
        let (keep, sample) = (keep as usize, sample as usize);
        Self {
            keep,
            margin,
            sample,
            queries: BTreeMap::new(),
            known: Vec::new(),
            smallest: BTreeSet::new(),
            origin: None,
        }
    }

    /// Adds the table of a stream; an error is a message.
    pub(super) fn add(&mut self, part: &RecordBatch) -> Result<(), String> {
        if part.schema().fields() != part_schema().fields() {
            return Err(format!("a part has the columns {}", part.schema()));
        }
        for origin in part.column(3).as_string::<i32>().iter().flatten() {
            let expected = self.origin.get_or_insert_with(|| origin.to_owned());
            if expected != origin {
                return Err(format!("parts were chosen with different things: {expected} and {origin}"));
            }
        }
        let (own, lists) = (part.column(0).as_fixed_size_binary(), [part.column(1), part.column(2)]);
        for row in 0..part.num_rows() {
            let own = key_at(own, row);
            let [queries, scores] = lists.map(|list| list.as_list::<i32>().value(row));
            let queries = queries.as_primitive::<UInt32Type>().values();
            if queries.is_empty() {
                self.smallest.insert(own);
                if self.smallest.len() > self.sample + 1 {
                    self.smallest.pop_last();
                }
                continue;
            }
            let place = self.known.len() as u64;
            let mut entered = false;
            for (&query, &score) in queries.iter().zip(scores.as_primitive::<Float32Type>().values()) {
                let Some(score) = keys().of_f32(score) else { continue };
                let candidates = self.queries.entry(query).or_insert_with(|| Candidates::new(1, 2 * self.keep));
                entered |= candidates.offer(0, Entry { key: score, place });
            }
            if entered {
                self.known.push(own);
            }
        }
        Ok(())
    }

    /// The rows that are scored, with what each stands for.
    pub(super) fn chosen(mut self) -> Chosen {
        // That many keys are below this one, so each row was among them with this probability.
        let drawn = if self.smallest.len() > self.sample { self.smallest.pop_last() } else { None };
        let by_chance = drawn.map_or(1.0, |key| chance(&key));
        let (mut best, mut behind) = (BTreeSet::new(), BTreeSet::new());
        for candidates in self.queries.values_mut() {
            candidates.sort();
            for (rank, entry) in candidates.of_query(0).iter().enumerate() {
                let group = if rank < self.keep { &mut best } else { &mut behind };
                // A number beyond those that are known cannot be there.
                group.extend(usize::try_from(entry.place).ok().and_then(|place| self.known.get(place)).copied());
            }
        }
        let probability = self.margin.max(by_chance);
        let behind: BTreeSet<Key> = behind.difference(&best).copied().collect();
        let drawn = self.smallest.iter().filter(|key| !best.contains(*key) && !behind.contains(*key));
        let drawn = drawn.map(|key| (*key, by_chance.recip()));
        let near = behind.iter().filter(|key| chance(key) < probability).map(|key| (*key, probability.recip()));
        let weights = best.iter().map(|key| (*key, 1.0)).chain(near).chain(drawn);
        Chosen { weights: weights.collect(), origin: self.origin }
    }
}

fn key_at(keys: &FixedSizeBinaryArray, row: usize) -> Key {
    let mut key = Key::default();
    key.copy_from_slice(keys.value(row));
    key
}

/// The rows that are scored, and how many rows each stands for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::influence::score) struct Chosen {
    pub(super) weights: HashMap<Key, f64>,
    /// What they were chosen with, where there are any.
    origin: Option<String>,
}

impl Chosen {
    /// How many rows a row stands for, if it is scored.
    pub(in crate::influence::score) fn weight(&self, key: &Key) -> Option<f64> {
        self.weights.get(key).copied()
    }

    /// Columns `key`, `weight` and `origin`, by key; the first row has the origin.
    pub(super) fn to_batch(&self) -> Result<RecordBatch> {
        let mut rows: Vec<(&Key, f64)> = self.weights.iter().map(|(key, weight)| (key, *weight)).collect();
        rows.sort_unstable_by_key(|(key, _)| **key);
        let mut keys = FixedSizeBinaryBuilder::with_capacity(rows.len(), WIDTH);
        rows.iter().try_for_each(|(key, _)| keys.append_value(key))?;
        let origins: StringArray = (0..rows.len()).map(|row| self.origin.as_deref().filter(|_| row == 0)).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(keys.finish()),
            Arc::new(Float64Array::from_iter_values(rows.iter().map(|(_, weight)| *weight))),
            Arc::new(origins),
        ];
        let schema = Schema::new(vec![
            Field::new("key", DataType::FixedSizeBinary(WIDTH), false),
            Field::new("weight", DataType::Float64, false),
            Field::new("origin", DataType::Utf8, true),
        ]);
        Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
    }

    /// Reads a table of this origin.
    ///
    /// # Errors
    /// A file that cannot be read or is something else, and one that was chosen otherwise.
    pub(in crate::influence::score) fn read(
        location: &str,
        origin: &str,
        resources: &Resources,
    ) -> Result<(Self, ResourceIdentity)> {
        let unusable = |message: String| OperatorError::Resource { location: location.to_owned(), message };
        let (bytes, identity) = resources.read(location)?;
        let mut chosen = Self::default();
        for batch in read_arrow(location, bytes)? {
            let whole = |name: &str| batch.column_by_name(name).filter(|column| column.null_count() == 0);
            let keys = whole("key").and_then(|keys| keys.as_fixed_size_binary_opt());
            let weights = whole("weight").and_then(|weights| weights.as_primitive_opt::<Float64Type>());
            let origins = batch.column_by_name("origin").and_then(|origins| origins.as_string_opt::<i32>());
            let (Some(keys), Some(weights), Some(origins)) = (keys, weights, origins) else {
                return Err(unusable("the file is no table of candidates".to_owned()));
            };
            if keys.value_length() != WIDTH {
                return Err(unusable(format!("its keys have {} bytes; {WIDTH} are expected", keys.value_length())));
            }
            for found in origins.iter().flatten() {
                if found != origin {
                    return Err(unusable(format!("its candidates were chosen with {found}; {origin} is expected")));
                }
                chosen.origin = Some(found.to_owned());
            }
            for row in 0..batch.num_rows() {
                chosen.weights.insert(key_at(keys, row), weights.value(row));
            }
        }
        if chosen.origin.is_none() && !chosen.weights.is_empty() {
            return Err(unusable("it does not say what its candidates were chosen with".to_owned()));
        }
        Ok((chosen, identity))
    }
}
