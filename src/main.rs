//! Picks the role of this process, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The engine has to fork its spawner while the process has one thread, so the role is chosen
    // before any runtime starts.
    match wharf::boot::EngineOptions::from_arguments(std::env::args_os()) {
        Some(options) => wharf::boot::engine(options),
        None => wharf::cli::main(),
    }
}
