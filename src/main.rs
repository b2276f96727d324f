//! The command line. Everything is in the library; this turns a failure into a nonzero exit.

use std::process::ExitCode;

use clap::Parser as _;
use mimalloc::MiMalloc;
use tenancy::cli::{self, Cli};

/// A request takes some sixty pieces of memory and gives them back, some of them kilobytes long, on the thread that took them.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tenancy: {error}");
            ExitCode::FAILURE
        }
    }
}
