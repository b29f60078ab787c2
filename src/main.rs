//! Picks the role of this process, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    if wharf::shim::spawner::is_spawner(std::env::args_os()) {
        wharf::shim::spawner::serve();
    }
    // A role that outlives a command goes on as a protected copy of the program, before all else.
    let protection = wharf::boot::protect(std::env::args_os());
    wharf::cli::main(|boot| wharf::boot::engine(boot, protection))
}
