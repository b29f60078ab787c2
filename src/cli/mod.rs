//! The command line: one file per command, and `output/`.

pub mod config;

use std::process::ExitCode;

pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
