//! JSON files as a whole: an array of rows, or an object that holds arrays of rows by name of the split.
//!
//! Only the frame is followed here, without recursion, so neither deep nesting nor a large file matters.

use memchr::memchr2;

use super::Sink;

/// Names of splits are short; a longer key is damaged data.
const MAX_KEY_BYTES: usize = 64 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Before the outermost bracket.
    Start,
    /// In the outer object: before a key, or its end.
    Key,
    /// In a key.
    InKey,
    /// Behind a key.
    Colon,
    /// Before the value of a key.
    Value,
    /// Before a row, or the end of the array.
    Row,
    /// In a row, or in a value that is passed over.
    Inside(Inside),
    /// Behind the outermost bracket.
    End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inside {
    /// Brackets that are open.
    depth: u64,
    string: bool,
    escape: bool,
    /// A row and not a value that is passed over.
    row: bool,
    /// An element of an array and not the value of a key.
    element: bool,
}

/// Finds the rows of a JSON file.
pub(crate) struct JsonFramer {
    wanted: Option<String>,
    state: State,
    position: u64,
    row: u64,
    /// The outermost bracket is `{`.
    object: bool,
    key: Vec<u8>,
    escape: bool,
    /// Keys of arrays of objects that were met.
    splits: Vec<String>,
    /// The split that rows came from.
    taken: Option<String>,
}

impl JsonFramer {
    /// `wanted` is the key to read where the file is an object.
    pub(crate) fn new(wanted: Option<String>) -> Self {
        Self {
            wanted,
            state: State::Start,
            position: 0,
            row: 0,
            object: false,
            key: Vec::new(),
            escape: false,
            splits: Vec::new(),
            taken: None,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        false
    }

    pub(crate) fn push(&mut self, input: &[u8], sink: &mut impl Sink) -> Result<usize, String> {
        let mut at = 0;
        while at < input.len() {
            if let State::Inside(inside) = &mut self.state {
                let (row, element) = (inside.row, inside.element);
                let (length, ended) = scan_value(inside, &input[at..]);
                if row {
                    sink.bytes(&input[at..at + length]);
                }
                at += length;
                self.position += length as u64;
                if ended {
                    self.state = if element { State::Row } else { State::Key };
                    if row {
                        sink.end(self.row);
                        if sink.is_full() {
                            break;
                        }
                    }
                }
                continue;
            }
            let byte = input[at];
            if self.state == State::InKey {
                self.push_key(byte)?;
            } else if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') && !self.push_frame(byte)? {
                // The byte is the first one of a value, which is looked at again as a part of it.
                continue;
            }
            at += 1;
            self.position += 1;
        }
        Ok(at)
    }

    pub(crate) fn finish(&mut self) -> Result<(), String> {
        match self.state {
            State::Start if self.position == 0 => Ok(()),
            State::End => match &self.wanted {
                Some(wanted) if self.object && self.taken.is_none() => Err(format!(
                    "there is no array '{wanted}'; arrays of rows: {}",
                    if self.splits.is_empty() { "none".to_owned() } else { self.splits.join(", ") }
                )),
                None if self.object && self.taken.is_none() => Err("there is no array of rows in the object".into()),
                _ => Ok(()),
            },
            _ => Err(format!("the JSON ends at byte {} in the middle: truncated", self.position)),
        }
    }

    fn push_key(&mut self, byte: u8) -> Result<(), String> {
        if self.escape {
            self.escape = false;
        } else if byte == b'\\' {
            self.escape = true;
        } else if byte == b'"' {
            self.state = State::Colon;
            return Ok(());
        }
        self.key.push(byte);
        if self.key.len() > MAX_KEY_BYTES {
            return Err(format!("the key that ends at byte {} is too long", self.position));
        }
        Ok(())
    }

    /// Whether the byte is done with.
    fn push_frame(&mut self, byte: u8) -> Result<bool, String> {
        let wrong = |expected: &str| {
            Err(format!("byte {}: expected {expected} and found '{}'", self.position, byte.escape_ascii()))
        };
        match (&self.state, byte) {
            (State::Start, b'[') => self.state = State::Row,
            (State::Start, b'{') => {
                self.object = true;
                self.state = State::Key;
            }
            (State::Start, _) => return wrong("'[' or '{'"),
            (State::Key, b'"') => {
                self.key.clear();
                self.state = State::InKey;
            }
            (State::Key, b',') => {}
            (State::Key, b'}') => self.state = State::End,
            (State::Key, _) => return wrong("a key"),
            (State::Colon, b':') => self.state = State::Value,
            (State::Colon, _) => return wrong("':'"),
            (State::Value, b'[') if self.wanted.as_deref().is_none_or(|wanted| wanted.as_bytes() == self.key) => {
                self.state = State::Row;
            }
            (State::Value, _) => {
                if byte == b'[' {
                    self.splits.push(String::from_utf8_lossy(&self.key).into_owned());
                }
                self.state =
                    State::Inside(Inside { depth: 0, string: false, escape: false, row: false, element: false });
                return Ok(false);
            }
            (State::Row, b',') => {}
            (State::Row, b']') => {
                self.state = if self.object { State::Key } else { State::End };
                let empty = self.wanted.is_some() && self.taken.is_none();
                if self.object && empty {
                    self.taken = Some(String::from_utf8_lossy(&self.key).into_owned());
                }
            }
            (State::Row, _) => {
                self.begin_row(byte)?;
                return Ok(false);
            }
            (State::End, _) => return wrong("the end of the file"),
            (State::InKey | State::Inside(_), _) => return Ok(false),
        }
        Ok(true)
    }

    fn begin_row(&mut self, byte: u8) -> Result<(), String> {
        let mut row = true;
        if self.object {
            let key = String::from_utf8_lossy(&self.key).into_owned();
            match &self.taken {
                // A list of something else than rows, beside the rows.
                _ if self.wanted.is_none() && byte != b'{' => row = false,
                Some(taken) if *taken != key => {
                    return Err(format!(
                        "there are several splits, such as {taken} and {key}; name one of them as the split"
                    ));
                }
                _ => self.taken = Some(key),
            }
        }
        self.row = self.position;
        self.state = State::Inside(Inside { depth: 0, string: false, escape: false, row, element: true });
        Ok(())
    }
}

/// Bytes that belong to the value, and whether it ended with them. A number or a word ends before the `,`, `]` or `}`
/// behind it.
fn scan_value(inside: &mut Inside, bytes: &[u8]) -> (usize, bool) {
    let mut at = 0;
    while at < bytes.len() {
        if inside.string {
            if inside.escape {
                inside.escape = false;
                at += 1;
                continue;
            }
            match memchr2(b'"', b'\\', &bytes[at..]) {
                None => return (bytes.len(), false),
                Some(found) => {
                    at += found + 1;
                    if bytes[at - 1] == b'\\' {
                        inside.escape = true;
                    } else {
                        inside.string = false;
                        if inside.depth == 0 {
                            return (at, true);
                        }
                    }
                }
            }
            continue;
        }
        match bytes[at] {
            b'"' => inside.string = true,
            b'[' | b'{' => inside.depth += 1,
            b']' | b'}' if inside.depth == 0 => return (at, true),
            b']' | b'}' => {
                inside.depth -= 1;
                if inside.depth == 0 {
                    return (at + 1, true);
                }
            }
            b',' if inside.depth == 0 => return (at, true),
            _ => {}
        }
        at += 1;
    }
    (at, false)
}
