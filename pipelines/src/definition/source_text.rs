//! The text of a pipeline file: a tree that remembers where each value stands.
//!
//! YAML is read once into [`Tree`], so that an error found later (an unknown operator key, a wrong SQL expression, a value
//! that only the operator can judge) still names line and column. Dotted overrides from the command line are applied to
//! the same tree; what they set has no place in the file and is reported as such.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

use crate::error::{DefinitionError, Place};

/// So many characters of an override are repeated in an error.
const SHOWN_OVERRIDE: usize = 160;
/// A pipeline file larger than this is refused before it is parsed.
const MAX_BYTES: usize = 4 << 20;

/// The values of a pipeline file and the place of each, by dotted path (`steps.1.classify.threshold`).
#[derive(Clone, Debug)]
pub(crate) struct SourceText {
    file: String,
    text: String,
    value: Value,
    places: BTreeMap<String, Place>,
    /// What the command line set, by dotted path.
    overrides: BTreeMap<String, String>,
}

/// `true` and `false` are the only booleans, as in YAML 1.2: a column may be called `n`, and `on` is a text.
fn parse_yaml(text: &str) -> Result<Spanned<Tree>, serde_saphyr::Error> {
    serde_saphyr::from_str_with_options(text, serde_saphyr::options! { strict_booleans: true })
}

impl SourceText {
    /// Parses YAML (or JSON, which is a subset). `file` is the name that errors show.
    pub(crate) fn parse(file: &str, text: &str) -> Result<Self, DefinitionError> {
        if text.len() > MAX_BYTES {
            let message = format!("the file has {} bytes; a pipeline file may have {MAX_BYTES} at most", text.len());
            return Err(DefinitionError::new(file, text, None, message));
        }
        let root: Spanned<Tree> = parse_yaml(text).map_err(|error| {
            let place = error
                .location()
                .map(|location| Place { line: to_usize(location.line()), column: to_usize(location.column()) });
            // The place stands before the message, so the parser need not say it again.
            let mut message = error.without_snippet().to_string();
            // What the parser would take as an option, a pipeline file cannot say.
            if let Some((wrong, _)) = message.split_once(", set DuplicateKeyPolicy") {
                message = wrong.to_owned();
            }
            if let Some(Place { line, column }) = place {
                message = message.replace(&format!(" at line {line}, column {column}"), "");
            }
            DefinitionError::new(file, text, place, message)
        })?;
        let mut places = BTreeMap::new();
        let value = flatten(root, &mut String::new(), &mut places);
        if !value.is_object() {
            return Err(DefinitionError::new(file, text, None, "a pipeline file is a map with source, steps and sink"));
        }
        Ok(Self { file: file.to_owned(), text: text.to_owned(), value, places, overrides: BTreeMap::new() })
    }

    /// Wraps a value that was built by a program instead of read from a file.
    #[must_use]
    pub(crate) fn from_value(value: Value) -> Self {
        Self {
            file: "pipeline".to_owned(),
            text: String::new(),
            value,
            places: BTreeMap::new(),
            overrides: BTreeMap::new(),
        }
    }

    /// The values.
    #[must_use]
    pub(crate) fn value(&self) -> &Value {
        &self.value
    }

    /// The name of the file.
    #[must_use]
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// Sets `path` (such as `steps.1.threshold` or `source.limit`) to a value written as YAML.
    ///
    /// In a step the kind need not be named: `steps.1.threshold` means the configuration of step 1, whatever its kind.
    pub(crate) fn set(&mut self, assignment: &str) -> Result<(), DefinitionError> {
        let Some((path, text)) = assignment.split_once('=') else {
            let message = format!("'{assignment}' is not an override; write dotted.key=value");
            return Err(DefinitionError::new("command line", assignment, None, message));
        };
        let value: Value = parse_yaml(text)
            .map(|tree| flatten(tree, &mut String::new(), &mut BTreeMap::new()))
            .unwrap_or_else(|_| Value::String(text.to_owned()));
        let mut node = &mut self.value;
        let mut full_path: Vec<String> = Vec::new();
        let segments: Vec<&str> = path.split('.').collect();
        for (depth, segment) in segments.iter().enumerate() {
            let walked = segments[..=depth].join(".");
            if let Value::Object(step) = &*node
                && depth == 2
                && segments[0] == "steps"
                && !step.contains_key(*segment)
            {
                full_path.extend(step.keys().next().cloned());
            }
            full_path.push((*segment).to_owned());
            node = match node {
                Value::Array(items) => {
                    let count = items.len();
                    let item = segment.parse().ok().and_then(|index: usize| items.get_mut(index));
                    let Some(item) = item else {
                        let message = format!("'{walked}': no such element; there are {count}, counted from 0");
                        return Err(DefinitionError::new("command line", assignment, None, message));
                    };
                    item
                }
                Value::Object(map) => {
                    let inside_step = depth == 2 && segments[0] == "steps" && map.len() == 1;
                    if inside_step && !map.contains_key(*segment) {
                        step_config(map).entry((*segment).to_owned()).or_insert(Value::Null)
                    } else {
                        map.entry((*segment).to_owned()).or_insert(Value::Null)
                    }
                }
                Value::Null => {
                    *node = Value::Object(Map::new());
                    let Value::Object(map) = node else { continue };
                    map.entry((*segment).to_owned()).or_insert(Value::Null)
                }
                scalar => {
                    let message = format!("'{walked}': {scalar} has no keys");
                    return Err(DefinitionError::new("command line", assignment, None, message));
                }
            };
        }
        *node = value;
        let path = full_path.join(".");
        let below = format!("{path}.");
        self.places.retain(|place, _| *place != path && !place.starts_with(&below));
        self.overrides.retain(|place, _| !place.starts_with(&below));
        self.overrides.insert(path, assignment.to_owned());
        Ok(())
    }

    /// An error about the value at `path`; where the path is not in the file, the nearest enclosing value is shown. A value
    /// that the command line set is not looked for in the file.
    #[must_use]
    pub(crate) fn error(&self, path: &str, message: impl Into<String>) -> DefinitionError {
        // Of a map that only the command line has, one of its values shows where it comes from.
        let below = format!("{path}.");
        let only_below = self.overrides.range(below.clone()..).next().filter(|(key, _)| key.starts_with(&below));
        let only_below = only_below.filter(|_| !self.places.contains_key(path)).map(|(key, _)| key.clone());
        let mut path = only_below.as_deref().unwrap_or(path);
        let place = loop {
            if let Some(assignment) = self.overrides.get(path) {
                // What is cut off could be what tells a credential from a name, so credentials go first.
                let shown: String = gristmill_datasets::redact(assignment).chars().take(SHOWN_OVERRIDE).collect();
                let message = format!("'{shown}': {}", message.into());
                return DefinitionError::new("command line", "", None, message);
            }
            if let Some(place) = self.places.get(path) {
                break Some(*place);
            }
            match path.rsplit_once('.') {
                Some((parent, _)) => path = parent,
                None => break None,
            }
        };
        DefinitionError::new(&self.file, &self.text, place, message)
    }
}

fn step_config(step: &mut Map<String, Value>) -> &mut Map<String, Value> {
    let kind = step.keys().next().cloned().unwrap_or_default();
    let config = step.entry(kind).or_insert(Value::Null);
    if !config.is_object() {
        *config = Value::Object(Map::new());
    }
    match config {
        Value::Object(map) => map,
        _ => unreachable!("the configuration was made an object above"),
    }
}

/// Any YAML value with the place of each of its parts.
#[derive(Debug)]
enum Tree {
    Scalar(Value),
    Sequence(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Tree, E> {
        Number::from_f64(value)
            .map(|number| Tree::Scalar(Value::Number(number)))
            .ok_or_else(|| E::custom("infinities and NaN are not allowed"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::String(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Tree::Sequence(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Tree::Map(entries))
    }
}

fn flatten(tree: Spanned<Tree>, path: &mut String, places: &mut BTreeMap<String, Place>) -> Value {
    let place = Place { line: to_usize(tree.referenced.line()), column: to_usize(tree.referenced.column()) };
    places.entry(path.clone()).or_insert(place);
    let length = path.len();
    let enter = |path: &mut String, segment: &str| {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(segment);
    };
    match tree.value {
        Tree::Scalar(value) => value,
        Tree::Sequence(items) => {
            let mut values = Vec::with_capacity(items.len());
            for (index, item) in items.into_iter().enumerate() {
                enter(path, &index.to_string());
                values.push(flatten(item, path, places));
                path.truncate(length);
            }
            Value::Array(values)
        }
        Tree::Map(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                enter(path, &key.value);
                // The key is where a reader looks, so it is the place of the entry.
                let at = Place { line: to_usize(key.referenced.line()), column: to_usize(key.referenced.column()) };
                places.insert(path.clone(), at);
                map.insert(key.value, flatten(value, path, places));
                path.truncate(length);
            }
            Value::Object(map)
        }
    }
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    const TEXT: &str =
        "name: a\nsource:\n  path: x.jsonl\nsteps:\n  - blocklist: {terms: t.txt}\n  - filter:\n      keep: a > 1\n";

    #[test]
    fn values_and_places() {
        let source = SourceText::parse("p.yaml", TEXT).unwrap();
        assert_eq!(source.value()["steps"][0]["blocklist"]["terms"], "t.txt");
        for (path, line, column) in [
            ("source.path", 3, 3),
            ("steps.0.blocklist.terms", 5, 17),
            ("steps.1.filter.keep", 7, 7),
            ("steps.1.filter.absent", 6, 5),
        ] {
            let error = source.error(path, "x");
            assert_eq!(error.place().map(|place| (place.line, place.column)), Some((line, column)), "{path}");
        }
    }

    #[test]
    fn only_true_and_false_are_booleans() {
        let mut source = SourceText::parse("p.yaml", "name: n\nsink: {a: yes, b: true, c: off}\n").unwrap();
        source.set("sink.d=no").unwrap();
        source.set("sink.e=false").unwrap();
        let expected = json!({"name": "n", "sink": {"a": "yes", "b": true, "c": "off", "d": "no", "e": false}});
        assert_eq!(source.value(), &expected);
    }

    #[test]
    fn overrides() {
        let mut source = SourceText::parse("p.yaml", TEXT).unwrap();
        for assignment in [
            "source.limit=10",
            "steps.0.min_distinct=3",
            "steps.1.filter.reason=why",
            "sink.parquet.path=out",
            "name=b",
        ] {
            source.set(assignment).unwrap();
        }
        assert_eq!(source.value()["source"]["limit"], json!(10));
        assert_eq!(source.value()["steps"][0], json!({"blocklist": {"terms": "t.txt", "min_distinct": 3}}));
        assert_eq!(source.value()["steps"][1], json!({"filter": {"keep": "a > 1", "reason": "why"}}));
        assert_eq!(source.value()["sink"], json!({"parquet": {"path": "out"}}));
        assert_eq!(source.value()["name"], "b");
        assert!(source.set("steps.7.x=1").unwrap_err().to_string().contains("there are 2"));
        assert!(source.set("name.x=1").unwrap_err().to_string().contains("has no keys"));
        assert!(source.set("name").unwrap_err().to_string().contains("dotted.key=value"));
        for (path, expected) in [
            ("source.limit", "command line: 'source.limit=10': x"),
            ("steps.0.blocklist.min_distinct", "command line: 'steps.0.min_distinct=3': x"),
            ("sink.parquet.path", "command line: 'sink.parquet.path=out': x"),
            ("sink", "command line: 'sink.parquet.path=out': x"),
            ("steps.0.blocklist.terms", "p.yaml:5:17: x"),
        ] {
            let error = source.error(path, "x").to_string();
            assert!(error.starts_with(expected), "{path}: {error}");
        }
    }

    #[test]
    fn bad_text_names_the_place() {
        for (text, part) in [
            ("a: [1, 2", "p.yaml:"),
            ("a: 1\na: 2\n", "p.yaml:2:1: duplicate mapping key: a\n"),
            ("- 1\n", "map with source"),
            ("", "map with source"),
        ] {
            let error = SourceText::parse("p.yaml", text).unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_yaml_bomb_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let last = level - 1;
            text.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{last}"); 10].join(", ")));
        }
        assert!(SourceText::parse("p.yaml", &text).is_err());
    }
}
