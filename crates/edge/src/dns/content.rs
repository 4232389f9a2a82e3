//! What an answer holds for rules and records, and the answers that the edge makes itself (Gateway semantics, 4.4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_model::{AnswerFacts, Rule};
use adit_wire::dns::hickory_proto::op::{Message, ResponseCode};
use adit_wire::dns::hickory_proto::rr::rdata::CNAME;
use adit_wire::dns::hickory_proto::rr::rdata::svcb::{SVCB, SvcParamValue};
use adit_wire::dns::hickory_proto::rr::{Name, RData, Record, RecordType};
use adit_wire::dns::{ExtendedError, empty_answer, explain, text};

/// What rules are asked about, of an answer. The addresses that a service binding hints at (RFC 9460, 7.3) are addresses.
#[expect(clippy::wildcard_enum_match_arm, reason = "types of records that say nothing here")]
pub(super) fn facts_of(answer: &Message) -> AnswerFacts {
    let mut facts = AnswerFacts::default();
    for record in &answer.answers {
        match &record.data {
            RData::A(a) => facts.addresses.push(a.0.into()),
            RData::AAAA(aaaa) => facts.addresses.push(aaaa.0.into()),
            RData::CNAME(name) => facts.cnames.push(text(&name.0)),
            RData::MX(mx) => facts.mx.push(text(&mx.exchange)),
            RData::PTR(name) => facts.ptr.push(text(&name.0)),
            RData::TXT(txt) => facts.txt.push(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
            RData::HTTPS(https) => facts.addresses.extend(hints(&https.0)),
            RData::SVCB(svcb) => facts.addresses.extend(hints(svcb)),
            _ => {}
        }
    }
    facts
}

#[expect(clippy::wildcard_enum_match_arm, reason = "types of records that say nothing here")]
fn hints(binding: &SVCB) -> impl Iterator<Item = IpAddr> + '_ {
    binding.svc_params.iter().flat_map(|(_, value)| match value {
        SvcParamValue::Ipv4Hint(hint) => hint.0.iter().map(|a| IpAddr::V4(a.0)).collect::<Vec<_>>(),
        SvcParamValue::Ipv6Hint(hint) => hint.0.iter().map(|a| IpAddr::V6(a.0)).collect(),
        _ => Vec::new(),
    })
}

/// The answer to a blocked query: the unspecified address of the family that was asked for, and nothing of other types,
/// so that no other type leads around it.
pub(super) fn blocked(query: &Message, rule: &Rule) -> Message {
    let nowhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let mut answer = overridden(query, &nowhere);
    let reason = &rule.settings.block_reason;
    explain(&mut answer, ExtendedError::Filtered, if reason.is_empty() { &rule.name } else { reason });
    answer
}

/// What is told of a name in the place of its addresses: one that stands for them, if it has any, and nothing that would lead
/// around it (RFC 9460, 7.3).
pub(super) fn stood_for(found: &Message, name: &Name, instead: Option<IpAddr>, ttl: u32) -> Message {
    let mut answer = found.clone();
    answer.authorities.clear();
    answer.additionals.clear();
    answer.answers = instead
        .map(|address| Record::from_rdata(name.clone(), ttl, RData::from(address)))
        .into_iter()
        .collect();
    answer
}

/// The answer with those of these addresses that are of the family asked for.
pub(super) fn overridden(query: &Message, addresses: &[IpAddr]) -> Message {
    let mut answer = empty_answer(query, ResponseCode::NoError);
    let Some(question) = query.queries.first() else { return answer };
    let family = if question.query_type == RecordType::A { IpAddr::is_ipv4 } else { IpAddr::is_ipv6 };
    let wanted = |address: &&IpAddr| question.query_type.is_ip_addr() && family(address);
    let records = addresses.iter().filter(wanted).map(|address| RData::from(*address));
    answer.add_answers(records.map(|data| Record::from_rdata(question.name.clone(), MADE_TTL_SECS, data)));
    answer
}

/// The answer that a name is another one, of which this is known.
pub(super) fn renamed(query: &Message, host: &Name, found: &Message) -> Message {
    let mut answer = empty_answer(query, found.metadata.response_code);
    let Some(question) = query.queries.first() else { return answer };
    // A name that stands for itself would never be resolved.
    if !question.name.eq_ignore_root(host) {
        let data = RData::CNAME(CNAME(host.clone()));
        answer.add_answer(Record::from_rdata(question.name.clone(), MADE_TTL_SECS, data));
    }
    answer.add_answers(found.answers.iter().cloned());
    answer
}

/// A resolver's answer, as the answer to this query. No record lasts longer than `max_ttl` seconds.
pub(super) fn passed_on(query: &Message, found: &Message, max_ttl: Option<u32>) -> Message {
    let mut answer = empty_answer(query, found.metadata.response_code);
    // Whether signatures are right is what the resolver says, to those who ask for it (RFC 6840, 5.8).
    let asks =
        query.metadata.authentic_data || query.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
    answer.metadata.authentic_data = asks && found.metadata.authentic_data;
    let limited = |records: &[Record]| -> Vec<Record> {
        let mut records = records.to_vec();
        if let Some(limit) = max_ttl {
            for record in &mut records {
                record.ttl = record.ttl.min(limit);
            }
        }
        records
    };
    answer.answers = limited(&found.answers);
    answer.authorities = limited(&found.authorities);
    answer.additionals = limited(&found.additionals);
    answer
}

/// How long an answer may be kept that a rule made, in seconds.
pub(super) const MADE_TTL_SECS: u32 = 60;
