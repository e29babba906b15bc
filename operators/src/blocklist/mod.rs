//! `blocklist`: which terms of a list a text contains, and whether they are enough to act on.
//!
//! The verdict is true when at least `min_distinct` different terms occur. It is added as column `<name>` (Boolean, never
//! null; false where the text is null) together with `<name>_metadata`, a struct of
//!
//! | field | type | meaning |
//! |---|---|---|
//! | `terms` | List\<Utf8\> | terms found, as spelt in the list and in its order; `list` says which |
//! | `distinct` | UInt32 | how many these are |
//! | `occurrences` | UInt64 | all occurrences of all terms, overlapping ones included; with `counts` |
//! | `counts` | List\<UInt64\> | occurrences of each of `terms`; with `counts` |
//! | `spans` | List\<Struct {term: UInt32, start: UInt64, end: UInt64}\> | each occurrence: index into `terms`, first byte and the byte behind it in the text; with `spans` |
//!
//! # What is a match
//!
//! With `case: unicode` text and terms are compared as Python's `text.lower()` and `term.lower()` would be, including
//! characters that become two (`İ`) and the final sigma, which depends on the letters around it: a term `σοφος` ends in
//! a final sigma and does not match `ΣΟΦΟΣΑ`. (Letters that have had a lower-case form only since Unicode 15 are lowered, too, as newer
//! Pythons do.) `case: ascii` folds the 26 letters only, `case: exact` nothing.
//!
//! `match: substring` finds a term anywhere, also inside of words. `match: word` counts an occurrence only if no word character
//! stands right before or right behind it: no letter, mark or number of any script (general categories L, M and N) and no `_`.
//! With `case: unicode` the characters of the lowered text decide. A term counts if any of its occurrences does.
//!
//! # What is listed
//!
//! `list: all` names every term that occurs and scans every text to its end. `list: first`, the default, is what most
//! texts need and stops reading as soon as the verdict is certain: it names the `min_distinct` terms whose first match ends
//! earliest in the text, of several that end at the same byte those that come first in the list. `distinct` then says at most `min_distinct`.
//! `counts` and `spans` need every occurrence, so they come with `list: all`.

mod lower;
mod metadata;
mod terms;

#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::{DataType, Field, SchemaRef};
use gristmill_kernels::scan::{CharClass, ScanOptions, ScanRequest, ScanResults, Scanner};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{self, invalid};
use crate::operator::{Operator, OperatorKind, OperatorSpec, Output, Pass, RowEffect, extend_batch, extend_schema};
use crate::{ResourceIdentity, Resources, Result, TextColumn};
use lower::Lowered;
use metadata::MetadataBuilder;

const KIND: &str = "blocklist";

/// Texts are lowered and scanned in groups of about this many bytes, which bounds the memory for copies and results.
const GROUP_BYTES: usize = 1 << 20;

/// The kind `blocklist`.
///
/// ```
/// use std::sync::Arc;
/// use arrow_array::{cast::AsArray, RecordBatch, StringArray};
/// use gristmill_operators::{apply, OperatorSpec, Registry, Resources};
///
/// let folder = tempfile::tempdir()?;
/// let list = folder.path().join("terms.txt");
/// std::fs::write(&list, "fox\nlazy dog\n")?;
///
/// let texts = StringArray::from(vec!["The quick brown Fox jumps over the lazy dog", "a fox"]);
/// let batch = RecordBatch::try_from_iter([("text", Arc::new(texts) as _)])?;
/// let spec = OperatorSpec::new("blocklist", serde_json::json!({"terms": list, "min_distinct": 2}));
/// let operator = Registry::standard().bind(&spec, &batch.schema(), &Resources::local())?;
/// let output = apply(operator.as_ref(), [batch])?;
/// let verdicts = output.batches[0]["blocklist"].as_boolean();
/// assert!(verdicts.value(0) && !verdicts.value(1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct BlocklistKind;

/// Configuration of `blocklist`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlocklistConfig {
    /// Location of the terms: a .txt file with one term a line, a .csv file with a header, or a .parquet file. In a table
    /// rows are left out whose `is_relevant` is false or empty, where that column exists.
    pub terms: String,
    /// Column with the text.
    #[serde(default = "default_column")]
    pub column: String,
    /// Column of a .csv or .parquet list that holds the terms.
    #[serde(default = "default_keyword_column")]
    pub keyword_column: String,
    /// Of a list with a column `pos_ratio` only rows are taken whose ratio is strictly greater. Without that column, and for
    /// .txt lists, it has no effect.
    #[serde(default = "default_min_pos_ratio")]
    pub min_pos_ratio: f64,
    /// Where a term may occur.
    #[serde(default, rename = "match")]
    pub matching: Matching,
    /// How letters are compared.
    #[serde(default)]
    pub case: Case,
    /// How many different terms make the verdict true; at least 1.
    #[serde(default = "default_min_distinct")]
    pub min_distinct: u32,
    /// Which terms are listed: `first`, or `all`, which is the default with `counts` or `spans`.
    #[serde(default)]
    pub list: Option<Listing>,
    /// Count the occurrences of each term.
    #[serde(default)]
    pub counts: bool,
    /// Say where each occurrence is.
    #[serde(default)]
    pub spans: bool,
}

/// Where a term may occur.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Matching {
    /// Anywhere.
    #[default]
    Substring,
    /// Between characters that belong to no word.
    Word,
}

/// How letters are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Case {
    /// In lower case, as Python's `str.lower()`.
    #[default]
    Unicode,
    /// Without regard to the case of ASCII letters.
    Ascii,
    /// As they are.
    Exact,
}

impl Case {
    /// The form of a term that is compared.
    fn fold(self, term: &str) -> String {
        match self {
            Self::Unicode => term.to_lowercase(),
            Self::Ascii => term.to_ascii_lowercase(),
            Self::Exact => term.to_owned(),
        }
    }
}

/// Which terms are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Listing {
    /// The `min_distinct` terms whose first match ends earliest; of those that end together, the first of the list.
    First,
    /// All that occur.
    All,
}

fn default_column() -> String {
    "text".to_owned()
}

fn default_keyword_column() -> String {
    "keyword".to_owned()
}

fn default_min_pos_ratio() -> f64 {
    0.4
}

fn default_min_distinct() -> u32 {
    2
}

impl BlocklistConfig {
    fn read(config: &Value) -> Result<Self> {
        let mut parsed: Self = config::parse(KIND, config)?;
        if parsed.min_distinct == 0 {
            return Err(invalid(KIND, "min_distinct", "0 would make every verdict true; at least 1 is allowed"));
        }
        if parsed.min_pos_ratio.is_nan() {
            return Err(invalid(KIND, "min_pos_ratio", "NaN is not a number"));
        }
        let every_occurrence = parsed.counts || parsed.spans;
        if parsed.list == Some(Listing::First) && every_occurrence {
            return Err(invalid(
                KIND,
                "list",
                "'first' stops before all occurrences are known; 'counts' and 'spans' need 'all'",
            ));
        }
        parsed.list.get_or_insert(if every_occurrence { Listing::All } else { Listing::First });
        Ok(parsed)
    }
}

impl OperatorKind for BlocklistKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn summary(&self) -> &'static str {
        "find the terms of a list in a text; true where enough different ones occur"
    }

    fn example(&self) -> &'static str {
        "blocklist: {name: word_filter, terms: terms.csv, min_distinct: 2, match: word}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<BlocklistConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        serde_json::to_value(BlocklistConfig::read(config)?).map_err(|error| invalid(KIND, "", error.to_string()))
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config = BlocklistConfig::read(&spec.config)?;
        TextColumn::check(KIND, input, &config.column)?;
        let metadata = MetadataBuilder::fields(config.counts, config.spans);
        let schema = extend_schema(
            spec,
            input,
            vec![
                Field::new(&spec.name, DataType::Boolean, false),
                Field::new(format!("{}_metadata", spec.name), DataType::Struct(metadata), false),
            ],
        )?;
        let selection =
            terms::Selection { keyword_column: &config.keyword_column, min_pos_ratio: config.min_pos_ratio };
        let (terms, identity) = terms::read(&config.terms, &selection, config.case, resources)?;
        let options = ScanOptions {
            ignore_ascii_case: config.case != Case::Exact,
            isolated_from: match config.matching {
                Matching::Substring => None,
                Matching::Word => Some(word_characters()?),
            },
        };
        let scanner = Scanner::new(terms.iter().map(|term| config.case.fold(term)), &options)
            .map_err(|error| invalid(KIND, "terms", error.to_string()))?;
        Ok(Arc::new(Blocklist {
            spec: spec.clone(),
            schema,
            identity,
            matcher: Arc::new(Matcher { config, scanner, terms }),
        }))
    }
}

/// Letters, marks and numbers of all scripts, and the low line.
fn word_characters() -> Result<CharClass> {
    use regex_syntax::hir::{Class, HirKind};

    let parsed = regex_syntax::Parser::new()
        .parse(r"[\p{L}\p{M}\p{N}_]")
        .map_err(|error| invalid(KIND, "match", error.to_string()))?;
    match parsed.kind() {
        HirKind::Class(Class::Unicode(class)) => {
            Ok(CharClass::from_ranges(class.iter().map(|range| (range.start(), range.end()))))
        }
        other => Err(invalid(KIND, "match", format!("word characters are no class of characters: {other:?}"))),
    }
}

#[derive(Debug)]
struct Blocklist {
    spec: OperatorSpec,
    schema: SchemaRef,
    identity: ResourceIdentity,
    matcher: Arc<Matcher>,
}

/// What all passes share.
#[derive(Debug)]
struct Matcher {
    config: BlocklistConfig,
    scanner: Scanner,
    terms: Vec<String>,
}

impl Operator for Blocklist {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn inputs(&self) -> Vec<String> {
        vec![self.matcher.config.column.clone()]
    }

    fn row_effect(&self) -> RowEffect {
        RowEffect::Same
    }

    fn resources(&self) -> Vec<ResourceIdentity> {
        vec![self.identity.clone()]
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        Ok(Box::new(BlocklistPass {
            matcher: Arc::clone(&self.matcher),
            schema: Arc::clone(&self.schema),
            results: ScanResults::default(),
        }))
    }
}

struct BlocklistPass {
    matcher: Arc<Matcher>,
    schema: SchemaRef,
    results: ScanResults,
}

impl Pass for BlocklistPass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let config = &self.matcher.config;
        let text = TextColumn::of(KIND, batch, &config.column)?;
        let mut verdicts = Vec::with_capacity(batch.num_rows());
        let mut metadata = MetadataBuilder::new(&self.matcher.terms, config.counts, config.spans, batch.num_rows());
        let mut row = 0;
        while row < text.len() {
            // A null text contains no terms, and so does an empty one.
            let mut group = Vec::new();
            let mut bytes = 0;
            while row < text.len() && bytes < GROUP_BYTES {
                let text = text.get(row).unwrap_or_default();
                bytes += text.len();
                group.push(text);
                row += 1;
            }
            self.matcher.judge(&group, &mut self.results, &mut verdicts, &mut metadata)?;
        }
        let added: Vec<ArrayRef> = vec![Arc::new(BooleanArray::from(verdicts)), metadata.finish()?];
        output.keep(extend_batch(batch, &self.schema, added)?);
        Ok(())
    }
}

impl Matcher {
    /// Adds a verdict and metadata for each of the texts.
    fn judge(
        &self,
        texts: &[&str],
        results: &mut ScanResults,
        verdicts: &mut Vec<bool>,
        metadata: &mut MetadataBuilder<'_>,
    ) -> Result<()> {
        let config = &self.config;
        let lowered: Vec<Lowered<'_>> = texts
            .iter()
            .map(|text| match config.case {
                Case::Unicode => Lowered::new(text, config.spans),
                Case::Ascii | Case::Exact => Lowered::unchanged(text),
            })
            .collect();
        let documents: Vec<&[u8]> = lowered.iter().map(|lowered| lowered.text.as_bytes()).collect();
        let min_distinct = usize::try_from(config.min_distinct).unwrap_or(usize::MAX);
        let first = match config.list {
            Some(Listing::All) => None,
            Some(Listing::First) | None => NonZeroUsize::new(min_distinct),
        };
        self.scanner.scan(&documents, ScanRequest { first, spans: config.spans }, results);
        for (document, lowered) in lowered.iter().enumerate() {
            let hits = results.hits(document);
            verdicts.push(hits.len() >= min_distinct);
            metadata.push(hits, results.spans(document), lowered)?;
        }
        Ok(())
    }
}
