//! The bytes of a text file, decompressed while they come, in pieces of bounded size.

use std::io::Write;

use bytes::{Buf, Bytes};
use flate2::write::MultiGzDecoder;
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

use super::source::{ByteStream, OpenFile};
use crate::error::Result;
use crate::split::Compression;

/// Decompressed bytes of a file in order.
pub(crate) struct TextStream {
    file: OpenFile,
    stream: ByteStream,
    decompressor: Decompressor,
    pending: Bytes,
    ended: bool,
    /// Bytes taken of the file, and bytes of text that came of them: where damage is.
    taken: u64,
    given: u64,
}

enum Decompressor {
    None,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Zstd { decoder: ZstdDecoder<'static>, inside_frame: bool },
}

/// gzip expands at most 1032 times, so this much input keeps a piece below 8 MiB.
const GZIP_STEP: usize = 8 << 10;
const ZSTD_PIECE: usize = 1 << 20;
/// Frames written with long-distance matching refer back this far.
const ZSTD_WINDOW_LOG: u32 = 31;

impl TextStream {
    /// `start..end` are positions in the file as stored and only for files without compression; compressed ones are
    /// read from the begin.
    pub(crate) fn new(file: &OpenFile, start: u64, end: u64) -> Result<Self> {
        let (decompressor, range) = match file.file.compression {
            Compression::None => (Decompressor::None, start..end),
            Compression::Gzip => (Decompressor::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))), 0..file.file.size),
            Compression::Zstd => {
                let mut decoder = ZstdDecoder::new().map_err(|error| file.malformed(error.to_string()))?;
                decoder
                    .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))
                    .map_err(|error| file.malformed(error.to_string()))?;
                (Decompressor::Zstd { decoder, inside_frame: false }, 0..file.file.size)
            }
        };
        let stream = ByteStream::new(file.clone(), range.start, range.end);
        Ok(Self { file: file.clone(), stream, decompressor, pending: Bytes::new(), ended: false, taken: 0, given: 0 })
    }

    /// The next piece, `None` at the end. An end in the middle of a compressed stream is an error.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.pending.is_empty() && !self.ended {
                match self.stream.next().await? {
                    Some(bytes) => self.pending = bytes,
                    None => self.ended = true,
                }
            }
            if self.ended {
                return self.finish();
            }
            let before = self.pending.len();
            let piece = self.step()?;
            self.taken += (before - self.pending.len()) as u64;
            self.given += piece.len() as u64;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }

    fn step(&mut self) -> Result<Bytes> {
        let taken = self.taken;
        let damaged = |file: &OpenFile, kind: &str, error: std::io::Error| {
            file.malformed(format!("damaged {kind} data from byte {taken} of the file on: {error}"))
        };
        match &mut self.decompressor {
            Decompressor::None => Ok(std::mem::take(&mut self.pending)),
            Decompressor::Gzip(decoder) => {
                let step = self.pending.len().min(GZIP_STEP);
                decoder.write_all(&self.pending[..step]).map_err(|error| damaged(&self.file, "gzip", error))?;
                self.pending.advance(step);
                Ok(std::mem::take(decoder.get_mut()).into())
            }
            Decompressor::Zstd { decoder, inside_frame } => {
                let mut piece = vec![0; ZSTD_PIECE];
                let mut input = InBuffer::around(&self.pending);
                let mut output = OutBuffer::around(&mut piece[..]);
                let hint = decoder.run(&mut input, &mut output).map_err(|error| damaged(&self.file, "zstd", error))?;
                let (used, written) = (input.pos(), output.pos());
                *inside_frame = hint != 0;
                self.pending.advance(used);
                piece.truncate(written);
                Ok(piece.into())
            }
        }
    }

    fn finish(&mut self) -> Result<Option<Bytes>> {
        let (size, given) = (self.file.file.size, self.given);
        let truncated = |kind: &str| {
            Err(self.file.malformed(format!(
                "truncated {kind} data: the file ends at byte {size}, {given} bytes of text into data whose end is missing"
            )))
        };
        match &mut self.decompressor {
            Decompressor::None => Ok(None),
            Decompressor::Gzip(_) if self.file.file.size == 0 => Ok(None),
            Decompressor::Gzip(decoder) => {
                if decoder.try_finish().is_err() {
                    return truncated("gzip");
                }
                let rest = std::mem::take(decoder.get_mut());
                self.decompressor = Decompressor::None;
                Ok((!rest.is_empty()).then(|| rest.into()))
            }
            Decompressor::Zstd { decoder, inside_frame } => {
                // What is decoded but did not fit into the last piece comes without more input.
                let mut piece = vec![0; ZSTD_PIECE];
                let mut output = OutBuffer::around(&mut piece[..]);
                if *inside_frame {
                    let hint = decoder
                        .run(&mut InBuffer::around(&[]), &mut output)
                        .map_err(|error| self.file.malformed(format!("damaged zstd data: {error}")))?;
                    let written = output.pos();
                    *inside_frame = hint != 0;
                    if written > 0 {
                        self.given += written as u64;
                        piece.truncate(written);
                        return Ok(Some(piece.into()));
                    }
                    if *inside_frame {
                        return truncated("zstd");
                    }
                }
                Ok(None)
            }
        }
    }
}
