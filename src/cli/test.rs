//! `gristmill test`.

use gristmill::pipelines::{Environment, PipelineError, run_tests};

use super::arguments::{PipelineArguments, TestArguments};
use super::{DONE, FAILED, load, print_json, print_line};

pub(super) fn test(arguments: TestArguments, environment: &Environment) -> Result<u8, PipelineError> {
    let TestArguments { file, overrides, json } = arguments;
    let file = load(&PipelineArguments { file, overrides, limit: None })?;
    let outcomes = run_tests(&file, environment)?;
    let failed = outcomes.iter().filter(|outcome| !outcome.passed()).count();
    if json {
        print_json(&outcomes)?;
    } else {
        for outcome in &outcomes {
            print_line(&format!("{} {}", if outcome.passed() { "ok    " } else { "FAILED" }, outcome.name))?;
            for difference in &outcome.differences {
                print_line(&format!("         {difference}"))?;
            }
        }
        print_line(&match outcomes.len() {
            0 => format!("{} carries no tests; they stand under 'tests:'", file.file()),
            all => format!("{} passed, {failed} failed", all - failed),
        })?;
    }
    Ok(if failed == 0 { DONE } else { FAILED })
}
