//! Searches for a history that breaks the run protocol.
//!
//! ```text
//! cargo run -p gristmill-datasets --release --no-default-features --features simulation --example simulate -- --seeds 1000000
//! cargo run -p gristmill-datasets --release --no-default-features --features simulation --example simulate -- --planted
//! ```

use std::ops::Range;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use gristmill_datasets::run::simulation::{Planted, Tally, Violation, run};

const USAGE: &str = "usage: simulate [--seeds COUNT] [--first SEED] [--planted]";

struct Arguments {
    seeds: u64,
    first: u64,
    planted: bool,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let seeds = arguments.first..arguments.first.saturating_add(arguments.seeds);
    if arguments.planted { find_planted(&seeds) } else { search(&seeds) }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut parsed = Arguments { seeds: 100_000, first: 0, planted: false };
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let value = arguments.next().ok_or_else(|| format!("{argument} needs a number"))?;
            value.parse().map_err(|_| format!("{argument}: '{value}' is not a number"))
        };
        match argument.as_str() {
            "--seeds" => parsed.seeds = number()?,
            "--first" => parsed.first = number()?,
            "--planted" => parsed.planted = true,
            other => return Err(format!("unknown argument '{other}'")),
        }
    }
    Ok(parsed)
}

/// Runs every seed, on all cores, and says what happened in them.
fn search(seeds: &Range<u64>) -> ExitCode {
    let begin = Instant::now();
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let results: Vec<Result<Tally, Violation>> = thread::scope(|scope| {
        let search = |thread: u64| {
            let mut tally = Tally::default();
            for seed in (seeds.start + thread..seeds.end).step_by(usize::try_from(threads).unwrap_or(1)) {
                tally.add(&run(seed, None)?);
            }
            Ok(tally)
        };
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || search(thread))).collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let mut tally = Tally::default();
    let mut violated = results.len() < usize::try_from(threads).unwrap_or(usize::MAX);
    for result in results {
        match result {
            Ok(of_thread) => tally.add(&of_thread),
            Err(violation) => {
                violated = true;
                println!("violation at {violation}");
            }
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!("{tally:#?}");
    println!("{} seeds in {seconds:.1} s on {threads} threads", tally.seeds);
    if violated { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Says how many seeds it takes to find each planted mistake.
fn find_planted(seeds: &Range<u64>) -> ExitCode {
    let mut missed = false;
    for planted in Planted::ALL {
        match seeds.clone().find_map(|seed| run(seed, Some(planted)).err()) {
            Some(violation) => println!("{planted:?}: found at {violation}"),
            None => {
                missed = true;
                println!("{planted:?}: not found");
            }
        }
    }
    if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
