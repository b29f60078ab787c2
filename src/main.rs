//! Picks the role of this process, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Roles that outlive a command go on as a protected copy of the program, and the engine forks
    // its spawner while the process has one thread: both come before any runtime.
    let protection = wharf::boot::protect(std::env::args_os());
    wharf::cli::main(|boot| wharf::boot::engine(boot, protection))
}
