//! What a run depends on, as one hash and as the parts that explain it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use arrow_schema::Schema;
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use crate::{Compression, Format, SourceFile};

/// Version of what parts and records look like; a program with another number does not resume a run.
pub const RUN_FORMAT: u64 = 1;

/// More changed entries of one list than this are summed up in one line.
const LISTED_CHANGES: usize = 3;
/// Characters of a value that are shown.
const SHOWN_CHARACTERS: usize = 80;

/// The identity of a run: a run is resumed only by a program and an input that would do the same.
///
/// ```
/// use gristmill_datasets::run::{Fingerprint, explain_difference};
/// use serde_json::json;
///
/// let old = Fingerprint::of(json!({"steps": [{"name": "filter", "config": {"threshold": 0.5}}]}));
/// let new = Fingerprint::of(json!({"steps": [{"config": {"threshold": 0.6}, "name": "filter"}]}));
/// assert_ne!(old.value, new.value);
/// let lines: Vec<String> = explain_difference(&old, &new).iter().map(ToString::to_string).collect();
/// assert_eq!(lines, ["steps[0].config.threshold: 0.5 -> 0.6"]);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Fingerprint {
    /// BLAKE3 hash of the parts in canonical form, in hexadecimal.
    pub value: String,
    /// Everything the results depend on as JSON with sorted keys. It is kept as text because it lists every input: a tree of
    /// a hundred thousand files would take a quarter of a gigabyte.
    parts: String,
}

/// A file as the fingerprint has it, with sorted keys.
#[derive(Serialize)]
struct Input<'a> {
    compression: Compression,
    etag: &'a Option<String>,
    format: Format,
    modified_ms: Option<i64>,
    size: u64,
    url: &'a str,
    version: &'a Option<String>,
}

const INPUTS: &str = "inputs";

/// One difference between two fingerprints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where, such as `steps[1].config.threshold`.
    pub path: String,
    /// What it was; `None` when it was not there.
    pub old: Option<String>,
    /// What it is; `None` when it is no longer there.
    pub new: Option<String>,
    /// The summary of a list with many changes, in place of values.
    pub summary: Option<String>,
}

impl Fingerprint {
    /// The fingerprint of any parts. Order of keys does not matter.
    #[must_use]
    pub fn of(parts: Value) -> Self {
        Self::of_text(canonical(parts).to_string())
    }

    /// The fingerprint of a run: `specs` (the definition with defaults filled in, such as `source`, `steps` and `sink`),
    /// the identities of the inputs, the hash of each resource by name, the schema of the output and [`RUN_FORMAT`].
    #[must_use]
    pub fn of_run(
        specs: Map<String, Value>,
        inputs: &[SourceFile],
        resources: &BTreeMap<String, String>,
        schema: &Schema,
    ) -> Self {
        let fields = schema.fields().iter();
        let fields = fields.map(|field| {
            json!({"name": field.name(), "type": field.data_type().to_string(), "nullable": field.is_nullable()})
        });
        let mut parts = specs;
        parts.insert("format".into(), json!(RUN_FORMAT));
        // Holds the place of the inputs among the sorted keys.
        parts.insert(INPUTS.into(), Value::Null);
        parts.insert("resources".into(), json!(resources));
        parts.insert("schema".into(), fields.collect());
        let parts: BTreeMap<String, Value> = parts.into_iter().collect();
        let mut text = String::new();
        for (key, value) in parts {
            text.push(if text.is_empty() { '{' } else { ',' });
            append(&mut text, &key);
            text.push(':');
            if key == INPUTS {
                append_inputs(&mut text, inputs);
            } else {
                append(&mut text, &canonical(value));
            }
        }
        text.push('}');
        Self::of_text(text)
    }

    /// A fingerprint as it was written down: its value and its parts as JSON.
    ///
    /// # Errors
    /// Where the parts are not JSON.
    pub(super) fn recorded(value: String, parts: String) -> serde_json::Result<Self> {
        serde_json::from_str::<IgnoredAny>(&parts)?;
        Ok(Self { value, parts })
    }

    fn of_text(parts: String) -> Self {
        Self { value: blake3::hash(parts.as_bytes()).to_hex().to_string(), parts }
    }

    /// Everything the results depend on, with sorted keys; null when it was forgotten.
    #[must_use]
    pub fn parts(&self) -> Value {
        serde_json::from_str(&self.parts).unwrap_or(Value::Null)
    }

    /// The parts as JSON.
    pub(super) fn parts_json(&self) -> &str {
        &self.parts
    }

    /// Forgets what the value was made of, which is as large as the list of inputs. Differences can no longer be explained.
    pub fn forget_parts(&mut self) {
        self.parts = String::new();
    }
}

fn append_inputs(text: &mut String, inputs: &[SourceFile]) {
    text.push('[');
    for (number, file) in inputs.iter().enumerate() {
        if number > 0 {
            text.push(',');
        }
        let SourceFile { url, size, etag, version, modified_ms, format, compression } = file;
        append(
            text,
            &Input {
                compression: *compression,
                etag,
                format: *format,
                modified_ms: *modified_ms,
                size: *size,
                url,
                version,
            },
        );
    }
    text.push(']');
}

fn append(text: &mut String, value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(json) => text.push_str(&json),
        Err(error) => unreachable!("only maps with other keys than strings have no JSON: {error}"),
    }
}

/// Says how two fingerprints differ, one line per difference; empty when they are equal.
///
/// Lists of named entries (steps, inputs) are compared by name, so that an inserted step is one line and not all the
/// steps after it. Lists with many changes are summed up.
#[must_use]
pub fn explain_difference(old: &Fingerprint, new: &Fingerprint) -> Vec<Difference> {
    let mut differences = Vec::new();
    compare("", &old.parts(), &new.parts(), &mut differences);
    differences
}

fn compare(path: &str, old: &Value, new: &Value, differences: &mut Vec<Difference>) {
    match (old, new) {
        _ if old == new => {}
        (Value::Object(old), Value::Object(new)) => {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match (old.get(key), new.get(key)) {
                    (Some(old), Some(new)) => compare(&path, old, new, differences),
                    (old, new) => differences.push(Difference::values(path, old, new)),
                }
            }
        }
        (Value::Array(old), Value::Array(new)) => compare_lists(path, old, new, differences),
        _ => differences.push(Difference::values(path.to_owned(), Some(old), Some(new))),
    }
}

fn compare_lists(path: &str, old: &[Value], new: &[Value], differences: &mut Vec<Difference>) {
    let old_names = names(old);
    let new_names = names(new);
    let pairs: Vec<(Option<usize>, Option<usize>)> = match (&old_names, &new_names) {
        (Some(old_names), Some(new_names)) => {
            let positions: BTreeMap<&str, usize> = old_names.iter().copied().zip(0..).collect();
            let known: BTreeSet<&str> = new_names.iter().copied().collect();
            let of_new =
                new_names.iter().zip(0..).map(|(name, position)| (positions.get(name).copied(), Some(position)));
            let gone = old_names.iter().zip(0..).filter(|(name, _)| !known.contains(**name));
            of_new.chain(gone.map(|(_, position)| (Some(position), None))).collect()
        }
        _ => {
            let there = |list: &[Value], position| (position < list.len()).then_some(position);
            (0..old.len().max(new.len())).map(|position| (there(old, position), there(new, position))).collect()
        }
    };
    let mut found: Vec<Vec<Difference>> = Vec::new();
    let (mut changed, mut added, mut removed) = (0, 0, 0);
    for (old_position, new_position) in &pairs {
        let mut inner = Vec::new();
        let old_value = old_position.and_then(|position| old.get(position));
        let new_value = new_position.and_then(|position| new.get(position));
        // A position says little about one of many files, so those are shown by their location.
        let url = new_value.or(old_value).and_then(|value| value.get("url")).and_then(Value::as_str);
        let entry = match url {
            Some(url) => format!("{path}[{url}]"),
            None => format!("{path}[{}]", new_position.or(*old_position).unwrap_or_default()),
        };
        match (old_value, new_value) {
            (Some(old_value), Some(new_value)) => {
                compare(&entry, old_value, new_value, &mut inner);
                changed += usize::from(!inner.is_empty());
            }
            (None, new_value) => {
                added += 1;
                inner.push(Difference::values(entry, None, new_value));
            }
            (old_value, None) => {
                removed += 1;
                inner.push(Difference::values(entry, old_value, None));
            }
        }
        if !inner.is_empty() {
            found.push(inner);
        }
    }
    let in_both: Vec<usize> = pairs.iter().filter(|pair| pair.1.is_some()).filter_map(|pair| pair.0).collect();
    if !in_both.is_sorted()
        && let (Some(old_names), Some(new_names)) = (&old_names, &new_names)
    {
        let order = |names: &[&str]| Some(shortened(&names.join(", ")));
        differences.push(Difference {
            path: format!("order of {path}"),
            old: order(old_names),
            new: order(new_names),
            summary: None,
        });
    }
    if found.len() <= LISTED_CHANGES {
        differences.extend(found.into_iter().flatten());
        return;
    }
    let counts = [(changed, "changed"), (added, "added"), (removed, "removed")];
    let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}"));
    let first = found.iter().flatten().next().map(ToString::to_string).unwrap_or_default();
    differences.push(Difference {
        path: path.to_owned(),
        old: None,
        new: None,
        summary: Some(format!("{}, first {first}", counts.collect::<Vec<_>>().join(", "))),
    });
}

/// The names of a list of entries, when each has one and no two are the same.
fn names(list: &[Value]) -> Option<Vec<&str>> {
    let names: Option<Vec<&str>> =
        list.iter().map(|entry| entry.get("name").or_else(|| entry.get("url")).and_then(Value::as_str)).collect();
    names.filter(|names| names.iter().collect::<BTreeSet<_>>().len() == names.len())
}

fn canonical(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<String, Value> = map.into_iter().map(|(key, value)| (key, canonical(value))).collect();
            Value::Object(sorted.into_iter().collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(canonical).collect()),
        scalar => scalar,
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl Difference {
    fn values(path: String, old: Option<&Value>, new: Option<&Value>) -> Self {
        let shown = |value: &Value| shortened(&value.to_string());
        Self { path, old: old.map(shown), new: new.map(shown), summary: None }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "run" } else { &self.path };
        match (&self.summary, &self.old, &self.new) {
            (Some(summary), _, _) => write!(formatter, "{path}: {summary}"),
            (None, Some(old), Some(new)) => write!(formatter, "{path}: {old} -> {new}"),
            (None, None, Some(new)) => write!(formatter, "{path}: new, {new}"),
            (None, Some(old), None) => write!(formatter, "{path}: gone, was {old}"),
            (None, None, None) => write!(formatter, "{path}: differs"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow_schema::{DataType, Field};

    use super::*;
    use crate::{Compression, Format};

    fn lines(old: Value, new: Value) -> Vec<String> {
        let (old, new) = (Fingerprint::of(old), Fingerprint::of(new));
        let lines: Vec<String> = explain_difference(&old, &new).iter().map(ToString::to_string).collect();
        assert_eq!(lines.is_empty(), old.value == new.value, "the hash and its explanation disagree");
        lines
    }

    #[test]
    fn differences_are_explained() {
        let step = |name: &str, threshold: f64| json!({"name": name, "config": {"threshold": threshold}});
        let file = |number: usize, size: usize| json!({"url": format!("file:///c/{number}"), "size": size});
        let cases: Vec<(Value, Value, Vec<&str>)> = vec![
            (json!({"a": 1, "b": {"c": 2, "d": 3}}), json!({"b": {"d": 3, "c": 2}, "a": 1}), vec![]),
            (json!({"a": 1}), json!({"a": 1.0}), vec!["a: 1 -> 1.0"]),
            (json!({"a": null}), json!({}), vec!["a: gone, was null"]),
            (json!({}), json!({"a": [1]}), vec!["a: new, [1]"]),
            (json!({"a": {"b": 1}}), json!({"a": 7}), vec![r#"a: {"b":1} -> 7"#]),
            (
                json!({"steps": [step("x", 0.5), step("y", 0.5)]}),
                json!({"steps": [step("x", 0.5), step("y", 0.6)]}),
                vec!["steps[1].config.threshold: 0.5 -> 0.6"],
            ),
            (
                json!({"steps": [step("x", 0.5), step("y", 0.5)]}),
                json!({"steps": [step("new", 0.5), step("x", 0.5), step("y", 0.5)]}),
                vec![r#"steps[0]: new, {"config":{"threshold":0.5},"name":"new"}"#],
            ),
            (
                json!({"steps": [step("x", 0.5), step("y", 0.5)]}),
                json!({"steps": [step("y", 0.5), step("x", 0.5)]}),
                vec!["order of steps: x, y -> y, x"],
            ),
            (
                json!({"inputs": (0..10).map(|number| file(number, 5)).collect::<Vec<_>>()}),
                json!({"inputs": (2..11).map(|number| file(number, 5 + usize::from(number < 5))).collect::<Vec<_>>()}),
                vec!["inputs: 3 changed, 1 added, 2 removed, first inputs[file:///c/2].size: 5 -> 6"],
            ),
            (json!({"terms": [1, 2, 3]}), json!({"terms": [1, 3]}), vec!["terms[1]: 2 -> 3", "terms[2]: gone, was 3"]),
            (
                json!([{"name": "x"}, {"name": "x"}]),
                json!([{"name": "x"}, {"name": "y"}]),
                vec![r#"[1].name: "x" -> "y""#],
            ),
        ];
        for (old, new, expected) in cases {
            assert_eq!(lines(old, new), expected);
        }
        let long = lines(json!({"a": "ä".repeat(500)}), json!({"a": 1}));
        assert!(long[0].chars().count() < 120, "{long:?}");
    }

    #[test]
    fn a_run_depends_on_its_inputs_resources_schema_and_format() {
        let file = SourceFile {
            url: "file:///c/a.jsonl".into(),
            size: 10,
            etag: None,
            version: None,
            modified_ms: Some(5),
            format: Format::Jsonl,
            compression: Compression::None,
        };
        let specs = Map::from_iter([("steps".to_owned(), json!([]))]);
        let resources = BTreeMap::from([("terms.csv".to_owned(), "hash".to_owned())]);
        let schema = Schema::new(vec![Field::new("text", DataType::Utf8View, false)]);
        let run = Fingerprint::of_run(specs.clone(), std::slice::from_ref(&file), &resources, &schema);
        assert_eq!(run, Fingerprint::of_run(specs.clone(), std::slice::from_ref(&file), &resources, &schema));

        let touched = SourceFile { modified_ms: Some(6), ..file.clone() };
        let other_terms = BTreeMap::from([("terms.csv".to_owned(), "other".to_owned())]);
        let nullable = Schema::new(vec![Field::new("text", DataType::Utf8View, true)]);
        let cases = [
            (
                Fingerprint::of_run(specs.clone(), &[touched], &resources, &schema),
                "inputs[file:///c/a.jsonl].modified_ms: 5 -> 6",
            ),
            (
                Fingerprint::of_run(specs.clone(), std::slice::from_ref(&file), &other_terms, &schema),
                r#"resources.terms.csv: "hash" -> "other""#,
            ),
            (
                Fingerprint::of_run(specs, std::slice::from_ref(&file), &resources, &nullable),
                "schema[0].nullable: false -> true",
            ),
        ];
        for (other, expected) in cases {
            assert_ne!(run.value, other.value);
            let lines: Vec<String> = explain_difference(&run, &other).iter().map(ToString::to_string).collect();
            assert_eq!(lines, [expected]);
        }
        let parts = run.parts();
        assert_eq!(parts["format"], json!(RUN_FORMAT));
        assert_eq!(parts["inputs"], json!([file]));
        assert_eq!(Fingerprint::of(parts), run, "the text that is hashed is the canonical one");
        let none = Fingerprint::of_run(Map::new(), &[], &resources, &schema);
        assert_eq!(none.parts()["inputs"], json!([]));
        assert_eq!(Fingerprint::of(none.parts()), none);
    }
}
