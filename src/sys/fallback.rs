//! Kernel features younger than the oldest kernel that wharf runs on, and the switch that forbids
//! them.
//!
//! Every use of such a feature tries it and falls back on the kernel's answer. Whoever tries asks
//! [`is_forced`] first, so that the older ways are also gone where nobody needs them:
//! `WHARF_FORCE_FALLBACK=overlay-fd,nft-owner` (or `all`) makes a new kernel an old one. Must not
//! know what the features are used for.

use std::sync::OnceLock;

/// What can be forbidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// Overlay layers by descriptor: Linux 6.13. Fallback: `lowerdir+`.
    OverlayDescriptors,
    /// Overlay layers one by one, `lowerdir+`: Linux 6.7. Fallback: one string for `mount(2)`.
    OverlayAppend,
    /// `cgroup.kill`: Linux 5.14. Fallback: freeze and signal each.
    CgroupKill,
    /// nftables tables that outlive their owner: Linux 6.9. Fallback: a table without an owner.
    NftOwner,
    /// Programs executed from memory, which `vm.memfd_noexec=2` forbids. Fallback: a read-only view
    /// of the file.
    MemfdExec,
    /// A procfs for a pid namespace that its maker is not in: Linux 6.18. Fallback: a clone of one
    /// that is mounted in there.
    ProcfsPidns,
}

impl Feature {
    pub const ALL: [Feature; 6] = [
        Feature::OverlayDescriptors,
        Feature::OverlayAppend,
        Feature::CgroupKill,
        Feature::NftOwner,
        Feature::MemfdExec,
        Feature::ProcfsPidns,
    ];

    /// The name in the variable.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Feature::OverlayDescriptors => "overlay-fd",
            Feature::OverlayAppend => "overlay-append",
            Feature::CgroupKill => "cgroup-kill",
            Feature::NftOwner => "nft-owner",
            Feature::MemfdExec => "memfd-exec",
            Feature::ProcfsPidns => "procfs-pidns",
        }
    }
}

/// Names the features to do without, separated by commas; `all` is all of them.
pub const VARIABLE: &str = "WHARF_FORCE_FALLBACK";

/// Whether the feature must be taken for missing. The variable is read once.
#[must_use]
pub fn is_forced(feature: Feature) -> bool {
    static FORCED: OnceLock<Vec<Feature>> = OnceLock::new();
    FORCED
        .get_or_init(|| parse(&std::env::var(VARIABLE).unwrap_or_default()))
        .contains(&feature)
}

/// Words that name nothing are left out: a list may be of a newer wharf.
fn parse(list: &str) -> Vec<Feature> {
    let words: Vec<&str> = list.split(',').map(str::trim).collect();
    Feature::ALL
        .into_iter()
        .filter(|feature| words.contains(&"all") || words.contains(&feature.name()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_name_features() {
        assert_eq!(parse(""), []);
        assert_eq!(parse("of-tomorrow"), []);
        assert_eq!(parse("all"), Feature::ALL);
        assert_eq!(
            parse("nft-owner, overlay-fd"),
            [Feature::OverlayDescriptors, Feature::NftOwner]
        );
    }

    /// This program's own tests of what has a fallback, once more with every fallback in force. The
    /// container tests start real shims, so the variable reaches them as it would in earnest.
    #[test]
    fn privileged_everything_works_without_the_young_features() {
        use std::io::Write;
        if !rustix::process::geteuid().is_root() {
            let _ = std::io::stderr().write_all(b"skipped: this test needs root\n");
            return;
        }
        let output = std::process::Command::new("/proc/self/exe")
            .env(VARIABLE, "all")
            .args([
                "--test-threads=2",
                "--skip",
                "a_dead_engine",
                "--skip",
                "an_idle_shim",
            ])
            .args([
                "sys::detached",
                "runtime::rootfs",
                "runtime::cgroup",
                "shim::tests::lifecycle",
            ])
            .args([
                "engine::image::tests::layers",
                "engine::volume",
                "a_flushed_table",
            ])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(!text.contains(" 0 passed"), "no test ran: {text}");
    }
}
