//! The environment that transformers gives to chat templates, made of minijinja.
//!
//! What differs between minijinja and Jinja of Python in what templates of models use is set right here: white space of Python, what counts as
//! a sequence, `tojson`, and the functions that transformers adds. Methods of Python's values come from minijinja-contrib.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::json;

/// Name of the one template.
pub(super) const NAME: &str = "chat_template";

/// Steps of a template, so that one that never ends is an error. A turn takes some dozens, and one more for each 64 bytes of it.
const FUEL: u64 = 5_000_000;

/// What `raise_exception` puts before its message, so that it is told from other errors.
pub(super) const RAISED: &str = "raised: ";

/// An environment with this template.
pub(super) fn environment(source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", json::tojson);
    environment
        .add_filter("trim", |text: &str, characters: Option<&str>| strip(text, characters, [true, true]).to_owned());
    // Texts and mappings have a length and elements, which is all that Python asks.
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::String | ValueKind::Bytes | ValueKind::Seq | ValueKind::Map)
    });
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
    });
    environment.add_function("strftime_now", strftime_now);
    environment.add_template_owned(NAME, without_generation(&with_plain_lines(source)))?;
    Ok(environment)
}

/// The local time by a format of `strftime`.
fn strftime_now(format: &str) -> Result<String, Error> {
    use chrono::format::{Item, StrftimeItems};
    if StrftimeItems::new(format).any(|item| item == Item::Error) {
        let message = format!("strftime_now: {format:?} is not a format of strftime");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    Ok(chrono::Local::now().format(format).to_string())
}

/// Methods of Python's texts, lists and dicts.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        let sides = match name {
            "strip" => Some([true, true]),
            "lstrip" => Some([true, false]),
            "rstrip" => Some([false, true]),
            _ => None,
        };
        if let Some(sides) = sides {
            let (characters,): (Option<&str>,) = from_args(arguments)?;
            return Ok(Value::from(strip(text, characters, sides)));
        }
        match name {
            "isspace" => {
                let () = from_args(arguments)?;
                return Ok(Value::from(!text.is_empty() && text.chars().all(is_space)));
            }
            "title" => {
                let () = from_args(arguments)?;
                return Ok(Value::from(title(text)));
            }
            "split" if arguments.iter().all(Value::is_none) => {
                return Ok(text.split(is_space).filter(|word| !word.is_empty()).map(Value::from).collect());
            }
            "removeprefix" => {
                let (prefix,): (&str,) = from_args(arguments)?;
                return Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)));
            }
            "removesuffix" => {
                let (suffix,): (&str,) = from_args(arguments)?;
                return Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)));
            }
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments)
}

/// What Python's `str.isspace` says of a character.
fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1C}'..='\u{1F}')
}

fn strip<'a>(text: &'a str, characters: Option<&str>, [start, end]: [bool; 2]) -> &'a str {
    let unwanted = |character: char| match characters {
        Some(characters) => characters.contains(character),
        None => is_space(character),
    };
    let text = if start { text.trim_start_matches(unwanted) } else { text };
    if end { text.trim_end_matches(unwanted) } else { text }
}

/// Letters behind what is not a letter in upper case, others in lower case.
fn title(text: &str) -> String {
    let mut begins = true;
    let mut result = String::with_capacity(text.len());
    for character in text.chars() {
        if begins {
            result.extend(character.to_uppercase());
        } else {
            result.extend(character.to_lowercase());
        }
        begins = !character.is_alphabetic();
    }
    result
}

/// Jinja of Python reads all ends of lines as line feeds.
fn with_plain_lines(source: &str) -> String {
    source.replace("\r\n", "\n").replace('\r', "\n")
}

/// Replaces `{% generation %}` and its end, with which transformers finds what an assistant has written, by a block that does nothing
/// but has variables of its own, as that one has.
fn without_generation(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        result.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let name = tag[2..end].trim_end_matches("%}").trim_matches(['-', '+']).trim();
        let replaced = match name {
            "generation" => "with",
            "endgeneration" => "endwith",
            _ => {
                result.push_str(&tag[..2]);
                rest = &tag[2..];
                continue;
            }
        };
        result.push_str(&tag[..end].replacen(name, replaced, 1));
        rest = &tag[end..];
    }
    result.push_str(rest);
    result
}

/// Arguments of `tojson` by position or by name, as Python's function has them.
pub(super) fn option<'a>(
    arguments: &'a Rest<Value>,
    named: &'a Kwargs,
    place: usize,
    name: &str,
) -> Result<Value, Error> {
    if let Some(value) = arguments.get(place) {
        return Ok(value.clone());
    }
    Ok(named.get::<Option<Value>>(name)?.unwrap_or(Value::from(())))
}
