//! How a verdict is read out of an answer.

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::KIND;
use crate::Result;
use crate::config::invalid;

/// How a verdict is read out of an answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Parse {
    /// The first digit behind the last `[` of the answer, or of all of it where there is no `[`. 1 is true, any other digit false.
    #[default]
    BracketDigit,
    /// A field of a JSON object, which may stand between other text.
    Json(JsonField),
    /// A group of a regular expression.
    Regex(Group),
}

/// A field of the JSON object in an answer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonField {
    /// The field's name; of nested objects and lists a path of names and positions with dots, such as `verdicts.0.harmful`.
    pub field: String,
    /// Values for which the verdict is true.
    #[serde(default = "default_true")]
    pub true_values: Vec<Value>,
    /// Values for which it is false; a value of neither list is an error. Left empty, every other value is false.
    #[serde(default = "default_false")]
    pub false_values: Vec<Value>,
}

/// A group of a regular expression.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The expression, in the syntax of Rust's `regex`. The first place where it matches counts.
    pub pattern: String,
    /// The number of the group whose text is compared; 0 is the whole match.
    #[serde(default = "default_group")]
    pub group: usize,
    /// Texts for which the verdict is true.
    pub true_values: Vec<String>,
    /// Texts for which it is false; a text of neither list is an error. Left empty, every other text is false.
    #[serde(default)]
    pub false_values: Vec<String>,
}

fn default_true() -> Vec<Value> {
    vec![true.into()]
}

fn default_false() -> Vec<Value> {
    vec![false.into()]
}

fn default_group() -> usize {
    1
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) is_true: bool,
    /// The part of the answer that says so.
    pub(super) judgment: String,
}

/// A [`Parse`] that is ready for use.
#[derive(Debug)]
pub(super) enum Parser {
    BracketDigit,
    Json(JsonField),
    Regex(Regex, Group),
}

impl Parser {
    /// Makes a parser, and refuses one that could not say true.
    pub(super) fn new(parse: &Parse) -> Result<Self> {
        match parse {
            Parse::BracketDigit => Ok(Self::BracketDigit),
            Parse::Json(field) => {
                if field.field.split('.').any(str::is_empty) {
                    let message =
                        format!("{:?}; names and positions with single dots between are allowed", field.field);
                    return Err(invalid(KIND, "parse.json.field", message));
                }
                check_values("parse.json", &field.true_values, &field.false_values)?;
                Ok(Self::Json(field.clone()))
            }
            Parse::Regex(group) => {
                let regex = Regex::new(&group.pattern)
                    .map_err(|error| invalid(KIND, "parse.regex.pattern", error.to_string()))?;
                if group.group >= regex.captures_len() {
                    let message =
                        format!("{}; the pattern has the groups 0 to {}", group.group, regex.captures_len() - 1);
                    return Err(invalid(KIND, "parse.regex.group", message));
                }
                check_values("parse.regex", &group.true_values, &group.false_values)?;
                Ok(Self::Regex(regex, group.clone()))
            }
        }
    }

    /// The verdict; the error says what is missing.
    pub(super) fn read(&self, answer: &str) -> Result<Verdict, String> {
        match self {
            Self::BracketDigit => {
                let part = answer.rsplit('[').next().unwrap_or(answer);
                let digit =
                    part.chars().find(char::is_ascii_digit).ok_or("the answer has no digit behind its last '['")?;
                Ok(Verdict { is_true: digit == '1', judgment: digit.to_string() })
            }
            Self::Json(JsonField { field, true_values, false_values }) => {
                let object = json_in(answer).ok_or("the answer holds no JSON object")?;
                let value = at(&object, field).ok_or_else(|| format!("the answer's JSON has no field '{field}'"))?;
                let is_true = compare(value, true_values, false_values)?;
                let judgment = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                Ok(Verdict { is_true, judgment })
            }
            Self::Regex(regex, Group { group, true_values, false_values, .. }) => {
                let captures = regex.captures(answer).ok_or("the pattern does not match the answer")?;
                let text = captures.get(*group).ok_or_else(|| format!("group {group} is not part of the match"))?;
                let judgment = text.as_str().to_owned();
                Ok(Verdict { is_true: compare(&judgment, true_values, false_values)?, judgment })
            }
        }
    }
}

fn check_values<T: PartialEq + std::fmt::Debug>(key: &str, true_values: &[T], false_values: &[T]) -> Result<()> {
    if true_values.is_empty() {
        return Err(invalid(KIND, &format!("{key}.true_values"), "the list is empty, so no verdict could be true"));
    }
    if let Some(both) = true_values.iter().find(|value| false_values.contains(value)) {
        return Err(invalid(KIND, &format!("{key}.false_values"), format!("{both:?} is among 'true_values', too")));
    }
    Ok(())
}

fn compare<T: PartialEq + std::fmt::Debug>(value: &T, true_values: &[T], false_values: &[T]) -> Result<bool, String> {
    if true_values.contains(value) {
        return Ok(true);
    }
    if false_values.is_empty() || false_values.contains(value) {
        return Ok(false);
    }
    Err(format!("{value:?} is not among the allowed values"))
}

/// The JSON of an answer: all of it, or what stands between the first brace and the last.
fn json_in(answer: &str) -> Option<Value> {
    let object = |text: &str| serde_json::from_str::<Value>(text).ok().filter(Value::is_object);
    object(answer).or_else(|| object(answer.get(answer.find('{')?..=answer.rfind('}')?)?))
}

/// The value at a dotted path; a name that holds dots itself comes first.
fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    if let Some(found) = value.get(path) {
        return Some(found);
    }
    path.split('.').try_fold(value, |value, name| match value {
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        other => other.get(name),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn parser(parse: Value) -> Result<Parser> {
        Parser::new(&serde_json::from_value(parse).unwrap())
    }

    #[test]
    fn the_first_digit_behind_the_last_bracket_counts() {
        let parser = parser(json!("bracket_digit")).unwrap();
        for (answer, expected) in [
            ("[1]", Ok((true, "1"))),
            ("[0]", Ok((false, "0"))),
            ("[ 1 ]", Ok((true, "1"))),
            ("first [0], then [1]", Ok((true, "1"))),
            ("first [1], then [0]", Ok((false, "0"))),
            ("[1] and [none", Err(())),
            ("1", Ok((true, "1"))),
            ("0 or [1", Ok((true, "1"))),
            ("[12]", Ok((true, "1"))),
            ("[21]", Ok((false, "2"))),
            ("[x1]", Ok((true, "1"))),
            ("[]1", Ok((true, "1"))),
            ("[-1]", Ok((true, "1"))),
            ("[١]", Err(())),
            ("[", Err(())),
            ("", Err(())),
            ("I cannot say.", Err(())),
        ] {
            let found = parser.read(answer).map_err(|_| ());
            let expected = expected.map(|(is_true, judgment)| Verdict { is_true, judgment: judgment.to_owned() });
            assert_eq!(found, expected, "{answer}");
        }
    }

    #[test]
    fn a_field_of_json_is_found_between_other_text() {
        let plain = parser(json!({"json": {"field": "harmful"}})).unwrap();
        let words = parser(json!({"json": {"field": "a.1.b", "true_values": ["yes", 1], "false_values": []}})).unwrap();
        for (parser, answer, expected) in [
            (&plain, r#"{"harmful": true}"#, Ok((true, "true"))),
            (&plain, "Here:\n```json\n{\"harmful\": false, \"x\": {}}\n```\nDone.", Ok((false, "false"))),
            (&plain, r#"{"harmful": "true"}"#, Err("is not among the allowed values")),
            (&plain, r#"{"harmless": true}"#, Err("no field 'harmful'")),
            (&plain, r#"{"harmful": tru"#, Err("no JSON object")),
            (&plain, "}{", Err("no JSON object")),
            (&plain, "true", Err("no JSON object")),
            (&words, r#"{"a": [0, {"b": "yes"}]}"#, Ok((true, "yes"))),
            (&words, r#"{"a": [0, {"b": 1}]}"#, Ok((true, "1"))),
            (&words, r#"{"a": [0, {"b": "perhaps"}]}"#, Ok((false, "perhaps"))),
            (&words, r#"{"a.1.b": "yes", "a": 1}"#, Ok((true, "yes"))),
            (&words, r#"{"a": [0]}"#, Err("no field 'a.1.b'")),
        ] {
            match (parser.read(answer), expected) {
                (Ok(found), Ok((is_true, judgment))) => {
                    assert_eq!((found.is_true, found.judgment.as_str()), (is_true, judgment), "{answer}");
                }
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{answer}: {found}"),
                (found, expected) => panic!("{answer}: {found:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn a_group_of_a_regular_expression_is_compared() {
        let parser = parser(
            json!({"regex": {"pattern": "(?i)verdict:\\s*(\\w+)", "true_values": ["yes"], "false_values": ["no"]}}),
        )
        .unwrap();
        assert_eq!(
            parser.read("Verdict: yes. VERDICT: no").unwrap(),
            Verdict { is_true: true, judgment: "yes".into() }
        );
        assert!(!parser.read("verdict:no").unwrap().is_true);
        assert!(parser.read("verdict: maybe").unwrap_err().contains("\"maybe\""));
        assert!(parser.read("yes").unwrap_err().contains("does not match"));
    }

    #[test]
    fn parsers_that_cannot_work_are_refused() {
        for (parse, expected) in [
            (json!({"regex": {"pattern": "(", "true_values": ["a"]}}), "parse.regex.pattern"),
            (json!({"regex": {"pattern": "a", "true_values": ["a"]}}), "the pattern has the groups 0 to 0"),
            (json!({"regex": {"pattern": "(a)", "true_values": []}}), "no verdict could be true"),
            (json!({"json": {"field": "a", "true_values": [false]}}), "is among 'true_values', too"),
        ] {
            let message = parser(parse).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
