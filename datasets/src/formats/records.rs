//! Where the rows of a text file begin and end.
//!
//! A framer is fed the bytes of a file in pieces of any size and tells a sink the bytes of each row, so the same rules
//! serve for reading, for sampling and for counting. It looks at line ends, quotes and brackets only: whether a row makes sense
//! is for the decoder to say.

mod csv;
mod json;
mod lines;

pub(crate) use self::csv::CsvFramer;
pub(crate) use self::json::JsonFramer;
pub(crate) use self::lines::LineFramer;

/// Takes the rows that a framer finds.
pub(crate) trait Sink {
    /// More bytes of the row that is open.
    fn bytes(&mut self, bytes: &[u8]);
    /// The row is complete; it began at this position in the (decompressed) file.
    fn end(&mut self, offset: u64);
    /// What was open is no row after all.
    fn discard(&mut self);
    /// Whether the framer shall stop after this row for now.
    fn is_full(&self) -> bool;
}

/// The rules of a format.
pub(crate) enum Framer {
    Lines(LineFramer),
    Csv(CsvFramer),
    Json(JsonFramer),
}

impl Framer {
    /// Works through `input` up to its end, or to the end of a row after which the sink is full, or to the end of what is to be
    /// read; gives the number of bytes that are done with.
    pub(crate) fn push(&mut self, input: &[u8], sink: &mut impl Sink) -> Result<usize, String> {
        match self {
            Self::Lines(framer) => Ok(framer.push(input, sink)),
            Self::Csv(framer) => Ok(framer.push(input, sink)),
            Self::Json(framer) => framer.push(input, sink),
        }
    }

    /// The input has ended.
    pub(crate) fn finish(&mut self, sink: &mut impl Sink) -> Result<(), String> {
        match self {
            Self::Lines(framer) => framer.finish(sink),
            Self::Csv(framer) => framer.finish(sink),
            Self::Json(framer) => return framer.finish(),
        }
        Ok(())
    }

    /// Whether no row will come any more.
    pub(crate) fn is_done(&self) -> bool {
        match self {
            Self::Lines(framer) => framer.is_done(),
            Self::Csv(framer) => framer.is_done(),
            Self::Json(framer) => framer.is_done(),
        }
    }
}

/// A row can be this long: its strings must fit 32-bit offsets together with the other rows of a batch.
pub(crate) const MAX_ROW_BYTES: u64 = 1 << 30;
/// This much is kept of a row that cannot be read.
pub(crate) const MAX_RAW_BYTES: usize = 1 << 20;

/// A row in a [`Block`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    /// Begin in the block's bytes.
    pub(crate) start: usize,
    /// End in the block's bytes; a line feed follows.
    pub(crate) end: usize,
    /// Position in the file of the first byte.
    pub(crate) offset: u64,
    /// Number of bytes, more than the block holds where the row is longer than [`MAX_ROW_BYTES`].
    pub(crate) length: u64,
}

impl Record {
    pub(crate) fn is_cut(&self) -> bool {
        self.length > MAX_ROW_BYTES
    }
}

/// A sink that collects rows up to a number of rows and bytes.
pub(crate) struct Block {
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: Vec<Record>,
    length: u64,
    start: usize,
    max_rows: usize,
    max_bytes: usize,
    /// Rows still to be left out.
    skip: u64,
    /// Rows still to be taken.
    take: u64,
}

impl Block {
    pub(crate) fn new(max_rows: usize, max_bytes: usize, skip: u64, take: u64) -> Self {
        Self { bytes: Vec::new(), records: Vec::new(), length: 0, start: 0, max_rows, max_bytes, skip, take }
    }

    /// Forgets the rows; memory that an unusually large row took is given back.
    pub(crate) fn clear(&mut self) {
        if self.bytes.capacity() > 4 * self.max_bytes {
            self.bytes = Vec::new();
        }
        self.bytes.clear();
        self.records.clear();
        (self.start, self.length) = (0, 0);
    }

    /// Whether all rows that were wanted came.
    pub(crate) fn is_satisfied(&self) -> bool {
        self.take == 0
    }

    /// Bytes of the row that is open.
    pub(crate) fn open_bytes(&self) -> u64 {
        self.length
    }
}

impl Sink for Block {
    fn bytes(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        if self.skip > 0 {
            return;
        }
        if self.length > MAX_ROW_BYTES {
            self.bytes.truncate(self.start + MAX_RAW_BYTES);
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    fn end(&mut self, offset: u64) {
        if self.skip > 0 {
            self.skip -= 1;
            self.discard();
            return;
        }
        let record = Record { start: self.start, end: self.bytes.len(), offset, length: self.length };
        self.records.push(record);
        self.take -= 1;
        // A number at the end of a row is complete only when something follows.
        self.bytes.push(b'\n');
        (self.start, self.length) = (self.bytes.len(), 0);
    }

    fn discard(&mut self) {
        self.bytes.truncate(self.start);
        self.length = 0;
    }

    fn is_full(&self) -> bool {
        // Only complete rows count: what is open must be followed to its end.
        self.take == 0 || self.records.len() >= self.max_rows || self.start >= self.max_bytes
    }
}
