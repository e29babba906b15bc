//! Ranked rows in the form that the benchmark with hop functions exchanges: the original rows with a score for each function, highest first.
//!
//! One JSON object a line: the row as it was, `<letter>_<kind>_score` for each function, `combined_<kind>_score`, which is their mean, and
//! `original_index`. `<kind>` is `influence`, `bm25` or `similarity`; the letter of a function such as `<FN>` is `f`. Rows are in descending order of the
//! combined score, equal ones by `original_index`; rows without scores come last, with nulls.
//!
//! Rows are kept in a spool meanwhile, and only 24 bytes of each, and its scores for functions, in memory.

use std::fmt::Write as _;
use std::io::{Read, Seek, SeekFrom, Write};

use arrow_array::RecordBatch;
use arrow_schema::ArrowError;

use super::columns::{each_scores, numbers};
use super::{error, row_error};
use crate::{Result, require_column};

/// What a name of a function is at the start of a column's name: `f` of `<FN>`; of others the lower-case letters and digits, joined by `_`.
///
/// ```
/// use gristmill_operators::analysis::function_prefix;
///
/// assert_eq!(["<FN>", "<NN>", "tail patch"].map(function_prefix), ["f", "n", "tail_patch"]);
/// ```
#[must_use]
pub fn function_prefix(function: &str) -> String {
    let inner = function.trim_start_matches('<').trim_end_matches('>');
    if let [letter @ b'A'..=b'Z', b'N'] = inner.as_bytes() {
        return char::from(letter.to_ascii_lowercase()).to_string();
    }
    let words: Vec<&str> = inner.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.join("_").to_lowercase()
}

/// How scored rows become ranked ones.
#[derive(Clone, Debug)]
pub struct HopsForm {
    keys: Vec<String>,
    combined: String,
    function_of: Vec<usize>,
    queries_of: Vec<usize>,
}

impl HopsForm {
    /// The form for scores of `kind`; `functions` has the function of each query, in the order of the column of scores. A function's score is the mean
    /// of its queries' scores.
    ///
    /// # Errors
    /// No query, and functions whose names give the same key, or none.
    pub fn new(kind: &str, functions: &[String]) -> Result<Self> {
        let mut distinct: Vec<&String> = Vec::new();
        let mut function_of = Vec::with_capacity(functions.len());
        for function in functions {
            let position = distinct.iter().position(|known| *known == function).unwrap_or(distinct.len());
            if position == distinct.len() {
                distinct.push(function);
            }
            function_of.push(position);
        }
        if distinct.is_empty() {
            return Err(error("functions", "there are no queries"));
        }
        let mut keys: Vec<String> = Vec::with_capacity(distinct.len());
        for function in &distinct {
            let prefix = function_prefix(function);
            let key = format!("{prefix}_{kind}_score");
            if prefix.is_empty() || prefix == "combined" {
                let message = format!("'{function}' gives the key '{key}'; names with a letter or digit are allowed, other than 'combined'");
                return Err(error("functions", message));
            }
            if let Some(other) = keys.iter().position(|known| *known == key) {
                let message = format!("'{}' and '{function}' both give the key '{key}'", distinct[other]);
                return Err(error("functions", message));
            }
            keys.push(key);
        }
        let mut queries_of = vec![0; keys.len()];
        function_of.iter().for_each(|&function| queries_of[function] += 1);
        Ok(Self { keys, combined: format!("combined_{kind}_score"), function_of, queries_of })
    }

    /// The keys of functions' scores, in the order in which functions first came.
    #[must_use]
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    fn scores_of(&self, scores: &[f32]) -> Vec<f64> {
        let mut sums = vec![0.0; self.keys.len()];
        scores.iter().zip(&self.function_of).for_each(|(&score, &function)| sums[function] += f64::from(score));
        sums.iter().zip(&self.queries_of).map(|(sum, &queries)| sum / queries as f64).collect()
    }
}

/// Ranks scored rows: takes all of them, then writes them in order.
#[derive(Debug)]
pub struct HopsRanking<S> {
    form: HopsForm,
    spool: S,
    spooled: u64,
    /// Where each row's line starts in the spool, and its position in the data set.
    rows: Vec<(u64, u64)>,
    /// `[rows, functions]`, NaN for rows without scores.
    scores: Vec<f64>,
}

impl<S: Read + Write + Seek> HopsRanking<S> {
    /// Nothing ranked yet; `spool` is empty, such as a temporary file.
    pub fn new(form: HopsForm, spool: S) -> Self {
        Self { form, spool, spooled: 0, rows: Vec::new(), scores: Vec::new() }
    }

    /// Takes the next rows, with their scores in the column `by`, which does not become part of the ranked rows. `original_index` is the position of the
    /// row among all that came, or the value of the column `index`.
    ///
    /// # Errors
    /// Columns that are not there or are named like those that are added, scores that are not finite or not as many as queries, and positions that are
    /// no whole numbers of at least 0.
    pub fn add(&mut self, batch: &RecordBatch, by: &str, index: Option<&str>) -> Result<()> {
        let first = self.rows.len() as u64;
        let (position, _) = require_column(super::KIND, batch.schema_ref(), by)?;
        let taken = |name: &str| *name == self.form.combined || name == "original_index" || self.form.keys.iter().any(|key| key == name);
        if let Some(field) = batch.schema_ref().fields().iter().find(|field| taken(field.name()) && index != Some(field.name())) {
            return Err(crate::OperatorError::DuplicateColumn { kind: super::KIND.to_owned(), column: field.name().clone() });
        }
        let indices = match index {
            Some(column) => positions(batch, column, first)?,
            None => (first..first + batch.num_rows() as u64).collect(),
        };
        let (form, scores) = (&self.form, &mut self.scores);
        each_scores(batch, by, first, |row, found| {
            match found {
                Some(found) if found.len() == form.function_of.len() => scores.extend(form.scores_of(found)),
                Some(found) => {
                    let message = format!("column '{by}': {} scores; there are {} queries", found.len(), form.function_of.len());
                    return Err(row_error(row, message));
                }
                None => scores.extend(form.keys.iter().map(|_| f64::NAN)),
            }
            Ok(())
        })?;
        // `original_index` is written anew.
        let kept: Vec<usize> = (0..batch.num_columns())
            .filter(|&column| column != position && batch.schema_ref().field(column).name() != "original_index")
            .collect();
        let lines = lines(&batch.project(&kept)?)?;
        let mut start = 0;
        for (row, line) in lines.split_inclusive(|&byte| byte == b'\n').enumerate() {
            self.rows.push((self.spooled + start, indices[row]));
            start += line.len() as u64;
        }
        self.spool.write_all(&lines).map_err(ArrowError::from)?;
        self.spooled += start;
        Ok(())
    }

    /// Writes all rows in order and says how many there are.
    ///
    /// # Errors
    /// The spool or the output fails.
    pub fn finish(mut self, output: &mut dyn Write) -> Result<u64> {
        let functions = self.form.keys.len();
        let scores = |row: usize| &self.scores[row * functions..][..functions];
        let combined: Vec<f64> =
            (0..self.rows.len()).map(|row| scores(row).iter().sum::<f64>() / functions as f64).collect();
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_by_key(|&row| self.rows[row].1);
        let by_index: Vec<f64> = order.iter().map(|&row| combined[row]).collect();
        let order: Vec<usize> = super::descending(&by_index).into_iter().map(|position| order[position]).collect();
        let mut line = Vec::new();
        for row in order {
            let (start, index) = self.rows[row];
            let end = self.rows.get(row + 1).map_or(self.spooled, |next| next.0);
            line.resize((end - start) as usize, 0);
            self.spool.seek(SeekFrom::Start(start)).and_then(|_| self.spool.read_exact(&mut line)).map_err(ArrowError::from)?;
            // Between the last value and the brace that closes the object.
            line.truncate(line.len() - 2);
            let mut added = String::new();
            let comma = if line.len() > 1 { "," } else { "" };
            let _ = write!(added, "{comma}");
            let named = self.form.keys.iter().zip(scores(row)).chain([(&self.form.combined, &combined[row])]);
            for (key, score) in named {
                let _ = write!(added, "{}:{},", serde_json::Value::from(key.as_str()), serde_json::Value::from(*score));
            }
            let _ = writeln!(added, "\"original_index\":{index}}}");
            output.write_all(&line).and_then(|()| output.write_all(added.as_bytes())).map_err(ArrowError::from)?;
        }
        output.flush().map_err(ArrowError::from)?;
        Ok(self.rows.len() as u64)
    }
}

/// A line of JSON for each row.
fn lines(batch: &RecordBatch) -> Result<Vec<u8>> {
    if batch.num_columns() == 0 {
        return Ok(b"{}\n".repeat(batch.num_rows()));
    }
    let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
    writer.write(batch)?;
    writer.finish()?;
    Ok(writer.into_inner())
}

fn positions(batch: &RecordBatch, column: &str, first: u64) -> Result<Vec<u64>> {
    let values = numbers(batch, column, first)?;
    let position = |(row, value): (u64, Option<f64>)| match value {
        Some(value) if value >= 0.0 && value.fract() == 0.0 && value < 9e15 => Ok(value as u64),
        value => {
            let found = value.map_or("nothing".to_owned(), |value| value.to_string());
            Err(row_error(row, format!("column '{column}': {found}; a whole number of at least 0 is allowed")))
        }
    };
    (first..).zip(values).map(position).collect()
}
