//! One row a line. Lines of white space only are no rows.

use memchr::memchr;

use super::Sink;

/// Finds lines. A line belongs to the range `start..end` in which its first byte lies.
pub(crate) struct LineFramer {
    /// Position of the next byte in the file.
    position: u64,
    end: u64,
    /// Position of the open line.
    line: Option<u64>,
    blank: bool,
    /// The open line belongs to the range before.
    foreign: bool,
    done: bool,
}

impl LineFramer {
    /// Reading must begin at [`LineFramer::first_byte`].
    pub(crate) fn new(start: u64, end: u64) -> Self {
        Self { position: Self::first_byte(start), end, line: None, blank: true, foreign: start > 0, done: start >= end }
    }

    /// The byte before a range says whether a line begins right at its start.
    pub(crate) fn first_byte(start: u64) -> u64 {
        start.saturating_sub(1)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    pub(crate) fn push(&mut self, input: &[u8], sink: &mut impl Sink) -> usize {
        let mut used = 0;
        while used < input.len() && !self.done {
            if self.line.is_none() || self.foreign {
                if self.position >= self.end {
                    self.done = true;
                    break;
                }
            }
            if self.line.is_none() {
                (self.line, self.blank) = (Some(self.position), true);
            }
            let rest = &input[used..];
            let end = memchr(b'\n', rest);
            let piece = &rest[..end.unwrap_or(rest.len())];
            if !self.foreign {
                self.blank = self.blank && piece.iter().all(u8::is_ascii_whitespace);
                sink.bytes(piece);
            }
            let step = piece.len() + usize::from(end.is_some());
            used += step;
            self.position += step as u64;
            if end.is_some() {
                self.close(sink);
                if sink.is_full() {
                    break;
                }
            }
        }
        used
    }

    pub(crate) fn finish(&mut self, sink: &mut impl Sink) {
        self.close(sink);
        self.done = true;
    }

    fn close(&mut self, sink: &mut impl Sink) {
        let Some(line) = self.line.take() else { return };
        if self.foreign {
            self.foreign = false;
        } else if self.blank {
            sink.discard();
        } else {
            sink.end(line);
        }
    }
}
