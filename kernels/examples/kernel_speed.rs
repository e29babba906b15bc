//! Times the CPU twins on request, so that another program can take turns with them.
//!
//! Prints a JSON array of its problems, `[{"family": "softmax", "index": 0, "label": "Softmax forward, 16384 x 1024 f32"}, ...]`: those
//! of `gristmill-kernels-bench`. Then it reads an object a line, `{"family": "softmax", "index": 0, "seconds": 0.2}`, and answers with
//! `{"seconds": 0.02}`: the shortest of the calls that fitted in so many seconds, at least one, on one thread; null where the twin does not know the element type. Time is
//! that of the processor where the system can tell. An argument is the number of bytes that the largest buffers have, 64 MiB
//! where there is none.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]

#[path = "shared/processor_time.rs"]
mod processor_time;

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use gristmill_kernels::check::{HostBuffer, Problem, families};
use gristmill_kernels::workers::Serial;
use processor_time::now;
use serde_json::{Value, json};

/// The data of the problem that was asked for last, made once for all its turns.
struct Ready {
    family: String,
    index: usize,
    problem: Box<dyn Problem>,
    inputs: Vec<HostBuffer>,
    outputs: Vec<HostBuffer>,
}

fn main() {
    let bytes = std::env::args().nth(1).map_or(64 << 20, |bytes| bytes.parse().expect("a number of bytes"));
    let mut listed = Vec::new();
    for family in families() {
        for (index, problem) in (family.benches)(bytes).into_iter().enumerate() {
            listed.push(json!({"family": family.name, "index": index, "label": problem.label()}));
        }
    }
    answer(&Value::Array(listed));
    let mut ready: Option<Ready> = None;
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let family = request["family"].as_str().unwrap();
        let index = usize::try_from(request["index"].as_u64().unwrap()).unwrap();
        if ready.as_ref().is_none_or(|ready| ready.family != family || ready.index != index) {
            drop(ready.take());
            let known = families().iter().find(|known| known.name == family).expect("a family of this name");
            let problem = (known.benches)(bytes).into_iter().nth(index).expect("a problem of this number");
            let (inputs, outputs) = (problem.inputs(), problem.outputs());
            ready = Some(Ready { family: family.into(), index, problem, inputs, outputs });
        }
        let limit = Duration::from_secs_f64(request["seconds"].as_f64().unwrap());
        answer(&json!({"seconds": time(ready.as_mut().unwrap(), limit)}));
    }
}

fn answer(value: &Value) {
    println!("{value}");
    std::io::stdout().flush().unwrap();
}

/// `None` where the twin does not know the problem's element type.
fn time(ready: &mut Ready, limit: Duration) -> Option<f64> {
    let begun = Instant::now();
    let (mut shortest, mut turns) = (f64::INFINITY, 0);
    while turns < 1 || begun.elapsed() < limit {
        let turn = now();
        ready.problem.cpu(&Serial, &ready.inputs, &mut ready.outputs)?.unwrap();
        shortest = shortest.min(now().saturating_sub(turn).as_secs_f64());
        turns += 1;
    }
    Some(shortest)
}
