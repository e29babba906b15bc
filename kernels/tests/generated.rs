//! The generated kernels belong to the sources beside them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod manifest;

use serde_json::Value;
use std::fs;

#[test]
fn generated_kernels_are_of_these_sources() {
    let text = fs::read_to_string(manifest::manifest_path()).unwrap();
    let recorded: Value = serde_json::from_str(&text).unwrap();
    let now = manifest::describe().unwrap();
    assert_eq!(
        recorded, now,
        "the kernels were not compiled from these sources; run `cargo run -p gristmill-kernels --example compile-kernels`"
    );
}

#[test]
fn each_source_has_ptx_that_names_the_same_kernels() {
    let kernels = gristmill_kernels_shim::kernels();
    let mut named = Vec::new();
    for source in manifest::files("cu").unwrap().keys() {
        let path = manifest::generated_dir().join(source.replace(".cu", ".ptx"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(text.contains(&format!("\n.version {}\n", manifest::PTX_VERSION)), "{}", path.display());
        named.extend(
            text.lines()
                .filter_map(|line| line.split_once(".entry "))
                .map(|(_, rest)| rest.trim_end_matches('(').to_owned()),
        );
    }
    named.sort();
    let compiled: Vec<_> =
        kernels.into_iter().filter(|name| !name.starts_with("planted_") && !name.starts_with("correct_")).collect();
    assert_eq!(named, compiled);
}
