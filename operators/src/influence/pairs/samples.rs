//! Samples: conversations of which the answer is what a model's loss is of.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema};

use super::KIND;
use crate::models::chat::ChatTemplate;
use crate::scoring::asking::Message;
use crate::tokens::Tokenizer;
use crate::{OperatorError, Result, TextColumn, require_column};

/// Names of the columns that a sample is in: messages, or texts of a prompt and an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SampleColumns {
    Messages(String),
    Texts { prompt: Option<String>, answer: String },
}

/// What a row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Conversation {
    Messages(Vec<Message>),
    Texts { prompt: String, answer: String },
}

/// A sample as the model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) ids: Vec<u32>,
    /// The first token of the answer.
    pub(super) answer: usize,
}

impl SampleColumns {
    /// The columns that a configuration names; `at` is the path of the keys, with a dot behind it or empty.
    pub(super) fn of(at: &str, messages: Option<&str>, prompt: Option<&str>, answer: Option<&str>) -> Result<Self> {
        let wrong = |key: &str, message: &str| Err(crate::config::invalid(KIND, &format!("{at}{key}"), message));
        match (messages, prompt, answer) {
            (Some(messages), None, None) => Ok(Self::Messages(messages.to_owned())),
            (None, None, None) => Ok(Self::Messages("messages".to_owned())),
            (None, prompt, Some(answer)) => {
                Ok(Self::Texts { prompt: prompt.map(str::to_owned), answer: answer.to_owned() })
            }
            (None, Some(_), None) => {
                wrong("answer", "'prompt' is given without it; the loss is that of the answer's tokens")
            }
            (Some(_), ..) => {
                wrong("messages", "a sample is in 'messages', or in 'prompt' and 'answer'; give one of the two")
            }
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Self::Messages(messages) => vec![messages.clone()],
            Self::Texts { prompt, answer } => prompt.iter().chain([answer]).cloned().collect(),
        }
    }

    /// Checks the columns' types.
    pub(super) fn check(&self, schema: &Schema) -> Result<()> {
        match self {
            Self::Messages(messages) => {
                let (_, found) = require_column(KIND, schema, messages)?;
                if is_messages(found) { Ok(()) } else { Err(messages_type(messages, found)) }
            }
            Self::Texts { prompt, answer } => {
                prompt.iter().chain([answer]).try_for_each(|name| TextColumn::check(KIND, schema, name))
            }
        }
    }

    /// The conversation of each row, if the row has one; the error says what is wrong with a row.
    pub(super) fn read(&self, batch: &RecordBatch) -> Result<Vec<Result<Option<Conversation>, String>>> {
        self.check(batch.schema_ref())?;
        let rows = 0..batch.num_rows();
        match self {
            Self::Messages(name) => {
                let array = batch.column(require_column(KIND, batch.schema_ref(), name)?.0);
                Ok(rows.map(|row| messages(array, row).map(|found| found.map(Conversation::Messages))).collect())
            }
            Self::Texts { prompt, answer } => {
                let prompts = prompt.as_ref().map(|name| TextColumn::of(KIND, batch, name)).transpose()?;
                let answers = TextColumn::of(KIND, batch, answer)?;
                let conversation = |row| {
                    let prompt = prompts.as_ref().map_or(Some(""), |prompts| prompts.get(row));
                    let (prompt, answer) = prompt.zip(answers.get(row))?;
                    Some(Conversation::Texts { prompt: prompt.to_owned(), answer: answer.to_owned() })
                };
                Ok(rows.map(|row| Ok(conversation(row))).collect())
            }
        }
    }
}

impl Conversation {
    /// What is searched for, and searched: the first message of the user, or the prompt.
    pub(super) fn question(&self) -> Option<&str> {
        match self {
            Self::Messages(messages) => {
                messages.iter().find(|message| message.role == "user").map(|message| message.content.as_str())
            }
            Self::Texts { prompt, .. } => Some(prompt),
        }
    }
}

/// Makes samples of conversations.
#[derive(Debug)]
pub(super) struct Encoder {
    pub(super) tokenizer: Tokenizer,
    /// Absent where no sample has messages.
    pub(super) template: Option<ChatTemplate>,
    pub(super) most_positions: Option<usize>,
}

impl Encoder {
    /// The sample of a conversation. The answer is the last message, which must be the assistant's: what the template writes behind the prompt with the
    /// marker that begins an answer, from the first token on that is another one. So a token that reaches from the prompt into the answer is one of the answer.
    pub(super) fn encode(&self, conversation: &Conversation) -> Result<Sample, String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let (mut ids, mut prompt_ids) = (Vec::new(), Vec::new());
        match conversation {
            Conversation::Messages(messages) => {
                let template = self.template.as_ref().ok_or("the model has no chat template")?;
                let Some((Message { role, .. }, asked)) = messages.split_last() else {
                    return Err("the conversation has no message".to_owned());
                };
                if role != "assistant" {
                    return Err(format!("the last message is of '{role}', and one of 'assistant' is expected"));
                }
                let render =
                    |messages: &[Message], answer| template.render(messages, answer).map_err(|error| failed(&error));
                let whole = render(messages, false)?;
                let (before, prompt) = match asked {
                    [] => (String::new(), String::new()),
                    asked => (render(asked, false)?, render(asked, true)?),
                };
                if !whole.starts_with(&before) {
                    return Err("what the chat template makes of the messages does not begin with what it makes of those before \
                                the answer, so that it is not known where the answer begins"
                        .to_owned());
                }
                ids = ChatTemplate::encode(&self.tokenizer, &whole).map_err(|error| failed(&error))?;
                prompt_ids = ChatTemplate::encode(&self.tokenizer, &prompt).map_err(|error| failed(&error))?;
            }
            Conversation::Texts { prompt, answer } => {
                let whole = format!("{prompt}{answer}");
                self.tokenizer.encode(&whole, true, &mut ids).map_err(|error| failed(&error))?;
                self.tokenizer.encode(prompt, true, &mut prompt_ids).map_err(|error| failed(&error))?;
                prompt_ids.truncate(prompt_ids.len() - self.tokenizer.suffix().len());
            }
        }
        let answer = ids.iter().zip(&prompt_ids).take_while(|(id, prompt)| id == prompt).count();
        // The first token of a text is not predicted.
        if answer.max(1) >= ids.len() {
            return Err("the answer has no tokens".to_owned());
        }
        if let Some(most) = self.most_positions.filter(|&most| ids.len() > most) {
            return Err(format!("the sample has {} tokens, and the model has {most} positions", ids.len()));
        }
        Ok(Sample { ids, answer })
    }
}

/// The text of a row of a column of texts or whole numbers, which is what ids are; `None` where it is null.
pub(super) fn id_of(array: &ArrayRef, row: usize) -> Option<String> {
    use arrow_array::types::{
        Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    };

    if array.is_null(row) {
        return None;
    }
    macro_rules! integers {
        ($($type:ident => $name:ident),*) => {
            match array.data_type() {
                $(DataType::$name => Some(array.as_primitive::<$type>().value(row).to_string()),)*
                _ => texts(array)?.get(row).map(str::to_owned),
            }
        };
    }
    integers!(
        Int8Type => Int8, Int16Type => Int16, Int32Type => Int32, Int64Type => Int64,
        UInt8Type => UInt8, UInt16Type => UInt16, UInt32Type => UInt32, UInt64Type => UInt64
    )
}

/// Whether a column of this type has ids.
pub(super) fn is_id(data_type: &DataType) -> bool {
    data_type.is_integer() || is_text(data_type)
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// An array of texts.
fn texts(array: &ArrayRef) -> Option<TextColumn<'_>> {
    match array.data_type() {
        DataType::Utf8 => Some(TextColumn::Utf8(array.as_string())),
        DataType::LargeUtf8 => Some(TextColumn::LargeUtf8(array.as_string())),
        DataType::Utf8View => Some(TextColumn::Utf8View(array.as_string_view())),
        _ => None,
    }
}

/// The elements of a list.
pub(super) fn elements(array: &ArrayRef, row: usize) -> Option<ArrayRef> {
    match array.data_type() {
        DataType::List(_) => Some(array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => Some(array.as_list::<i64>().value(row)),
        _ => None,
    }
}

fn is_messages(data_type: &DataType) -> bool {
    let (DataType::List(item) | DataType::LargeList(item)) = data_type else { return is_text(data_type) };
    let DataType::Struct(fields) = item.data_type() else { return false };
    let is_text = |field: Option<&Arc<Field>>| field.is_some_and(|field| is_text(field.data_type()));
    ["role", "content"].into_iter().all(|name| is_text(fields.iter().find(|field| field.name() == name)))
}

fn messages_type(column: &str, found: &DataType) -> OperatorError {
    OperatorError::ColumnType {
        kind: KIND.to_owned(),
        column: column.to_owned(),
        found: found.to_string(),
        expected:
            "a list of structs with the texts 'role' and 'content', or a text that is a JSON list of such objects"
                .to_owned(),
    }
}

fn messages(array: &ArrayRef, row: usize) -> Result<Option<Vec<Message>>, String> {
    if array.is_null(row) {
        return Ok(None);
    }
    if let Some(text) = texts(array).and_then(|texts| texts.get(row)) {
        let read = serde_json::from_str(text);
        return read.map(Some).map_err(|error| format!("its messages are not a JSON list of objects: {error}"));
    }
    let Some(list) = elements(array, row) else { return Ok(None) };
    let fields = list.as_struct();
    let text = |name: &str, place: usize| {
        let text = fields.column_by_name(name).and_then(texts).and_then(|texts| texts.get(place)).map(str::to_owned);
        text.filter(|_| fields.is_valid(place)).ok_or_else(|| format!("message {place} has no {name}"))
    };
    let message = |place| Ok(Message { role: text("role", place)?, content: text("content", place)? });
    (0..fields.len()).map(message).collect::<Result<_, String>>().map(Some)
}
