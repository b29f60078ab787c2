//! A classic BPF machine for the tests, as strict as the kernel's checker: a jump out of the program,
//! an unknown instruction or a program without return is a panic.

use crate::sys::seccomp::Instruction;

/// What the kernel shows to a filter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Data {
    pub number: u32,
    pub architecture: u32,
    pub arguments: [u64; 6],
}

impl Data {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.architecture,
            16..=63 if offset.is_multiple_of(4) => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) {
                    argument as u32
                } else {
                    (argument >> 32) as u32
                }
            }
            _ => panic!("load from offset {offset}"),
        }
    }
}

/// The filter's return value, and how many instructions it took.
pub(super) fn run(program: &[Instruction], data: &Data) -> (u32, usize) {
    let mut accumulator = 0;
    let mut at = 0;
    let mut steps = 0;
    loop {
        let i = program[at];
        steps += 1;
        let jump = |condition: bool| usize::from(if condition { i.jt } else { i.jf });
        at += 1;
        match i.code {
            0x20 => accumulator = data.word(i.k),
            0x54 => accumulator &= i.k,
            0x05 => at += i.k as usize,
            0x15 => at += jump(accumulator == i.k),
            0x25 => at += jump(accumulator > i.k),
            0x35 => at += jump(accumulator >= i.k),
            0x06 => return (i.k, steps),
            code => panic!("instruction {code:#x} at {}", at - 1),
        }
    }
}
