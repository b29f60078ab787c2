//! From the rules of a profile to a verdict for each call number of each ABI.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator,
};

use super::SeccompError;
use super::numbers::{N, NUMBERS};
use crate::sys::seccomp::{AUDIT_ARCH_AARCH64, AUDIT_ARCH_I386, AUDIT_ARCH_X86_64};

pub(super) const RET_ERRNO: u32 = 0x0005_0000;
pub(super) const RET_KILL_PROCESS: u32 = 0x8000_0000;

/// Marks the call numbers of x32, which share the audit number of x86_64.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// A calling convention of the kernel: a column of the number table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Abi {
    X86_64 = 0,
    I386 = 1,
    X32 = 2,
    Aarch64 = 3,
}

impl Abi {
    /// The ABI that this program is built for.
    pub(super) const NATIVE: Abi = if cfg!(target_arch = "aarch64") {
        Abi::Aarch64
    } else {
        Abi::X86_64
    };

    fn of(arch: Arch) -> Option<Abi> {
        match arch {
            Arch::ScmpArchNative => Some(Abi::NATIVE),
            Arch::ScmpArchX86_64 => Some(Abi::X86_64),
            Arch::ScmpArchX86 => Some(Abi::I386),
            Arch::ScmpArchX32 => Some(Abi::X32),
            Arch::ScmpArchAarch64 => Some(Abi::Aarch64),
            _ => None,
        }
    }

    /// `seccomp_data.arch` of its calls.
    pub(super) fn audit(self) -> u32 {
        match self {
            Abi::X86_64 | Abi::X32 => AUDIT_ARCH_X86_64,
            Abi::I386 => AUDIT_ARCH_I386,
            Abi::Aarch64 => AUDIT_ARCH_AARCH64,
        }
    }

    /// Added to the numbers of the table.
    pub(super) fn base(self) -> u32 {
        if self == Abi::X32 { X32_BIT } else { 0 }
    }

    /// Arguments are 32 bits wide.
    fn is_narrow(self) -> bool {
        matches!(self, Abi::I386 | Abi::X32)
    }

    /// The call's number, without [`Abi::base`].
    pub(super) fn number(self, name: &str) -> Option<u32> {
        let at = NUMBERS
            .binary_search_by(|(n, _)| n.as_bytes().cmp(name.as_bytes()))
            .ok()?;
        let number = NUMBERS[at].1[self as usize];
        (number != N).then_some(u32::from(number))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    GreaterOrEqual,
    Greater,
    /// `argument & mask == value`
    Masked {
        mask: u64,
    },
}

/// A comparison of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Condition {
    /// 0 to 5.
    pub index: u32,
    pub operator: Operator,
    pub value: u64,
    /// Only the lower 32 bits of the argument are compared.
    pub narrow: bool,
}

/// When all conditions hold, the action (a filter's return value).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Rule {
    pub conditions: Vec<Condition>,
    pub action: u32,
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Verdict {
    Always(u32),
    /// The first rule that matches, else the policy's default.
    Depends(Vec<Rule>),
}

/// All verdicts of one ABI.
#[derive(Debug)]
pub(super) struct Table {
    pub abi: Abi,
    /// By number, without [`Abi::base`]. Numbers that are not here but not above the last of the
    /// profile get the default.
    pub verdicts: BTreeMap<u32, Verdict>,
    /// The largest number that the profile names.
    pub last: u32,
    /// For all numbers above `last`.
    pub beyond: u32,
}

/// A profile, resolved.
#[derive(Debug)]
pub(super) struct Policy {
    pub default: u32,
    pub tables: Vec<Table>,
}

/// Arguments that the kernel takes as 32-bit integers although the register has 64 bits. Compared
/// in full they let a caller set an upper bit and walk past the rule (`socket(1 << 32 | AF_ALG)`).
const INT_ARGUMENTS: &[(&str, u32)] = &[("personality", 0), ("socket", 0)];

impl Policy {
    pub(super) fn new(spec: &LinuxSeccomp) -> Result<Policy, SeccompError> {
        let default = action("default", spec.default_action(), spec.default_errno_ret())?;
        let mut abis = vec![Abi::NATIVE];
        for abi in spec
            .architectures()
            .iter()
            .flatten()
            .filter_map(|a| Abi::of(*a))
        {
            if !abis.contains(&abi) {
                abis.push(abi);
            }
        }
        // Tables are searched in this order; the native ABI comes first.
        abis.sort_by_key(|abi| (*abi != Abi::NATIVE, *abi));

        let refuses = !matches!(
            spec.default_action(),
            LinuxSeccompAction::ScmpActAllow
                | LinuxSeccompAction::ScmpActLog
                | LinuxSeccompAction::ScmpActTrace
        );
        let beyond = if refuses {
            RET_ERRNO | libc_enosys()
        } else {
            default
        };

        let mut tables: Vec<Table> = abis
            .into_iter()
            .map(|abi| Table {
                abi,
                verdicts: BTreeMap::new(),
                last: 0,
                beyond,
            })
            .collect();

        for call in spec.syscalls().iter().flatten() {
            let what = call.names().first().map_or("", String::as_str);
            let action = action(what, call.action(), call.errno_ret())?;
            let args = call.args().as_deref().unwrap_or_default();
            for name in call.names() {
                for table in &mut tables {
                    let Some(number) = table.abi.number(name) else {
                        continue;
                    };
                    // Even a rule that repeats the default says that the profile knows the call.
                    table.last = table.last.max(number);
                    if action != default {
                        table.add(number, name, args, action)?;
                    }
                }
            }
        }
        Ok(Policy { default, tables })
    }
}

impl Table {
    fn add(
        &mut self,
        number: u32,
        name: &str,
        args: &[LinuxSeccompArg],
        action: u32,
    ) -> Result<(), SeccompError> {
        if args.is_empty() {
            // The first unconditional rule wins, over conditional ones as well.
            let verdict = self
                .verdicts
                .entry(number)
                .or_insert(Verdict::Always(action));
            if let Verdict::Depends(_) = verdict {
                *verdict = Verdict::Always(action);
            }
            return Ok(());
        }
        let narrow = self.abi.is_narrow();
        let conditions = args
            .iter()
            .map(|arg| condition(name, arg, narrow))
            .collect::<Result<Vec<_>, _>>()?;
        let Verdict::Depends(rules) = self
            .verdicts
            .entry(number)
            .or_insert_with(|| Verdict::Depends(Vec::new()))
        else {
            return Ok(());
        };
        // Several comparisons of one argument in one rule are alternatives: libseccomp cannot join
        // them, so runc made them so and profiles rely on it.
        let repeats = (0..conditions.len()).any(|i| {
            conditions[..i]
                .iter()
                .any(|c| c.index == conditions[i].index)
        });
        if repeats {
            rules.extend(conditions.into_iter().map(|c| Rule {
                conditions: vec![c],
                action,
            }));
        } else {
            rules.push(Rule { conditions, action });
        }
        Ok(())
    }
}

fn condition(name: &str, arg: &LinuxSeccompArg, narrow: bool) -> Result<Condition, SeccompError> {
    let index = u32::try_from(arg.index())
        .ok()
        .filter(|i| *i <= 5)
        .ok_or_else(|| SeccompError::Argument {
            syscall: name.to_owned(),
            index: arg.index(),
        })?;
    let (operator, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => (Operator::Equal, arg.value()),
        LinuxSeccompOperator::ScmpCmpNe => (Operator::NotEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpLt => (Operator::Less, arg.value()),
        LinuxSeccompOperator::ScmpCmpLe => (Operator::LessOrEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpGe => (Operator::GreaterOrEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpGt => (Operator::Greater, arg.value()),
        // In this one operator `value` is the mask and `valueTwo` what is compared with.
        LinuxSeccompOperator::ScmpCmpMaskedEq => (
            Operator::Masked { mask: arg.value() },
            arg.value_two().unwrap_or(0),
        ),
    };
    let narrow = narrow || INT_ARGUMENTS.contains(&(name, index));
    Ok(Condition {
        index,
        operator,
        value,
        narrow,
    })
}

fn action(rule: &str, action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, SeccompError> {
    if action == LinuxSeccompAction::ScmpActNotify {
        return Err(SeccompError::Notify("SCMP_ACT_NOTIFY"));
    }
    // The kernel takes 16 bits as data: a larger value would run into the action itself.
    match errno {
        Some(errno) if errno > 4095 => Err(SeccompError::Errno {
            rule: rule.to_owned(),
            errno,
        }),
        _ => Ok(action.as_u32(errno)),
    }
}

fn libc_enosys() -> u32 {
    // Positive by definition.
    rustix::io::Errno::NOSYS.raw_os_error() as u32
}
