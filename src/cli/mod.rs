//! Commands: what each prints and how it exits.

mod analyze;
mod arguments;
mod inspect;
mod live;
mod log;
mod merge;
mod operators;
mod plan;
mod run;
mod schema;
mod status;
mod table;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use gristmill::datasets::DatasetError;
use gristmill::pipelines::{DefinitionError, Environment, PipelineError, PipelineFile};

pub(crate) use arguments::Arguments;
use arguments::{Command, PipelineArguments};

/// Everything was done.
const DONE: u8 = 0;
/// The run failed.
const FAILED: u8 = 1;
/// The command line or the pipeline file is wrong.
const USAGE: u8 = 2;
/// More rows were quarantined than the pipeline allows.
const QUARANTINED: u8 = 3;

/// Runs a command and says how it ended.
pub(crate) fn main(arguments: Arguments) -> ExitCode {
    log::start();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: threads cannot be started: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let ended = runtime.block_on(async {
        let environment = Environment::standard()?;
        let ended = tokio::select! {
            ended = dispatch(arguments.command, &environment) => ended,
            () = asked_to_stop() => Err(PipelineError::Interrupted),
        };
        if ended.is_err() {
            let pending = environment.under_way.number();
            if pending > 0 {
                eprintln!(
                    "waiting for {pending} answers that are under way and keeping them; Ctrl-C once more leaves them"
                );
            }
            tokio::select! {
                () = environment.under_way.stop() => {}
                () = asked_to_stop() => {}
            }
        }
        ended
    });
    // Workers that are in the middle of a split are left behind: their parts are named by no record.
    runtime.shutdown_background();
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(if error.is_usage() { USAGE } else { FAILED })
        }
    }
}

async fn dispatch(command: Command, environment: &Environment) -> Result<u8, PipelineError> {
    match command {
        Command::Run(arguments) => run::run(arguments, environment).await,
        Command::Plan(arguments) => plan::plan(arguments, environment).await,
        Command::Validate(arguments) => plan::validate(arguments, environment).await,
        Command::Test(arguments) => {
            // On a thread of its own, so that the program can be stopped meanwhile.
            let environment = environment.clone();
            let work = tokio::task::spawn_blocking(move || test::test(arguments, &environment));
            work.await.map_err(|error| PipelineError::Engine(error.to_string()))?
        }
        Command::Status(arguments) => status::status(arguments, environment).await,
        Command::Inspect(arguments) => inspect::inspect(arguments, environment).await,
        Command::Schema => schema::schema(environment),
        Command::Operators(arguments) => operators::operators(arguments, environment),
        Command::Merge(arguments) => merge::merge(arguments, environment).await,
        Command::Analyze(arguments) => analyze::analyze(arguments, environment).await,
    }
}

/// Ends when the user or the system asks the program to stop: Ctrl-C, or the signal that schedulers send before they kill.
async fn asked_to_stop() {
    #[cfg(unix)]
    if let Ok(mut terminated) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated.recv() => {}
        }
        return;
    }
    // Where signals cannot be listened to, nothing asks.
    let _ = tokio::signal::ctrl_c().await;
}

/// Reads a pipeline file and applies the overrides of the command line.
fn load(arguments: &PipelineArguments) -> Result<PipelineFile, PipelineError> {
    let text = std::fs::read_to_string(&arguments.file).map_err(|error| unreadable(&arguments.file, &error))?;
    let mut overrides = arguments.overrides.clone();
    if let Some(limit) = arguments.limit {
        overrides.push(format!("source.limit={limit}"));
    }
    Ok(PipelineFile::parse(&arguments.file.display().to_string(), &text, &overrides)?)
}

fn unreadable(path: &Path, error: &std::io::Error) -> PipelineError {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names: Vec<String> = std::fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let hint = gristmill::operators::nearest(&name, names.iter().map(String::as_str))
        .filter(|_| error.kind() == std::io::ErrorKind::NotFound)
        .map(|name| format!("; did you mean '{}'?", PathBuf::from(folder).join(name).display()))
        .unwrap_or_default();
    DefinitionError::new(&path.display().to_string(), "", None, format!("{error}{hint}")).into()
}

/// Prints a value as JSON on standard output, as it is made: a plan can have a hundred thousand files.
fn print_json<T: serde::Serialize>(value: &T) -> Result<(), PipelineError> {
    use std::io::Write;

    let mut output = std::io::BufWriter::new(std::io::stdout().lock());
    let written = serde_json::to_writer_pretty(&mut output, value).map_err(std::io::Error::from);
    printed(written.and_then(|()| writeln!(output)).and_then(|()| output.flush()))
}

/// Prints a line.
fn print_line(text: &str) -> Result<(), PipelineError> {
    use std::io::Write;

    printed(writeln!(std::io::stdout(), "{text}"))
}

/// A reader that went away is no failure of the command.
fn printed(written: std::io::Result<()>) -> Result<(), PipelineError> {
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(DatasetError::Store { location: "standard output".to_owned(), message: error.to_string() }.into())
        }
        _ => Ok(()),
    }
}
