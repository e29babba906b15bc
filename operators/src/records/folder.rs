//! Records in a folder of the local disk, for any number of processes at once.
//!
//! Every process appends to a segment of its own, and reads those of the others. Which keys there are is held in memory, some 60 bytes for
//! each; values are read from the disk when they are asked for. Values that are put while the disk is busy are written together and made durable by
//! one `fdatasync`, so that a slow disk bounds the time of a put and not the number of puts.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::segment::{MAGIC, encode, scan};
use super::{Found, RecordKey, Records, Stored};

/// How often at most it is looked what other processes have written.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// So many bytes are written together at most.
const TOGETHER: usize = 8 << 20;

const EXTENSION: &str = "records";

/// Records in a folder of the local disk.
pub struct FolderRecords {
    index: Arc<Mutex<Index>>,
    puts: Sender<Put>,
}

struct Put {
    key: RecordKey,
    value: Bytes,
    stored: Stored,
}

impl FolderRecords {
    /// Opens a folder, which need not exist.
    ///
    /// # Errors
    /// A message that names the file that cannot be read.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, String> {
        let folder = folder.into();
        let mut index = Index { folder: folder.clone(), ..Index::default() };
        index.look(Instant::now())?;
        let index = Arc::new(Mutex::new(index));
        let (puts, waiting) = channel();
        let writer = Writer { folder, index: Arc::clone(&index), segment: None };
        std::thread::Builder::new()
            .name("gristmill-records".to_owned())
            .spawn(move || writer.work(&waiting))
            .map_err(|error| format!("the thread that keeps records cannot be started: {error}"))?;
        Ok(Self { index, puts })
    }

    /// How many keys have a value.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.index).places.len()
    }

    /// Whether no key has a value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Records for FolderRecords {
    fn get(&self, key: RecordKey, found: Found) {
        found(lock(&self.index).get(&key));
    }

    fn put(&self, key: RecordKey, value: Bytes, stored: Stored) {
        if let Err(unsent) = self.puts.send(Put { key, value, stored }) {
            (unsent.0.stored)(Err("the thread that keeps records has ended".to_owned()));
        }
    }
}

impl fmt::Debug for FolderRecords {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FolderRecords").field("folder", &lock(&self.index).folder).finish_non_exhaustive()
    }
}

/// Which keys there are, and where their values lie.
#[derive(Default)]
struct Index {
    folder: PathBuf,
    segments: Vec<Segment>,
    numbers: HashMap<PathBuf, u32>,
    places: HashMap<RecordKey, Place>,
    looked: Option<Instant>,
}

struct Segment {
    path: PathBuf,
    /// Behind the last record that is known.
    known: u64,
}

#[derive(Clone, Copy)]
struct Place {
    segment: u32,
    length: u32,
    position: u64,
}

impl Index {
    fn get(&mut self, key: &RecordKey) -> Result<Option<Bytes>, String> {
        if !self.places.contains_key(key) {
            let now = Instant::now();
            if self.looked.is_none_or(|looked| now.duration_since(looked) >= LOOK_AGAIN) {
                self.look(now)?;
            }
        }
        let Some(place) = self.places.get(key) else { return Ok(None) };
        let path = &self.segments[place.segment as usize].path;
        let mut value = vec![0; place.length as usize];
        // Files are opened when they are read: there may be more of them than a process may hold open.
        let read = File::open(path).and_then(|mut file| {
            file.seek(SeekFrom::Start(place.position))?;
            file.read_exact(&mut value)
        });
        read.map_err(|error| unusable(path, &error))?;
        Ok(Some(value.into()))
    }

    /// Reads what is new in the segments of all processes.
    fn look(&mut self, now: Instant) -> Result<(), String> {
        self.looked = Some(now);
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(unusable(&self.folder, &error)),
        };
        for entry in entries {
            let path = entry.map_err(|error| unusable(&self.folder, &error))?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                self.read(&path).map_err(|error| unusable(&path, &error))?;
            }
        }
        Ok(())
    }

    fn read(&mut self, path: &Path) -> io::Result<()> {
        let number = self.number(path)?;
        let segment = &mut self.segments[number as usize];
        if std::fs::metadata(path)?.len() <= segment.known {
            return Ok(());
        }
        let places = &mut self.places;
        segment.known = scan(&mut File::open(path)?, segment.known, |key, position, length| {
            places.insert(key, Place { segment: number, length, position });
        })?;
        Ok(())
    }

    fn number(&mut self, path: &Path) -> io::Result<u32> {
        let next = u32::try_from(self.segments.len()).map_err(|_| io::Error::other("too many files"))?;
        Ok(match self.numbers.entry(path.to_owned()) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                self.segments.push(Segment { path: path.to_owned(), known: 0 });
                *new.insert(next)
            }
        })
    }
}

/// The thread that appends.
struct Writer {
    folder: PathBuf,
    index: Arc<Mutex<Index>>,
    /// Made with the first record, so that a process that only reads leaves no file.
    segment: Option<(PathBuf, File)>,
}

impl Writer {
    fn work(mut self, waiting: &Receiver<Put>) {
        while let Ok(first) = waiting.recv() {
            let mut puts = vec![first];
            let mut size = 0;
            while size < TOGETHER
                && let Ok(next) = waiting.try_recv()
            {
                size += next.value.len();
                puts.push(next);
            }
            let kept = self.keep(&puts);
            for put in puts {
                (put.stored)(kept.clone());
            }
        }
    }

    fn keep(&mut self, puts: &[Put]) -> Result<(), String> {
        let mut bytes = Vec::new();
        for put in puts {
            encode(&put.key, &put.value, &mut bytes)?;
        }
        let (path, mut file) = match self.segment.take() {
            Some(segment) => segment,
            None => self.create().map_err(|error| unusable(&self.folder, &error))?,
        };
        // After an error the end of the file is unknown. It is left alone and the next record begins another file.
        file.write_all(&bytes).and_then(|()| file.sync_data()).map_err(|error| unusable(&path, &error))?;
        lock(&self.index).read(&path).map_err(|error| unusable(&path, &error))?;
        self.segment = Some((path, file));
        Ok(())
    }

    fn create(&self) -> io::Result<(PathBuf, File)> {
        std::fs::create_dir_all(&self.folder)?;
        for attempt in 0_u32.. {
            let path = self.folder.join(format!("{}.{EXTENSION}", name(attempt)));
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(mut file) => {
                    file.write_all(MAGIC)?;
                    // The name of the file must be as durable as its content.
                    File::open(&self.folder)?.sync_all()?;
                    return Ok((path, file));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("every name for a file is taken"))
    }
}

/// A name that no other process has, in all likelihood; creating the file makes sure.
fn name(attempt: u32) -> String {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seed = format!("{} {} {attempt}", std::process::id(), time.as_nanos());
    format!("{:013}-{}", time.as_millis(), &blake3::hash(seed.as_bytes()).to_hex()[..12])
}

fn unusable(path: &Path, error: &io::Error) -> String {
    format!("'{}': {error}", path.display())
}

/// What is held in a lock stays whole when its holder panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
