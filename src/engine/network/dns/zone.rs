//! Which name means which addresses, as seen by one asker.
//!
//! Pure lookup: a name is known on a network, and a container sees the names of the networks it is
//! on, first network first. Replicas share a name.

use std::collections::HashMap;
use std::net::IpAddr;

/// A container's place on one network, as the names see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    pub network: String,
    pub addresses: Vec<IpAddr>,
    /// Every name it answers to; the first is the container's own.
    pub names: Vec<String>,
    /// Names that only this container sees: (name, the name it stands for).
    pub links: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct Network {
    /// Containers by name in lower case, with their addresses.
    forward: HashMap<String, Vec<(String, Vec<IpAddr>)>>,
    /// The container's own name.
    reverse: HashMap<IpAddr, String>,
}

/// All names of one engine.
#[derive(Debug, Default)]
pub struct Zone {
    networks: HashMap<String, Network>,
    /// By container id.
    containers: HashMap<String, Vec<Names>>,
}

impl Zone {
    /// Makes a container's names known, in place of those it had.
    pub fn insert(&mut self, container: &str, places: Vec<Names>) {
        self.remove(container);
        for place in &places {
            let network = self.networks.entry(place.network.clone()).or_default();
            for name in &place.names {
                let holders = network.forward.entry(name.to_lowercase()).or_default();
                if !holders.iter().any(|(holder, _)| holder == container) {
                    holders.push((container.to_owned(), place.addresses.clone()));
                }
            }
            if let Some(own) = place.names.first() {
                for address in &place.addresses {
                    network.reverse.insert(*address, own.clone());
                }
            }
        }
        self.containers.insert(container.to_owned(), places);
    }

    pub fn remove(&mut self, container: &str) {
        let Some(places) = self.containers.remove(container) else {
            return;
        };
        for place in places {
            let Some(network) = self.networks.get_mut(&place.network) else {
                continue;
            };
            network.forward.retain(|_, holders| {
                holders.retain(|(holder, _)| holder != container);
                !holders.is_empty()
            });
            for address in &place.addresses {
                network.reverse.remove(address);
            }
            if network.forward.is_empty() {
                self.networks.remove(&place.network);
            }
        }
    }

    /// What the container is known by, to register it again under other names.
    pub fn places(&self, container: &str) -> Option<&[Names]> {
        self.containers.get(container).map(Vec::as_slice)
    }

    /// Addresses of both families; `None` if the asker knows no such name.
    pub fn lookup(&self, asker: &str, name: &str) -> Option<Vec<IpAddr>> {
        let name = name.trim_end_matches('.').to_lowercase();
        let places = self.containers.get(asker)?;
        for place in places {
            let target = place
                .links
                .iter()
                .find(|(seen, _)| seen.eq_ignore_ascii_case(&name))
                .map_or_else(|| name.clone(), |(_, target)| target.to_lowercase());
            if let Some(addresses) = self.on_network(&place.network, &target) {
                return Some(addresses);
            }
        }
        // `name.network`, for a name that several networks know.
        for place in places {
            let suffix = place.network.to_lowercase();
            let Some(short) = name
                .strip_suffix(&suffix)
                .and_then(|rest| rest.strip_suffix('.'))
            else {
                continue;
            };
            if let Some(addresses) = self.on_network(&place.network, short) {
                return Some(addresses);
            }
        }
        None
    }

    fn on_network(&self, network: &str, name: &str) -> Option<Vec<IpAddr>> {
        let holders = self.networks.get(network)?.forward.get(name)?;
        Some(
            holders
                .iter()
                .flat_map(|(_, addresses)| addresses.iter().copied())
                .collect(),
        )
    }

    /// `container.network` of an address on one of the asker's networks.
    pub fn reverse(&self, asker: &str, address: IpAddr) -> Option<String> {
        self.containers.get(asker)?.iter().find_map(|place| {
            let name = self.networks.get(&place.network)?.reverse.get(&address)?;
            Some(format!("{name}.{}", place.network))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(network: &str, address: &str, names: &[&str]) -> Names {
        Names {
            network: network.to_owned(),
            addresses: vec![address.parse().unwrap()],
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            links: Vec::new(),
        }
    }

    #[test]
    fn names_are_scoped_to_the_askers_networks() {
        let mut zone = Zone::default();
        zone.insert("a", vec![place("front", "10.0.0.2", &["web-1", "web"])]);
        zone.insert("b", vec![place("front", "10.0.0.3", &["web-2", "web"])]);
        zone.insert("c", vec![place("back", "10.0.1.2", &["db-1", "db", "web"])]);
        let mut linked = place("front", "10.0.0.4", &["cli"]);
        linked.links = vec![("site".into(), "web-2".into())];
        zone.insert("d", vec![linked, place("back", "10.0.1.4", &["cli"])]);

        assert_eq!(zone.lookup("a", "WEB.").unwrap().len(), 2);
        assert_eq!(zone.lookup("a", "db"), None);
        assert_eq!(zone.lookup("d", "db").unwrap().len(), 1);
        assert_eq!(
            zone.lookup("d", "web.back"),
            Some(vec!["10.0.1.2".parse().unwrap()])
        );
        assert_eq!(
            zone.lookup("d", "site"),
            Some(vec!["10.0.0.3".parse().unwrap()])
        );
        assert_eq!(zone.lookup("a", "site"), None);
        assert_eq!(
            zone.reverse("a", "10.0.0.3".parse().unwrap()),
            Some("web-2.front".to_owned())
        );
        assert_eq!(zone.reverse("a", "10.0.1.2".parse().unwrap()), None);
        zone.remove("b");
        assert_eq!(zone.lookup("a", "web").unwrap().len(), 1);
        assert_eq!(zone.lookup("a", "web-2"), None);
    }
}
