//! The privileged suite: the built program on the real kernel, in throw-away namespaces, as root.
//!
//! Not root, or a program missing: the tests are reported as ignored, with the reason.
//! `WHARF_TEST_PRIVILEGED=1` makes that a failure, so that a CI that runs nothing is not green.

#[path = "../harness/mod.rs"]
mod harness;

mod autostart;
mod bad_input;
mod crash;
mod examples;
mod exec;
mod faults;
mod harness_itself;
mod health;
mod image_store;
mod images;
mod life;
mod lifecycle;
mod limits;
mod logs;
mod namespaces;
mod networks;
mod order;
mod registry;
mod registry_access;
mod registry_chaos;
mod restart;
mod sec_confinement;
mod security;
mod shims;
mod storage;

use std::collections::BTreeSet;
use std::io::Write;
use std::process::ExitCode;

use harness::isolation::{self, Case};
use libtest_mimic::{Arguments, Trial};

/// Names a case after its function.
macro_rules! cases {
    ($module:ident: $($name:ident $([$($program:literal),+])?),+ $(,)?) => {
        pub const CASES: &[crate::harness::isolation::Case] = &[$(
            crate::harness::isolation::Case {
                name: concat!(stringify!($module), "::", stringify!($name)),
                needs: &[$($($program),+)?],
                run: $name,
            },
        )+];
    };
}
pub(crate) use cases;

fn main() -> ExitCode {
    let cases: Vec<Case> = [
        autostart::CASES,
        bad_input::CASES,
        crash::CASES,
        examples::CASES,
        exec::CASES,
        faults::CASES,
        harness_itself::CASES,
        health::CASES,
        image_store::CASES,
        images::CASES,
        life::CASES,
        lifecycle::CASES,
        limits::CASES,
        logs::CASES,
        namespaces::CASES,
        networks::CASES,
        order::CASES,
        registry::CASES,
        registry_access::CASES,
        registry_chaos::CASES,
        restart::CASES,
        sec_confinement::CASES,
        security::CASES,
        shims::CASES,
        storage::CASES,
    ]
    .concat();
    if let Some(code) = isolation::play_role(&cases) {
        return code;
    }
    let mut arguments = Arguments::from_args();
    // The tests wait more than they compute.
    let n_cpus = std::thread::available_parallelism().map_or(2, |n| n.get());
    arguments.test_threads = arguments.test_threads.or(Some(2 * n_cpus));

    let demanded = std::env::var_os("WHARF_TEST_PRIVILEGED").is_some_and(|value| value == "1");
    let mut reasons = BTreeSet::new();
    let trials = cases
        .into_iter()
        .map(|case| {
            let obstacle = obstacle(&case);
            let ignored = obstacle.is_some() && !demanded;
            if let (Some(obstacle), true) = (&obstacle, ignored) {
                reasons.insert(obstacle.clone());
            }
            Trial::test(case.name, move || match obstacle {
                Some(obstacle) => Err(obstacle.into()),
                None => isolation::run(&case),
            })
            .with_ignored_flag(ignored)
        })
        .collect();
    for reason in reasons {
        // Nothing to do for a runner whose stderr is closed.
        let _ = writeln!(std::io::stderr(), "privileged tests are ignored: {reason}");
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Why a case cannot run here.
fn obstacle(case: &Case) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("they need root".to_owned());
    }
    let mut needs = vec!["busybox", "ip", "setsid", "nsenter", "unshare", "curl"];
    needs.extend(case.needs);
    let missing = isolation::missing_programs(&needs);
    if missing.is_empty() {
        return None;
    }
    Some(format!(
        "{} not installed (scripts/test-setup.sh installs them)",
        missing.join(", ")
    ))
}
