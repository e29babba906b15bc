//! What a ranking is made of: queries, the type of scores, the columns that travel along, and the schemas that follow.

use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};

use super::keys::{Keys, ScoreType};
use super::{KIND, RankConfig};
use crate::config::invalid;
use crate::{OperatorError, Result, require_column, scores};

/// Of a part: position of the row among those of its stream, from 0. Null in the row that only counts.
pub(super) const POSITION: &str = "_position";
/// Of a part: the queries that the row is among the best of, with its scores.
pub(super) const HITS: &str = "_hits";
/// Of a part: how many scores of the stream are not numbers, in a last row that holds nothing else; null in all others.
pub(super) const NOT_NUMBERS: &str = "_not_numbers";
/// Columns of a ranking that do not come from rows.
const QUERY: &str = "query";
const RANK: &str = "rank";
const SCORE: &str = "score";
/// Columns of the place of a row, which travel along wherever there are any.
const PLACE: [&str; 2] = ["_source", "_row"];

/// A ranking of rows with a certain schema, as it is written down.
///
/// ```
/// use arrow_schema::{DataType, Field, Schema};
/// use gristmill_operators::rank::{RankConfig, RankShape};
///
/// let input = Schema::new(vec![Field::new("id", DataType::Utf8, false), Field::new("length", DataType::UInt64, true)]);
/// let config: RankConfig = serde_json::from_value(serde_json::json!({"by": "length", "k": 10, "columns": ["id"]}))?;
/// let shape = RankShape::of(&config, &input)?;
/// assert_eq!(shape.queries(), ["length"]);
/// let names: Vec<&str> = shape.ranking_schema().fields().iter().map(|field| field.name().as_str()).collect();
/// assert_eq!(names, ["query", "rank", "score", "id"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct RankShape {
    pub(super) k: usize,
    pub(super) keys: Keys,
    /// Position of the scores in the input.
    pub(super) by: usize,
    /// Whether they are a list for each row, or a number.
    pub(super) is_list: bool,
    pub(super) queries: Arc<[String]>,
    /// Positions in the input of the columns that travel along.
    pub(super) carried: Vec<usize>,
    /// The same as columns of parts.
    pub(super) carried_schema: SchemaRef,
    part: SchemaRef,
    ranking: SchemaRef,
}

impl RankShape {
    /// The ranking of rows with this schema.
    ///
    /// # Errors
    /// Columns that are not there, scores that are no numbers, and columns that a ranking has itself.
    pub fn of(config: &RankConfig, input: &Schema) -> Result<Self> {
        let (by, data_type) = require_column(KIND, input, &config.by)?;
        let field = input.field(by);
        let unusable = || OperatorError::ColumnType {
            kind: KIND.to_owned(),
            column: config.by.clone(),
            found: data_type.to_string(),
            expected: "a column of scores (a fixed-size list of Float32) or numbers".to_owned(),
        };
        let queries = scores::queries(field).ok_or_else(unusable)?;
        let (is_list, score) = match data_type {
            DataType::FixedSizeList(..) => (true, ScoreType::Float32),
            number => (false, ScoreType::of(number).ok_or_else(unusable)?),
        };
        if u32::try_from(queries.len()).is_err() || queries.is_empty() {
            let message = format!("column '{}' has {} queries; allowed: 1 to {}", config.by, queries.len(), u32::MAX);
            return Err(invalid(KIND, "by", message));
        }
        let carried = carried(config, input)?;
        let fields: Vec<FieldRef> = carried.iter().map(|&column| plain_field(&input.fields()[column])).collect();
        let nullable = |field: &FieldRef| Arc::new(field.as_ref().clone().with_nullable(true));
        let carried_fields: Fields = fields.iter().map(nullable).collect();
        let part = [
            Field::new(POSITION, DataType::UInt64, true),
            Field::new(HITS, DataType::List(Arc::new(Field::new_list_field(hit(score), false))), true),
            Field::new(NOT_NUMBERS, DataType::UInt64, true),
        ];
        let ranking = [
            Field::new(QUERY, DataType::Utf8, false),
            Field::new(RANK, DataType::UInt32, false),
            Field::new(SCORE, score.data_type(), false),
        ];
        let with = |own: [Field; 3], fields: &[FieldRef]| {
            let all: Vec<FieldRef> = own.into_iter().map(Arc::new).chain(fields.iter().map(Arc::clone)).collect();
            Arc::new(Schema::new(all))
        };
        Ok(Self {
            k: config.k as usize,
            keys: Keys { scores: score, order: config.order },
            by,
            is_list,
            queries: queries.into(),
            carried,
            part: with(part, &carried_fields),
            ranking: with(ranking, &fields),
            carried_schema: Arc::new(Schema::new(carried_fields)),
        })
    }

    /// Names of the queries, in the order of the scores.
    #[must_use]
    pub fn queries(&self) -> &[String] {
        &self.queries
    }

    /// Rows that are kept for each query.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Schema of what a pass over one stream gives; see [`RankKind`](super::RankKind).
    #[must_use]
    pub fn part_schema(&self) -> &SchemaRef {
        &self.part
    }

    /// Schema of the ranking: `query` (name), `rank` (from 1), `score`, and the columns that travel along.
    #[must_use]
    pub fn ranking_schema(&self) -> &SchemaRef {
        &self.ranking
    }
}

/// A hit as parts have it.
pub(super) fn hit_fields(score: ScoreType) -> Fields {
    Fields::from(vec![Field::new(QUERY, DataType::UInt32, false), Field::new(SCORE, score.data_type(), false)])
}

fn hit(score: ScoreType) -> DataType {
    DataType::Struct(hit_fields(score))
}

/// The columns that are named, and the place of a row as far as the input has it.
fn carried(config: &RankConfig, input: &Schema) -> Result<Vec<usize>> {
    let mut carried = Vec::new();
    for (index, column) in config.columns.iter().enumerate() {
        if [QUERY, RANK, SCORE, POSITION, HITS, NOT_NUMBERS].contains(&column.as_str()) {
            let message = format!(
                "a ranking has a column '{column}' of its own; give that of the rows another name with a 'select' step \
                 ('{column} AS another')"
            );
            return Err(invalid(KIND, &format!("columns.{index}"), message));
        }
        let (place, _) = require_column(KIND, input, column)?;
        if carried.contains(&place) {
            return Err(invalid(KIND, &format!("columns.{index}"), format!("column '{column}' is named twice")));
        }
        carried.push(place);
    }
    let place = PLACE.iter().filter_map(|name| input.column_with_name(name).map(|(place, _)| place));
    for place in place {
        if !carried.contains(&place) {
            carried.push(place);
        }
    }
    Ok(carried)
}

fn plain_field(field: &FieldRef) -> FieldRef {
    Arc::new(field.as_ref().clone().with_data_type(plain(field.data_type())))
}

/// Views and dictionaries as what they stand for: their rows cannot be copied without the buffers that they share.
fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => plain(values),
        DataType::RunEndEncoded(_, values) => plain(values.data_type()),
        DataType::List(field) | DataType::ListView(field) => DataType::List(plain_field(field)),
        DataType::LargeList(field) | DataType::LargeListView(field) => DataType::LargeList(plain_field(field)),
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(plain_field(field), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        other => other.clone(),
    }
}
