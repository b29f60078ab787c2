//! PAX extended headers: what overrides or adds to the next entry's header.

#[derive(Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) long_name: Option<Vec<u8>>,
    pub(super) long_link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse_major: Option<u64>,
    pub(super) sparse_name: Option<Vec<u8>>,
    pub(super) sparse_size: Option<u64>,
    pub(super) sparse_map: Option<Vec<(u64, u64)>>,
}

impl Extensions {
    /// Records are `<length> <key>=<value>\n`; the length, not the newline, ends a record, because
    /// values of extended attributes are binary.
    pub(super) fn parse_pax(&mut self, mut rest: &[u8]) -> Result<(), &'static str> {
        const BAD: &str = "PAX record";
        while !rest.is_empty() {
            let space = rest.iter().position(|byte| *byte == b' ').ok_or(BAD)?;
            let length = parse_decimal(&rest[..space]).ok_or(BAD)?;
            let length = usize::try_from(length).map_err(|_| BAD)?;
            if length <= space + 1 || length > rest.len() || rest[length - 1] != b'\n' {
                return Err(BAD);
            }
            let record = &rest[space + 1..length - 1];
            rest = &rest[length..];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(BAD)?;
            self.set(&record[..equals], &record[equals + 1..])?;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let number = |what| parse_decimal(value).ok_or(what);
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number("PAX size")?),
            b"uid" => self.uid = Some(number("PAX uid")?),
            b"gid" => self.gid = Some(number("PAX gid")?),
            b"mtime" => self.mtime = Some(parse_time(value).ok_or("PAX mtime")?),
            b"GNU.sparse.major" => self.sparse_major = Some(number("sparse version")?),
            b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                self.sparse_size = Some(number("sparse size")?);
            }
            b"GNU.sparse.map" => {
                let numbers: Option<Vec<u64>> = value
                    .split(|byte| *byte == b',')
                    .map(parse_decimal)
                    .collect();
                let numbers = numbers.filter(|n| n.len() % 2 == 0).ok_or("sparse map")?;
                self.sparse_map = Some(numbers.chunks_exact(2).map(|p| (p[0], p[1])).collect());
            }
            // Format 0.0 repeats keys and was written by one GNU tar release of 2004.
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => return Err("sparse format 0.0"),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if name.is_empty() || name.contains(&0) {
                        return Err("name of an extended attribute");
                    }
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

fn parse_decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `[-]seconds[.fraction]`.
fn parse_time(text: &[u8]) -> Option<(i64, u32)> {
    let (is_negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(parse_decimal(parts.next()?)?).ok()?;
    let mut nanoseconds = 0u32;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        for place in 0..9 {
            let digit = fraction.get(place).map_or(0, |byte| byte - b'0');
            nanoseconds = nanoseconds * 10 + u32::from(digit);
        }
    }
    Some(match (is_negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        // The nanoseconds of a timespec always count forward.
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_values_may_contain_newlines() {
        let mut extensions = Extensions::default();
        let record = b"34 SCHILY.xattr.user.x=a\nb=c\n\0\xff12\n";
        assert_eq!(record.len(), 34);
        extensions.parse_pax(record).unwrap();
        assert_eq!(
            extensions.xattrs,
            [(b"user.x".to_vec(), b"a\nb=c\n\0\xff12".to_vec())]
        );
    }

    #[test]
    fn malformed_pax_records_are_refused() {
        for text in [
            &b"5 a=b"[..],
            b"x a=b\n",
            b"99 a=b\n",
            b"6 ab=\n\n",
            b"5 ab\n",
            b"0 \n",
            b"18446744073709551616 a=b\n",
            b"11 size=-5\n",
        ] {
            assert!(
                Extensions::default().parse_pax(text).is_err(),
                "{:?}",
                String::from_utf8_lossy(text)
            );
        }
    }

    #[test]
    fn times_keep_nanoseconds_and_may_be_before_the_epoch() {
        assert_eq!(parse_time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(parse_time(b"12.1234567891"), Some((12, 123_456_789)));
        assert_eq!(parse_time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(parse_time(b"-3"), Some((-3, 0)));
        assert_eq!(parse_time(b"1.x"), None);
    }
}
