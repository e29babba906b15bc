//! Checks and times every kernel at realistic sizes: on the CPU, and on a GPU where there is one and the feature `cuda` is on.
//!
//! ```sh
//! cargo run --release -p gristmill-kernels --example gristmill-kernels-bench -- --help
//! cargo build --release -p gristmill-kernels --example gristmill-kernels-bench --features cuda   # to be carried to a GPU
//! ```

use gristmill_kernels::check::{Cpu, Family, Machine, Outcome, Problem, check, families};
use gristmill_kernels::workers::{Serial, Threads, Workers};
use serde_json::{Value, json};
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

const HELP: &str = "\
Checks and times every kernel at realistic sizes.

  --only FAMILY     one family
  --threads N       threads of the CPU (default 1)
  --bytes N         size of the largest buffer of a problem on the CPU (default 67108864); on a GPU four times as much
  --seconds S       how long each is timed at least (default 0.5)
  --no-check        does not compare results first
  --no-cpu          leaves out the CPU
  --json FILE       writes the results there, too
";

struct Options {
    only: Option<String>,
    threads: usize,
    bytes: usize,
    least: Duration,
    check: bool,
    cpu: bool,
    json: Option<String>,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options {
        only: None,
        threads: 1,
        bytes: 64 << 20,
        least: Duration::from_millis(500),
        check: true,
        cpu: true,
        json: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--only" => options.only = Some(value()?),
            "--threads" => options.threads = value()?.parse()?,
            "--bytes" => options.bytes = value()?.parse()?,
            "--seconds" => options.least = Duration::from_secs_f64(value()?.parse()?),
            "--no-check" => options.check = false,
            "--no-cpu" => options.cpu = false,
            "--json" => options.json = Some(value()?),
            "--help" | "-h" => {
                print!("{HELP}");
                std::process::exit(0);
            }
            _ => return Err(format!("unknown option {argument}; see --help").into()),
        }
    }
    Ok(options)
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let known = |family: &&Family| options.only.as_ref().is_none_or(|only| only == family.name);
    let chosen: Vec<&Family> = families().iter().filter(known).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = families().iter().map(|family| family.name).collect();
        return Err(format!("no such family; there are {}", names.join(", ")).into());
    }
    let mut results = Vec::new();
    if options.cpu {
        results.push(on_cpu(&options, &chosen)?);
    }
    results.extend(on_gpu(&options, &chosen)?);
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&json!({ "machines": results }))? + "\n")?;
    }
    Ok(())
}

fn on_cpu(options: &Options, chosen: &[&Family]) -> Result<Value, Box<dyn Error>> {
    let threads = Threads::new(options.threads);
    let workers: &dyn Workers = if options.threads > 1 { &threads } else { &Serial };
    let copy = cpu_copy_bandwidth(workers, options.bytes, options.least);
    println!("CPU, {} threads: copies {:.1} GB/s", options.threads, copy / 1e9);
    let time = |problem: &dyn Problem| -> Result<Option<f64>, Box<dyn Error>> {
        let (inputs, mut outputs) = (problem.inputs(), problem.outputs());
        let mut once = || problem.cpu(workers, &inputs, &mut outputs).transpose();
        if once()?.is_none() {
            return Ok(None);
        }
        // The fastest of many: the others were interrupted by something.
        let (start, mut fastest) = (Instant::now(), f64::INFINITY);
        while start.elapsed() < options.least || fastest.is_infinite() {
            let run = Instant::now();
            once()?;
            fastest = fastest.min(run.elapsed().as_secs_f64());
        }
        Ok(Some(fastest))
    };
    let rows = measure(options, chosen, options.bytes, &Cpu(workers), copy, &time)?;
    Ok(json!({ "machine": "CPU", "threads": options.threads, "copy_bytes_per_second": copy, "kernels": rows }))
}

#[cfg(feature = "cuda")]
fn on_gpu(options: &Options, chosen: &[&Family]) -> Result<Option<Value>, Box<dyn Error>> {
    let gpu = match gristmill_kernels::gpu::Gpu::open(0) {
        Ok(gpu) => gpu,
        Err(error) => {
            println!("no GPU: {error}");
            return Ok(None);
        }
    };
    let bytes = 4 * options.bytes;
    let copy = gpu.copy_bandwidth(bytes, options.least)?;
    println!("{}: copies {:.1} GB/s", gpu.name(), copy / 1e9);
    let time =
        |problem: &dyn Problem| -> Result<Option<f64>, Box<dyn Error>> { Ok(Some(gpu.time(problem, options.least)?)) };
    let rows = measure(options, chosen, bytes, &gpu, copy, &time)?;
    Ok(Some(json!({ "machine": gpu.name(), "copy_bytes_per_second": copy, "kernels": rows })))
}

#[cfg(not(feature = "cuda"))]
fn on_gpu(_: &Options, _: &[&Family]) -> Result<Option<Value>, Box<dyn Error>> {
    println!("no GPU: built without the feature `cuda`");
    Ok(None)
}

/// Seconds that a machine needs for a problem; `None` where it cannot solve it.
type Time<'a> = dyn Fn(&dyn Problem) -> Result<Option<f64>, Box<dyn Error>> + 'a;

fn measure(
    options: &Options,
    chosen: &[&Family],
    bytes: usize,
    machine: &dyn Machine,
    copy: f64,
    time: &Time<'_>,
) -> Result<Vec<Value>, Box<dyn Error>> {
    let mut rows = Vec::new();
    for family in chosen {
        for problem in (family.benches)(bytes) {
            if options.check && check(&*problem, machine)? == Outcome::NotForThisMachine {
                continue;
            }
            let Some(seconds) = time(&*problem)? else { continue };
            let (work, label) = (problem.work(), problem.label());
            let rate = work.bytes / seconds;
            let mut line = format!(
                "{label:<72} {:>9.3} ms {:>8.1} GB/s {:>6.2} of copying",
                seconds * 1e3,
                rate / 1e9,
                rate / copy
            );
            if work.operations > 0.0 {
                line += &format!(" {:>9.1} GFLOP/s", work.operations / seconds / 1e9);
            }
            println!("{line}");
            rows.push(json!({
                "family": family.name,
                "problem": label,
                "seconds": seconds,
                "bytes_per_second": rate,
                "share_of_copy": rate / copy,
                "operations_per_second": if work.operations > 0.0 { Some(work.operations / seconds) } else { None },
                "checked": options.check,
            }));
        }
    }
    Ok(rows)
}

/// Bytes a second read and written by copying memory; both are counted.
fn cpu_copy_bandwidth(workers: &dyn Workers, bytes: usize, least: Duration) -> f64 {
    let tasks = 64;
    let piece = bytes / tasks / 4;
    let from = vec![1_f32; piece * tasks];
    let to: Vec<std::sync::Mutex<Vec<f32>>> = (0..tasks).map(|_| std::sync::Mutex::new(vec![0_f32; piece])).collect();
    let (start, mut fastest) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < least || fastest.is_infinite() {
        let run = Instant::now();
        workers.run(tasks, &|task| {
            if let Ok(mut to) = to[task].lock() {
                to.copy_from_slice(&from[task * piece..(task + 1) * piece]);
                black_box(&mut *to);
            }
        });
        fastest = fastest.min(run.elapsed().as_secs_f64());
    }
    2.0 * (piece * tasks * 4) as f64 / fastest
}
