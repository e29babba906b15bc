//! Taking any one barrier out of a kernel makes its cases fail. Each changed source is compiled and run on the CPU.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod shim;

use gristmill_kernels::check::{CheckError, check, families};
use gristmill_kernels_shim::Variant;
use shim::Shim;
use std::fs;
use std::path::Path;

const BARRIER: &str = "__syncthreads();";
/// What makes one thread wait for others, or for its own copies.
const WAITS: [&str; 4] = [BARRIER, "__syncwarp();", "copies_wait<0>();", "copies_wait<1>();"];

/// Every kernel source and header.
fn sources() -> Vec<(String, String)> {
    let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda")).unwrap();
    let files = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let mut sources: Vec<(String, String)> = files
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap()))
        .collect();
    sources.sort();
    sources
}

/// The first failure of a family's cases, with one wait of a file taken out, if there is such a wait.
fn without(family: &str, file: &str, wait: &str, number: usize) -> Option<Result<(), CheckError>> {
    let folder = tempfile::tempdir().unwrap();
    for (name, mut text) in sources() {
        if name == file {
            let (start, _) = text.match_indices(wait).nth(number)?;
            text.replace_range(start..start + wait.len(), ";");
        }
        fs::write(folder.path().join(name), text).unwrap();
    }
    let machine = Shim { variant: Some(Variant::compile(folder.path(), family).unwrap()) };
    let family = families().iter().find(|known| known.name == family).unwrap();
    Some((family.cases)(1).iter().try_for_each(|problem| check(&**problem, &machine).map(drop)))
}

/// softmax_forward and softmax_backward have the two barriers of row_reduce, the norms these and one more in the backward
/// pass, norm_combine has one. scan loads its filter behind one; its sums have two, and the places made of them two more.
#[test]
fn every_barrier_is_needed() {
    for (family, file, barriers) in
        [("softmax", "common.cuh", 2), ("norms", "common.cuh", 2), ("norms", "norms.cu", 2), ("scan", "scan.cu", 5)]
    {
        for barrier in 0..barriers {
            let error = without(family, file, BARRIER, barrier).expect("the file has this barrier").unwrap_err();
            println!("without barrier {barrier} of {file}: {error}");
        }
        assert!(without(family, file, BARRIER, barriers).is_none(), "{file} has more barriers than are tested");
    }
}

#[test]
fn an_unchanged_source_passes() {
    assert_eq!(without("softmax", "no file is changed", BARRIER, 0), Some(Ok(())));
}

/// The same for every wait of every family, which takes many minutes: `cargo test -p gristmill-kernels --test barriers -- --ignored`.
#[test]
#[ignore = "takes many minutes"]
fn every_wait_of_every_family_is_needed() {
    let mut idle = Vec::new();
    for family in families() {
        let own = |name: &str| name.starts_with(family.name) && (name.ends_with(".cu") || name.ends_with(".cuh"));
        for (file, _) in sources().into_iter().filter(|(name, _)| own(name)) {
            for wait in WAITS {
                for number in 0.. {
                    let Some(result) = without(family.name, &file, wait, number) else { break };
                    match result {
                        Err(error) => println!("{file} without {wait} {number}: {error}"),
                        Ok(()) => {
                            println!("{file} without {wait} {number}: nothing fails");
                            idle.push(format!("{file}: {wait} {number}"));
                        }
                    }
                }
            }
        }
    }
    assert!(idle.is_empty(), "nothing fails without {idle:#?}");
}
