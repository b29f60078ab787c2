//! The text of a container's `/etc/hosts` and `/etc/resolv.conf`, and reading the host's.

use std::net::IpAddr;

use super::netns::RESOLVER;

/// What the host's `resolv.conf` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostResolver {
    /// In order, as many as libc would use.
    pub servers: Vec<IpAddr>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

/// Of `resolv.conf(5)`.
const MAX_SERVERS: usize = 3;

impl HostResolver {
    pub fn parse(text: &str) -> HostResolver {
        let mut host = HostResolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A zone (`fe80::1%eth0`) needs a link of the host and is left out.
                    host.servers
                        .extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
                }
                Some("search" | "domain") => {
                    host.search = words.map(str::to_owned).collect();
                }
                Some("options") => host.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        host.servers.truncate(MAX_SERVERS);
        host
    }
}

/// What goes into `/etc/hosts`.
pub struct Hosts<'a> {
    pub hostname: &'a str,
    pub domainname: Option<&'a str>,
    pub addresses: &'a [IpAddr],
    pub extra_hosts: &'a [(String, String)],
    /// What `host-gateway` stands for.
    pub host_gateway: Option<IpAddr>,
}

pub fn hosts(content: &Hosts<'_>) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for (name, address) in content.extra_hosts {
        let address = match (address.as_str(), content.host_gateway) {
            ("host-gateway", Some(gateway)) => gateway.to_string(),
            ("host-gateway", None) => continue,
            (address, _) => address.trim_matches(['[', ']']).to_owned(),
        };
        text.push_str(&format!("{address}\t{name}\n"));
    }
    for address in content.addresses {
        text.push_str(&format!("{address}\t"));
        if let Some(domain) = content.domainname.filter(|domain| !domain.is_empty()) {
            text.push_str(&format!("{}.{domain} ", content.hostname));
        }
        text.push_str(content.hostname);
        text.push('\n');
    }
    text
}

/// The container's resolver configuration, for the resolver of this engine.
pub fn resolv_conf(host: &HostResolver, search: &[String], options: &[String]) -> String {
    configuration(
        &[IpAddr::V4(RESOLVER)],
        host,
        search,
        options,
        &["ndots:0".to_owned()],
    )
}

/// For a container that is on no network of ours and asks the servers itself.
pub fn plain_resolv_conf(
    host: &HostResolver,
    servers: &[IpAddr],
    search: &[String],
    options: &[String],
) -> String {
    let servers = if servers.is_empty() {
        &host.servers
    } else {
        servers
    };
    configuration(servers, host, search, options, &host.options)
}

fn configuration(
    servers: &[IpAddr],
    host: &HostResolver,
    search: &[String],
    options: &[String],
    default_options: &[String],
) -> String {
    let mut text = String::new();
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let search = if search.is_empty() {
        &host.search
    } else {
        search
    };
    // A lone dot says "no search list", as in Docker.
    let search: Vec<&str> = search
        .iter()
        .map(String::as_str)
        .filter(|domain| *domain != ".")
        .collect();
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    let mut words: Vec<&str> = options.iter().map(String::as_str).collect();
    for default in default_options {
        let key = default.split(':').next().unwrap_or(default);
        if !words.iter().any(|word| word.split(':').next() == Some(key)) {
            words.push(default);
        }
    }
    if !words.is_empty() {
        text.push_str(&format!("options {}\n", words.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_names_the_container_and_the_gateway() {
        let text = hosts(&Hosts {
            hostname: "web",
            domainname: Some("example.org"),
            addresses: &["10.176.0.2".parse().unwrap()],
            extra_hosts: &[
                ("api".into(), "192.0.2.9".into()),
                ("host.docker.internal".into(), "host-gateway".into()),
                ("six".into(), "[2001:db8::1]".into()),
            ],
            host_gateway: Some("10.176.0.1".parse().unwrap()),
        });
        for line in [
            "127.0.0.1\tlocalhost",
            "192.0.2.9\tapi",
            "10.176.0.1\thost.docker.internal",
            "2001:db8::1\tsix",
            "10.176.0.2\tweb.example.org web",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_users_options_win_over_the_defaults() {
        let host = HostResolver::parse("nameserver 1.1.1.1\nsearch corp.example\noptions edns0\n");
        assert_eq!(
            resolv_conf(&host, &[], &[]),
            "nameserver 127.0.0.11\nsearch corp.example\noptions ndots:0\n"
        );
        assert_eq!(
            resolv_conf(&host, &[".".into()], &["ndots:2".into(), "rotate".into()]),
            "nameserver 127.0.0.11\noptions ndots:2 rotate\n"
        );
        assert_eq!(
            plain_resolv_conf(&host, &[], &[], &[]),
            "nameserver 1.1.1.1\nsearch corp.example\noptions edns0\n"
        );
    }
}
