//! Verdicts to instructions: per architecture a bisection over ranges of call numbers.
//!
//! The program is built from its end: every jump goes forward, so a target's place is known when
//! the jump is written, and equal returns and equal nodes are shared. Conditional jumps reach 255
//! instructions; farther targets get a stepping stone.

use std::collections::HashMap;

use super::rules::{Abi, Condition, Operator, Policy, RET_KILL_PROCESS, Rule, Verdict, X32_BIT};
use crate::sys::seccomp::Instruction;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQ: u16 = 0x15;
const JUMP_GT: u16 = 0x25;
const JUMP_GE: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// How far a target may be before it needs a stepping stone; two of those may be written between.
const REACH: usize = 250;

/// An instruction's distance from the end of the program.
type Place = usize;

/// Where a range of numbers leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Leaf<'a> {
    Return(u32),
    Rules(&'a [Rule]),
}

#[derive(Default)]
struct Assembler {
    /// Last instruction first.
    reversed: Vec<Instruction>,
    returns: HashMap<u32, Place>,
    /// Equal jumps to equal places are one: the ABIs have whole stretches in common.
    nodes: HashMap<(u16, u32, Place, Place), Place>,
}

/// The whole filter.
pub(super) fn program(policy: &Policy) -> Vec<Instruction> {
    let mut asm = Assembler::default();
    let kill = asm.ret(RET_KILL_PROCESS);
    let mut entries: Vec<(u32, Place)> = Vec::new();
    // x32 is not an architecture of its own but the upper half of x86_64's numbers.
    for table in policy.tables.iter().filter(|t| t.abi != Abi::X32) {
        let mut ranges = Vec::new();
        push_table(&mut ranges, policy, table.abi);
        if table.abi == Abi::X86_64 {
            if policy.tables.iter().any(|t| t.abi == Abi::X32) {
                push_table(&mut ranges, policy, Abi::X32);
            } else {
                push(&mut ranges, X32_BIT, Leaf::Return(RET_KILL_PROCESS));
            }
        }
        let mut rules = HashMap::new();
        let tree = asm.tree(&ranges, policy.default, &mut rules);
        asm.fall_into(tree);
        entries.push((table.abi.audit(), asm.load(NUMBER)));
    }
    let mut next = kill;
    // The first table is the native one: it is asked for first, so it is written last.
    for (audit, entry) in entries.into_iter().rev() {
        next = asm.branch(JUMP_EQ, audit, entry, next);
    }
    asm.fall_into(next);
    asm.load(ARCHITECTURE);
    asm.reversed.reverse();
    asm.reversed
}

fn push_table<'a>(ranges: &mut Vec<(u32, Leaf<'a>)>, policy: &'a Policy, abi: Abi) {
    let Some(table) = policy.tables.iter().find(|t| t.abi == abi) else {
        return;
    };
    let base = abi.base();
    let mut next = 0;
    for (number, verdict) in &table.verdicts {
        if *number > next {
            push(ranges, base + next, Leaf::Return(policy.default));
        }
        let leaf = match verdict {
            Verdict::Always(action) => Leaf::Return(*action),
            Verdict::Depends(rules) => Leaf::Rules(rules),
        };
        push(ranges, base + number, leaf);
        next = number + 1;
    }
    if next <= table.last {
        push(ranges, base + next, Leaf::Return(policy.default));
    }
    push(ranges, base + table.last + 1, Leaf::Return(table.beyond));
}

/// Begins a range at `start`, unless the one before leads to the same place.
fn push<'a>(ranges: &mut Vec<(u32, Leaf<'a>)>, start: u32, leaf: Leaf<'a>) {
    if ranges.last().is_none_or(|(_, last)| *last != leaf) {
        ranges.push((start, leaf));
    }
}

impl Assembler {
    fn emit(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Place {
        self.reversed.push(Instruction { code, jt, jf, k });
        self.reversed.len() - 1
    }

    /// Bisection over `ranges`, each from its number to the next one's.
    fn tree<'a>(
        &mut self,
        ranges: &[(u32, Leaf<'a>)],
        default: u32,
        rules: &mut HashMap<&'a [Rule], Place>,
    ) -> Place {
        match ranges {
            // An empty profile still has the range of all numbers.
            [] => self.ret(default),
            [(_, leaf)] => self.leaf(*leaf, default, rules),
            // A single number that differs from both its sides costs one comparison, not two.
            [(_, below), (number, leaf), (after, above)]
                if below == above && *after == number + 1 =>
            {
                let other = self.leaf(*below, default, rules);
                let hit = self.leaf(*leaf, default, rules);
                self.branch(JUMP_EQ, *number, hit, other)
            }
            _ => {
                let middle = ranges.len() / 2;
                let (low, high) = ranges.split_at(middle);
                let high = self.tree(high, default, rules);
                let low = self.tree(low, default, rules);
                self.branch(JUMP_GE, ranges[middle].0, high, low)
            }
        }
    }

    fn leaf<'a>(
        &mut self,
        leaf: Leaf<'a>,
        default: u32,
        known: &mut HashMap<&'a [Rule], Place>,
    ) -> Place {
        match leaf {
            Leaf::Return(action) => self.ret(action),
            Leaf::Rules(rules) => {
                if let Some(place) = known.get(rules) {
                    return *place;
                }
                let mut next = self.ret(default);
                for rule in rules.iter().rev() {
                    let mut hit = self.ret(rule.action);
                    for condition in rule.conditions.iter().rev() {
                        hit = self.compare(condition, hit, next);
                    }
                    next = hit;
                }
                known.insert(rules, next);
                next
            }
        }
    }

    /// Code that goes to `yes` when the condition holds and to `no` when not.
    fn compare(&mut self, condition: &Condition, yes: Place, no: Place) -> Place {
        let low_at = ARGUMENTS + 8 * condition.index;
        let high_at = low_at + 4;
        let (high, low) = ((condition.value >> 32) as u32, condition.value as u32);
        let (code, yes, no) = match condition.operator {
            Operator::Equal => (JUMP_EQ, yes, no),
            Operator::NotEqual => (JUMP_EQ, no, yes),
            Operator::Greater => (JUMP_GT, yes, no),
            Operator::LessOrEqual => (JUMP_GT, no, yes),
            Operator::GreaterOrEqual => (JUMP_GE, yes, no),
            Operator::Less => (JUMP_GE, no, yes),
            Operator::Masked { mask } => {
                let (mask_high, mask_low) = ((mask >> 32) as u32, mask as u32);
                self.fresh_branch(JUMP_EQ, low, yes, no);
                self.emit(AND, 0, 0, mask_low);
                let lower = self.load(low_at);
                if condition.narrow || (mask_high == 0 && high == 0) {
                    return lower;
                }
                self.fresh_branch(JUMP_EQ, high, lower, no);
                self.emit(AND, 0, 0, mask_high);
                return self.load(high_at);
            }
        };
        self.fresh_branch(code, low, yes, no);
        let lower = self.load(low_at);
        if condition.narrow {
            return lower;
        }
        if code == JUMP_EQ {
            self.fresh_branch(JUMP_EQ, high, lower, no);
        } else {
            let equal = self.fresh_branch(JUMP_EQ, high, lower, no);
            self.fresh_branch(JUMP_GT, high, yes, equal);
        }
        self.load(high_at)
    }

    /// A jump, shared with an equal one that is near enough.
    fn branch(&mut self, code: u16, k: u32, yes: Place, no: Place) -> Place {
        if yes == no {
            return yes;
        }
        if let Some(place) = self.nodes.get(&(code, k, yes, no)) {
            return *place;
        }
        let place = self.fresh_branch(code, k, yes, no);
        self.nodes.insert((code, k, yes, no), place);
        place
    }

    /// A jump that stands at the program's present start, so that a load can fall into it.
    fn fresh_branch(&mut self, code: u16, k: u32, yes: Place, no: Place) -> Place {
        let yes = self.near(yes);
        let no = self.near(no);
        let here = self.reversed.len();
        // `near` has brought both within a byte.
        self.emit(code, (here - 1 - yes) as u8, (here - 1 - no) as u8, k)
    }

    fn near(&mut self, target: Place) -> Place {
        let here = self.reversed.len();
        if here - target <= REACH {
            return target;
        }
        let instruction = self.reversed[target];
        if instruction.code == RETURN {
            return self.ret(instruction.k);
        }
        self.emit(JUMP, 0, 0, (here - 1 - target) as u32)
    }

    fn ret(&mut self, action: u32) -> Place {
        match self.returns.get(&action) {
            Some(place) if self.reversed.len() - place <= REACH => *place,
            _ => {
                let place = self.emit(RETURN, 0, 0, action);
                self.returns.insert(action, place);
                place
            }
        }
    }

    /// Loads a word of `seccomp_data`, then falls into what stands at the program's present start.
    fn load(&mut self, offset: u32) -> Place {
        self.emit(LOAD, 0, 0, offset)
    }

    /// Makes the program's present start lead to `target`.
    fn fall_into(&mut self, target: Place) {
        let here = self.reversed.len();
        if target + 1 != here {
            self.emit(JUMP, 0, 0, (here - 1 - target) as u32);
        }
    }
}
