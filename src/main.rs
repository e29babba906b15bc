//! The command line of gristmill.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    gristmill::datasets::install_crypto_provider();
    cli::main(cli::Arguments::parse())
}
