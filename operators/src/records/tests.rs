//! Records in a folder: several processes, torn ends, damage.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;

use bytes::Bytes;

use super::{FolderRecords, RecordKey, Records};

fn key(number: u32) -> RecordKey {
    *blake3::hash(&number.to_le_bytes()).as_bytes()
}

fn get(records: &FolderRecords, number: u32) -> Option<Bytes> {
    let (sender, receiver) = channel();
    records.get(key(number), Box::new(move |found| sender.send(found).unwrap()));
    receiver.recv().unwrap().unwrap()
}

fn put(records: &FolderRecords, numbers: std::ops::Range<u32>) {
    let (sender, receiver) = channel();
    for number in numbers {
        let sender = sender.clone();
        let stored = Box::new(move |stored: Result<(), String>| sender.send(stored).unwrap());
        records.put(key(number), value(number), stored);
    }
    drop(sender);
    receiver.iter().for_each(|stored| stored.unwrap());
}

fn value(number: u32) -> Bytes {
    format!("value {number} ").repeat(number as usize % 5).into()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn what_was_put_is_found_by_this_and_every_later_process() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("not/there/yet");
    let records = FolderRecords::open(&place).unwrap();
    assert!(get(&records, 0).is_none() && !place.exists(), "looking makes no folder");
    put(&records, 0..1000);
    for records in [records, FolderRecords::open(&place).unwrap()] {
        assert_eq!(records.len(), 1000);
        assert!((0..1000).all(|number| get(&records, number) == Some(value(number))));
        assert!(get(&records, 1000).is_none());
    }
    assert_eq!(files(&place).len(), 1, "reading makes no file");
}

#[test]
fn writers_side_by_side_keep_all_and_see_one_another() {
    let folder = tempfile::tempdir().unwrap();
    let writers: Vec<FolderRecords> = (0..4).map(|_| FolderRecords::open(folder.path()).unwrap()).collect();
    std::thread::scope(|scope| {
        for (number, writer) in (0..).zip(&writers) {
            // Half of what each puts another one puts, too.
            scope.spawn(move || put(writer, number * 100..number * 100 + 200));
        }
    });
    let reader = FolderRecords::open(folder.path()).unwrap();
    assert_eq!((reader.len(), files(folder.path()).len()), (500, 4));
    std::thread::sleep(super::folder::LOOK_AGAIN);
    for records in writers {
        assert!((0..500).all(|number| get(&records, number) == Some(value(number))));
    }
}

#[test]
fn a_torn_or_damaged_record_is_lost_with_those_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    put(&FolderRecords::open(folder.path()).unwrap(), 0..20);
    let file = files(folder.path()).remove(0);
    let whole = std::fs::read(&file).unwrap();
    let mut sizes = std::collections::BTreeSet::new();
    for length in 0..whole.len() {
        std::fs::write(&file, &whole[..length]).unwrap();
        let records = FolderRecords::open(folder.path()).unwrap();
        let known = records.len() as u32;
        assert!((0..20).all(|number| get(&records, number).is_some() == (number < known)), "{length}");
        sizes.insert(known);
    }
    assert_eq!(sizes.into_iter().collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());

    // The next process does not append to what is torn, and finds what stands before.
    std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    put(&FolderRecords::open(folder.path()).unwrap(), 19..30);
    assert_eq!(FolderRecords::open(folder.path()).unwrap().len(), 30);

    let (seventh, last) = (value(7), whole.len() - 1);
    let inside = whole.windows(seventh.len()).position(|bytes| bytes == seventh).unwrap() + 3;
    for (place, found, what) in [
        (0, 0, "magic"),
        (8, 0, "length"),
        (11, 0, "length"),
        (20, 0, "key"),
        (inside, 7, "value"),
        (last, 19, "checksum"),
    ] {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x55;
        std::fs::write(&file, damaged).unwrap();
        let records = FolderRecords::open(folder.path()).unwrap();
        assert!(get(&records, 25).is_some() && get(&records, 19).is_some(), "{what}");
        for number in 0..19 {
            assert_eq!(get(&records, number), (number < found).then(|| value(number)), "{what}");
        }
    }
}

#[test]
fn a_record_that_is_being_written_is_found_when_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    put(&FolderRecords::open(folder.path()).unwrap(), 0..10);
    let file = files(folder.path()).remove(0);
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 5]).unwrap();
    let records = FolderRecords::open(folder.path()).unwrap();
    assert_eq!(records.len(), 9);
    std::fs::write(&file, &whole).unwrap();
    std::thread::sleep(super::folder::LOOK_AGAIN);
    assert_eq!(get(&records, 9), Some(value(9)));
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    std::fs::write(&file, "").unwrap();
    let message = FolderRecords::open(&file).unwrap_err();
    assert!(message.contains("a file"), "{message}");
    let records = FolderRecords::open(folder.path().join("folder")).unwrap();
    std::fs::write(folder.path().join("folder"), "").unwrap();
    let (sender, receiver) = channel();
    records.put(key(0), value(3), Box::new(move |stored| sender.send(stored).unwrap()));
    assert!(receiver.recv().unwrap().unwrap_err().contains("folder"));
}
