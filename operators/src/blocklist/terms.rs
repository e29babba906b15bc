//! Reading lists of terms: plain text, CSV and Parquet.
//!
//! A table has one term a row in its keyword column. Two more columns are honoured where they exist, as in the tables that
//! language models write: of `pos_ratio` (the share of a term's occurrences that were in documents about the subject) only
//! values strictly greater than a threshold are kept, of `is_relevant` only true. An empty cell counts as not greater and not true.

use std::collections::HashSet;

use bytes::Bytes;

use super::Case;
use crate::{OperatorError, ResourceIdentity, Resources, Result, nearest};

/// Where to find terms in a table and which of them to take.
#[derive(Clone, Debug)]
pub(super) struct Selection<'a> {
    pub(super) keyword_column: &'a str,
    pub(super) min_pos_ratio: f64,
}

/// Column with the share of relevant occurrences.
const POS_RATIO: &str = "pos_ratio";

/// Column with a verdict on the term.
const IS_RELEVANT: &str = "is_relevant";

/// The terms of a list in its order, those that are equal under `case` only once, as first spelt.
pub(super) fn read(
    location: &str,
    selection: &Selection<'_>,
    case: Case,
    resources: &Resources,
) -> Result<(Vec<String>, ResourceIdentity)> {
    let fail = |message: String| OperatorError::Resource { location: location.to_owned(), message };
    let format = Format::of(location).map_err(fail)?;
    let (bytes, identity) = resources.read(location)?;
    let terms = match format {
        Format::Text => read_text(&bytes),
        Format::Csv => read_csv(&bytes, selection),
        Format::Parquet => read_parquet(bytes, selection),
    }
    .map_err(fail)?;
    if terms.is_empty() {
        return Err(fail("no terms in it".to_owned()));
    }
    let mut seen = HashSet::new();
    let terms = terms.into_iter().filter(|term| seen.insert(case.fold(term))).collect();
    Ok((terms, identity))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Csv,
    Parquet,
}

impl Format {
    fn of(location: &str) -> Result<Self, String> {
        let path = location.split('?').next().unwrap_or(location);
        match path.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).as_deref() {
            Some("txt") => Ok(Self::Text),
            Some("csv") => Ok(Self::Csv),
            Some("parquet") => Ok(Self::Parquet),
            _ => Err("a list of terms is a .txt file with one term a line, a .csv or a .parquet file".to_owned()),
        }
    }
}

fn read_text(bytes: &[u8]) -> Result<Vec<String>, String> {
    let bytes = without_mark(bytes);
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if body.is_empty() {
        return Ok(Vec::new());
    }
    body.split(|byte| *byte == b'\n')
        .enumerate()
        .map(|(number, line)| {
            term(line.strip_suffix(b"\r").unwrap_or(line)).map_err(|message| format!("line {}: {message}", number + 1))
        })
        .collect()
}

fn read_csv(bytes: &[u8], selection: &Selection<'_>) -> Result<Vec<String>, String> {
    let mut reader = csv::ReaderBuilder::new().from_reader(without_mark(bytes));
    let header: Vec<String> = reader.headers().map_err(|error| error.to_string())?.iter().map(str::to_owned).collect();
    let place = |name: &str| header.iter().position(|column| column == name);
    let keyword = place(selection.keyword_column)
        .ok_or_else(|| missing(selection.keyword_column, header.iter().map(String::as_str)))?;
    let (pos_ratio, is_relevant) = (place(POS_RATIO), place(IS_RELEVANT));

    let mut terms = Vec::new();
    let mut record = csv::ByteRecord::new();
    while reader.read_byte_record(&mut record).map_err(|error| error.to_string())? {
        let line = record.position().map_or(0, csv::Position::line);
        let at = |message: String| format!("line {line}: {message}");
        let cell = |column: Option<usize>| {
            column.map(|column| String::from_utf8_lossy(record.get(column).unwrap_or_default()))
        };
        if let Some(cell) = cell(pos_ratio)
            && !parse_ratio(&cell).map_err(at)?.is_some_and(|ratio| ratio > selection.min_pos_ratio)
        {
            continue;
        }
        if let Some(cell) = cell(is_relevant)
            && !parse_truth(&cell).map_err(at)?
        {
            continue;
        }
        terms.push(term(record.get(keyword).unwrap_or_default()).map_err(at)?);
    }
    Ok(terms)
}

#[cfg(not(feature = "parquet"))]
fn read_parquet(_bytes: Bytes, _selection: &Selection<'_>) -> Result<Vec<String>, String> {
    Err("this program was built without the feature 'parquet'; give the terms as .txt or .csv".to_owned())
}

#[cfg(feature = "parquet")]
fn read_parquet(bytes: Bytes, selection: &Selection<'_>) -> Result<Vec<String>, String> {
    use arrow_array::Array;
    use parquet::arrow::ProjectionMask;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| error.to_string())?;
    let schema = builder.schema();
    if schema.column_with_name(selection.keyword_column).is_none() {
        return Err(missing(selection.keyword_column, schema.fields().iter().map(|field| field.name().as_str())));
    }
    let wanted = [selection.keyword_column, POS_RATIO, IS_RELEVANT];
    let columns = schema.fields().iter().enumerate().filter(|(_, field)| wanted.contains(&field.name().as_str()));
    let mask = ProjectionMask::roots(builder.parquet_schema(), columns.map(|(index, _)| index));
    let reader = builder.with_projection(mask).build().map_err(|error| error.to_string())?;

    let mut terms = Vec::new();
    let mut first_row = 0;
    for batch in reader {
        let batch = batch.map_err(|error| error.to_string())?;
        let keywords =
            crate::TextColumn::of("blocklist", &batch, selection.keyword_column).map_err(|error| error.to_string())?;
        let ratios = batch.column_by_name(POS_RATIO).map(ratios).transpose()?;
        let relevant = batch.column_by_name(IS_RELEVANT).map(truths).transpose()?;
        for row in 0..batch.num_rows() {
            if ratios.as_ref().is_some_and(|ratios| !ratios[row].is_some_and(|ratio| ratio > selection.min_pos_ratio))
                || relevant.is_some_and(|relevant| relevant.is_null(row) || !relevant.value(row))
            {
                continue;
            }
            let at = |message: String| format!("row {}: {message}", first_row + row + 1);
            terms.push(term(keywords.get(row).unwrap_or_default().as_bytes()).map_err(at)?);
        }
        first_row += batch.num_rows();
    }
    Ok(terms)
}

#[cfg(feature = "parquet")]
fn ratios(column: &arrow_array::ArrayRef) -> Result<Vec<Option<f64>>, String> {
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float32Type, Float64Type};
    use arrow_schema::DataType;

    match column.data_type() {
        DataType::Float64 => Ok(column.as_primitive::<Float64Type>().iter().collect()),
        DataType::Float32 => {
            Ok(column.as_primitive::<Float32Type>().iter().map(|ratio| ratio.map(f64::from)).collect())
        }
        other => Err(format!("column '{POS_RATIO}' has type {other}, expected Float64 or Float32")),
    }
}

#[cfg(feature = "parquet")]
fn truths(column: &arrow_array::ArrayRef) -> Result<&arrow_array::BooleanArray, String> {
    use arrow_array::cast::AsArray;

    let wrong = || format!("column '{IS_RELEVANT}' has type {}, expected Boolean", column.data_type());
    column.as_boolean_opt().ok_or_else(wrong)
}

/// White space around a term belongs to it; a term of nothing else would be in every document.
fn term(bytes: &[u8]) -> Result<String, String> {
    let text = str::from_utf8(bytes)
        .map_err(|error| format!("the term is not UTF-8 (its byte {} is wrong)", error.valid_up_to() + 1))?;
    if text.trim().is_empty() {
        return Err("the term is empty".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_ratio(cell: &str) -> Result<Option<f64>, String> {
    let cell = cell.trim();
    if cell.is_empty() {
        return Ok(None);
    }
    cell.parse().map(Some).map_err(|_| format!("'{cell}' in column '{POS_RATIO}' is not a number"))
}

fn parse_truth(cell: &str) -> Result<bool, String> {
    match cell.trim().to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" | "" => Ok(false),
        other => Err(format!("'{other}' in column '{IS_RELEVANT}' is neither true nor false")),
    }
}

fn missing<'a>(column: &str, columns: impl Iterator<Item = &'a str> + Clone) -> String {
    let meant = nearest(column, columns.clone()).map(|name| format!(", did you mean '{name}'?")).unwrap_or_default();
    format!("no column '{column}'{meant}; columns: {}; set 'keyword_column'", columns.collect::<Vec<_>>().join(", "))
}

fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

    use std::sync::Arc;

    use super::*;
    use crate::ReadResource;

    #[derive(Debug)]
    struct Fixed(Bytes);

    impl ReadResource for Fixed {
        fn read(&self, _location: &str) -> Result<Bytes, String> {
            Ok(self.0.clone())
        }
    }

    fn read_bytes(location: &str, bytes: impl Into<Bytes>, case: Case) -> Result<Vec<String>, String> {
        let selection = Selection { keyword_column: "keyword", min_pos_ratio: 0.4 };
        read(location, &selection, case, &Resources::new(Arc::new(Fixed(bytes.into()))))
            .map(|(terms, _)| terms)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn lists_are_read() {
        let cases: [(&str, &[u8], &[&str]); 9] = [
            ("a.txt", b"fox\ndog\n", &["fox", "dog"]),
            ("a.TXT", b"fox\r\n dog \r\nlast", &["fox", " dog ", "last"]),
            ("a.txt", "\u{feff}知识\n".as_bytes(), &["知识"]),
            ("http://host/a.txt?version=2", b"Fox\nfox\nFOX\n", &["Fox"]),
            ("a.csv", b"keyword\nfox\n\"a, b\"\n", &["fox", "a, b"]),
            ("a.csv", b"x,keyword,pos_ratio\n1,fox,0.5\n2,dog,0.4\n3,cat,\n4,cow,0.41\n", &["fox", "cow"]),
            ("a.csv", b"is_relevant,keyword\nTrue,fox\nfalse,dog\n,cat\n1,cow\n0,\n", &["fox", "cow"]),
            ("a.csv", b"pos_ratio,keyword,is_relevant\n0.9,fox,false\n0.1,dog,true\n0.9,cow,true\n", &["cow"]),
            ("a.csv", "keyword\nÉtude\nétude\nİ\ni\u{307}\n".as_bytes(), &["Étude", "İ"]),
        ];
        for (location, bytes, expected) in cases {
            assert_eq!(read_bytes(location, bytes, Case::Unicode).unwrap(), expected, "{location}");
        }
    }

    #[test]
    fn what_counts_as_the_same_term_depends_on_case() {
        let list = "Fox\nfox\nÉ\né\n";
        for (case, expected) in [
            (Case::Unicode, &["Fox", "É"][..]),
            (Case::Ascii, &["Fox", "É", "é"]),
            (Case::Exact, &["Fox", "fox", "É", "é"]),
        ] {
            assert_eq!(read_bytes("a.txt", list, case).unwrap(), expected);
        }
    }

    #[test]
    fn malformed_lists_are_refused() {
        let cases: [(&str, &[u8], &str); 12] = [
            ("a.txt", b"", "no terms"),
            ("a.txt", b"fox\n\ndog\n", "line 2: the term is empty"),
            ("a.txt", b"fox\n \t\n", "line 2: the term is empty"),
            ("a.txt", b"fox\ndog\xff\n", "line 2: the term is not UTF-8 (its byte 4 is wrong)"),
            ("a.csv", b"keywords\nfox\n", "no column 'keyword', did you mean 'keywords'?"),
            (
                "a.csv",
                b"keyword,pos_ratio\nfox,0.9\ndog,high\n",
                "line 3: 'high' in column 'pos_ratio' is not a number",
            ),
            ("a.csv", b"keyword,is_relevant\nfox,maybe\n", "line 2: 'maybe' in column 'is_relevant'"),
            ("a.csv", b"keyword,x\nfox,1\n,2\n", "line 3: the term is empty"),
            ("a.csv", b"keyword,x\nfox\n", "line: 2"),
            ("a.csv", b"keyword,pos_ratio\nfox,0.1\n", "no terms"),
            ("a.json", b"[]", ".txt file with one term a line, a .csv or a .parquet"),
            ("terms", b"", ".txt file"),
        ];
        for (location, bytes, expected) in cases {
            let error = read_bytes(location, bytes, Case::Unicode).unwrap_err();
            assert!(error.contains(expected) && error.contains(location), "{error}");
        }
    }

    #[cfg(feature = "parquet")]
    fn parquet_file(columns: Vec<(&str, arrow_array::ArrayRef)>) -> Vec<u8> {
        let batch = arrow_array::RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, column)| (name, column, true)),
        )
        .unwrap();
        let mut file = Vec::new();
        let mut writer = parquet::arrow::ArrowWriter::try_new(&mut file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        file
    }

    #[cfg(feature = "parquet")]
    #[test]
    fn parquet_lists_are_read() {
        use arrow_array::{BooleanArray, Float32Array, Float64Array, Int64Array, StringArray};

        let words = || Arc::new(StringArray::from(vec!["fox", "dog", "FOX", "cow", "hen"])) as arrow_array::ArrayRef;
        let file = parquet_file(vec![("n", Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5]))), ("keyword", words())]);
        assert_eq!(read_bytes("a.parquet", file, Case::Ascii).unwrap(), ["fox", "dog", "cow", "hen"]);

        let file = parquet_file(vec![
            ("keyword", words()),
            ("pos_ratio", Arc::new(Float64Array::from(vec![Some(0.4), Some(0.9), Some(0.5), None, Some(0.6)]))),
            ("is_relevant", Arc::new(BooleanArray::from(vec![Some(true), Some(false), Some(true), Some(true), None]))),
        ]);
        assert_eq!(read_bytes("a.parquet", file, Case::Exact).unwrap(), ["FOX"]);

        let file = parquet_file(vec![
            ("keyword", Arc::new(StringArray::from(vec![Some("fox"), None]))),
            ("pos_ratio", Arc::new(Float32Array::from(vec![0.9, 0.9]))),
        ]);
        assert!(read_bytes("a.parquet", file, Case::Exact).unwrap_err().contains("row 2: the term is empty"));

        let file = parquet_file(vec![("keyword", words()), ("is_relevant", words())]);
        assert!(read_bytes("a.parquet", file, Case::Exact).unwrap_err().contains("'is_relevant' has type Utf8"));
        let file = parquet_file(vec![("word", words())]);
        assert!(read_bytes("a.parquet", file, Case::Exact).unwrap_err().contains("no column 'keyword'"));
        assert!(read_bytes("a.parquet", &b"keyword"[..], Case::Exact).unwrap_err().contains("a.parquet"));
    }
}
