//! A terminal to run a command in: a pty whose master the test holds.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};

use nix::pty::{OpenptyResult, openpty};
use rustix::termios::Winsize;

use super::wait_for;

/// A command on a terminal of its own.
pub struct Terminal {
    master: File,
    child: Child,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts the command with the terminal as controlling terminal, stdin, stdout and stderr.
    pub fn start(command: &Command, rows: u16, columns: u16) -> Terminal {
        let OpenptyResult { master, slave } = openpty(None, None).expect("ptys are there");
        rustix::termios::tcsetwinsize(&slave, size(rows, columns)).expect("a pty has a size");
        // `setsid --ctty` does between fork and exec what would need unsafe code here.
        let mut child = Command::new("setsid");
        child.args(["--ctty", "--wait"]);
        child.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => child.env(key, value),
                None => child.env_remove(key),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            child.current_dir(directory);
        }
        let duplicate = |fd: &OwnedFd| fd.try_clone().expect("descriptors are left");
        let child = child
            .env("TERM", "xterm")
            .stdin(duplicate(&slave))
            .stdout(duplicate(&slave))
            .stderr(slave)
            .spawn()
            .expect("setsid is installed");
        let output = Arc::new(Mutex::new(Vec::new()));
        let mut reader = File::from(duplicate(&master));
        let sink = output.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Ends with EIO when the last process has closed the terminal.
            while let Ok(n) = reader.read(&mut buffer) {
                if n == 0 {
                    break;
                }
                sink.lock().expect("no panic here").extend(&buffer[..n]);
            }
        });
        Terminal {
            master: File::from(master),
            child,
            output,
        }
    }

    /// Types on the keyboard.
    pub fn send(&mut self, text: &str) {
        self.master
            .write_all(text.as_bytes())
            .expect("the terminal takes input");
    }

    /// Everything on the screen so far.
    pub fn screen(&self) -> String {
        let bytes = self.output.lock().expect("no panic in the reader");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the text has been shown.
    #[track_caller]
    pub fn expect(&self, text: &str) {
        wait_for(
            &format!("{text:?} on the terminal; it shows {:?}", self.screen()),
            || self.screen().contains(text).then_some(()),
        );
    }

    /// Gives the window another size; the kernel signals the foreground processes.
    pub fn resize(&self, rows: u16, columns: u16) {
        rustix::termios::tcsetwinsize(&self.master, size(rows, columns)).expect("a pty has a size");
    }

    /// Waits for the command's end.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the command on the terminal to end", || {
            self.child.try_wait().expect("it is our child")
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Already gone in a test that waited for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
