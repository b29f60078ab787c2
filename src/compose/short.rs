//! The one-line forms of ports, volumes and commands.
//!
//! Grammar only: what a text means, never what the machine has. Messages follow compose-go's, which
//! users search for.

use std::net::IpAddr;

use foldhash::fast::RandomState;

use super::units::parse_port_range;
use crate::source::{Map, Node, Span, Value};

/// A short port that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    #[error("no port specified: {0}<empty>")]
    Empty(String),
    #[error("Invalid containerPort: {0}")]
    Container(String),
    #[error("Invalid hostPort: {0}")]
    Host(String),
    #[error("Invalid ip address: {0}")]
    Address(String),
    #[error("Invalid proto: {0}")]
    Protocol(String),
    #[error("Invalid ranges specified for container and host Ports: {container} and {host}")]
    Ranges { container: String, host: String },
}

/// One port of a short form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortPort {
    pub host_ip: Option<String>,
    /// A port or a range to choose from.
    pub published: Option<String>,
    pub target: u16,
    pub protocol: String,
}

impl ShortPort {
    /// The long form at a place.
    pub fn node(&self, span: Span) -> Node {
        let mut map = Map::with_capacity_and_hasher(5, RandomState::default());
        let mut put = |key: &str, value: Value| map.insert(key.to_owned(), Node::new(span, value));
        put("mode", Value::Text("ingress".into()));
        if let Some(ip) = &self.host_ip {
            put("host_ip", Value::Text(ip.clone()));
        }
        put("target", Value::Int(i64::from(self.target)));
        if let Some(published) = &self.published {
            put("published", Value::Text(published.clone()));
        }
        put("protocol", Value::Text(self.protocol.clone()));
        Node::new(span, map.into())
    }
}

/// `[[ip:]host:]container[/protocol]` with ranges, expanded pairwise (C2).
pub fn ports(text: &str) -> Result<Vec<ShortPort>, PortError> {
    let (spec, protocol) = match text.rsplit_once('/') {
        Some((spec, protocol)) => (spec, protocol.to_ascii_lowercase()),
        None => (text, "tcp".to_owned()),
    };
    let (head, container) = match spec.rsplit_once(':') {
        Some((head, container)) => (Some(head), container),
        None => (None, spec),
    };
    let (ip, host) = match head {
        None => ("", ""),
        Some(head) => match head.rsplit_once(':') {
            Some((ip, host)) => (ip, host),
            None => ("", head),
        },
    };
    if container.is_empty() {
        return Err(PortError::Empty(spec.to_owned()));
    }
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(PortError::Protocol(protocol));
    }
    let address = ip
        .strip_prefix('[')
        .and_then(|s| s.strip_suffix(']'))
        .unwrap_or(ip);
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(PortError::Address(ip.to_owned()));
    }
    let (first, last) =
        parse_port_range(container).ok_or_else(|| PortError::Container(container.to_owned()))?;
    let published = match host {
        "" => None,
        host => Some(parse_port_range(host).ok_or_else(|| PortError::Host(host.to_owned()))?),
    };
    let port = |target, published: Option<String>| ShortPort {
        host_ip: (!address.is_empty()).then(|| address.to_owned()),
        published,
        target,
        protocol: protocol.clone(),
    };
    let Some((host_first, host_last)) = published else {
        return Ok((first..=last).map(|target| port(target, None)).collect());
    };
    if last - first != host_last - host_first {
        // One container port takes any free port of the host's range.
        if first == last {
            return Ok(vec![port(first, Some(format!("{host_first}-{host_last}")))]);
        }
        return Err(PortError::Ranges {
            container: container.to_owned(),
            host: host.to_owned(),
        });
    }
    Ok((first..=last)
        .zip(host_first..=host_last)
        .map(|(target, host)| port(target, Some(host.to_string())))
        .collect())
}

/// A short volume that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    #[error("invalid empty volume spec")]
    Empty,
    #[error("invalid spec: {0}: empty section between colons")]
    EmptySection(String),
    #[error("invalid spec: {0}: too many colons")]
    TooManyColons(String),
}

/// A short volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShortVolume {
    pub source: Option<String>,
    pub target: String,
    pub read_only: bool,
    pub no_copy: bool,
    pub propagation: Option<String>,
    pub selinux: Option<String>,
    /// One or two characters: the reference takes such a text for a target without a look at it,
    /// and fills nothing in.
    is_tiny: bool,
}

impl ShortVolume {
    /// Whether the source is a path of the host rather than a volume's name.
    pub fn is_bind(&self) -> bool {
        self.source.as_deref().is_some_and(is_path)
    }

    /// The long form at a place.
    pub fn node(&self, span: Span) -> Node {
        let node = |value| Node::new(span, value);
        let text = |text: &str| Node::text(span, text);
        let mut map = Map::with_capacity_and_hasher(5, RandomState::default());
        let is_bind = self.is_bind();
        map.insert("type".into(), text(if is_bind { "bind" } else { "volume" }));
        if let Some(source) = &self.source {
            map.insert("source".into(), text(source));
        }
        map.insert("target".into(), text(&clean_target(&self.target)));
        if self.read_only {
            map.insert("read_only".into(), node(Value::Bool(true)));
        }
        // Options are kept where they have no effect, too: the canonical form is what was written.
        let mut bind = Map::default();
        if is_bind {
            bind.insert("create_host_path".into(), node(Value::Bool(true)));
        }
        if let Some(selinux) = &self.selinux {
            bind.insert("selinux".into(), text(selinux));
        }
        if let Some(propagation) = &self.propagation {
            bind.insert("propagation".into(), text(propagation));
        }
        let mut volume = Map::default();
        if self.no_copy {
            volume.insert("nocopy".into(), node(Value::Bool(true)));
        }
        if !bind.is_empty() {
            map.insert("bind".into(), node(bind.into()));
        }
        if !volume.is_empty() || !is_bind && !self.is_tiny {
            map.insert("volume".into(), node(volume.into()));
        }
        node(map.into())
    }
}

/// `[source:]target[:options]` (C4).
pub fn volume(text: &str) -> Result<ShortVolume, VolumeError> {
    match text.chars().count() {
        0 => return Err(VolumeError::Empty),
        1 | 2 => {
            return Ok(ShortVolume {
                target: text.to_owned(),
                is_tiny: true,
                ..ShortVolume::default()
            });
        }
        _ => {}
    }
    let mut sections = Vec::new();
    let mut section = String::new();
    let mut braces = 0usize;
    for c in text.chars() {
        match c {
            // `C:\x` keeps its colon, and so does `v:/x`: the reference takes every single letter
            // for a drive.
            ':' if section.len() == 1 && section.as_bytes()[0].is_ascii_alphabetic() => {
                section.push(c);
            }
            ':' if braces == 0 => sections.push(std::mem::take(&mut section)),
            '{' => {
                braces += 1;
                section.push(c);
            }
            '}' => {
                braces = braces.saturating_sub(1);
                section.push(c);
            }
            c => section.push(c),
        }
    }
    sections.push(section);
    if sections.iter().any(String::is_empty) {
        return Err(VolumeError::EmptySection(text.to_owned()));
    }
    let mut volume = ShortVolume::default();
    match sections.as_slice() {
        [target] => volume.target = target.clone(),
        [source, target] => {
            volume.source = Some(source.clone());
            volume.target = target.clone();
        }
        [source, target, options] => {
            volume.source = Some(source.clone());
            volume.target = target.clone();
            for option in options.split(',') {
                match option {
                    "ro" => volume.read_only = true,
                    "rw" => volume.read_only = false,
                    "nocopy" => volume.no_copy = true,
                    "z" | "Z" => volume.selinux = Some(option.to_owned()),
                    "rprivate" | "private" | "rshared" | "shared" | "rslave" | "slave" => {
                        volume.propagation = Some(option.to_owned());
                    }
                    _ => {}
                }
            }
        }
        _ => return Err(VolumeError::TooManyColons(text.to_owned())),
    }
    Ok(volume)
}

/// `.`, `/`, `~`, `\\` or a drive letter begin a path; anything else names a volume.
pub fn is_path(source: &str) -> bool {
    source.starts_with(['.', '/', '~']) || source.starts_with("\\\\") || is_windows_absolute(source)
}

pub fn is_windows_absolute(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.len() > 2
        && bytes[0].is_ascii_alphabetic()
        && bytes[1] == b':'
        && matches!(bytes[2], b'\\' | b'/')
}

/// A path in a container without `.`, `..`, doubled and trailing slashes.
pub fn clean_target(path: &str) -> String {
    if path.is_empty() || path.contains('\\') || is_windows_absolute(path) {
        return path.to_owned();
    }
    super::paths::clean(path)
}

/// `[::1]` to `::1`.
pub fn unbracket(address: &str) -> &str {
    address
        .strip_prefix('[')
        .and_then(|s| s.strip_suffix(']'))
        .unwrap_or(address)
}

/// A command line as words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    pub words: Vec<String>,
    /// The shell's operator at which the reference stops reading; it drops the rest of the line.
    pub cut_at: Option<char>,
}

/// A command line to words by the rules of mattn/go-shellwords, which the reference uses (C11).
///
/// They are not quite a shell's: a backslash escapes any character, in double quotes too; there
/// are no comments; text in backquotes and in `$(…)` is one word; an operator of the shell ends the
/// reading. `None` when a quote stays open.
pub fn split_words(line: &str) -> Option<Words> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let (mut in_backquotes, mut in_substitution) = (false, false);
    let mut cut_at = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\\' && quote != Some('\'') {
            word.get_or_insert_default().push(chars.next()?);
            continue;
        }
        if matches!(c, ' ' | '\t' | '\r' | '\n') {
            if quote.is_some() || in_backquotes || in_substitution {
                word.get_or_insert_default().push(c);
            } else {
                words.extend(word.take());
            }
            continue;
        }
        match c {
            '"' | '\'' if !in_substitution && quote.is_none_or(|open| open == c) => {
                quote = match quote {
                    Some(_) => None,
                    None => Some(c),
                };
                word.get_or_insert_default();
                continue;
            }
            '`' if quote.is_none() && !in_substitution => in_backquotes = !in_backquotes,
            ')' if quote.is_none() && !in_backquotes => in_substitution = !in_substitution,
            '(' if quote.is_none() && !in_backquotes => {
                if in_substitution || !word.as_deref().is_some_and(|w| w.ends_with('$')) {
                    return None;
                }
                in_substitution = true;
            }
            ';' | '&' | '|' | '<' | '>'
                if quote.is_none() && !in_backquotes && !in_substitution =>
            {
                // In `2>` the digit belongs to the operator.
                let starts_with_digit =
                    |w: &String| w.starts_with(|first: char| first.is_ascii_digit());
                if c == '>' && word.as_ref().is_some_and(starts_with_digit) {
                    word = None;
                }
                cut_at = Some(c);
                break;
            }
            _ => {}
        }
        word.get_or_insert_default().push(c);
    }
    if quote.is_some() || in_backquotes || in_substitution {
        return None;
    }
    words.extend(word);
    Some(Words { words, cut_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match ports(text) {
            Err(error) => error.to_string(),
            Ok(ports) => ports
                .iter()
                .map(|p| {
                    format!(
                        "{}:{}:{}/{}",
                        p.host_ip.as_deref().unwrap_or("*"),
                        p.published.as_deref().unwrap_or("?"),
                        p.target,
                        p.protocol
                    )
                })
                .collect::<Vec<_>>()
                .join(" "),
        }
    }

    #[test]
    fn ports_c2() {
        for (text, expected) in [
            ("80", "*:?:80/tcp"),
            ("8080:80", "*:8080:80/tcp"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp"),
            ("127.0.0.1::80", "127.0.0.1:?:80/tcp"),
            ("[::1]:80:80", "::1:80:80/tcp"),
            ("53:53/udp", "*:53:53/udp"),
            ("3000-3001", "*:?:3000/tcp *:?:3001/tcp"),
            ("9090-9091:8080-8081", "*:9090:8080/tcp *:9091:8081/tcp"),
            ("80-90:8080", "*:80-90:8080/tcp"),
            ("80-80:8080", "*:80:8080/tcp"),
            ("127.0.1:80:80", "Invalid ip address: 127.0.1"),
            ("9999999", "Invalid containerPort: 9999999"),
            ("80/xyz", "Invalid proto: xyz"),
            (
                "1-2:3-5",
                "Invalid ranges specified for container and host Ports: 3-5 and 1-2",
            ),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn volumes_c4() {
        let v = |text: &str| volume(text).map_err(|e| e.to_string());
        let named = |source: &str, target: &str| ShortVolume {
            source: Some(source.into()),
            target: target.into(),
            ..ShortVolume::default()
        };
        assert_eq!(v("data:/x"), Ok(named("data", "/x")));
        assert!(!named("data", "/x").is_bind());
        assert!(named("./a", "/x").is_bind() && named("~/a", "/x").is_bind());
        assert_eq!(
            v("C:\\x:D:\\y:ro").map(|v| (v.source, v.target, v.read_only)),
            Ok((Some("C:\\x".into()), "D:\\y".into(), true))
        );
        assert_eq!(v("${V:-/x}:/y"), Ok(named("${V:-/x}", "/y")));
        assert_eq!(
            v("/a:/b:ro,z,rslave,what").map(|v| (v.read_only, v.selinux, v.propagation)),
            Ok((true, Some("z".into()), Some("rslave".into())))
        );
        assert!(v(":foo").is_err_and(|e| e.contains("empty section between colons")));
        assert!(v("/a::ro").is_err_and(|e| e.contains("empty section between colons")));
        assert!(v("/aa:/bb:ro:zz").is_err_and(|e| e.contains("too many colons")));
        assert_eq!(clean_target("/a/../b//c/"), "/b/c");
    }

    #[test]
    fn words_c11() {
        let words = |line: &str| split_words(line).map(|w| (w.words.join("|"), w.cut_at));
        for (line, expected, cut_at) in [
            ("sh -c 'a b' \"c d\" e\\ f", "sh|-c|a b|c d|e f", None),
            ("", "", None),
            ("a '' b", "a||b", None),
            ("a # b", "a|#|b", None),
            ("\"a\\tb\"", "atb", None),
            ("a\\\nb", "a\nb", None),
            ("a `b c`", "a|`b c`", None),
            ("a $(b c)", "a|$(b c)", None),
            ("a;b c", "a", Some(';')),
            ("a && b", "a", Some('&')),
            ("a 2> b", "a", Some('>')),
            ("a2>b", "a2", Some('>')),
            ("'a|b' c\\;d", "a|b|c;d", None),
        ] {
            assert_eq!(words(line), Some((expected.to_owned(), cut_at)), "{line}");
        }
        for line in ["a 'b", "a\\", "a (b)", "a)b", "a `b"] {
            assert_eq!(words(line), None, "{line}");
        }
    }
}
