//! Numbers of bytes as the Docker CLI writes them: decimal units, a few significant digits.

/// As in tables of images: `4.28MB`.
pub fn short_size(bytes: u64) -> String {
    size(bytes, 3)
}

/// As in `system df`: `4.281MB`.
pub fn long_size(bytes: u64) -> String {
    size(bytes, 4)
}

fn size(bytes: u64, n_digits: usize) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let before_point = match value {
        value if value >= 100.0 => 3,
        value if value >= 10.0 => 2,
        _ => 1,
    };
    let decimals = n_digits.saturating_sub(before_point);
    let mut text = format!("{value:.decimals$}");
    // Go's `%g` leaves out what says nothing.
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    format!("{text}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_dockers() {
        for (bytes, short, long) in [
            (0, "0B", "0B"),
            (999, "999B", "999B"),
            (1_000, "1kB", "1kB"),
            (4_281_234, "4.28MB", "4.281MB"),
            (77_800_000, "77.8MB", "77.8MB"),
            (1_234_567_890, "1.23GB", "1.235GB"),
            (187_654_321, "188MB", "187.7MB"),
        ] {
            assert_eq!(short_size(bytes), short);
            assert_eq!(long_size(bytes), long);
        }
    }
}
