//! The compiled program against a plain reading of the profile, and against the kernel.

use std::collections::HashSet;
use std::time::Instant;

use oci_spec::runtime::{
    Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompOperator,
};

use super::interpreter::{Data, run};
use super::numbers::{N, NUMBERS};
use super::rules::Abi;
use super::{Environment, Filter, compile, default_filter, parse, profile};
use crate::runtime::capabilities;
use crate::sys::seccomp as kernel;

const ABIS: [Abi; 3] = [Abi::X86_64, Abi::I386, Abi::X32];

/// What the profile says of one call, read rule by rule. Shares only the number table with the
/// compiler.
struct Naive<'a> {
    default: u32,
    /// The answer that no argument changes.
    fixed: Option<u32>,
    rules: Vec<(&'a [LinuxSeccompArg], u32)>,
    narrow: bool,
}

impl<'a> Naive<'a> {
    fn new(spec: &'a LinuxSeccomp, abi: Abi, number: u32) -> Naive<'a> {
        let column = abi as usize;
        let default = spec.default_action().as_u32(spec.default_errno_ret());
        let names: Vec<&str> = NUMBERS
            .iter()
            .filter(|(_, numbers)| numbers[column] != N && u32::from(numbers[column]) == number)
            .map(|(name, _)| *name)
            .collect();
        let rules = spec.syscalls().as_deref().unwrap_or_default();
        let named: HashSet<&str> = rules
            .iter()
            .flat_map(|r| r.names())
            .map(String::as_str)
            .collect();
        let last = NUMBERS
            .iter()
            .filter(|(name, numbers)| numbers[column] != N && named.contains(name))
            .map(|(_, numbers)| u32::from(numbers[column]))
            .max()
            .unwrap_or(0);
        let mine: Vec<(&[LinuxSeccompArg], u32)> = rules
            .iter()
            .filter(|r| r.names().iter().any(|n| names.contains(&n.as_str())))
            .map(|r| {
                (
                    r.args().as_deref().unwrap_or_default(),
                    r.action().as_u32(r.errno_ret()),
                )
            })
            .filter(|(_, action)| *action != default)
            .collect();
        let allows = matches!(
            spec.default_action(),
            LinuxSeccompAction::ScmpActAllow
                | LinuxSeccompAction::ScmpActLog
                | LinuxSeccompAction::ScmpActTrace
        );
        let fixed = if number > last {
            Some(if allows { default } else { 0x0005_0000 | 38 })
        } else {
            mine.iter()
                .find(|(args, _)| args.is_empty())
                .map(|(_, action)| *action)
        };
        let narrow =
            abi != Abi::X86_64 || names.contains(&"socket") || names.contains(&"personality");
        Naive {
            default,
            fixed,
            rules: mine,
            narrow,
        }
    }

    fn answer(&self, arguments: [u64; 6]) -> u32 {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        let cut = |v: u64| if self.narrow { v & 0xffff_ffff } else { v };
        let holds = |arg: &LinuxSeccompArg| {
            let have = cut(arguments[arg.index()]);
            match arg.op() {
                LinuxSeccompOperator::ScmpCmpEq => have == cut(arg.value()),
                LinuxSeccompOperator::ScmpCmpNe => have != cut(arg.value()),
                LinuxSeccompOperator::ScmpCmpLt => have < cut(arg.value()),
                LinuxSeccompOperator::ScmpCmpLe => have <= cut(arg.value()),
                LinuxSeccompOperator::ScmpCmpGe => have >= cut(arg.value()),
                LinuxSeccompOperator::ScmpCmpGt => have > cut(arg.value()),
                LinuxSeccompOperator::ScmpCmpMaskedEq => {
                    have & cut(arg.value()) == cut(arg.value_two().unwrap_or(0))
                }
            }
        };
        for (args, action) in &self.rules {
            let mut indices: Vec<usize> = args.iter().map(LinuxSeccompArg::index).collect();
            indices.sort_unstable();
            let repeats = indices.windows(2).any(|w| w[0] == w[1]);
            if if repeats {
                args.iter().any(holds)
            } else {
                args.iter().all(holds)
            } {
                return *action;
            }
        }
        self.default
    }
}

/// Values at and around everything that any rule compares with, and some in the upper half.
fn interesting() -> Vec<u64> {
    let mut values = vec![
        u64::MAX,
        1 << 32,
        (1 << 32) | 38,
        (1 << 32) | 40,
        0x7e02_0000,
        0x1000_0000,
    ];
    for v in [
        0u64,
        8,
        38,
        40,
        0x2_0000,
        0x2_0008,
        0xffff_ffff,
        0x11,
        0x1_0000_0005,
        0x7_0000_0009,
    ] {
        values.extend([v.wrapping_sub(1), v, v + 1]);
    }
    values
}

fn assert_equivalent(spec: &LinuxSeccomp) {
    let filter = compile(spec).unwrap();
    let values = interesting();
    let mut compared = 0;
    for abi in ABIS {
        for number in 0..600 {
            let naive = Naive::new(spec, abi, number);
            for (i, v) in values.iter().enumerate() {
                // The other arguments go through the values at other strides.
                let arguments: [u64; 6] = std::array::from_fn(|k| {
                    if k == 0 {
                        *v
                    } else {
                        values[(i * (k + 1) + k) % values.len()]
                    }
                });
                let data = Data {
                    number: number | abi.base(),
                    architecture: abi.audit(),
                    arguments,
                };
                let (got, _) = run(&filter.program, &data);
                assert_eq!(
                    got,
                    naive.answer(arguments),
                    "{abi:?} {number} {arguments:x?}"
                );
                compared += 1;
            }
        }
    }
    assert!(compared > 50_000);
}

#[test]
fn a_filter_is_handed_on_whole_or_not_at_all() {
    let filter = default_filter();
    let bytes = filter.to_bytes();
    let copy = Filter::from_bytes(&bytes).unwrap();
    assert_eq!((&copy.program, copy.flags), (&filter.program, filter.flags));
    for n in 0..bytes.len() {
        assert!(Filter::from_bytes(&bytes[..n]).is_none(), "{n} bytes");
    }
}

#[test]
fn the_default_profile_means_what_it_says() {
    assert_equivalent(&profile(&capabilities::defaults()));
}

#[test]
fn capabilities_open_their_groups() {
    assert_equivalent(&profile(&capabilities::all()));
    assert_equivalent(&profile(&Capabilities::new()));
    let admin = Capabilities::from([Capability::SysAdmin]);
    let (with, without) = (profile(&admin), profile(&Capabilities::new()));
    for (name, denied) in [("mount", 1), ("unshare", 1), ("clone3", 38), ("bpf", 1)] {
        let number = Abi::X86_64.number(name).unwrap();
        assert_eq!(
            Naive::new(&with, Abi::X86_64, number).answer([0; 6]),
            0x7fff_0000,
            "{name}"
        );
        assert_eq!(
            Naive::new(&without, Abi::X86_64, number).answer([0; 6]),
            0x0005_0000 | denied,
            "{name}"
        );
    }
}

/// Every operator, upper halves, several arguments, repeated arguments, every action.
const CUSTOM: &str = r#"{
  "defaultAction": "SCMP_ACT_KILL_PROCESS",
  "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
  "syscalls": [
    {"names": ["read", "write", "nonsense"], "action": "SCMP_ACT_ALLOW"},
    {"name": "open", "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
    {"names": ["ioctl"], "action": "SCMP_ACT_LOG", "args": [
      {"index": 0, "value": 4294967301, "op": "SCMP_CMP_GE"}, {"index": 1, "value": 40, "op": "SCMP_CMP_LE"}]},
    {"names": ["ioctl"], "action": "SCMP_ACT_TRAP", "args": [
      {"index": 0, "value": 30064771081, "op": "SCMP_CMP_LT"}, {"index": 5, "value": 8, "op": "SCMP_CMP_NE"}]},
    {"names": ["fcntl"], "action": "SCMP_ACT_ALLOW", "args": [
      {"index": 1, "value": 8, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 4294967301, "op": "SCMP_CMP_GT"}]},
    {"names": ["kill"], "action": "SCMP_ACT_TRACE", "errnoRet": 7, "args": [
      {"index": 2, "value": 64424509455, "valueTwo": 4294967301, "op": "SCMP_CMP_MASKED_EQ"}]},
    {"names": ["kill"], "action": "SCMP_ACT_ALLOW", "args": [
      {"index": 0, "value": 15, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}]},
    {"names": ["futex"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
    {"names": ["futex"], "action": "SCMP_ACT_LOG"},
    {"names": ["mseal"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
    {"names": ["reboot"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
    {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
    {"names": ["umask"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_CHOWN"]}},
    {"names": ["times"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
    {"names": ["alarm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}}
  ]
}"#;

fn custom() -> LinuxSeccomp {
    let capabilities = capabilities::defaults();
    parse(
        CUSTOM,
        &Environment {
            capabilities: &capabilities,
            kernel: (6, 1),
        },
    )
    .unwrap()
}

#[test]
fn operators_and_actions_mean_what_they_say() {
    assert_equivalent(&custom());
}

#[test]
fn conditions_of_a_profile_file_are_looked_at() {
    let spec = custom();
    let names: Vec<&str> = spec
        .syscalls()
        .iter()
        .flatten()
        .flat_map(|r| r.names().iter().map(String::as_str))
        .collect();
    for (name, present) in [
        ("mseal", true),
        ("reboot", false),
        ("mount", false),
        ("umask", false),
        ("times", false),
        ("alarm", true),
        ("open", true),
    ] {
        assert_eq!(names.contains(&name), present, "{name}");
    }
}

#[test]
fn broken_profiles_are_refused() {
    let capabilities = Capabilities::new();
    let on = Environment {
        capabilities: &capabilities,
        kernel: (6, 1),
    };
    for json in [
        "{",
        r#"{"syscalls": []}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
            "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"name": "a", "names": ["b"], "action": "SCMP_ACT_LOG"}]}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
            [{"name": "a", "action": "SCMP_ACT_LOG", "includes": {"minKernel": "six"}}]}"#,
    ] {
        assert!(parse(json, &on).is_err(), "{json}");
    }
    for json in [
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "read", "action": "SCMP_ACT_NOTIFY"}]}"#,
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 70000}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "read", "action": "SCMP_ACT_LOG",
            "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
    ] {
        assert!(compile(&parse(json, &on).unwrap()).is_err(), "{json}");
    }
}

#[test]
fn unlisted_abis_are_killed() {
    let mut spec = profile(&capabilities::defaults());
    spec.set_architectures(None);
    let filter = compile(&spec).unwrap();
    let ask = |number, architecture| {
        run(
            &filter.program,
            &Data {
                number,
                architecture,
                arguments: [0; 6],
            },
        )
        .0
    };
    assert_eq!(ask(0, kernel::AUDIT_ARCH_X86_64), 0x7fff_0000);
    assert_eq!(ask(0x4000_0000, kernel::AUDIT_ARCH_X86_64), 0x8000_0000);
    assert_eq!(ask(3, kernel::AUDIT_ARCH_I386), 0x8000_0000);
    assert_eq!(ask(3, kernel::AUDIT_ARCH_AARCH64), 0x8000_0000);
}

#[test]
fn numbers_are_sorted_and_known() {
    assert!(NUMBERS.windows(2).all(|w| w[0].0 < w[1].0));
    for (name, x86_64, i386, x32) in [
        ("execve", Some(59), Some(11), Some(520)),
        ("socketcall", None, Some(102), None),
        ("clone3", Some(435), Some(435), Some(435)),
        ("uretprobe", Some(335), None, Some(335)),
        ("removexattrat", Some(466), Some(466), Some(466)),
    ] {
        assert_eq!(
            ABIS.map(|abi| abi.number(name)),
            [x86_64, i386, x32],
            "{name}"
        );
    }
    // A name that is misspelt would be passed over in silence: all but those of other
    // architectures must be known.
    let spec = profile(&capabilities::all());
    let unknown: Vec<&str> = spec
        .syscalls()
        .iter()
        .flatten()
        .flat_map(|r| r.names())
        .filter(|name| ABIS.iter().all(|abi| abi.number(name).is_none()))
        .map(String::as_str)
        .collect();
    assert_eq!(unknown, ["recv", "riscv_hwprobe", "send"]);
}

/// The search is as deep as the logarithm of the ranges, whatever the number.
#[test]
fn the_default_filter_is_small_and_shallow() {
    let filter = default_filter();
    let deepest = ABIS
        .iter()
        .flat_map(|abi| (0..600).map(move |n| (abi.audit(), n | abi.base())))
        .map(|(architecture, number)| {
            run(
                &filter.program,
                &Data {
                    number,
                    architecture,
                    arguments: [0; 6],
                },
            )
            .1
        })
        .max()
        .unwrap();
    assert!(
        filter.n_instructions() <= 330,
        "{} instructions",
        filter.n_instructions()
    );
    assert!(deepest <= 22, "{deepest} instructions deep");
}

/// A filter belongs to a thread, so a thread is all the isolation that this needs.
#[test]
fn the_kernel_takes_the_default_filter() {
    if !rustix::process::geteuid().is_root() {
        tracing::warn!("not root: the kernel's answer is not tested");
        return;
    }
    const EPERM: i32 = 1;
    const ENOSYS: i32 = 38;
    let nr = |name| i64::from(Abi::X86_64.number(name).unwrap());
    // Arguments by which the kernel itself would do nothing, and answer something else.
    let refused = [
        (nr("socket"), [38, 5, 0], EPERM),
        (nr("socket"), [(1 << 32) | 38, 5, 0], EPERM),
        (nr("socket"), [40, 1, 0], EPERM),
        (nr("unshare"), [1 << 63, 0, 0], EPERM),
        (nr("setns"), [u64::MAX, 0, 0], EPERM),
        (nr("mount"), [0, 0, 0], EPERM),
        (nr("open_by_handle_at"), [u64::MAX, 0, 0], EPERM),
        (nr("keyctl"), [9999, 0, 0], EPERM),
        (nr("add_key"), [0, 0, 0], EPERM),
        (nr("bpf"), [9999, 0, 0], EPERM),
        (nr("perf_event_open"), [0, 0, 0], EPERM),
        (nr("io_uring_setup"), [0, 0, 0], EPERM),
        (nr("userfaultfd"), [u64::MAX, 0, 0], EPERM),
        (nr("init_module"), [0, 0, 0], EPERM),
        (nr("personality"), [0x40_0000, 0, 0], EPERM),
        (nr("clone3"), [0, 0, 0], ENOSYS),
        (600, [0, 0, 0], ENOSYS),
    ];
    let filter = default_filter();
    let (times, answers) = std::thread::spawn(move || {
        let ask = |(number, a, _): (i64, [u64; 3], i32)| {
            kernel::probe(number, [a[0], a[1], a[2], 0, 0, 0])
                .err()
                .and_then(|e| e.raw_os_error())
        };
        let before: Vec<_> = refused[..16]
            .iter()
            .filter(|r| r.0 != nr("personality"))
            .map(|r| ask(*r))
            .collect();
        let times: Vec<_> = (0..5)
            .map(|_| {
                let start = Instant::now();
                filter.load().unwrap();
                start.elapsed()
            })
            .collect();
        let answers: Vec<_> = refused.iter().map(|r| (*r, ask(*r))).collect();
        // What is allowed goes on to work.
        assert!(kernel::probe(nr("getpid"), [0; 6]).is_ok());
        assert!(kernel::probe(nr("personality"), [0xffff_ffff, 0, 0, 0, 0, 0]).is_ok());
        assert!(std::fs::read("/proc/self/status").is_ok());
        assert!(
            before.iter().all(|e| *e != Some(EPERM)),
            "without a filter: {before:?}"
        );
        (times, answers)
    })
    .join()
    .unwrap();
    for ((number, arguments, errno), answer) in answers {
        assert_eq!(answer, Some(errno), "call {number} {arguments:x?}");
    }
    let best = times.iter().min().unwrap();
    tracing::info!(
        instructions = default_filter().n_instructions(),
        ?best,
        ?times,
        "load"
    );
    let mut out = std::io::stderr();
    let _ = std::io::Write::write_fmt(
        &mut out,
        format_args!(
            "seccomp: {} instructions, loads {times:?}\n",
            default_filter().n_instructions()
        ),
    );
    assert!(best.as_micros() < 2_000, "{times:?}");
}
