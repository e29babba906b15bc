//! What the generated kernels were made from. Shared by the test that compares and the example that makes them.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The compiler that the generated files come from, a release of the packages on the Python package index.
pub(crate) const COMPILER: &str = "nvcc 13.0.88";

/// Options for PTX. Capability 8.0 is the first with bf16 arithmetic and asynchronous copies, and PTX of it runs on all later.
pub(crate) const PTX_FLAGS: &[&str] = &["-arch=compute_80", "-ptx", "-O3", "-std=c++17"];

/// The version of the PTX language that is written into the files in place of the compiler's own, so that drivers from 525 on
/// take them. The compiler's assembler is asked whether they need more.
pub(crate) const PTX_VERSION: &str = "8.0";

pub(crate) fn cuda_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda")
}

pub(crate) fn generated_dir() -> PathBuf {
    cuda_dir().join("generated")
}

pub(crate) fn manifest_path() -> PathBuf {
    generated_dir().join("manifest.json")
}

/// Files in the folder with an extension, by name.
pub(crate) fn files(extension: &str) -> io::Result<BTreeMap<String, Vec<u8>>> {
    files_in(&cuda_dir(), extension)
}

fn files_in(folder: &Path, extension: &str) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.insert(name, fs::read(&path)?);
        }
    }
    Ok(files)
}

/// Describes the sources and the generated files as they are now.
pub(crate) fn describe() -> io::Result<Value> {
    let hashes = |files: BTreeMap<String, Vec<u8>>| -> Map<String, Value> {
        files.into_iter().map(|(name, bytes)| (name, Value::String(sha256(&bytes)))).collect()
    };
    let mut generated = hashes(files_in(&generated_dir(), "ptx")?);
    generated.extend(hashes(files_in(&generated_dir(), "cubin")?));
    Ok(json!({
        "compiler": COMPILER,
        "ptx_flags": PTX_FLAGS,
        "ptx_version": PTX_VERSION,
        "headers": hashes(files("cuh")?),
        "sources": hashes(files("cu")?),
        "generated": generated,
    }))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
