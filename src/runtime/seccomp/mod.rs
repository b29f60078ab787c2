//! Seccomp: an OCI profile becomes one BPF program.
//!
//! ```text
//! profile ──▶ LinuxSeccomp ──rules──▶ a verdict for every number of every ABI
//!                                        ──tree──▶ sorted range tree ──▶ Filter ──load──▶ kernel
//! ```
//!
//! The cost of a filter is its load (each instruction is checked, converted and compiled by the
//! kernel), so the verdicts are merged into ranges and searched by bisection: Docker's profile is a
//! few hundred rules but only some thirty ranges an ABI. Only jumps, loads and returns are used for
//! the number: then the kernel (≥ 5.11) can prove which calls are always allowed and skips the
//! filter for them.
//!
//! Knows nothing of containers; where the profile comes from is `profile`'s and the engine's matter.

mod numbers;
mod profile;
mod rules;
mod tree;

#[cfg(test)]
mod interpreter;

pub use profile::{Environment, ProfileError, is_default_for, kernel_version, parse, profile};

use std::io;
use std::sync::OnceLock;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};

use crate::sys::seccomp as kernel;

/// Why a profile cannot become a filter.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("seccomp action {0} needs an agent that answers, which wharf does not offer")]
    Notify(&'static str),
    #[error("errno {errno} of seccomp rule {rule:?} is not between 0 and 4095")]
    Errno { rule: String, errno: u32 },
    #[error("seccomp rule for {syscall:?} compares argument {index}, and there are only 0 to 5")]
    Argument { syscall: String, index: usize },
    #[error("seccomp profile compiles to {0} instructions, and the kernel takes at most 4096")]
    TooLong(usize),
}

/// A compiled filter, ready to be loaded.
#[derive(Debug, Clone)]
pub struct Filter {
    program: Vec<kernel::Instruction>,
    flags: u32,
}

impl Filter {
    /// Puts the filter in force for the calling thread. Allocates nothing.
    ///
    /// # Errors
    /// `EACCES` when the caller has neither `CAP_SYS_ADMIN` nor `no_new_privs` (HAZARDS S19).
    pub fn load(&self) -> io::Result<()> {
        kernel::load(&self.program, self.flags)
    }

    /// For another process of this program on this machine.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let instructions = self.program.iter().flat_map(|instruction| {
            let [code_low, code_high] = instruction.code.to_ne_bytes();
            let [a, b, c, d] = instruction.k.to_ne_bytes();
            [
                code_low,
                code_high,
                instruction.jt,
                instruction.jf,
                a,
                b,
                c,
                d,
            ]
        });
        let n = u32::try_from(self.program.len()).unwrap_or(u32::MAX);
        let head = [self.flags.to_ne_bytes(), n.to_ne_bytes()];
        head.into_iter().flatten().chain(instructions).collect()
    }

    /// What [`Filter::to_bytes`] made; `None` for what it cannot have made.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Filter> {
        let (flags, bytes) = bytes.split_first_chunk()?;
        let (n, instructions) = bytes.split_first_chunk()?;
        let (instructions, rest) = instructions.as_chunks::<8>();
        let program = instructions
            .iter()
            .map(
                |[code_low, code_high, jt, jf, a, b, c, d]| kernel::Instruction {
                    code: u16::from_ne_bytes([*code_low, *code_high]),
                    jt: *jt,
                    jf: *jf,
                    k: u32::from_ne_bytes([*a, *b, *c, *d]),
                },
            )
            .collect::<Vec<_>>();
        // Half a filter may be a valid one that allows more.
        let n = usize::try_from(u32::from_ne_bytes(*n)).ok();
        let is_whole = rest.is_empty() && n == Some(program.len());
        is_whole.then_some(Filter {
            program,
            flags: u32::from_ne_bytes(*flags),
        })
    }

    /// Number of BPF instructions.
    pub fn n_instructions(&self) -> usize {
        self.program.len()
    }
}

/// Docker's default profile for a container with Docker's default capabilities. Compiled once in a
/// process, so a spawner that asks before it forks hands it down for nothing.
pub fn default_filter() -> Filter {
    static FILTER: OnceLock<Filter> = OnceLock::new();
    FILTER
        .get_or_init(|| {
            let spec = profile(&super::capabilities::defaults());
            // The built-in profile names no agent, no argument above 5 and no odd errno, and is
            // compiled by the tests.
            compile(&spec).expect("the built-in profile compiles")
        })
        .clone()
}

/// Compiles an OCI profile.
///
/// The meaning is runc's: an unconditional rule for a call beats conditional ones, among which the
/// first that matches wins; names that an ABI does not have are passed over; numbers above all that
/// the profile names give ENOSYS when the default action is a refusal (HAZARDS S17), so that
/// libraries fall back.
///
/// # Errors
/// [`SeccompError`].
pub fn compile(spec: &LinuxSeccomp) -> Result<Filter, SeccompError> {
    let policy = rules::Policy::new(spec)?;
    let program = tree::program(&policy);
    if program.len() > 4096 {
        return Err(SeccompError::TooLong(program.len()));
    }
    let flags = match spec.flags() {
        // Without it the kernel (4.17 to 5.15) turns on the store bypass mitigation for every
        // filtered process, at a heavy cost; runc asks for it by default, too.
        None => kernel::FLAG_SPEC_ALLOW,
        Some(flags) => flags.iter().fold(0, |all, flag| {
            all | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => kernel::FLAG_LOG,
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => kernel::FLAG_TSYNC,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => kernel::FLAG_SPEC_ALLOW,
                // Meaningful only beside a listener, which is refused above.
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
            }
        }),
    };
    Ok(Filter { program, flags })
}

#[cfg(test)]
mod tests;
