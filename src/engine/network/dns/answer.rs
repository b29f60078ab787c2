//! From a query's bytes to an answer's, or to the decision that somebody else has to answer.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::zone::Zone;

/// Seconds. Docker says 600, and a JVM that obeys keeps talking to a container that is gone.
const TTL: u32 = 2;
/// Bytes of a UDP answer to a client that does not say more (RFC 1035).
const PLAIN_UDP_BYTES: usize = 512;
/// Bytes of a UDP answer that this resolver makes, whatever the client says. Loopback carries them.
const MAX_UDP_BYTES: usize = 4096;

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What a container may learn from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    /// All of its networks are internal and it names no servers of its own.
    Closed,
    /// Its options say `ndots`, so lone labels wait for the search list.
    OnlyDotted,
    Open,
}

/// What to do with a query.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    Answer(Vec<u8>),
    Forward,
    /// Not a query at all.
    Ignore,
}

/// Decides on one query of `asker`. `turn` rotates the order of replicas.
pub fn decide(
    zone: &Zone,
    asker: &str,
    outside: Outside,
    query: &[u8],
    transport: Transport,
    turn: usize,
) -> Decision {
    let Ok(message) = Message::from_vec(query) else {
        return match query.get(..2) {
            Some(&[high, low]) => encode(
                &Message::error_msg(
                    u16::from_be_bytes([high, low]),
                    OpCode::Query,
                    ResponseCode::FormErr,
                ),
                PLAIN_UDP_BYTES,
            ),
            _ => Decision::Ignore,
        };
    };
    if message.metadata.message_type != MessageType::Query {
        return Decision::Ignore;
    }
    let limit = match (transport, &message.edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => PLAIN_UDP_BYTES,
        (Transport::Udp, Some(_)) => usize::from(message.max_payload()).min(MAX_UDP_BYTES),
    };
    let mut response = reply_to(&message);
    let [question] = message.queries.as_slice() else {
        response.metadata.response_code = ResponseCode::FormErr;
        return encode(&response, limit);
    };
    if message.metadata.op_code != OpCode::Query {
        response.metadata.response_code = ResponseCode::NotImp;
        return encode(&response, limit);
    }
    let name = question.name();
    if question.query_type() == RecordType::PTR
        && let Ok(net) = name.parse_arpa_name()
        && let Some(found) = zone.reverse(asker, net.addr())
        && let Ok(mut target) = Name::from_ascii(&found)
    {
        target.set_fqdn(true);
        response.metadata.authoritative = true;
        response.add_answer(Record::from_rdata(
            name.clone(),
            TTL,
            RData::PTR(PTR(target)),
        ));
        return encode(&response, limit);
    }
    if let Some(mut addresses) = zone.lookup(asker, &name.to_ascii()) {
        response.metadata.authoritative = true;
        if !addresses.is_empty() {
            let first = turn % addresses.len();
            addresses.rotate_left(first);
        }
        // A family that the name lacks is an empty answer: NXDOMAIN would deny the other too, and
        // musl believes it.
        for address in addresses {
            match (question.query_type(), address) {
                (RecordType::A | RecordType::ANY, IpAddr::V4(v4)) => {
                    response.add_answer(Record::from_rdata(name.clone(), TTL, RData::A(A(v4))));
                }
                (RecordType::AAAA | RecordType::ANY, IpAddr::V6(v6)) => {
                    response.add_answer(Record::from_rdata(
                        name.clone(),
                        TTL,
                        RData::AAAA(AAAA(v6)),
                    ));
                }
                _ => {}
            }
        }
        return encode(&response, limit);
    }
    let is_lone_label = name.num_labels() <= 1;
    match outside {
        Outside::Open => Decision::Forward,
        Outside::OnlyDotted if !is_lone_label => Decision::Forward,
        Outside::OnlyDotted => {
            response.metadata.response_code = ResponseCode::NXDomain;
            encode(&response, limit)
        }
        Outside::Closed => {
            response.metadata.response_code = if is_lone_label {
                ResponseCode::NXDomain
            } else {
                ResponseCode::ServFail
            };
            encode(&response, limit)
        }
    }
}

/// The answer to a query that nobody could answer.
pub fn failure(query: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let message = Message::from_vec(query).ok()?;
    let mut response = reply_to(&message);
    response.metadata.response_code = code;
    response.to_vec().ok()
}

fn reply_to(query: &Message) -> Message {
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.checking_disabled = query.metadata.checking_disabled;
    response.add_queries(query.queries.iter().cloned());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP_BYTES as u16);
        response.set_edns(edns);
    }
    response
}

/// As many answers as fit; the truncation bit says when some were left out.
fn encode(response: &Message, limit: usize) -> Decision {
    let Ok(bytes) = response.to_vec() else {
        return Decision::Ignore;
    };
    if bytes.len() <= limit {
        return Decision::Answer(bytes);
    }
    let mut shorter = response.clone();
    shorter.metadata.truncation = true;
    loop {
        match shorter.to_vec() {
            Ok(bytes) if bytes.len() <= limit => return Decision::Answer(bytes),
            Ok(_) if shorter.answers.pop().is_some() => {}
            _ => return Decision::Ignore,
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;

    use super::super::zone::Names;
    use super::*;

    fn zone(n_replicas: u8) -> Zone {
        let mut zone = Zone::default();
        for index in 0..n_replicas {
            zone.insert(
                &format!("c{index}"),
                vec![Names {
                    network: "net".into(),
                    addresses: vec![IpAddr::from([10, 0, 0, index + 2])],
                    names: vec![format!("web-{index}"), "web".into()],
                    links: Vec::new(),
                }],
            );
        }
        zone
    }

    fn ask(
        zone: &Zone,
        outside: Outside,
        name: &str,
        kind: RecordType,
    ) -> Result<Message, Decision> {
        let mut query = Message::query();
        query.metadata.id = 77;
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        match decide(
            zone,
            "c0",
            outside,
            &query.to_vec().unwrap(),
            Transport::Udp,
            1,
        ) {
            Decision::Answer(bytes) => Ok(Message::from_vec(&bytes).unwrap()),
            other => Err(other),
        }
    }

    #[test]
    fn a_missing_family_is_empty_and_not_denied() {
        let zone = zone(2);
        let answer = ask(&zone, Outside::Open, "web.", RecordType::AAAA).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.answers.is_empty());
        let answer = ask(&zone, Outside::Open, "web.", RecordType::A).unwrap();
        assert_eq!(answer.metadata.id, 77);
        assert_eq!(answer.answers.len(), 2);
        assert!(answer.answers.iter().all(|record| record.ttl <= 5));
        let first = answer.answers[0].data.ip_addr().unwrap();
        assert_eq!(first, IpAddr::from([10, 0, 0, 3]), "rotated by one");
    }

    #[test]
    fn unknown_names_go_out_only_where_they_may() {
        let zone = zone(1);
        let forwarded = |outside, name| ask(&zone, outside, name, RecordType::A);
        assert_eq!(
            forwarded(Outside::Open, "nosuch.").err(),
            Some(Decision::Forward)
        );
        assert_eq!(
            forwarded(Outside::OnlyDotted, "example.org.").err(),
            Some(Decision::Forward)
        );
        let answer = forwarded(Outside::OnlyDotted, "nosuch.").unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        let answer = forwarded(Outside::Closed, "example.org.").unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }

    #[test]
    fn many_replicas_are_truncated_to_what_udp_carries() {
        let answer = ask(&zone(60), Outside::Open, "web.", RecordType::A).unwrap();
        assert!(answer.metadata.truncation);
        assert!(answer.answers.len() > 20 && answer.answers.len() < 60);
    }

    #[test]
    fn an_address_has_the_containers_name() {
        let answer = ask(
            &zone(2),
            Outside::Open,
            "3.0.0.10.in-addr.arpa.",
            RecordType::PTR,
        )
        .unwrap();
        assert_eq!(answer.answers[0].data.to_string(), "web-1.net.");
    }
}
