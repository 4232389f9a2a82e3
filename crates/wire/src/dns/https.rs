//! What of a DNS query over HTTPS stands outside of its message (RFC 8484): the query in a URL, and how long an answer lasts.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hickory_proto::op::Message;
use hickory_proto::rr::RData;

use super::MAX_QUERY_BYTES;

/// The path of queries. A location has one.
pub const HTTPS_PATH: &str = "/dns-query";
/// The type of a query's and an answer's body.
pub const HTTPS_TYPE: &str = "application/dns-message";

/// A URL holds no query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// There is no `dns`, or more than one.
    #[error("expected the query as the one parameter ?dns=")]
    Missing,
    /// It is longer than a query may be.
    #[error("the query is longer than 4096 bytes")]
    TooLong,
    /// It is not what it should be.
    #[error("dns: expected base64url without padding (RFC 4648, 5)")]
    NotBase64,
}

/// The query in the part of a URL behind its `?` (RFC 8484, 6). Other parameters are passed over.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn of_parameter(query: &str) -> Result<Vec<u8>, ParameterError> {
    let mut found = query.split('&').filter_map(|pair| pair.strip_prefix("dns="));
    let (Some(text), None) = (found.next(), found.next()) else { return Err(ParameterError::Missing) };
    if text.len() > MAX_QUERY_BYTES.div_ceil(3) * 4 {
        return Err(ParameterError::TooLong);
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| ParameterError::NotBase64)?;
    if bytes.len() > MAX_QUERY_BYTES { Err(ParameterError::TooLong) } else { Ok(bytes) }
}

/// For how many seconds an answer is fresh (RFC 8484, 5.1): as long as its shortest-lived record, or, if it says that there
/// is nothing, as long as that may be kept (RFC 2308, 5). An answer that says neither is fresh for no time.
#[expect(clippy::wildcard_enum_match_arm, reason = "types of records that say nothing here")]
pub fn freshness_secs(answer: &Message) -> u32 {
    let shortest = answer.answers.iter().map(|record| record.ttl).min();
    let nothing = answer.authorities.iter().filter_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    shortest.or_else(|| nothing.min()).unwrap_or(0)
}

/// Feeds any text to the reader of URLs.
#[doc(hidden)]
pub fn fuzz_parameter(text: &str) {
    if let Ok(bytes) = of_parameter(text) {
        assert!(bytes.len() <= MAX_QUERY_BYTES);
        let again = format!("dns={}", URL_SAFE_NO_PAD.encode(&bytes));
        assert!(text.split('&').any(|pair| pair == again), "a query has one spelling");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::rdata::SOA;
    use hickory_proto::rr::{Name, Record};
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    #[test]
    fn the_query_of_the_standards_example_is_read() {
        let text = "dns=AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB";
        let bytes = of_parameter(text).unwrap();
        let message = crate::dns::query(&bytes).unwrap();
        assert_eq!(crate::dns::text(&message.queries[0].name), "www.example.com");
        assert_eq!(of_parameter(&format!("ct=x&{text}")), Ok(bytes));
    }

    #[test]
    fn what_is_no_query_says_why() {
        for none in ["", "dns", "name=www.example.com", "dns=AAAA&dns=AAAA"] {
            assert_eq!(of_parameter(none), Err(ParameterError::Missing), "{none}");
        }
        for wrong in ["dns=AA==", "dns=A", "dns=++++", "dns=%41%41"] {
            assert_eq!(of_parameter(wrong), Err(ParameterError::NotBase64), "{wrong}");
        }
        let long = "A".repeat(5464);
        assert_eq!(of_parameter(&format!("dns={long}")), Err(ParameterError::TooLong));
        assert_eq!(of_parameter(&format!("dns={}", &long[..5462])).unwrap().len(), MAX_QUERY_BYTES);
    }

    #[test]
    fn an_answer_is_fresh_as_long_as_its_shortest_record_or_as_long_as_nothing_is() {
        let name = Name::from_ascii("a.example.").unwrap();
        let mut answer = Message::query();
        assert_eq!(freshness_secs(&answer), 0);
        let soa = SOA::new(name.clone(), name.clone(), 1, 2, 3, 4, 60);
        answer.add_authority(Record::from_rdata(name.clone(), 300, RData::SOA(soa)));
        assert_eq!(freshness_secs(&answer), 60);
        for ttl in [30, 20, 40] {
            answer.add_answer(Record::from_rdata(name.clone(), ttl, RData::from(Ipv4Addr::LOCALHOST)));
        }
        assert_eq!(freshness_secs(&answer), 20);
    }

    proptest! {
        #[test]
        fn any_url_holds_a_query_or_not(text: String, encoded in "[A-Za-z0-9_=&%-]{0,40}", bytes: Vec<u8>) {
            fuzz_parameter(&text);
            fuzz_parameter(&format!("dns={encoded}"));
            let whole = format!("dns={}", URL_SAFE_NO_PAD.encode(&bytes));
            prop_assert_eq!(of_parameter(&whole), Ok(bytes));
        }
    }
}
