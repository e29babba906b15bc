//! Checks and times models on a GPU: a single program that can be built without one and carried to it.
//!
//! ```sh
//! cargo build --release -p gristmill-operators --example model_device --features cuda
//! model_device check FOLDER [f32|bf16]     # the GPU against the CPU, on token ids made up for the model in the folder
//! model_device time [SECONDS]              # BERT-base, ModernBERT-large and a Llama of 1.2 billion weights, at random
//! model_device gradients [SECONDS]         # gradients of a GPT-NeoX of 160 million and of that Llama, projected
//! model_device corpus FOLDER SHAPE TEXTS LENGTH  # a model (bert, modernbert, 160m, 1b), texts of so many tokens and queries, for `benches/gpu.sh`
//! ```
//! `time` and `gradients` print for each model and type tokens a second, TFLOP/s of products and attention, and what share that is of the rate that the largest
//! product of the model has by itself. Models are made in a temporary folder, with the largest taking 3 GB of disk.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark fails by panicking"
)]

mod check;
mod corpus;
mod forward;
mod gradients;
mod shapes;

use std::path::Path;
use std::time::{Duration, Instant};

use gristmill_kernels::device::Device;
use gristmill_kernels::workers::Serial;
use gristmill_operators::Resources;
use gristmill_operators::models::{Compute, LoadOptions, Model, Precision};

const ALONE: Compute<'static> = Compute { workers: &Serial, threads: 1 };

/// Tokens of a batch on the GPU.
const TOKENS: usize = 16_384;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["corpus", folder, shape, texts, length] = arguments[..] {
        corpus::write_corpus(Path::new(folder), shape, texts.parse().unwrap(), length.parse().unwrap());
        return;
    }
    let device = match open() {
        Ok(device) => device,
        Err(error) => {
            println!("no GPU: {error}");
            return;
        }
    };
    println!("{}", device.name());
    let seconds = |given: Option<&&str>| Duration::from_secs_f64(given.map_or(2.0, |text| text.parse().unwrap()));
    match arguments[..] {
        ["check", folder] => check::check(&device, Path::new(folder), false),
        ["check", folder, precision] => check::check(&device, Path::new(folder), precision == "bf16"),
        ["time", ..] => forward::time_all(&device, seconds(arguments.get(1))),
        ["gradients", ..] => gradients::time_all(&device, seconds(arguments.get(1))),
        _ => println!(
            "check FOLDER [f32|bf16], time [SECONDS], gradients [SECONDS], or corpus FOLDER SHAPE TEXTS LENGTH"
        ),
    }
}

#[cfg(feature = "cuda")]
fn open() -> Result<Device, String> {
    gristmill_kernels::gpu::Gpu::open(0).map(Device::new).map_err(|error| error.to_string())
}

#[cfg(not(feature = "cuda"))]
fn open() -> Result<Device, String> {
    Err("built without the feature `cuda`".into())
}

fn load(folder: &Path, half: bool, gradients: bool) -> Model {
    let precision = if half { Precision::Bf16 } else { Precision::F32 };
    let options = LoadOptions { precision, gradients, ..LoadOptions::default() };
    Model::load(&folder.to_string_lossy(), &Resources::local(), options).unwrap().0
}

/// Mean seconds of what is asked, after once that does not count.
fn timed(least: Duration, mut ask: impl FnMut()) -> f64 {
    ask();
    let (begun, mut runs) = (Instant::now(), 0);
    while runs == 0 || begun.elapsed() < least {
        ask();
        runs += 1;
    }
    begun.elapsed().as_secs_f64() / f64::from(runs)
}
