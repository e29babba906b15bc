//! The types of JSON and CSV values, found out from a sample.

use arrow_schema::{DataType, Field, Fields};
use serde_json::Value;

/// What was seen of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only null, or nothing at all.
    Unknown,
    Boolean,
    /// Integers: some below 0, some beyond the signed 64-bit range.
    Integer {
        negative: bool,
        large: bool,
    },
    Double,
    String,
    List(Box<Self>),
    Object(Vec<(String, Self)>),
}

impl Kind {
    /// The kind of a JSON value; the error names the field whose elements differ.
    pub(crate) fn of_json(value: &Value) -> Result<Self, Conflict> {
        Ok(match value {
            Value::Null => Self::Unknown,
            Value::Bool(_) => Self::Boolean,
            Value::Number(number) if number.is_f64() => Self::Double,
            Value::Number(number) => Self::Integer {
                negative: number.as_i64().is_some_and(|number| number < 0),
                large: number.as_i64().is_none(),
            },
            Value::String(_) => Self::String,
            Value::Array(values) => {
                let mut element = Self::Unknown;
                for value in values {
                    element.merge(Self::of_json(value)?, "")?;
                }
                Self::List(Box::new(element))
            }
            Value::Object(members) => {
                let mut fields = Vec::with_capacity(members.len());
                for (name, value) in members {
                    fields.push((name.clone(), Self::of_json(value).map_err(|conflict| conflict.inside(name))?));
                }
                Self::Object(fields)
            }
        })
    }

    /// The kind of a CSV field. Digits with a zero or a plus in front stay strings: as numbers they would not come
    /// back.
    pub(crate) fn of_field(field: &str) -> Self {
        if field.is_empty() {
            return Self::Unknown;
        }
        if field == "true" || field == "false" {
            return Self::Boolean;
        }
        let digits = field.strip_prefix('-').unwrap_or(field);
        if digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.is_empty() {
            let canonical = digits == "0" && !field.starts_with('-') || !digits.starts_with('0');
            return match (canonical, field.parse::<i64>(), field.parse::<u64>()) {
                (true, Ok(number), _) => Self::Integer { negative: number < 0, large: false },
                (true, Err(_), Ok(_)) => Self::Integer { negative: false, large: true },
                _ => Self::String,
            };
        }
        let decimal = digits.starts_with(|first: char| first.is_ascii_digit())
            && (!digits.starts_with('0') || digits.starts_with("0."))
            && field.parse::<f64>().is_ok_and(f64::is_finite);
        if decimal { Self::Double } else { Self::String }
    }

    /// What holds both.
    pub(crate) fn merge(&mut self, other: Self, path: &str) -> Result<(), Conflict> {
        match (&mut *self, other) {
            (_, Self::Unknown) => {}
            (Self::Unknown, other) => *self = other,
            (Self::Integer { negative, large }, Self::Integer { negative: other_negative, large: other_large }) => {
                *negative |= other_negative;
                *large |= other_large;
            }
            (Self::Double, Self::Integer { .. }) => {}
            (Self::Integer { .. }, Self::Double) => *self = Self::Double,
            (Self::List(element), Self::List(other)) => {
                element.merge(*other, "[]").map_err(|conflict| conflict.inside(path))?;
            }
            (Self::Object(fields), Self::Object(others)) => {
                for (name, other) in others {
                    match fields.iter_mut().find(|(field, _)| *field == name) {
                        Some((_, field)) => {
                            field.merge(other, &name).map_err(|conflict| conflict.inside(path))?;
                        }
                        None => fields.push((name, other)),
                    }
                }
            }
            (found, other) if *found == other => {}
            (found, other) => {
                return Err(Conflict { path: path.to_owned(), found: found.name(), other: other.name(), row: None });
            }
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Unknown => "null",
            Self::Boolean => "true or false",
            Self::Integer { .. } => "an integer",
            Self::Double => "a number",
            Self::String => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    /// The Arrow type; `Null` where nothing is known.
    pub(crate) fn data_type(&self) -> DataType {
        match self {
            Self::Unknown => DataType::Null,
            Self::Boolean => DataType::Boolean,
            Self::Integer { large: false, .. } => DataType::Int64,
            Self::Integer { large: true, negative: false } => DataType::UInt64,
            Self::Integer { large: true, negative: true } | Self::Double => DataType::Float64,
            Self::String => DataType::Utf8,
            Self::List(element) => DataType::List(Field::new("item", element.data_type(), true).into()),
            Self::Object(fields) => DataType::Struct(to_fields(fields)),
        }
    }
}

/// The columns of an object.
pub(crate) fn to_fields(fields: &[(String, Kind)]) -> Fields {
    fields.iter().map(|(name, kind)| Field::new(name, kind.data_type(), true)).collect()
}

/// Two values of one field that no type holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    path: String,
    found: &'static str,
    other: &'static str,
    /// The row with the other value, by its position in the text, and the value of its column as JSON.
    row: Option<(u64, String)>,
}

/// So many characters of a value are shown.
const SHOWN_VALUE: usize = 80;

impl Conflict {
    /// The row at `offset`, whose column has the value `value`, is the one that differs from those before.
    pub(crate) fn at(mut self, offset: u64, value: &Value) -> Self {
        let text = value.to_string();
        let text = match text.char_indices().nth(SHOWN_VALUE) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        };
        self.row = Some((offset, text));
        self
    }

    pub(crate) fn inside(mut self, parent: &str) -> Self {
        self.path = match (parent, self.path.as_str()) {
            ("", _) => self.path,
            (_, "") => parent.to_owned(),
            (_, path) => format!("{parent}.{path}"),
        };
        self
    }

    /// The column of which the field is a part.
    pub(crate) fn column(&self) -> &str {
        self.path.split('.').next().unwrap_or_default()
    }
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "column '{}' is {} in one row and {} in another", self.path, self.found, self.other)?;
        match &self.row {
            Some((offset, value)) => write!(formatter, ", the one at byte {offset}: {value}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case(json!([1, 2]), DataType::Int64)]
    #[case(json!([1, 2.5]), DataType::Float64)]
    #[case(json!([2.5, -1]), DataType::Float64)]
    #[case(json!([1, 18_446_744_073_709_551_615_u64]), DataType::UInt64)]
    #[case(json!([-1, 18_446_744_073_709_551_615_u64]), DataType::Float64)]
    #[case(json!([null, true]), DataType::Boolean)]
    #[case(json!([null]), DataType::Null)]
    #[case(json!(["a", null]), DataType::Utf8)]
    fn elements_widen(#[case] values: Value, #[case] expected: DataType) {
        let kind = Kind::of_json(&values).unwrap();
        assert_eq!(kind.data_type(), DataType::List(Field::new("item", expected, true).into()));
    }

    #[rstest]
    #[case(json!({"a": 1}), json!({"a": "x"}), "column 'a' is an integer in one row and a string in another")]
    #[case(json!({"a": {"b": 1}}), json!({"a": {"b": []}}), "column 'a.b' is an integer in one row and a list in another")]
    #[case(json!({"a": [{"b": 1}]}), json!({"a": [{"b": true}]}), "column 'a.[].b' is an integer in one row and true or false in another")]
    fn conflicts_name_the_path(#[case] first: Value, #[case] second: Value, #[case] message: &str) {
        let mut kind = Kind::of_json(&first).unwrap();
        let conflict = kind.merge(Kind::of_json(&second).unwrap(), "").unwrap_err();
        assert_eq!(conflict.to_string(), message);
        assert_eq!(conflict.column(), "a");
    }

    #[rstest]
    #[case("12", DataType::Int64)]
    #[case("-12", DataType::Int64)]
    #[case("0", DataType::Int64)]
    #[case("007", DataType::Utf8)]
    #[case("+7", DataType::Utf8)]
    #[case("-0", DataType::Utf8)]
    #[case("18446744073709551615", DataType::UInt64)]
    #[case("99999999999999999999999", DataType::Utf8)]
    #[case("1.5", DataType::Float64)]
    #[case("-0.5e3", DataType::Float64)]
    #[case("00.5", DataType::Utf8)]
    #[case("inf", DataType::Utf8)]
    #[case("true", DataType::Boolean)]
    #[case("True", DataType::Utf8)]
    #[case("2024-01-01", DataType::Utf8)]
    #[case("", DataType::Null)]
    fn fields_of_csv(#[case] field: &str, #[case] expected: DataType) {
        assert_eq!(Kind::of_field(field).data_type(), expected);
    }
}
