//! What must hold, whatever happened.

use super::expected_rows;
use super::store::Object;
use super::world::State;
use crate::run::log::{COMMITS, Codec, MANIFEST_KEY, PART_FOLDERS, record_key};
use crate::run::manifest::Manifest;
use crate::run::record::CommitRecord;

/// Notes a violation when the manifest cannot be read or a part of it is not what its record says.
pub(super) fn readable(state: &mut State) {
    let broken =
        manifest_of(state).and_then(|manifest| manifest.records.iter().try_for_each(|record| parts(state, record)));
    if let Err(message) = broken {
        state.violated(|| message);
    }
}

/// Checks the end of a run of `splits` splits, when every task is over.
pub(super) fn finished(state: &State, splits: u64) -> Result<(), String> {
    if let Some(violation) = &state.violation {
        return Err(violation.clone());
    }
    let manifest = manifest_of(state)?;
    let numbers: Vec<u64> = manifest.records.iter().map(|record| record.split).collect();
    if numbers != (0..splits).collect::<Vec<_>>() {
        return Err(format!("the manifest holds splits {numbers:?} of {splits}"));
    }
    for record in &manifest.records {
        parts(state, record)?;
        let (rows_out, rows_rejected) = expected_rows(record.split);
        record.balances()?;
        if (record.rows_in, record.rows_out, record.rows_rejected)
            != (rows_out + rows_rejected, rows_out, rows_rejected)
        {
            return Err(format!("split {} was committed with other rows", record.split));
        }
        let standing = document(state, &record_key(COMMITS, record.split), |bytes| {
            state.documents.decode_record(bytes, COMMITS).ok()
        })?;
        if standing != *record {
            return Err(format!("split {}: the manifest differs from the record", record.split));
        }
        winners(state, record)?;
    }
    let records = state.store.objects.keys().filter(|key| key.starts_with(COMMITS)).count() as u64;
    if records != splits {
        return Err(format!("{records} records for {splits} splits"));
    }
    Ok(())
}

/// Checks that no part is left that no record names. Parts of an attempt that was still at work when a sweep began may be
/// there, unless `strict`.
pub(super) fn no_orphans(state: &State, strict: bool) -> Result<(), String> {
    let manifest = manifest_of(state)?;
    let named: Vec<&str> = manifest.records.iter().flat_map(CommitRecord::parts).collect();
    for (key, object) in &state.store.objects {
        let Object::Part(part) = object else { continue };
        if named.contains(&key.as_str()) {
            continue;
        }
        if !PART_FOLDERS.iter().any(|folder| key.starts_with(folder)) {
            return Err(format!("part '{key}' is in no folder for parts"));
        }
        let writer = &state.writers[part.writer];
        let was_over = writer.ended && state.sweeps.iter().any(|begin| writer.last_act < *begin);
        if strict || was_over {
            return Err(format!("part '{key}' is named by no record"));
        }
    }
    Ok(())
}

/// The attempts that believe to have committed a split are just the one that its record names.
fn winners(state: &State, record: &CommitRecord) -> Result<(), String> {
    let winner = record.checksum.as_deref().and_then(|writer| writer.parse::<usize>().ok());
    for (number, writer) in state.writers.iter().enumerate() {
        if writer.split == record.split && writer.believes && Some(number) != winner {
            return Err(format!(
                "split {}: attempt {number} believes to have committed it, the record is of {winner:?}",
                record.split
            ));
        }
    }
    Ok(())
}

/// The parts of a record are there, whole, and written by its attempt.
fn parts(state: &State, record: &CommitRecord) -> Result<(), String> {
    let writer = record.checksum.as_deref().unwrap_or_default();
    let rows = [(&record.part, record.rows_out), (&record.rejected_part, record.rows_rejected)];
    for (key, rows) in rows {
        let Some(key) = key else { continue };
        match state.store.objects.get(key) {
            Some(Object::Part(part)) => {
                if part.split != record.split || part.rows != rows {
                    return Err(format!("part '{key}' holds other rows than its record says"));
                }
                if part.writer.to_string() != writer {
                    return Err(format!("part '{key}' was written by attempt {}, its record by {writer}", part.writer));
                }
            }
            Some(Object::Document(_)) => return Err(format!("part '{key}' is no part")),
            None => return Err(format!("part '{key}' is named by a record and does not exist")),
        }
    }
    Ok(())
}

fn manifest_of(state: &State) -> Result<Manifest, String> {
    document(state, MANIFEST_KEY, |bytes| state.documents.decode_manifest(bytes, MANIFEST_KEY).ok())
}

fn document<T>(state: &State, key: &str, decode: impl Fn(&bytes::Bytes) -> Option<T>) -> Result<T, String> {
    match state.store.objects.get(key) {
        Some(Object::Document(bytes)) => decode(bytes).ok_or_else(|| format!("'{key}' cannot be read")),
        Some(Object::Part(_)) => Err(format!("'{key}' is a part")),
        None => Err(format!("'{key}' does not exist")),
    }
}
