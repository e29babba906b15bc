//! What a row asks: its text, cut, in a template, behind the messages that stand before every row.

use std::collections::BTreeSet;

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value};
use serde::Deserialize;

use super::{Input, Message, row};
use crate::columns::TextColumn;
use crate::config::invalid;
use crate::tokens::Tokenizer;
use crate::{OperatorError, ResourceIdentity, Resources, Result, require_column};

/// The name under which a template finds the text.
const TEXT: &str = "text";

const TEMPLATE: &str = "prompt";

/// What a configuration says of a [`Prompter`].
pub(in crate::scoring) struct Prompting<'a> {
    pub(in crate::scoring) kind: &'static str,
    pub(in crate::scoring) column: &'a str,
    pub(in crate::scoring) prompt: Option<&'a str>,
    pub(in crate::scoring) prompt_file: Option<&'a str>,
    pub(in crate::scoring) system: Option<&'a str>,
    pub(in crate::scoring) system_file: Option<&'a str>,
    pub(in crate::scoring) cut_at: Option<&'a str>,
    pub(in crate::scoring) max_characters: Option<usize>,
    pub(in crate::scoring) max_text_tokens: Option<usize>,
    pub(in crate::scoring) tokenizer: Option<&'a str>,
    /// Whether rows are turns of a conversation, and not texts to continue.
    pub(in crate::scoring) chat: bool,
}

/// Makes what a model reads out of rows.
#[derive(Debug)]
pub(in crate::scoring) struct Prompter {
    kind: &'static str,
    column: String,
    environment: Environment<'static>,
    /// Columns that the template reads, without the text.
    others: Vec<String>,
    prefix: Vec<Message>,
    cut_at: Option<String>,
    max_characters: Option<usize>,
    tokens: Option<(Tokenizer, usize)>,
    chat: bool,
    identities: Vec<ResourceIdentity>,
}

/// A file of messages.
#[derive(Deserialize)]
struct Prefix {
    messages: Vec<Message>,
}

impl Prompting<'_> {
    /// Refuses what contradicts itself; needs no file.
    pub(in crate::scoring) fn check(&self) -> Result<()> {
        let wrong = |key: &str, message: &str| Err(invalid(self.kind, key, message));
        if self.prompt.is_some() && self.prompt_file.is_some() {
            return wrong("prompt_file", "'prompt' is given, too; one of them is allowed");
        }
        if self.system.is_some() && self.system_file.is_some() {
            return wrong("system_file", "'system' is given, too; one of them is allowed");
        }
        if !self.chat && self.system.or(self.system_file).is_some() {
            return wrong(
                "chat",
                "a text that is continued has no system message; leave 'system' and 'system_file' out",
            );
        }
        for (key, text) in [("prompt", self.prompt), ("system", self.system)] {
            if text.is_some_and(|text| text.trim().is_empty()) {
                return wrong(key, "the text is empty");
            }
        }
        if self.cut_at == Some("") {
            return wrong("cut_at", "the marker is empty");
        }
        if self.max_characters == Some(0) {
            return wrong("max_characters", "0; at least 1 is allowed");
        }
        match (self.max_text_tokens, self.tokenizer) {
            (Some(0), _) => wrong("max_text_tokens", "0; at least 1 is allowed"),
            (Some(_), None) => wrong("max_text_tokens", "tokens of what? Name the 'tokenizer' that counts them"),
            _ => Ok(()),
        }
    }

    pub(in crate::scoring) fn bind(&self, input: &Schema, resources: &Resources) -> Result<Prompter> {
        self.check()?;
        TextColumn::check(self.kind, input, self.column)?;
        let mut identities = Vec::new();
        let mut read = |location: &str| -> Result<String> {
            let (bytes, identity) = resources.read(location)?;
            identities.push(identity);
            let text = String::from_utf8(bytes.into());
            let text = text.map_err(|error| unusable(location, format!("not UTF-8: {error}")))?;
            if text.trim().is_empty() { Err(unusable(location, "the file is empty".to_owned())) } else { Ok(text) }
        };
        let (template, from) = match (self.prompt, self.prompt_file) {
            (None, Some(file)) => (read(file)?, "prompt_file"),
            (prompt, _) => (prompt.unwrap_or("{{ text }}").to_owned(), "prompt"),
        };
        let prefix = match (self.system, self.system_file) {
            (Some(text), _) => vec![system(text)],
            (None, Some(file)) => messages(file, read(file)?)?,
            (None, None) => Vec::new(),
        };
        let mut tokens = None;
        if let (Some(most), Some(location)) = (self.max_text_tokens, self.tokenizer) {
            let (tokenizer, identity) = Tokenizer::load(location, resources)?;
            identities.push(identity);
            tokens = Some((tokenizer, most));
        }
        let environment = environment(template).map_err(|error| invalid(self.kind, from, explain(&error)))?;
        let others = self.others(&environment, from, input)?;
        try_out(&environment, &others).map_err(|error| invalid(self.kind, from, explain(&error)))?;
        Ok(Prompter {
            kind: self.kind,
            column: self.column.to_owned(),
            environment,
            others,
            prefix,
            cut_at: self.cut_at.map(str::to_owned),
            max_characters: self.max_characters,
            tokens,
            chat: self.chat,
            identities,
        })
    }

    /// The columns that the template names beside the text.
    fn others(&self, environment: &Environment<'static>, from: &str, input: &Schema) -> Result<Vec<String>> {
        let template = environment.get_template(TEMPLATE).map_err(|error| invalid(self.kind, from, explain(&error)))?;
        let globals: BTreeSet<&str> = environment.globals().map(|(name, _)| name).collect();
        let names: BTreeSet<String> = template.undeclared_variables(false).into_iter().collect();
        let mut others = Vec::new();
        // A column hides what the template's language knows by the same name.
        let is_column = |name: &str| input.field_with_name(name).is_ok();
        for name in
            names.into_iter().filter(|name| name != TEXT && (is_column(name) || !globals.contains(name.as_str())))
        {
            let (_, data_type) = require_column(self.kind, input, &name)?;
            if !row::is_supported(data_type) {
                return Err(OperatorError::ColumnType {
                    kind: self.kind.to_owned(),
                    column: name,
                    found: data_type.to_string(),
                    expected: "text, numbers, booleans, lists or structs of them, which a template can write"
                        .to_owned(),
                });
            }
            others.push(name);
        }
        Ok(others)
    }
}

impl Prompter {
    /// Columns that are read.
    pub(in crate::scoring) fn inputs(&self) -> Vec<String> {
        let mut inputs = vec![self.column.clone()];
        inputs.extend(self.others.iter().filter(|name| **name != self.column).cloned());
        inputs
    }

    pub(in crate::scoring) fn identities(&self) -> &[ResourceIdentity] {
        &self.identities
    }

    /// What each row asks; nothing where its text is null. The error is about that row alone.
    pub(in crate::scoring) fn inputs_of(&self, batch: &RecordBatch) -> Result<Vec<Option<Result<Input, String>>>> {
        let texts = TextColumn::of(self.kind, batch, &self.column)?;
        let others = self.others.iter().map(|name| {
            let (index, _) = require_column(self.kind, batch.schema_ref(), name)?;
            Ok((name.as_str(), batch.column(index)))
        });
        let others: Vec<_> = others.collect::<Result<_>>()?;
        let template =
            self.environment.get_template(TEMPLATE).map_err(|error| invalid(self.kind, "prompt", explain(&error)))?;
        let ask = |row: usize, text: &str| {
            let mut values = vec![(TEXT, Value::from(self.cut(text)?))];
            values.extend(others.iter().map(|(name, column)| (*name, row::value(column, row))));
            let prompt = template.render(Value::from_pairs(values)).map_err(|error| explain(&error))?;
            Ok(self.input(prompt))
        };
        Ok(texts.iter().enumerate().map(|(row, text)| text.map(|text| ask(row, text))).collect())
    }

    fn input(&self, prompt: String) -> Input {
        if !self.chat {
            return Input::Prompt(prompt);
        }
        let mut messages = self.prefix.clone();
        messages.push(Message { role: "user".to_owned(), content: prompt });
        Input::Messages(messages)
    }

    /// What is in front of the marker, of that the first tokens, of those the first characters.
    fn cut<'a>(&self, text: &'a str) -> Result<std::borrow::Cow<'a, str>, String> {
        use std::borrow::Cow;

        let text = self.cut_at.as_deref().and_then(|marker| text.split_once(marker)).map_or(text, |(before, _)| before);
        let mut text = Cow::Borrowed(text);
        // A token is at least a byte, so a short text is not encoded.
        if let Some((tokenizer, most)) = &self.tokens
            && text.len() > *most
        {
            let mut ids = Vec::new();
            tokenizer.encode(&text, false, &mut ids).map_err(|error| error.to_string())?;
            if ids.len() > *most {
                let cut = tokenizer.decode(&ids[..*most]).map_err(|error| error.to_string())?;
                // The cut may go through a character.
                text = Cow::Owned(cut.trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned());
            }
        }
        if let Some(end) = self.max_characters.and_then(|most| text.char_indices().nth(most)).map(|(end, _)| end) {
            text = match text {
                Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
                Cow::Owned(text) => Cow::Owned(text[..end].to_owned()),
            };
        }
        Ok(text)
    }
}

/// The text of a template is taken as it stands: nothing is escaped, no line end is dropped, and a name that is not known is an error.
fn environment(template: String) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(SyntaxConfig::builder().keep_trailing_newline(true).build()?);
    environment.add_template_owned(TEMPLATE, template)?;
    Ok(environment)
}

/// The messages of a file: `.json` holds an object with `messages`, any other file is a system message as it stands.
fn messages(location: &str, text: String) -> Result<Vec<Message>> {
    let is_json = location.rsplit('.').next().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    if !is_json {
        return Ok(vec![system(&text)]);
    }
    let prefix: Prefix = serde_json::from_str(&text).map_err(|error| {
        unusable(
            location,
            format!("{error}; expected an object {{\"messages\": [{{\"role\": …, \"content\": …}}, …]}}"),
        )
    })?;
    if prefix.messages.is_empty() {
        return Err(unusable(location, "'messages' is empty; at least one is expected".to_owned()));
    }
    Ok(prefix.messages)
}

/// Renders the template for a row of empty values: filters, tests and functions that do not exist are the same for every row. What goes wrong with
/// such values may go right with others.
fn try_out(environment: &Environment<'_>, others: &[String]) -> Result<(), minijinja::Error> {
    use minijinja::ErrorKind::{UnknownFilter, UnknownFunction, UnknownMethod, UnknownTest};

    let names = others.iter().map(String::as_str).chain([TEXT]);
    let values = Value::from_pairs(names.map(|name| (name, Value::from(""))));
    match environment.get_template(TEMPLATE)?.render(values) {
        Err(error) if matches!(error.kind(), UnknownFilter | UnknownFunction | UnknownMethod | UnknownTest) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

fn system(text: &str) -> Message {
    Message { role: "system".to_owned(), content: text.to_owned() }
}

fn unusable(location: &str, message: String) -> OperatorError {
    OperatorError::Resource { location: location.to_owned(), message }
}

/// What is wrong with a template, and where.
fn explain(error: &minijinja::Error) -> String {
    let detail =
        error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    match error.line() {
        Some(line) => format!("the template, line {line}: {detail}"),
        None => format!("the template: {detail}"),
    }
}
