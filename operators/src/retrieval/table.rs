//! Statistics of a corpus as a table.
//!
//! The columns are `term`, `documents`, `occurrences` and `settings`. A table begins with a row without a term, which has the
//! number of documents, that of terms of all documents, and the settings of the terms ([`Terms::settings`]); then comes
//! each term once, sorted, with the number of documents that have it and of its occurrences. Tables that follow one another
//! are statistics of parts of a corpus.
//!
//! [`Terms::settings`]: super::Terms::settings

use std::sync::{Arc, LazyLock};

use arrow_array::builder::{LargeStringBuilder, StringBuilder, UInt64Builder};
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, LargeStringArray, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use super::lexicon::Lexicon;
use super::statistics::CorpusStatistics;
use crate::{OperatorError, Result};

/// Rows of a batch at most, and bytes of text after which a batch ends.
const BATCH_ROWS: usize = 65_536;
const BATCH_BYTES: usize = 64 << 20;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("term", DataType::LargeUtf8, true),
        Field::new("documents", DataType::UInt64, false),
        Field::new("occurrences", DataType::UInt64, false),
        Field::new("settings", DataType::Utf8, true),
    ]))
});

/// The schema of statistics.
pub(super) fn schema() -> &'static SchemaRef {
    &SCHEMA
}

/// Statistics as batches of at most 65,536 rows. `settings` are absent where nothing is known of the terms, as there are
/// no documents.
pub(super) fn write(statistics: &CorpusStatistics, settings: Option<&str>) -> Result<Vec<RecordBatch>> {
    let mut rows = Rows::default();
    rows.push(None, statistics.documents, statistics.occurrences, settings);
    let mut batches = Vec::new();
    for slot in statistics.lexicon.sorted() {
        if rows.count >= BATCH_ROWS || rows.bytes >= BATCH_BYTES {
            batches.push(rows.finish()?);
        }
        let counts = statistics.counts[slot];
        rows.push(Some(statistics.lexicon.term(slot)), counts.documents, counts.occurrences, None);
    }
    batches.push(rows.finish()?);
    Ok(batches)
}

/// Adds up statistics of parts of a corpus, and the settings that all have. The error says what is wrong with which row.
pub(super) fn add_up(
    batches: &mut dyn Iterator<Item = Result<RecordBatch>>,
    fail: impl Fn(String) -> OperatorError,
) -> Result<(CorpusStatistics, Option<String>)> {
    let mut statistics = CorpusStatistics::default();
    let mut settings = None;
    let mut row = 0;
    for batch in batches {
        let batch = batch?;
        let columns = Columns::of(&batch).map_err(&fail)?;
        for at in 0..batch.num_rows() {
            let (documents, occurrences) = (columns.documents.value(at), columns.occurrences.value(at));
            match columns.term(at) {
                Some(term) => statistics.add_term(term, documents, occurrences),
                None => {
                    columns.agree(at, row, &mut settings).map_err(&fail)?;
                    statistics.documents += documents;
                    statistics.occurrences += occurrences;
                }
            }
            row += 1;
        }
    }
    Ok((statistics, settings))
}

/// Reads statistics of a whole corpus. Where `keep` is given, only its terms are kept by themselves.
///
/// # Errors
/// Another table, statistics of parts that were not added up, and those of other terms than `settings` says.
pub(super) fn read(
    location: &str,
    batches: &[RecordBatch],
    settings: &str,
    keep: Option<&Lexicon>,
) -> Result<CorpusStatistics> {
    let unusable = |message: String| OperatorError::Resource { location: location.to_owned(), message };
    let mut statistics = CorpusStatistics::default();
    let mut found = None;
    let mut last: Option<String> = None;
    let mut row = 0_u64;
    for batch in batches {
        let columns = Columns::of(batch).map_err(unusable)?;
        for at in 0..batch.num_rows() {
            let (documents, occurrences) = (columns.documents.value(at), columns.occurrences.value(at));
            match columns.term(at) {
                None if row > 0 => {
                    let message = format!("row {row} has no term; statistics of parts of a corpus are not added up");
                    return Err(unusable(message));
                }
                None => {
                    columns.agree(at, row, &mut found).map_err(unusable)?;
                    (statistics.documents, statistics.occurrences) = (documents, occurrences);
                }
                Some(_) if row == 0 => return Err(unusable("row 0 has a term; it has to have totals".to_owned())),
                Some(term) => {
                    if last.as_deref().is_some_and(|last| last >= term) {
                        return Err(unusable(format!("the term of row {row} does not come behind that before it")));
                    }
                    if documents == 0 || documents > statistics.documents || occurrences < documents {
                        return Err(unusable(format!(
                            "row {row} has a term in {documents} of {} documents, {occurrences} times",
                            statistics.documents
                        )));
                    }
                    let last = last.get_or_insert_default();
                    last.clear();
                    last.push_str(term);
                    if keep.is_none_or(|keep| keep.get(term).is_some()) {
                        statistics.add_term(term, documents, occurrences);
                    } else {
                        *statistics.others.entry(documents).or_default() += 1;
                    }
                }
            }
            row += 1;
        }
    }
    if row == 0 {
        return Err(unusable("it has no row; statistics have one of totals at least".to_owned()));
    }
    match found {
        Some(found) if found != settings => {
            Err(unusable(format!("these statistics are of other terms: {found}; those of the step are {settings}")))
        }
        None if statistics.documents > 0 => Err(unusable("row 0 does not say of which terms it is".to_owned())),
        _ => Ok(statistics),
    }
}

#[derive(Default)]
struct Rows {
    terms: LargeStringBuilder,
    documents: UInt64Builder,
    occurrences: UInt64Builder,
    settings: StringBuilder,
    count: usize,
    bytes: usize,
}

impl Rows {
    fn push(&mut self, term: Option<&str>, documents: u64, occurrences: u64, settings: Option<&str>) {
        self.terms.append_option(term);
        self.documents.append_value(documents);
        self.occurrences.append_value(occurrences);
        self.settings.append_option(settings);
        self.count += 1;
        self.bytes += term.map_or(0, str::len);
    }

    fn finish(&mut self) -> Result<RecordBatch> {
        (self.count, self.bytes) = (0, 0);
        let columns = vec![
            Arc::new(self.terms.finish()) as _,
            Arc::new(self.documents.finish()) as _,
            Arc::new(self.occurrences.finish()) as _,
            Arc::new(self.settings.finish()) as _,
        ];
        Ok(RecordBatch::try_new(Arc::clone(schema()), columns)?)
    }
}

struct Columns<'b> {
    terms: &'b LargeStringArray,
    documents: &'b UInt64Array,
    occurrences: &'b UInt64Array,
    settings: &'b StringArray,
}

impl<'b> Columns<'b> {
    fn of(batch: &'b RecordBatch) -> Result<Self, String> {
        let column = |name: &str| batch.column_by_name(name).filter(|column| column.data_type() == of_type(name));
        let all = |terms: &'b dyn Array,
                   documents: &'b dyn Array,
                   occurrences: &'b dyn Array,
                   settings: &'b dyn Array| {
            Some(Self {
                terms: terms.as_string_opt()?,
                documents: documents.as_primitive_opt::<UInt64Type>().filter(|array| array.null_count() == 0)?,
                occurrences: occurrences.as_primitive_opt::<UInt64Type>().filter(|array| array.null_count() == 0)?,
                settings: settings.as_string_opt()?,
            })
        };
        column("term")
            .zip(column("documents"))
            .zip(column("occurrences").zip(column("settings")))
            .and_then(|((terms, documents), (occurrences, settings))| all(terms, documents, occurrences, settings))
            .ok_or_else(|| {
                let found = batch.schema_ref().fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>();
                format!(
                    "these are no statistics of terms, which have the columns term, documents, occurrences and settings; \
                     columns: {}",
                    found.join(", ")
                )
            })
    }

    fn term(&self, row: usize) -> Option<&'b str> {
        self.terms.is_valid(row).then(|| self.terms.value(row))
    }

    /// Checks that a row of totals has the settings of those before it.
    fn agree(&self, at: usize, row: u64, settings: &mut Option<String>) -> Result<(), String> {
        if self.settings.is_null(at) {
            return Ok(());
        }
        let found = self.settings.value(at);
        match settings {
            None => *settings = Some(found.to_owned()),
            Some(settings) if settings != found => {
                return Err(format!("row {row} is of the terms {found}, those before it are of {settings}"));
            }
            Some(_) => {}
        }
        Ok(())
    }
}

fn of_type(name: &str) -> &'static DataType {
    match name {
        "term" => &DataType::LargeUtf8,
        "settings" => &DataType::Utf8,
        _ => &DataType::UInt64,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::retrieval::Terms;

    fn counted(documents: &[&str]) -> Vec<RecordBatch> {
        let terms = Terms::whitespace();
        write(&CorpusStatistics::of(&terms, documents).unwrap(), Some(terms.settings())).unwrap()
    }

    fn read_all(batches: &[RecordBatch]) -> Result<CorpusStatistics> {
        read("s.arrow", batches, Terms::whitespace().settings(), None)
    }

    #[test]
    fn tables_give_the_same_statistics() {
        let batches = counted(&["b a b", "", "a c"]);
        let terms: Vec<Option<&str>> = batches[0].column(0).as_string::<i64>().iter().collect();
        assert_eq!(terms, [None, Some("a"), Some("b"), Some("c")]);
        let statistics = read_all(&batches).unwrap();
        assert_eq!((statistics.documents(), statistics.occurrences(), statistics.terms()), (3, 5, 3));
        assert_eq!((statistics.documents_with("b"), statistics.occurrences_of("b")), (1, 2));
        let mut keep = Lexicon::default();
        keep.intern("c");
        let some = read("s.arrow", &batches, Terms::whitespace().settings(), Some(&keep)).unwrap();
        assert_eq!((some.documents_with("c"), some.documents_with("b"), some.terms()), (1, 0, 3));
        assert_eq!(some.by_documents(), statistics.by_documents());
    }

    #[test]
    fn long_tables_are_cut() {
        let text: Vec<String> = (0..BATCH_ROWS).map(|number| number.to_string()).collect();
        let batches = counted(&[&text.join(" ")]);
        assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [BATCH_ROWS, 1]);
        assert_eq!(read_all(&batches).unwrap().terms(), BATCH_ROWS as u64);
    }

    #[test]
    fn other_tables_are_refused() {
        let good = counted(&["b a b", "a c"]);
        let rows = |from, count| vec![good[0].slice(from, count)];
        let says = |batches: &[RecordBatch], expected: &str| {
            let message = read_all(batches).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("s.arrow"), "{message}");
        };
        says(&[], "it has no row");
        says(&rows(1, 2), "row 0 has a term");
        says(&[rows(0, 2), rows(0, 2)].concat(), "row 2 has no term; statistics of parts");
        says(&[rows(0, 3), rows(1, 1)].concat(), "the term of row 3 does not come behind");
        says(
            &[vec![counted(&["a"])[0].slice(0, 1)], rows(1, 1)].concat(),
            "row 1 has a term in 2 of 1 documents, 2 times",
        );
        says(&[good[0].project(&[0, 1, 2]).unwrap()], "columns: term, documents, occurrences");
        let terms = Terms::words();
        let other = write(&CorpusStatistics::of(&terms, ["aa"]).unwrap(), Some(terms.settings())).unwrap();
        says(&other, r#"of other terms: "words"; those of the step are "whitespace""#);
        says(&write(&CorpusStatistics::of(&terms, ["aa"]).unwrap(), None).unwrap(), "does not say of which terms");
        assert_eq!(read_all(&write(&CorpusStatistics::default(), None).unwrap()).unwrap().documents(), 0);

        let fail = |message| OperatorError::Outage { kind: "k".to_owned(), message };
        let mut mixed = good.iter().chain(&other).cloned().map(Ok);
        let message = add_up(&mut mixed, fail).unwrap_err().to_string();
        assert!(message.contains(r#"row 4 is of the terms "words", those before it are of "whitespace""#), "{message}");
    }
}
