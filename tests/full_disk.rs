//! A disk that is full: the run ends with an error that says so, loses nothing, and goes on when there is space.

use std::process::Command;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{Ran, Workspace, parts};

/// Small files and, in the middle, one whose part is large.
fn prepared() -> Workspace {
    let workspace = Workspace::new();
    let mut random = StdRng::seed_from_u64(3);
    let mut letters =
        |count: usize| -> String { (0..count).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect() };
    for (file, length) in [(0, 40), (1, 40), (2, 300_000), (3, 40)] {
        let text: String =
            (0..4).map(|row| format!("{{\"id\": {row}, \"text\": \"{}\"}}\n", letters(length))).collect();
        workspace.write(&format!("corpus/{file}.jsonl"), text);
    }
    for name in ["calm", "out", "disk/out"] {
        let file = name.replace('/', "-");
        workspace.write(
            &format!("{file}.yaml"),
            format!("source: {{path: corpus}}\nsink: {{parquet: {{path: {name}}}}}\nattempts: 1\n"),
        );
    }
    std::fs::create_dir(workspace.path("disk")).unwrap();
    workspace.run(&["run", "calm.yaml", "--quiet"], 0);
    workspace
}

fn shell(workspace: &Workspace, before: &str, script: &str) -> Command {
    let mut command = workspace.gristmill(&[]);
    let program = command.get_program().to_owned();
    let mut shell = Command::new("sh");
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    command.arg("unused");
    shell.current_dir(workspace.path("")).arg("-c").arg(format!("{before}{script}")).env("GRISTMILL", program);
    shell
}

/// A limit on the size of a file stands for a disk without space: writing fails in the middle of a part.
#[test]
fn a_part_that_does_not_fit_is_written_when_there_is_space() {
    let workspace = prepared();
    // 400 blocks of 512 bytes, or 400 KiB where the shell counts in kilobytes: less than the large part, more than any other file.
    let limited = "trap '' XFSZ; ulimit -f 400; ";
    let ran = Ran::of(shell(&workspace, limited, "exec \"$GRISTMILL\" run out.yaml").output().unwrap());
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("1 of 4 splits failed") && ran.err.contains("File too large"), "{}", ran.err);
    assert!(ran.err.contains("file:///") && ran.err.contains("/out/data/00002-"), "the file is named: {}", ran.err);
    let status = workspace.run(&["status", "out", "--json"], 0).json();
    assert_eq!((&status["committed"], &status["failed"][0]["split"]), (&3.into(), &2.into()));

    let again = workspace.run(&["run", "out.yaml", "--json"], 0);
    assert_eq!(again.json()["rows_out"], 16);
    assert!(again.err.contains("\"resumed\":3"), "{}", again.err);
    assert!(parts(&workspace.path("out")) == parts(&workspace.path("calm")));
}

/// A file system of its own that is too small, and then grows. Needs the right to mount one, in a name space of its own, so
/// that nothing stays behind.
#[test]
fn a_full_file_system_that_grows() {
    let workspace = prepared();
    let mount = "mount -t tmpfs -o size=600k tmpfs disk || exit 99; ";
    let allowed = shell(&workspace, "", &format!("exec unshare -m sh -c '{mount}'")).output().unwrap();
    if !allowed.status.success() {
        println!("skipped: no file system can be mounted here: {}", String::from_utf8_lossy(&allowed.stderr).trim());
        return;
    }
    let script = format!(
        "exec unshare -m sh -c '{mount}\"$GRISTMILL\" run disk-out.yaml; echo first=$?; mount -o remount,size=64m disk; \
         \"$GRISTMILL\" run disk-out.yaml --quiet; echo second=$?; cp -r disk/out saved'"
    );
    let ran = Ran::of(shell(&workspace, "", &script).output().unwrap());
    assert_eq!(ran.out.trim(), "first=1\nsecond=0", "{}", ran.err);
    assert!(ran.err.contains("No space left on device"), "{}", ran.err);
    assert!(parts(&workspace.path("saved")) == parts(&workspace.path("calm")));
}
