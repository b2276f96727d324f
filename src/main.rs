//! The command line. Everything is in the library; this turns a failure into a nonzero exit.

use std::process::ExitCode;

use clap::Parser as _;
use tenancy::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tenancy: {error}");
            ExitCode::FAILURE
        }
    }
}
