//! Starting, ending, talking to.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::harness::{Rig, eventually, is_privileged};
use crate::shim::protocol::{Answer, Call, FailureKind, file};
use crate::sys::fd;

#[test]
fn privileged_exit_codes_and_output() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let (record, out, err) = rig.run("echo out; echo err >&2; printf tail; exit 7");
    assert_eq!((record.code, record.signal), (7, None));
    assert_eq!((out.as_str(), err.as_str()), ("out\ntail", "err\n"));
    let (record, _, _) = rig.run("kill -9 $$; sleep 5");
    // Process 1 is immune to its own signals, so the shell goes on and is not killed by it.
    assert_eq!(record.code, 0);
}

#[test]
fn privileged_what_a_process_sees_of_itself() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let (_, out, err) = rig.run("cat /proc/self/status; ls -l /proc/self/fd; pwd; hostname; env");
    let field = |name: &str| {
        out.lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("no {name} in {out}{err}"))
            .trim()
            .to_owned()
    };
    assert_eq!(field("CapEff:"), "00000000a80425fb");
    assert_eq!(field("CapBnd:"), "00000000a80425fb");
    assert_eq!(field("CapPrm:"), "00000000a80425fb");
    assert_eq!(field("CapInh:"), "0000000000000000");
    assert_eq!(field("CapAmb:"), "0000000000000000");
    assert_eq!(field("SigIgn:"), "0000000000000000");
    assert_eq!(field("SigBlk:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "0");
    assert_eq!(field("Umask:"), "0022");
    assert!(out.contains("\nbox\n"), "{out}");
    assert!(out.contains("HOME=/root"), "{out}");
    // 3 is the directory that `ls` itself reads.
    let fds: Vec<&str> = out.lines().filter(|line| line.contains(" -> ")).collect();
    assert_eq!(fds.len(), 4, "{fds:?}");
}
