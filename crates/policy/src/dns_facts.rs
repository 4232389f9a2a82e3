//! The facts of a DNS query and of its answer, as rules of the filters `dns` and `dns_resolver` ask them (policy language, 7.1).

use std::net::IpAddr;

use adit_expr::{Fact, Facts, Slot, Texts};
use adit_model::{AnswerFacts, QueryFacts};

use crate::facts::and_parents;
use crate::scheme::{SLOTS, slot};

/// Values that the facts of a query point to.
pub(crate) struct QueryRoom<'a> {
    domains: Vec<&'a str>,
    location: Option<[u8; 32]>,
    resolver: Option<[IpAddr; 1]>,
}

impl<'a> QueryRoom<'a> {
    pub(crate) fn new(query: &QueryFacts<'a>) -> Self {
        let location = query.location.map(|location| {
            let mut text = [0; 32];
            location.uuid().simple().encode_lower(&mut text);
            text
        });
        Self {
            domains: and_parents(query.name).collect(),
            location,
            resolver: query.resolver.map(|address| [address.to_canonical()]),
        }
    }
}

/// Values that the facts of an answer point to.
pub(crate) struct AnswerRoom<'a> {
    addresses: Vec<IpAddr>,
    answer: &'a AnswerFacts,
}

impl<'a> AnswerRoom<'a> {
    pub(crate) fn new(answer: &'a AnswerFacts) -> Self {
        Self { addresses: answer.addresses.iter().map(IpAddr::to_canonical).collect(), answer }
    }
}

/// The facts of a query, and of its answer once it came. What an answer does not hold is missing.
pub(crate) fn of_query<'a>(
    query: &QueryFacts<'a>,
    room: &'a QueryRoom<'a>,
    answered: Option<&'a AnswerRoom<'a>>,
) -> Facts<'a> {
    let mut facts = Facts::with_slots(SLOTS);
    facts.set(FQDN, Fact::Bytes(query.name.as_bytes()));
    facts.set(DOMAINS, Fact::Texts(Texts::Strs(&room.domains)));
    facts.set(RTYPE, Fact::Bytes(query.record_type.as_bytes()));
    facts.set(SRC_IP, Fact::Ip(query.source.to_canonical()));
    if let Some(location) = &room.location {
        facts.set(LOCATION, Fact::Bytes(location));
    }
    if let Some(subdomain) = query.subdomain {
        facts.set(DOH_SUBDOMAIN, Fact::Bytes(subdomain.as_bytes()));
    }
    if let Some(resolver) = &room.resolver {
        facts.set(RESOLVED_IP, Fact::Ips(resolver));
    }
    if let Some(room) = answered {
        if !room.addresses.is_empty() {
            facts.set(RESOLVED_IPS, Fact::Ips(&room.addresses));
        }
        let AnswerFacts { addresses: _, cnames, mx, ptr, txt } = room.answer;
        for (slot, texts) in [(CNAME, cnames), (MX, mx), (PTR, ptr), (TXT, txt)] {
            if !texts.is_empty() {
                facts.set(slot, Fact::Texts(Texts::Strings(texts)));
            }
        }
    }
    facts
}

const FQDN: Slot = slot("dns.fqdn").unwrap();
const DOMAINS: Slot = slot("dns.domains").unwrap();
const RTYPE: Slot = slot("dns.query_rtype").unwrap();
const LOCATION: Slot = slot("dns.location").unwrap();
const DOH_SUBDOMAIN: Slot = slot("dns.doh_subdomain").unwrap();
const RESOLVED_IP: Slot = slot("dns.resolved_ip").unwrap();
const SRC_IP: Slot = slot("dns.src_ip").unwrap();
const CNAME: Slot = slot("dns.response.cname").unwrap();
const MX: Slot = slot("dns.response.mx").unwrap();
const PTR: Slot = slot("dns.response.ptr").unwrap();
const TXT: Slot = slot("dns.response.txt").unwrap();
const RESOLVED_IPS: Slot = slot("dns.resolved_ips").unwrap();

/// What a rule of the filter `dns` is told.
pub(crate) const SUPPLIED: [Slot; 12] =
    [FQDN, DOMAINS, RTYPE, LOCATION, DOH_SUBDOMAIN, RESOLVED_IP, SRC_IP, CNAME, MX, PTR, TXT, RESOLVED_IPS];
