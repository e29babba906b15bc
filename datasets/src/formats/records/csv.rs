//! Comma- and tab-separated values: a row ends at a line feed outside of quotes, as in RFC 4180. Empty lines are no rows.

use memchr::{memchr, memchr2};

use super::Sink;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    RowStart,
    FieldStart,
    Field,
    Quoted,
    /// Behind a quote inside quotes: the end of the quotes, or the first half of a doubled one.
    QuoteEnd,
}

/// Finds rows. Where a range begins inside of a file, a row must begin there: quotes cannot be understood from the middle.
pub(crate) struct CsvFramer {
    delimiter: u8,
    position: u64,
    end: u64,
    state: State,
    row: u64,
    /// Nothing but a carriage return so far.
    blank: bool,
    /// The first row of a file names the columns.
    header: bool,
    done: bool,
}

impl CsvFramer {
    pub(crate) fn new(delimiter: u8, start: u64, end: u64, header: bool) -> Self {
        let state = State::RowStart;
        Self { delimiter, position: start, end, state, row: start, blank: true, header, done: start >= end }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    pub(crate) fn push(&mut self, input: &[u8], sink: &mut impl Sink) -> usize {
        let mut used = 0;
        while used < input.len() && !self.done {
            if self.state == State::RowStart {
                if self.position >= self.end {
                    self.done = true;
                    break;
                }
                (self.row, self.blank, self.state) = (self.position, true, State::FieldStart);
            }
            let rest = &input[used..];
            let (length, ended) = self.scan(rest);
            let content = length - usize::from(ended);
            self.blank = self.blank && rest[..content].iter().all(|byte| *byte == b'\r');
            sink.bytes(&rest[..content]);
            used += length;
            self.position += length as u64;
            if ended {
                self.close(sink);
                if sink.is_full() {
                    break;
                }
            }
        }
        used
    }

    pub(crate) fn finish(&mut self, sink: &mut impl Sink) {
        if self.state != State::RowStart {
            self.close(sink);
        }
        self.done = true;
    }

    fn close(&mut self, sink: &mut impl Sink) {
        self.state = State::RowStart;
        if self.blank {
            sink.discard();
        } else if self.header {
            self.header = false;
            sink.discard();
        } else {
            sink.end(self.row);
        }
    }

    /// Bytes up to and with the line feed that ends the row, or all of them; and whether the row ended.
    fn scan(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while at < bytes.len() {
            match self.state {
                State::Quoted => match memchr(b'"', &bytes[at..]) {
                    Some(quote) => {
                        at += quote + 1;
                        self.state = State::QuoteEnd;
                    }
                    None => return (bytes.len(), false),
                },
                State::Field => match memchr2(self.delimiter, b'\n', &bytes[at..]) {
                    Some(found) => {
                        at += found + 1;
                        if bytes[at - 1] == b'\n' {
                            return (at, true);
                        }
                        self.state = State::FieldStart;
                    }
                    None => return (bytes.len(), false),
                },
                State::RowStart | State::FieldStart | State::QuoteEnd => {
                    let byte = bytes[at];
                    at += 1;
                    if byte == b'\n' {
                        return (at, true);
                    }
                    self.state = match byte {
                        b'"' => State::Quoted,
                        byte if byte == self.delimiter => State::FieldStart,
                        _ => State::Field,
                    };
                }
            }
        }
        (at, false)
    }
}
