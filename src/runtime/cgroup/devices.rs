//! Device rules to the program that the kernel asks at every open and mknod.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::sys::bpf::{Instruction, Register};

/// `BPF_DEVCG_*` of linux/bpf.h.
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

/// A program in which for each requested kind of access the last rule that covers device and access
/// decides, and what no rule covers is refused: the v1 controller's meaning, with one deliberate
/// tightening. There a denial took back only an identical permission; here it also takes a part out
/// of a wider one, so that "all of 10:*, but not 10:229" works.
pub(super) fn program(rules: &[LinuxDeviceCgroup]) -> Vec<Instruction> {
    use Register::{R0, R1, R2, R3, R4, R5};
    // struct bpf_cgroup_dev_ctx { u32 access_type (access << 16 | type); u32 major; u32 minor; }
    let mut program = vec![
        Instruction::load_u32(R3, R1, 0),
        Instruction::copy(R2, R3),
        Instruction::and(R2, 0xffff),
        Instruction::shift_right(R3, 16),
        Instruction::load_u32(R4, R1, 4),
        Instruction::load_u32(R5, R1, 8),
    ];
    // R3 holds the kinds of access that are still undecided.
    for rule in rules.iter().rev() {
        let access = access(rule);
        if access == 0 {
            continue;
        }
        let body = if rule.allow() {
            vec![
                Instruction::and(R3, !access),
                Instruction::jump_if_ne(R3, 0, 2),
                Instruction::set(R0, 1),
                Instruction::exit(),
            ]
        } else {
            vec![
                Instruction::copy(R0, R3),
                Instruction::and(R0, access),
                Instruction::jump_if_eq(R0, 0, 2),
                Instruction::set(R0, 0),
                Instruction::exit(),
            ]
        };
        let mut tests = Vec::new();
        match rule.typ() {
            Some(LinuxDeviceType::B) => tests.push((R2, BLOCK)),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => tests.push((R2, CHARACTER)),
            // Opening a pipe is never asked about.
            Some(LinuxDeviceType::P) => continue,
            Some(LinuxDeviceType::A) | None => {}
        }
        // A negative number is a wildcard. Device numbers have at most 20 bits.
        for (register, number) in [(R4, rule.major()), (R5, rule.minor())] {
            if let Some(number) = number
                .and_then(|n| i32::try_from(n).ok())
                .filter(|n| *n >= 0)
            {
                tests.push((register, number));
            }
        }
        for (i, (register, number)) in tests.iter().enumerate() {
            // At most two further tests and five instructions.
            let past = (tests.len() - 1 - i + body.len()) as i16;
            program.push(Instruction::jump_if_ne(*register, *number, past));
        }
        program.extend(body);
        if tests.is_empty() && !rule.allow() && access == MKNOD | READ | WRITE {
            // Everything is decided here; the verifier refuses code that cannot be reached.
            break;
        }
    }
    program.push(Instruction::set(R0, 0));
    program.push(Instruction::exit());
    program
}

/// An absent access means every kind.
fn access(rule: &LinuxDeviceCgroup) -> i32 {
    let letters = rule.access().as_deref().unwrap_or("rwm");
    letters.bytes().fold(0, |bits, letter| {
        bits | match letter {
            b'm' => MKNOD,
            b'r' => READ,
            b'w' => WRITE,
            _ => 0,
        }
    })
}
