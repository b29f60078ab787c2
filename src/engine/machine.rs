//! What this machine is: facts that do not change while the engine runs.

/// Looked at once, when the engine starts.
#[derive(Debug, Clone)]
pub struct Machine {
    pub n_cpus: u32,
    /// Major and minor number of the kernel.
    pub kernel: (u32, u32),
    /// Those of `/sys/devices/system/cpu/cpu*/thermal_throttle` that exist.
    pub thermal_throttle: Vec<String>,
}

impl Machine {
    pub fn look() -> Machine {
        let release = rustix::system::uname();
        Machine {
            n_cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            kernel: parse_release(&release.release().to_string_lossy()),
            thermal_throttle: thermal_throttle(),
        }
    }
}

/// `6.18.44-fc` is (6, 18). What cannot be read is the oldest kernel that we run on.
fn parse_release(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (5, 12),
    }
}

fn thermal_throttle() -> Vec<String> {
    let Ok(cpus) = std::fs::read_dir("/sys/devices/system/cpu") else {
        return Vec::new();
    };
    let mut paths: Vec<_> = cpus
        .filter_map(|cpu| Some(cpu.ok()?.path().join("thermal_throttle")))
        .filter(|path| path.exists())
        .map(|path| path.display().to_string())
        .collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        for (release, numbers) in [
            ("6.18.44-fc-v669", (6, 18)),
            ("6.1.0-56-cloud-amd64", (6, 1)),
            ("strange", (5, 12)),
        ] {
            assert_eq!(parse_release(release), numbers, "{release}");
        }
    }
}
