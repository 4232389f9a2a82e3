//! The tables of fields, by the contract's corpus and vectors.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use adit_expr::{Expression, NoLists, vector};
use adit_policy::scheme::{self, Filter, Part};

fn check(file: &str) {
    let mut misses = Vec::new();
    for vector in vector::read(file).unwrap() {
        let scheme = scheme::of_vector(vector.filter.as_deref(), vector.action.as_deref()).unwrap();
        misses.extend(vector.run(scheme).unwrap().map(|miss| miss.to_string()));
    }
    assert!(misses.is_empty(), "{}", misses.join("\n"));
}

#[test]
fn what_people_write_is_accepted_rewritten_or_refused_as_the_contract_says() {
    check(include_str!("corpus.jsonl"));
}

#[test]
fn the_contracts_vectors_hold_with_the_real_fields() {
    check(include_str!("../../expr/tests/expr/vectors.jsonl"));
}

#[test]
fn every_field_of_the_table_has_a_name_and_a_slot_of_its_own() {
    let every = scheme::every_field();
    let mut slots: Vec<_> = every.fields().map(|field| field.slot).collect();
    slots.sort_unstable();
    slots.dedup();
    assert_eq!(slots.len(), scheme::SLOTS);
    for field in every.fields() {
        assert_eq!(scheme::slot(field.name).unwrap_or(field.slot), field.slot, "{}", field.name);
    }
    assert_eq!(scheme::slot("net.dst.prot"), None);
    // Two spellings of one fact.
    let spellings = ["net.detected_protocol", "net.protocol.detection"];
    assert_eq!(every.field(spellings[0]).unwrap().slot, every.field(spellings[1]).unwrap().slot);
}

fn refused(filter: Filter, part: Part, action: &str, text: &str) -> String {
    let scheme = scheme::rule(filter, part, action).unwrap();
    let error = Expression::new(text, scheme, &NoLists).unwrap_err();
    format!("{}: {error}", error.code)
}

#[test]
fn a_field_is_refused_where_it_is_not_or_comes_too_late() {
    assert_eq!(
        refused(Filter::Http, Part::Traffic, "off", "http.request.method == \"GET\""),
        "field_phase_not_allowed: filter parsing error (1:1): http.request.method is known too late: this action is \
         decided before anything is decrypted"
    );
    assert_eq!(
        refused(Filter::Dns, Part::Traffic, "block", "net.dst.ip == 10.0.0.1"),
        "field_not_in_filter: filter parsing error (1:1): net.dst.ip is a field of the l4 filter, and cannot be used in \
         the dns filter"
    );
    assert_eq!(
        refused(Filter::L4, Part::Identity, "block", "net.dst.ip == 10.0.0.1"),
        "field_not_in_filter: filter parsing error (1:1): net.dst.ip is a field of the l4 filter, and cannot be used in \
         the identity expression"
    );
    let late = [
        (Filter::Dns, "override", "any(dns.resolved_ips[*] == 10.0.0.1)"),
        (Filter::Http, "isolate", "http.upload.mime == \"a\""),
        (Filter::Http, "redirect", "http.response.status_code == 200"),
    ];
    for (filter, action, text) in late {
        let why = refused(filter, Part::Traffic, action, text);
        assert!(why.starts_with("field_phase_not_allowed"), "{text}: {why}");
    }
    assert!(scheme::rule(Filter::DnsResolver, Part::DevicePosture, "resolve").is_none());
}

#[test]
fn a_rule_knows_from_when_on_it_can_be_decided() {
    let phase = |filter, action, text| {
        let scheme = scheme::rule(filter, Part::Traffic, action).unwrap();
        Expression::new(text, scheme, &NoLists).unwrap().unwrap().phase()
    };
    assert_eq!(phase(Filter::L4, "block", "net.dst.port == 22"), scheme::flow_phase::OPENING);
    assert_eq!(phase(Filter::L4, "block", "net.sni.host == \"a\""), scheme::flow_phase::FIRST_BYTES);
    assert_eq!(phase(Filter::Http, "off", "http.request.host == \"a\""), scheme::http_phase::HELLO);
    assert_eq!(phase(Filter::Http, "block", "http.request.host == \"a\""), scheme::http_phase::REQUEST);
    assert_eq!(phase(Filter::Egress, "egress", "any(app.ids[*] == 1)"), scheme::flow_phase::OPENING);
    assert_eq!(
        phase(Filter::Dns, "block", "any(dns.resolved_ips[*] == 10.0.0.1)"),
        scheme::dns_phase::ANSWER
    );
}
