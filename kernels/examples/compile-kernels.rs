//! Compiles `cuda/*.cu` to `cuda/generated/`, and writes the manifest: after any change of a kernel or a header.
//!
//! ```sh
//! cargo run -p gristmill-kernels --example compile-kernels
//! ```
//!
//! Needs no GPU and no CUDA: the compiler is fetched from the Python package index (about 110 MB, once) into
//! `$GRISTMILL_CUDA_TOOLCHAIN` or `~/.cache/gristmill/`. Needs x86-64 Linux, `python3` with pip, and `g++`. The output is the
//! same on every machine. Beside the files it prints registers, shared memory and spills of each kernel for several GPUs.

#[path = "../tests/manifest/mod.rs"]
mod manifest;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// CUDA 13.0 update 2; all in one call, because the packages share folders.
const PACKAGES: &[&str] = &[
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];

/// GPUs for which the PTX is assembled, to see that it can be and what it takes.
const ASSEMBLED_FOR: &[&str] = &["sm_80", "sm_90", "sm_90a", "sm_100"];

fn main() -> Result<(), Box<dyn Error>> {
    let bin = toolchain()?.join("nvidia/cu13/bin");
    let version = output(Command::new(bin.join("nvcc")).arg("--version"))?;
    let wanted = manifest::COMPILER.trim_start_matches("nvcc ");
    if !version.contains(&format!("V{wanted}")) {
        return Err(format!("the compiler is not {}:\n{version}", manifest::COMPILER).into());
    }
    let generated = manifest::generated_dir();
    fs::create_dir_all(&generated)?;
    let mut stale: Vec<PathBuf> =
        fs::read_dir(&generated)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    println!("{:<44} {:>6} {:>9} {:>7} {:>7}  GPU", "kernel", "regs", "shared", "stack", "spills");
    for source in manifest::files("cu")?.keys() {
        let ptx = generated.join(source.replace(".cu", ".ptx"));
        stale.retain(|path| *path != ptx);
        output(
            Command::new(bin.join("nvcc"))
                .args(manifest::PTX_FLAGS)
                .arg("-o")
                .arg(&ptx)
                .arg(source)
                .current_dir(manifest::cuda_dir()),
        )?;
        lower_version(&ptx)?;
        for gpu in ASSEMBLED_FOR {
            let mut assemble = Command::new(bin.join("ptxas"));
            assemble.arg(format!("-arch={gpu}")).args(["-v", "-o", "/dev/null"]).arg(&ptx);
            let report = assemble.output()?;
            let text = String::from_utf8_lossy(&report.stderr);
            if !report.status.success() {
                return Err(format!("{assemble:?} failed:\n{text}").into());
            }
            print_resources(&text, gpu);
        }
    }
    for path in
        stale.iter().filter(|path| path.extension().is_some_and(|extension| extension == "ptx" || extension == "cubin"))
    {
        fs::remove_file(path)?;
    }
    let text = serde_json::to_string_pretty(&manifest::describe()?)?;
    fs::write(manifest::manifest_path(), text + "\n")?;
    Ok(())
}

/// The folder of the compiler, which is fetched if it is not there.
fn toolchain() -> Result<PathBuf, Box<dyn Error>> {
    let cache = || -> Option<PathBuf> {
        let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        Some(cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?.join("gristmill/cuda-13.0.2"))
    };
    let folder = env::var_os("GRISTMILL_CUDA_TOOLCHAIN")
        .map(PathBuf::from)
        .or_else(cache)
        .ok_or("neither HOME nor GRISTMILL_CUDA_TOOLCHAIN is set")?;
    if folder.join("nvidia/cu13/bin/nvcc").exists() {
        return Ok(folder);
    }
    eprintln!("fetching {} into {}", manifest::COMPILER, folder.display());
    // Into a folder of another name first: a fetch that was interrupted must not look complete.
    let fresh = folder.with_extension(format!("new-{}", std::process::id()));
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--only-binary=:all:", "--target"]);
    output(pip.arg(&fresh).args(PACKAGES))?;
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::rename(&fresh, &folder)?;
    Ok(folder)
}

/// Replaces the compiler's own version of the language by the one that older drivers take. The assembler then refuses what is not
/// in it.
fn lower_version(path: &Path) -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string(path)?;
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            if line.starts_with(".version ") { format!(".version {}", manifest::PTX_VERSION) } else { line.to_owned() }
        })
        .collect();
    fs::write(path, lines.join("\n") + "\n")?;
    Ok(())
}

/// One line for each kernel of the assembler's report.
fn print_resources(report: &str, gpu: &str) {
    let number_before = |line: &str, word: &str| -> String {
        let number = line.split(word).next().and_then(|text| text.split_whitespace().next_back());
        if line.contains(word) { number.unwrap_or("0").to_owned() } else { "0".to_owned() }
    };
    let (mut kernel, mut stack, mut spills) = (String::new(), String::new(), String::new());
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("entry function '") {
            kernel = rest.split('\'').next().unwrap_or_default().to_owned();
        } else if line.contains("bytes stack frame") {
            stack = number_before(line, " bytes stack frame");
            spills = number_before(line, " bytes spill stores");
        } else if line.contains(" registers") {
            let (registers, shared) = (number_before(line, " registers"), number_before(line, " bytes smem"));
            println!("{kernel:<44} {registers:>6} {shared:>9} {stack:>7} {spills:>7}  {gpu}");
        }
    }
}

/// Standard output of a command that must succeed.
fn output(command: &mut Command) -> Result<String, Box<dyn Error>> {
    let result = command.output().map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if !result.status.success() {
        return Err(format!("{command:?} failed:\n{}", String::from_utf8_lossy(&result.stderr)).into());
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}
