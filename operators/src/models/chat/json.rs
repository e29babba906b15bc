//! `tojson` as Python's `json.dumps` writes: `ensure_ascii=False`, nothing escaped for HTML.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::environment::option;

/// How values are written.
struct Style {
    ascii: bool,
    /// What stands before each element of a list or object on a line of its own, for each level.
    indent: Option<String>,
    item: String,
    key: String,
    sorted: bool,
}

/// `value | tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(value: &Value, arguments: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let get = |place, name| option(&arguments, &named, place, name);
    let (ascii, indent, separators) = (get(0, "ensure_ascii")?, get(1, "indent")?, get(2, "separators")?);
    let sorted = get(3, "sort_keys")?;
    named.assert_all_used()?;
    let indent = match (indent.as_str(), indent.as_i64()) {
        _ if indent.is_none() => None,
        (Some(text), _) => Some(text.to_owned()),
        (None, Some(count)) => Some(" ".repeat(usize::try_from(count).unwrap_or(0).min(64))),
        _ => return Err(wrong(format!("tojson: indent is {indent}, and a number or a text is expected"))),
    };
    let (mut item, mut key) = (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    if !separators.is_none() {
        let pair: Vec<Value> = separators.try_iter()?.collect();
        match (pair.first().and_then(Value::as_str), pair.get(1).and_then(Value::as_str)) {
            (Some(first), Some(second)) => (item, key) = (first.to_owned(), second.to_owned()),
            _ => return Err(wrong(format!("tojson: separators are {separators}, and two texts are expected"))),
        }
    }
    let style = Style { ascii: ascii.is_true(), indent, item, key, sorted: sorted.is_true() };
    let mut to = String::new();
    write(value, &style, 0, &mut to)?;
    Ok(to)
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

fn write(value: &Value, style: &Style, level: usize, to: &mut String) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => to.push_str("null"),
        ValueKind::Bool => to.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number if value.is_integer() => to.push_str(&value.to_string()),
        ValueKind::Number => to.push_str(&number(f64::try_from(value.clone())?)),
        ValueKind::String => string(value.as_str().unwrap_or_default(), style.ascii, to),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            list(['[', ']'], items.len(), style, level, to, |place, to| write(&items[place], style, level + 1, to))?;
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sorted {
                keys.sort();
            }
            list(['{', '}'], keys.len(), style, level, to, |place, to| {
                match keys[place].as_str() {
                    Some(text) => string(text, style.ascii, to),
                    None => {
                        let mut text = String::new();
                        write(&keys[place], style, level + 1, &mut text)?;
                        string(&text, style.ascii, to);
                    }
                }
                to.push_str(&style.key);
                write(&value.get_item(&keys[place])?, style, level + 1, to)
            })?;
        }
        kind => return Err(wrong(format!("tojson: a value that is {kind} cannot be written as JSON"))),
    }
    Ok(())
}

fn list(
    [open, close]: [char; 2],
    count: usize,
    style: &Style,
    level: usize,
    to: &mut String,
    mut each: impl FnMut(usize, &mut String) -> Result<(), Error>,
) -> Result<(), Error> {
    let line = |level: usize, to: &mut String| {
        if let Some(indent) = &style.indent {
            to.push('\n');
            (0..level).for_each(|_| to.push_str(indent));
        }
    };
    to.push(open);
    for place in 0..count {
        if place > 0 {
            to.push_str(&style.item);
        }
        line(level + 1, to);
        each(place, to)?;
    }
    if count > 0 {
        line(level, to);
    }
    to.push(close);
    Ok(())
}

fn string(text: &str, ascii: bool, to: &mut String) {
    to.push('"');
    for character in text.chars() {
        match character {
            '"' => to.push_str("\\\""),
            '\\' => to.push_str("\\\\"),
            '\n' => to.push_str("\\n"),
            '\r' => to.push_str("\\r"),
            '\t' => to.push_str("\\t"),
            '\u{8}' => to.push_str("\\b"),
            '\u{C}' => to.push_str("\\f"),
            '\0'..='\u{1F}' => to.push_str(&format!("\\u{:04x}", u32::from(character))),
            '\u{7F}'.. if ascii && character != '\u{7F}' => {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    to.push_str(&format!("\\u{unit:04x}"));
                }
            }
            _ => to.push(character),
        }
    }
    to.push('"');
}

/// A number as Python's `repr` writes it.
fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    // The shortest digits that give the number back, as Python's are.
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = value.to_string();
    if plain.contains('.') { plain } else { format!("{plain}.0") }
}
