//! The `WWW-Authenticate` header (RFC 9110, section 11.6.1).
//!
//! Several challenges may stand in one header, separated by the same comma that separates their
//! parameters, and quoted values may hold commas. Knows grammar only.

/// One way to authenticate that a server offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Lower case.
    pub scheme: String,
    /// Names in lower case.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut known = self.parameters.iter();
        known
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// All challenges of one header value. What cannot be read ends the list.
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            return challenges;
        }
        let after = after.trim_start_matches([' ', '\t']);
        match (after.strip_prefix('='), challenges.last_mut()) {
            // A parameter of the challenge that was begun.
            (Some(value), Some(challenge)) => {
                let Some((value, after)) = parameter_value(value.trim_start_matches([' ', '\t']))
                else {
                    return challenges;
                };
                challenge
                    .parameters
                    .push((word.to_ascii_lowercase(), value));
                rest = after;
            }
            (Some(_), None) => return challenges,
            (None, _) => {
                challenges.push(Challenge {
                    scheme: word.to_ascii_lowercase(),
                    parameters: Vec::new(),
                });
                rest = after;
            }
        }
    }
}

fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    text.split_at(end)
}

fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        // Some registries leave the quotes away around addresses.
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(header: &str) -> String {
        let shown = parse(header).into_iter().map(|challenge| {
            let parameters = challenge.parameters.iter();
            let parameters: Vec<String> = parameters
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            format!("{}[{}]", challenge.scheme, parameters.join("; "))
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn challenges_as_registries_write_them() {
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
                "bearer[realm=https://auth.docker.io/token; service=registry.docker.io; scope=repository:a/b:pull,push]",
            ),
            (
                r#"Basic realm="Registry Realm""#,
                "basic[realm=Registry Realm]",
            ),
            (
                r#"Basic realm="a, \"b\"", Bearer realm="https://t",error="invalid_token""#,
                r#"basic[realm=a, "b"] bearer[realm=https://t; error=invalid_token]"#,
            ),
            (
                "BEARER Realm=https://x/y , Service = z",
                "bearer[realm=https://x/y; service=z]",
            ),
            ("Negotiate, Basic realm=x", "negotiate[] basic[realm=x]"),
            ("", ""),
            (r#"Bearer realm="open"#, "bearer[]"),
            ("=x", ""),
        ] {
            assert_eq!(shown(header), expected, "{header}");
        }
    }
}
