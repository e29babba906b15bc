//! The file that one process appends records to.
//!
//! A segment begins with [`MAGIC`]. Each record is the length of its value (4 bytes, little-endian), the key (32 bytes), the value, and the first 16
//! bytes of BLAKE3 over all of that. A process that is killed leaves at most a torn record at the end, which its checksum shows; nothing is
//! appended to a segment of an earlier process. Readers stop at the first record that is not whole, and look there again later, since the
//! process that writes it may be at work still.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::RecordKey;

/// The first bytes of every segment, with the version of the format.
pub(super) const MAGIC: &[u8; 8] = b"GMREC\0\0\x01";

const HEAD: usize = 4 + 32;
const CHECKSUM: usize = 16;

/// Values are answers of models; a longer one is damage.
const LONGEST: u32 = 1 << 30;

/// The bytes of a record, added behind `bytes`. The position of the value in them is returned.
pub(super) fn encode(key: &RecordKey, value: &[u8], bytes: &mut Vec<u8>) -> Result<usize, String> {
    let length = u32::try_from(value.len()).ok().filter(|&length| length <= LONGEST);
    let length =
        length.ok_or_else(|| format!("a value of {} bytes is too long; {LONGEST} are allowed", value.len()))?;
    let begin = bytes.len();
    bytes.extend(length.to_le_bytes());
    bytes.extend(key);
    bytes.extend(value);
    let checksum = blake3::hash(&bytes[begin..]);
    bytes.extend(&checksum.as_bytes()[..CHECKSUM]);
    Ok(begin + HEAD)
}

/// Reads whole records from `from` on and calls `each` with the key, the position and the length of the value. Gives the position behind the last
/// whole record.
pub(super) fn scan(file: &mut File, from: u64, mut each: impl FnMut(RecordKey, u64, u32)) -> io::Result<u64> {
    let mut position = from;
    file.seek(SeekFrom::Start(position))?;
    let mut reader = io::BufReader::with_capacity(1 << 20, file);
    if position == 0 {
        let mut magic = [0; MAGIC.len()];
        if !read_whole(&mut reader, &mut magic)? || magic != *MAGIC {
            return Ok(0);
        }
        position = MAGIC.len() as u64;
    }
    loop {
        let mut record = vec![0; HEAD];
        if !read_whole(&mut reader, &mut record)? {
            return Ok(position);
        }
        let length = u32::from_le_bytes([record[0], record[1], record[2], record[3]]);
        if length > LONGEST {
            return Ok(position);
        }
        let rest = length as usize + CHECKSUM;
        // The length may be damaged, so memory grows with what is really there.
        if reader.by_ref().take(rest as u64).read_to_end(&mut record)? < rest {
            return Ok(position);
        }
        let (content, checksum) = record.split_at(HEAD + length as usize);
        if blake3::hash(content).as_bytes()[..CHECKSUM] != *checksum {
            return Ok(position);
        }
        let mut key = [0; 32];
        key.copy_from_slice(&content[4..HEAD]);
        each(key, position + HEAD as u64, length);
        position += record.len() as u64;
    }
}

/// False where the file ends before.
fn read_whole(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
