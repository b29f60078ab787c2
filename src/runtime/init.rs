//! Process 1 for `init: true`: starts the program, hands signals on, reaps, ends as it ended.
//!
//! It stays the code that it was cloned from, with nothing open, no capability that the container
//! has not, and the container's own filter.

use std::io;

use rustix::process::{Pid, WaitOptions};

use crate::sys::clone::{self, Side};
use crate::sys::{fd, process, signal};

/// Splits: returns in the program's process, never in process 1.
///
/// # Errors
/// Of the fork.
pub fn split(has_terminal: bool) -> io::Result<()> {
    match clone::fork()? {
        Side::Child => {
            // A group of its own in the terminal's foreground, so that ^C reaches the program from
            // the terminal and not twice, through us.
            if rustix::process::setpgid(None, None).is_ok() && has_terminal {
                // A background group that sets itself in front gets SIGTTOU, unless it ignores it.
                signal::ignore(libc::SIGTTOU);
                let _ = rustix::termios::tcsetpgrp(std::io::stdin(), rustix::process::getpgrp());
                signal::reset();
            }
            // Process 1's end takes its namespace along; in somebody else's there is only this. A
            // filter may deny it, which then is the user's wish.
            let _ = process::die_with_parent();
            Ok(())
        }
        Side::Parent(program) => {
            process::set_name(c"wharf-init");
            // Where this is not process 1 (`pid: host`), orphans come here all the same.
            let _ = process::become_subreaper();
            fd::close_inherited(0, &[]);
            supervise(program)
        }
    }
}

fn supervise(program: Pid) -> ! {
    signal::block_all();
    loop {
        // Children first: one may have ended before its signal could be waited for.
        reap(program);
        match signal::wait_any() {
            libc::SIGCHLD => {}
            // The terminal's own business, and our own faults.
            libc::SIGTTIN
            | libc::SIGTTOU
            | libc::SIGSEGV
            | libc::SIGBUS
            | libc::SIGFPE
            | libc::SIGILL => {}
            other => {
                // It may have just ended, which the next round sees.
                let _ = signal::kill(program.as_raw_nonzero().get(), other);
            }
        }
    }
}

fn reap(program: Pid) {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid != program {
            continue;
        }
        let code = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            // Stops are not asked for.
            (None, None) => continue,
        };
        clone::exit(code & 0xff);
    }
}
