//! Picks the role of this process, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The engine has to fork its shim spawner while the process has one thread, so the role is
    // chosen before any runtime starts.
    wharf::cli::main(wharf::cli::no_engine)
}
