//! `gristmill test`.

use gristmill::pipelines::{Environment, PipelineError, run_tests};

use super::arguments::PipelineOnly;
use super::{DONE, FAILED, load, print_json, print_line};

pub(super) fn test(arguments: PipelineOnly, environment: &Environment) -> Result<u8, PipelineError> {
    let file = load(&arguments.pipeline)?;
    let outcomes = run_tests(&file, environment)?;
    let failed = outcomes.iter().filter(|outcome| !outcome.passed()).count();
    if arguments.json {
        print_json(&outcomes)?;
    } else {
        for outcome in &outcomes {
            print_line(&format!("{} {}", if outcome.passed() { "ok    " } else { "FAILED" }, outcome.name))?;
            for difference in &outcome.differences {
                print_line(&format!("         {difference}"))?;
            }
        }
        print_line(&format!("{} passed, {failed} failed", outcomes.len() - failed))?;
    }
    Ok(if failed == 0 { DONE } else { FAILED })
}
