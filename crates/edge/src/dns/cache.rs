//! Answers of resolvers, kept for as long as they say (RFC 1035, 3.2.1; RFC 2308).
//!
//! What is kept is what a resolver answered to a name and a type; whether somebody may have it is decided each time. There
//! are two generations: what is asked for stays, what nobody asks for goes with the older one when the younger is full. So
//! neither their number nor their bytes grow, and nothing is searched for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use adit_wire::dns::hickory_proto::op::{Message, ResponseCode};
use adit_wire::dns::hickory_proto::rr::{RData, RecordType};

use super::upstream::Choice;

/// What an answer is an answer to (Gateway semantics, 4.3). The class is always IN, and no client's subnet is passed on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// In lower case.
    pub(crate) name: String,
    pub(crate) record_type: RecordType,
    pub(crate) choice: Choice,
    /// Whether signatures were asked for (RFC 4035, 3.2.1), and that they be not checked (3.2.2).
    pub(crate) flags: (bool, bool),
}

#[derive(Debug)]
struct Kept {
    answer: Message,
    since: Instant,
    lasts: Duration,
    bytes: usize,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    young: HashMap<Key, Kept>,
    old: HashMap<Key, Kept>,
    young_bytes: usize,
}

impl Cache {
    /// A kept answer, its times to live shortened by how long it was kept.
    pub(crate) fn get(&mut self, key: &Key, now: Instant) -> Option<Message> {
        if let Some(kept) = self.old.remove(key) {
            self.insert(key.clone(), kept);
        }
        let kept = self.young.get(key)?;
        let age = now.saturating_duration_since(kept.since);
        if age >= kept.lasts {
            return None;
        }
        let mut answer = kept.answer.clone();
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        for records in [&mut answer.answers, &mut answer.authorities, &mut answer.additionals] {
            for record in records {
                record.ttl = record.ttl.saturating_sub(age);
            }
        }
        Some(answer)
    }

    /// Keeps an answer of so many bytes, if it says for how long.
    pub(crate) fn put(&mut self, key: Key, answer: &Message, bytes: usize, now: Instant) {
        let Some(lasts) = lifetime(answer).filter(|_| bytes <= MAX_ENTRY_BYTES) else { return };
        self.old.remove(&key);
        self.insert(key, Kept { answer: answer.clone(), since: now, lasts, bytes });
    }

    fn insert(&mut self, key: Key, kept: Kept) {
        if self.young.len() >= MAX_ENTRIES || self.young_bytes + kept.bytes > MAX_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += kept.bytes;
        if let Some(before) = self.young.insert(key, kept) {
            self.young_bytes -= before.bytes;
        }
    }
}

/// For how long an answer may be kept; `None` if it may not.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the protocol has more records and codes than matter here"
)]
fn lifetime(answer: &Message) -> Option<Duration> {
    let denied = || {
        let soa = answer.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        });
        soa.map(|secs| secs.min(MAX_DENIAL_SECS))
    };
    let secs = match answer.metadata.response_code {
        _ if answer.metadata.truncation => None,
        ResponseCode::NoError if !answer.answers.is_empty() => {
            answer.answers.iter().map(|record| record.ttl).min()
        }
        ResponseCode::NoError | ResponseCode::NXDomain => denied(),
        _ => None,
    };
    secs.filter(|secs| *secs > 0).map(|secs| Duration::from_secs(secs.min(MAX_SECS).into()))
}

/// Answers of a generation. With their bytes below they take some 40 MiB at most.
const MAX_ENTRIES: usize = 20_000;
/// Bytes of a generation's answers, as they came; decoded they are a few times as much.
const MAX_BYTES: usize = 4 << 20;
/// The longest answer that is kept, in bytes.
const MAX_ENTRY_BYTES: usize = 4096;
/// The longest that an answer is kept: a day, whatever it says.
const MAX_SECS: u32 = 86_400;
/// The longest that it is kept that there is nothing (RFC 2308, 5, is for at most three hours).
const MAX_DENIAL_SECS: u32 = 900;

#[cfg(test)]
mod tests {
    use super::*;
    use adit_wire::dns::hickory_proto::op::{OpCode, Query};
    use adit_wire::dns::hickory_proto::rr::rdata::{A, SOA};
    use adit_wire::dns::hickory_proto::rr::{Name, Record};

    fn key(name: &str) -> Key {
        Key { name: name.into(), record_type: RecordType::A, choice: Choice::Own, flags: (false, false) }
    }

    fn answer(ttls: &[u32]) -> Message {
        let name = Name::from_ascii("a.example.").unwrap();
        let mut answer = Message::response(1, OpCode::Query);
        answer.add_query(Query::query(name.clone(), RecordType::A));
        answer.add_answers(
            ttls.iter().map(|ttl| Record::from_rdata(name.clone(), *ttl, RData::A(A::new(192, 0, 2, 1)))),
        );
        answer
    }

    fn denial(ttl: u32, minimum: u32) -> Message {
        let mut denial = answer(&[]);
        let name = Name::from_ascii("example.").unwrap();
        let soa = SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, minimum);
        denial.add_authority(Record::from_rdata(name, ttl, RData::SOA(soa)));
        denial
    }

    #[test]
    fn an_answer_is_kept_as_long_as_its_shortest_record_and_grows_older() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put(key("a.example"), &answer(&[30, 10]), 50, now);
        let later = |secs| now + Duration::from_secs(secs);
        let ttls = |answer: Message| answer.answers.iter().map(|record| record.ttl).collect::<Vec<_>>();
        assert_eq!(cache.get(&key("a.example"), later(4)).map(ttls), Some(vec![26, 6]));
        assert_eq!(cache.get(&key("a.example"), later(10)), None);
        assert_eq!(cache.get(&key("b.example"), now), None);
    }

    #[test]
    fn that_there_is_nothing_is_kept_as_long_as_the_zone_says() {
        assert_eq!(lifetime(&denial(60, 5)), Some(Duration::from_secs(5)));
        assert_eq!(lifetime(&denial(7, 60)), Some(Duration::from_secs(7)));
        assert_eq!(lifetime(&answer(&[])), None, "nobody says how long");
        assert_eq!(lifetime(&answer(&[0])), None);
        let mut failed = answer(&[60]);
        failed.metadata.response_code = ResponseCode::ServFail;
        assert_eq!(lifetime(&failed), None);
    }

    #[test]
    fn what_is_asked_for_outlives_what_nobody_asks_for() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put(key("asked"), &answer(&[600]), 50, now);
        cache.put(key("forgotten"), &answer(&[600]), 50, now);
        for round in 0..3 {
            for number in 0..MAX_ENTRIES {
                cache.put(key(&format!("{round}-{number}")), &answer(&[600]), 50, now);
                if number % 1000 == 0 {
                    assert!(cache.get(&key("asked"), now).is_some(), "{round} {number}");
                }
            }
        }
        assert!(cache.get(&key("forgotten"), now).is_none());
        assert!(cache.young.len() + cache.old.len() <= 2 * MAX_ENTRIES);
        cache.put(key("long"), &answer(&[600]), MAX_ENTRY_BYTES + 1, now);
        assert!(cache.get(&key("long"), now).is_none());
    }
}
