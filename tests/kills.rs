//! `kill -9` at random moments, and several drivers on one folder: the result is that of an undisturbed run.
//!
//! A short version runs always; `GRISTMILL_KILLS=100 cargo test --test integration kills` makes it as long as you like.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{Ran, TERMS, Workspace, lines, parts, pipeline};

/// How often runs are killed.
pub fn kills() -> usize {
    std::env::var("GRISTMILL_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// A corpus of many small splits.
pub fn corpus(workspace: &Workspace) {
    workspace.write("terms.txt", TERMS);
    for file in 0..4 {
        workspace.write(&format!("corpus/{file}.jsonl"), lines(file * 1500, 1500));
    }
}

/// Starts runs and kills them, until `kills` were killed; then lets one run to its end. Returns how many were killed in the
/// middle of their work.
pub fn torment(mut start: impl FnMut(usize) -> Command, seed: u64, kills: usize, fresh: impl Fn()) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let mut killed = 0;
    let mut longest = Duration::from_millis(400);
    while killed < kills {
        let mut child = start(random.random_range(1..=3)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(longest.mul_f64(random.random_range(0.02..1.0)));
        if ended(&mut child) {
            // The run was complete; the next one starts over, and is killed sooner.
            longest = longest.mul_f64(0.9).max(Duration::from_millis(30));
            fresh();
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
    }
    let ran = Ran::of(start(2).output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.err);
    killed
}

fn ended(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_some_and(|status| {
        assert!(status.success(), "a run that was not killed failed: {status}");
        true
    })
}

/// Both runs gave the same bytes for every split.
pub fn same_parts(found: &Path, expected: &Path) {
    let (found, expected) = (parts(found), parts(expected));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, bytes) in &expected {
        assert!(found[name] == *bytes, "{name} has other bytes");
    }
    assert!(expected.len() > 100, "only {} parts", expected.len());
}

#[test]
fn a_killed_run_ends_like_an_undisturbed_one() {
    let workspace = Workspace::new();
    corpus(&workspace);
    workspace.write("calm.yaml", pipeline("corpus/*.jsonl", "calm"));
    workspace.run(&["run", "calm.yaml", "--workers", "1", "--quiet"], 0);
    workspace.write("killed.yaml", pipeline("corpus/*.jsonl", "killed"));
    let start =
        |workers: usize| workspace.gristmill(&["run", "killed.yaml", "--json", "--workers", &workers.to_string()]);
    let fresh = || {
        same_parts(&workspace.path("killed"), &workspace.path("calm"));
        std::fs::remove_dir_all(workspace.path("killed")).unwrap();
    };
    let killed = torment(start, 1, kills(), fresh);
    same_parts(&workspace.path("killed"), &workspace.path("calm"));
    println!("killed {killed} times on local disk");

    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(workspace.path("killed/_run/report.json")).unwrap()).unwrap();
    assert_eq!(report["rows_in"], 6000);
    let aside = report["rows_rejected"].as_u64().unwrap() + report["rows_quarantined"].as_u64().unwrap();
    assert_eq!(report["rows_out"].as_u64().unwrap() + aside, 6000);
    assert_eq!(report["rows_rejected"], (6000_usize).div_ceil(7));
}

#[test]
fn what_a_killed_run_left_after_its_manifest_is_deleted() {
    let workspace = Workspace::new();
    workspace.write("terms.txt", TERMS);
    workspace.write("corpus/0.jsonl", lines(0, 300));
    workspace.write("run.yaml", pipeline("corpus/*.jsonl", "out"));
    workspace.run(&["run", "run.yaml", "--quiet"], 0);
    let undisturbed = parts(&workspace.path("out"));
    for left in ["data/00001-0123456789abcdef.parquet", "rejected/00002-0123456789abcdef.parquet"] {
        workspace.write(&format!("out/{left}"), "a part of an attempt that never was committed");
    }
    workspace.write("out/data/notes.txt", "not a part");
    workspace.run(&["run", "run.yaml", "--quiet"], 0);
    std::fs::remove_file(workspace.path("out/data/notes.txt")).unwrap();
    assert_eq!(parts(&workspace.path("out")), undisturbed);
}

#[test]
fn two_drivers_on_one_folder_agree() {
    let workspace = Workspace::new();
    corpus(&workspace);
    workspace.write("calm.yaml", pipeline("corpus/*.jsonl", "calm"));
    workspace.run(&["run", "calm.yaml", "--quiet"], 0);
    workspace.write("shared.yaml", pipeline("corpus/*.jsonl", "shared"));
    let start = || workspace.gristmill(&["run", "shared.yaml", "--quiet"]).stderr(Stdio::piped()).spawn().unwrap();
    let drivers: Vec<Child> = (0..3).map(|_| start()).collect();
    for driver in drivers {
        let ran = Ran::of(driver.wait_with_output().unwrap());
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    same_parts(&workspace.path("shared"), &workspace.path("calm"));
}

#[test]
fn workers_and_batches_do_not_show_in_the_parts() {
    let workspace = Workspace::new();
    corpus(&workspace);
    workspace.write("a.yaml", pipeline("corpus/*.jsonl", "a"));
    workspace.run(&["run", "a.yaml", "--quiet", "--workers", "1"], 0);
    for (sink, batch_rows) in [("b", 1), ("c", 7)] {
        workspace.write("b.yaml", pipeline("corpus/*.jsonl", sink));
        let batch = format!("source.batch_rows={batch_rows}");
        workspace.run(&["run", "b.yaml", &batch, "--quiet", "--workers", "3"], 0);
        same_parts(&workspace.path(sink), &workspace.path("a"));
    }
}
