//! The command line. Everything is in the library; this turns a failure into a nonzero exit.

use std::process::ExitCode;

use clap::Parser as _;
use mimalloc::MiMalloc;
use tenancy::cli::{self, Cli};

/// A decision costs 0.85 of what it does with glibc's: a request takes many pieces of memory, some of them kilobytes long.
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
