//! Taking any one barrier out of a kernel makes its cases fail. Each changed source is compiled and run on the CPU.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod shim;

use gristmill_kernels::check::{CheckError, check, families};
use gristmill_kernels_shim::Variant;
use shim::Shim;
use std::fs;
use std::path::Path;

const BARRIER: &str = "__syncthreads();";

/// The first failure of a family's cases, with one barrier of a file taken out, if there is such a barrier.
fn without(family: &str, file: &str, barrier: usize) -> Option<Result<(), CheckError>> {
    let cuda = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let folder = tempfile::tempdir().unwrap();
    for name in ["common.cuh", &format!("{family}.cu")] {
        let mut text = fs::read_to_string(cuda.join(name)).unwrap();
        if name == file {
            let (start, _) = text.match_indices(BARRIER).nth(barrier)?;
            text.replace_range(start..start + BARRIER.len(), ";");
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
            let error = without(family, file, barrier).expect("the file has this barrier").unwrap_err();
            println!("without barrier {barrier} of {file}: {error}");
        }
        assert!(without(family, file, barriers).is_none(), "{file} has more barriers than are tested");
    }
}

#[test]
fn an_unchanged_source_passes() {
    assert_eq!(without("softmax", "no file is changed", 0), Some(Ok(())));
}
