//! Reading a file of fastText from its beginning to its end, with errors that say where it is cut off or damaged.

use std::ops::Range;

use bytes::Bytes;

use crate::{OperatorError, Result};

/// A place in a file.
pub(super) struct Cursor<'a> {
    location: &'a str,
    bytes: &'a Bytes,
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(location: &'a str, bytes: &'a Bytes) -> Self {
        Self { location, bytes, position: 0 }
    }

    /// An error about the file.
    pub(super) fn wrong(&self, message: impl std::fmt::Display) -> OperatorError {
        OperatorError::Resource {
            location: self.location.to_owned(),
            message: format!("not a fastText model that can be read: {message}"),
        }
    }

    /// An error about a number that was just read.
    pub(super) fn unexpected(&self, what: &str, value: impl std::fmt::Display, allowed: &str) -> OperatorError {
        self.wrong(format!("{what}, before byte {}, is {value}, and {allowed} is expected", self.position))
    }

    /// Goes beyond so many bytes, which the file has: nothing is reserved for what is not there.
    pub(super) fn take(&mut self, what: &str, count: Option<usize>) -> Result<Range<usize>> {
        let start = self.position;
        let end = count.and_then(|count| start.checked_add(count)).filter(|&end| end <= self.bytes.len());
        let Some(end) = end else {
            let needed = count.map_or_else(|| "more bytes than can be counted".to_owned(), |n| format!("{n} bytes"));
            let left = self.bytes.len() - start;
            return Err(self.wrong(format!(
                "{what} at byte {start} would take {needed}, and {left} are left: the file is cut off or damaged"
            )));
        };
        self.position = end;
        Ok(start..end)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let range = self.take(what, Some(N))?;
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes[range]);
        Ok(array)
    }

    pub(super) fn i8(&mut self, what: &str) -> Result<i8> {
        Ok(i8::from_le_bytes(self.array(what)?))
    }

    pub(super) fn i32(&mut self, what: &str) -> Result<i32> {
        Ok(i32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn i64(&mut self, what: &str) -> Result<i64> {
        Ok(i64::from_le_bytes(self.array(what)?))
    }

    /// A switch, a byte of 0 or 1.
    pub(super) fn switch(&mut self, what: &str) -> Result<bool> {
        match self.i8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.unexpected(what, other, "0 or 1")),
        }
    }

    /// A count of 32 bits.
    pub(super) fn count(&mut self, what: &str) -> Result<usize> {
        let value = self.i32(what)?;
        usize::try_from(value).map_err(|_| self.unexpected(what, value, "a number that is not negative"))
    }

    /// A count of 64 bits.
    pub(super) fn long_count(&mut self, what: &str) -> Result<usize> {
        let value = self.i64(what)?;
        usize::try_from(value).map_err(|_| self.unexpected(what, value, "a number that is not negative"))
    }

    /// The bytes up to the next 0, which is passed.
    pub(super) fn text(&mut self, what: &str) -> Result<Range<usize>> {
        let start = self.position;
        let length = self.bytes[start..].iter().position(|&byte| byte == 0);
        let length = length.ok_or_else(|| self.wrong(format!("{what} at byte {start} does not end")))?;
        self.position = start + length + 1;
        Ok(start..start + length)
    }
}
