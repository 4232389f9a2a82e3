//! DNS messages as an agent and an edge handle them (RFC 1035, RFC 6891, RFC 8914).
//!
//! A device asks for names as it asks for anything else: by a TCP flow, to [`RESOLVER_V4`] or [`RESOLVER_V6`], port
//! [`PORT`]. No route carries these addresses: the edge answers such a flow itself. On the device the agent answers there,
//! and keeps one such flow open, on which queries and answers pass in any order.
//!
//! Messages are read and written by `hickory-proto`; here is what is checked before, and how answers look that nobody was
//! asked for. What always holds: what is no query gets no answer, or one of a header; an answer never is longer than its
//! limit.

mod https;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{DNSClass, Name, RecordType};

pub use hickory_proto;
#[doc(hidden)]
pub use https::fuzz_parameter;
pub use https::{HTTPS_PATH, HTTPS_TYPE, ParameterError, freshness_secs, of_parameter};

/// The resolver of a device with the agent: of the shared addresses (RFC 6598), in the part that stands for names
/// (Gateway semantics, 4.5).
pub const RESOLVER_V4: Ipv4Addr = Ipv4Addr::new(100, 80, 0, 53);
/// The same over IPv6: of a unique local network (RFC 4193) whose number spells the program's name.
pub const RESOLVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd61, 0x6469, 0x7400, 0, 0, 0, 0, 0x53);
/// Where the connectors of a tunnel resolve names by the resolver of their host, on [`PORT`] (tunnel protocol, 6.2).
pub const CONNECTOR_RESOLVER: Ipv6Addr = Ipv6Addr::new(0x2606, 0x4700, 0x0cf1, 0x2000, 0, 0, 0, 1);
/// The network of addresses that stand for names of hostname routes (Gateway semantics, 4.5). The resolver's is of it; those
/// of its first 256 stand for nothing.
pub const SYNTHETIC_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(100, 80, 0, 0), 16);
/// The same for IPv6.
pub const SYNTHETIC_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd61, 0x6469, 0x7400, 0x4000, 0, 0, 0, 0), 64);
/// The port of DNS.
pub const PORT: u16 = 53;
/// Longest message, in bytes: what two bytes can say.
pub const MAX_MESSAGE_BYTES: usize = 65_535;
/// Longest query, in bytes: a name of 255 and options many times as long.
pub const MAX_QUERY_BYTES: usize = 4096;
/// Longest answer in a datagram, in bytes, without fragments on the way (RFC 9715).
pub const MAX_DATAGRAM_BYTES: u16 = 1232;
/// Shortest limit of an answer in a datagram, in bytes (RFC 1035, 4.2.1).
pub const MIN_DATAGRAM_BYTES: u16 = 512;

/// The resolver that a person names: `ADDRESS:PORT`, or an address with or without brackets, on [`PORT`].
pub fn resolver(text: &str) -> Option<SocketAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    bare.map(|address| SocketAddr::new(address, PORT)).or_else(|_| text.parse()).ok()
}

/// The resolvers that a text such as `/etc/resolv.conf` names, in its order.
pub fn nameservers(text: &str) -> impl Iterator<Item = SocketAddr> + '_ {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        let address: IpAddr = words.next()?.parse().ok()?;
        Some(SocketAddr::new(address, PORT))
    })
}

/// Why a query is not resolved, as its answer says it (RFC 8914).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtendedError {
    /// Something else.
    Other,
    /// The name is not allowed here (15 would say that no one asked for it: contract B, 4.3).
    Filtered,
    /// Nobody is served who asks from there.
    Prohibited,
    /// What the edge knows is too old to decide by.
    NotReady,
    /// No resolver answers.
    NoReachableAuthority,
    /// A resolver cannot be reached.
    NetworkError,
}

impl ExtendedError {
    /// Its number.
    pub fn code(self) -> u16 {
        match self {
            Self::Other => 0,
            Self::NotReady => 14,
            Self::Filtered => 17,
            Self::Prohibited => 18,
            Self::NoReachableAuthority => 22,
            Self::NetworkError => 23,
        }
    }
}

/// What came is not a query that can be resolved.
#[derive(Debug, Clone, PartialEq)]
pub enum NotResolvable {
    /// It is not even the beginning of a query: it gets no answer.
    NoQuery,
    /// It gets this answer.
    Answer(Box<Message>),
}

/// Reads a query: one question of class IN, of a type that a resolver answers.
///
/// # Errors
/// Something else, and how it is answered.
pub fn query(bytes: &[u8]) -> Result<Message, NotResolvable> {
    let header = Header::of(bytes).ok_or(NotResolvable::NoQuery)?;
    let refuse = |code| Err(NotResolvable::Answer(Box::new(header.answer(code))));
    if header.opcode != 0 {
        return refuse(ResponseCode::NotImp);
    }
    // A decoder makes room for as many questions as are announced.
    if header.questions != 1 || header.records > MAX_QUERY_RECORDS || bytes.len() > MAX_QUERY_BYTES {
        return refuse(ResponseCode::FormErr);
    }
    let Ok(message) = Message::from_vec(bytes) else { return refuse(ResponseCode::FormErr) };
    let not = |code| Err(NotResolvable::Answer(Box::new(failure(&message, code, None))));
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return not(ResponseCode::BADVERS);
    }
    let Some(question) = message.queries.first() else { return refuse(ResponseCode::FormErr) };
    if question.query_class != DNSClass::IN {
        return not(ResponseCode::Refused);
    }
    if UNSERVED.contains(&question.query_type) {
        return not(ResponseCode::Refused);
    }
    // A resolver may answer with less (RFC 8482); rules would not see what they are asked about.
    if question.query_type == RecordType::ANY { not(ResponseCode::NotImp) } else { Ok(message) }
}

/// Reads an answer to this query: what came may be another's, or a forgery.
pub fn answer(bytes: &[u8], to: &Message) -> Option<Message> {
    let header = Header::of(bytes);
    // The header of a query is not an answer's.
    if header.is_some() || bytes.len() > MAX_MESSAGE_BYTES || bytes.get(..2)? != to.metadata.id.to_be_bytes()
    {
        return None;
    }
    let count =
        |at: usize| bytes.get(at..at + 2).map(|two| usize::from(u16::from_be_bytes([two[0], two[1]])));
    let records = count(6)? + count(8)? + count(10)?;
    if count(4)? != 1 || records > bytes.len() / SHORTEST_RECORD {
        return None;
    }
    let message = Message::from_vec(bytes).ok()?;
    let (asked, told) = (to.queries.first()?, message.queries.first()?);
    let same = told.query_type == asked.query_type
        && told.query_class == asked.query_class
        && told.name.eq_ignore_root(&asked.name);
    (same && message.metadata.message_type == MessageType::Response).then_some(message)
}

/// An answer to this query that holds nothing yet.
pub fn empty_answer(query: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata = Metadata::response_from_request(&query.metadata);
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = code;
    answer.queries.clone_from(&query.queries);
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_DATAGRAM_BYTES).set_dnssec_ok(asked.flags().dnssec_ok);
        answer.edns = Some(edns);
    }
    answer
}

/// An answer of nothing but its code, and why if the query can be told.
pub fn failure(query: &Message, code: ResponseCode, why: Option<(ExtendedError, &str)>) -> Message {
    let mut answer = empty_answer(query, code);
    if let Some((error, words)) = why {
        explain(&mut answer, error, words);
    }
    answer
}

/// Adds an extended error (RFC 8914), where the query knows of EDNS.
pub fn explain(answer: &mut Message, error: ExtendedError, words: &str) {
    if let Some(edns) = &mut answer.edns {
        let words: String = words.chars().take(MAX_EXPLANATION_CHARS).collect();
        let mut option = error.code().to_be_bytes().to_vec();
        option.extend_from_slice(words.as_bytes());
        edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, option));
    }
}

/// The bytes of a message; without its records, and marked as truncated, if they are more than `limit`.
pub fn encode(message: &Message, limit: usize) -> Vec<u8> {
    match message.to_vec() {
        Ok(bytes) if bytes.len() <= limit.min(MAX_MESSAGE_BYTES) => bytes,
        // What is left is a header, a question and options that were made here.
        Ok(_) => message.truncate().to_vec().unwrap_or_default(),
        Err(_) => failure(message, ResponseCode::ServFail, None).to_vec().unwrap_or_default(),
    }
}

/// How long an answer in a datagram may be that goes to who asked this.
pub fn datagram_limit(query: &Message) -> usize {
    let limit = query.edns.as_ref().map_or(MIN_DATAGRAM_BYTES, Edns::max_payload);
    usize::from(limit.clamp(MIN_DATAGRAM_BYTES, MAX_DATAGRAM_BYTES))
}

/// A name as rules and records have it: in lower case and without the trailing dot; empty for the root.
pub fn text(name: &Name) -> String {
    let mut text = name.to_ascii().to_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

/// What is read of a query before a decoder is trusted with it.
struct Header {
    id: u16,
    opcode: u8,
    recursion_desired: bool,
    questions: u16,
    records: u16,
}

impl Header {
    /// `None` if it is too short, or an answer's.
    fn of(bytes: &[u8]) -> Option<Self> {
        let [id, id_low, flags, _, q, q_low, rest @ ..] = bytes.first_chunk::<12>()?;
        let records = rest.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]]));
        (flags & 0x80 == 0).then(|| Self {
            id: u16::from_be_bytes([*id, *id_low]),
            opcode: (flags >> 3) & 0xf,
            recursion_desired: flags & 1 == 1,
            questions: u16::from_be_bytes([*q, *q_low]),
            records: records.fold(0, u16::saturating_add),
        })
    }

    fn answer(&self, code: ResponseCode) -> Message {
        let mut answer = Message::response(self.id, OpCode::from_u8(self.opcode));
        answer.metadata.recursion_desired = self.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.metadata.response_code = code;
        answer
    }
}

/// Feeds any bytes to the readers of this module.
#[doc(hidden)]
pub fn fuzz_dns(data: &[u8]) {
    match query(data) {
        Ok(message) => {
            let name = text(&message.queries[0].name);
            assert!(!name.ends_with('.') && !name.bytes().any(|byte| byte.is_ascii_uppercase()));
            let mut refused = failure(&message, ResponseCode::ServFail, Some((ExtendedError::Other, "a")));
            let bytes = encode(&refused, datagram_limit(&message));
            assert!(bytes.len() <= datagram_limit(&message), "an answer keeps to its limit");
            assert!(query(&bytes).is_err(), "an answer is no query");
            assert!(answer(&bytes, &message).is_some(), "it is an answer to the query");
            refused.metadata.id ^= 1;
            assert!(answer(&encode(&refused, 512), &message).is_none());
        }
        Err(NotResolvable::Answer(refused)) => {
            assert!(encode(&refused, 512).len() <= 512);
        }
        Err(NotResolvable::NoQuery) => {}
    }
}

/// Types that ask for whole zones, or are no types of data.
const UNSERVED: [RecordType; 4] = [RecordType::AXFR, RecordType::IXFR, RecordType::OPT, RecordType::TSIG];
/// Option code of an extended error (RFC 8914, 3).
pub const EXTENDED_ERROR: u16 = 15;
/// Longest words beside an extended error.
const MAX_EXPLANATION_CHARS: usize = 128;
/// Records that a query has beside its question: options, and a signature.
const MAX_QUERY_RECORDS: u16 = 4;
/// A record of the root without data.
const SHORTEST_RECORD: usize = 11;

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;
    use proptest::prelude::*;

    fn asked(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    #[track_caller]
    fn refused(bytes: &[u8], expected: Option<ResponseCode>) {
        let code = match query(bytes) {
            Ok(message) => panic!("{message}"),
            Err(NotResolvable::NoQuery) => None,
            Err(NotResolvable::Answer(answer)) => Some(answer.metadata.response_code),
        };
        assert_eq!(code, expected);
    }

    #[test]
    fn a_query_is_read_and_its_name_has_one_spelling() {
        let bytes = asked("API.Cluster.Internal.", RecordType::AAAA).to_vec().unwrap();
        let message = query(&bytes).unwrap();
        assert_eq!(text(&message.queries[0].name), "api.cluster.internal");
        assert_eq!(text(&Name::root()), "");
    }

    #[test]
    fn what_cannot_be_resolved_is_answered_as_the_protocol_says() {
        refused(b"", None);
        refused(&[0; 11], None);
        let bytes = asked("a.example.", RecordType::A).to_vec().unwrap();
        let with = |at: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            bytes
        };
        refused(&with(2, 0x81), None);
        refused(&with(2, 0x10), Some(ResponseCode::NotImp));
        refused(&with(5, 2), Some(ResponseCode::FormErr));
        refused(&with(11, 200), Some(ResponseCode::FormErr));
        refused(&bytes[..bytes.len() - 3], Some(ResponseCode::FormErr));
        refused(&with(bytes.len() - 1, 3), Some(ResponseCode::Refused));
        refused(&asked("a.example.", RecordType::AXFR).to_vec().unwrap(), Some(ResponseCode::Refused));
        refused(&asked("a.example.", RecordType::ANY).to_vec().unwrap(), Some(ResponseCode::NotImp));
        let mut newer = asked("a.example.", RecordType::A);
        newer.edns = Some(Edns::new());
        newer.edns.as_mut().unwrap().set_version(1);
        refused(&newer.to_vec().unwrap(), Some(ResponseCode::BADVERS));
    }

    #[test]
    fn an_answer_is_taken_only_for_what_was_asked() {
        let to = asked("a.example.", RecordType::A);
        let good = encode(&empty_answer(&to, ResponseCode::NoError), 512);
        assert!(answer(&good, &to).is_some());
        let mut other = to.clone();
        other.metadata.id ^= 1;
        assert!(answer(&good, &other).is_none());
        let mut elsewhere = asked("b.example.", RecordType::A);
        elsewhere.metadata.id = to.metadata.id;
        assert!(answer(&good, &elsewhere).is_none());
        assert!(answer(&to.to_vec().unwrap(), &to).is_none(), "an echo of the query");
    }

    #[test]
    fn an_extended_error_is_told_to_those_who_know_of_it() {
        let mut plain = asked("a.example.", RecordType::A);
        let why = Some((ExtendedError::Filtered, "no"));
        assert_eq!(failure(&plain, ResponseCode::NoError, why).edns, None);
        plain.edns = Some(Edns::new());
        let told = failure(&plain, ResponseCode::NoError, why).edns.unwrap();
        let option = told.option(EXTENDED_ERROR.into()).unwrap();
        assert_eq!(*option, EdnsOption::Unknown(15, vec![0, 17, b'n', b'o']));
    }

    #[test]
    fn what_does_not_fit_is_truncated() {
        let to = asked("a.example.", RecordType::TXT);
        let mut long = empty_answer(&to, ResponseCode::NoError);
        let text = hickory_proto::rr::rdata::TXT::new(vec!["x".repeat(200); 10]);
        let data = hickory_proto::rr::RData::TXT(text);
        long.add_answer(hickory_proto::rr::Record::from_rdata(
            Name::from_ascii("a.example.").unwrap(),
            1,
            data,
        ));
        assert!(encode(&long, MAX_MESSAGE_BYTES).len() > 2000);
        let short = encode(&long, datagram_limit(&to));
        assert!(short.len() <= 512);
        assert!(answer(&short, &to).unwrap().metadata.truncation);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_query_or_not(data: Vec<u8>) {
            fuzz_dns(&data);
        }

        #[test]
        fn a_query_with_any_byte_changed_is_a_query_or_not(
            name in "[a-zA-Z][a-zA-Z0-9]{0,19}(\\.[a-z]{1,9}){0,3}",
            kind in 1_u16..70,
            at in 0_usize..40,
            byte: u8,
            with_edns: bool,
        ) {
            let mut message = asked(&name, kind.into());
            message.edns = with_edns.then(Edns::new);
            let mut bytes = message.to_vec().unwrap();
            fuzz_dns(&bytes);
            if let Some(there) = bytes.get_mut(at) {
                *there = byte;
            }
            fuzz_dns(&bytes);
        }
    }
}
