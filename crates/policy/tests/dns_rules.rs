//! Rules of the filters `dns` and `dns_resolver` decide queries: the worked cases of the Gateway semantics (8 to 12), and what
//! they leave open.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::net::IpAddr;

use adit_model::{
    AccountId, Action, AnswerFacts, Change, ChangeBatch, DnsResolver, DnsResolvers, Filter, List, ListId,
    ListKind, LocationId, QueryFacts, Rule, RuleId, RuleSettings, Schedule,
};
use adit_policy::{AnswerVerdict, QueryVerdict, Resolver, Snapshot, State};
use uuid::Uuid;

const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);
const LIST: ListId = ListId::from_uuid(Uuid::from_u128(7));
const NAME: &str = "api.cluster.internal";

/// What became of a query, and by which rule.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Resolved(Option<u128>),
    BlockedAtOnce(u128),
    BlockedByAnswer(u128),
    Addresses(u128, Vec<IpAddr>),
    Host(u128, String),
}
use Verdict::{Addresses, BlockedAtOnce, BlockedByAnswer, Host, Resolved};

fn snapshot(rules: Vec<Rule>) -> std::sync::Arc<Snapshot> {
    let list = List { id: LIST, account: ACCOUNT, kind: ListKind::Ip, items: vec!["198.51.100.0/24".into()] };
    let mut changes = vec![Change::ListPut(list)];
    changes.extend(rules.into_iter().map(|rule| Change::RulePut(Box::new(rule))));
    let mut state = State::default();
    state.apply(ChangeBatch { number: 1, changes });
    state.snapshot()
}

fn query<'a>(name: &'a str, record_type: &'a str) -> QueryFacts<'a> {
    QueryFacts {
        account: ACCOUNT,
        name,
        record_type,
        source: "203.0.113.9".parse().unwrap(),
        resolver: None,
        location: None,
        subdomain: None,
        at_micros: 0,
    }
}

fn answer(addresses: &[&str]) -> AnswerFacts {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    AnswerFacts { addresses, ..AnswerFacts::default() }
}

fn number(rule: &Rule) -> u128 {
    rule.id.uuid().as_u128()
}

/// A whole query, as an edge goes through it.
fn ask(rules: Vec<Rule>, query: &QueryFacts<'_>, answer: &AnswerFacts) -> Verdict {
    let snapshot = snapshot(rules);
    match snapshot.query_verdict(query) {
        QueryVerdict::Allow(rule) => Resolved(Some(number(rule))),
        QueryVerdict::Block(rule) => BlockedAtOnce(number(rule)),
        QueryVerdict::Addresses(rule, addresses) => Addresses(number(rule), addresses.to_vec()),
        QueryVerdict::Host(rule, host) => Host(number(rule), host.to_owned()),
        QueryVerdict::Unmatched => match snapshot.answer_verdict(query, answer) {
            AnswerVerdict::Allow(rule) => Resolved(rule.map(number)),
            AnswerVerdict::Block(rule) => BlockedByAnswer(number(rule)),
        },
    }
}

fn rule(id: u128, action: Action, traffic: &str) -> Rule {
    Rule {
        id: RuleId::from_uuid(Uuid::from_u128(id)),
        account: ACCOUNT,
        name: format!("rule {id}"),
        version: 1,
        precedence: u64::try_from(id).unwrap() * 10,
        enabled: true,
        filter: if action == Action::Resolve { Filter::DnsResolver } else { Filter::Dns },
        action,
        traffic: traffic.into(),
        identity: String::new(),
        device_posture: String::new(),
        settings: RuleSettings::default(),
        schedule: None,
        expires_at_micros: None,
    }
}

fn in_list() -> String {
    format!("any(dns.resolved_ips[*] in ${})", LIST.uuid().simple())
}

#[test]
fn without_a_rule_that_matches_a_name_is_resolved_and_allowed() {
    let other = rule(1, Action::Block, "dns.fqdn == \"cluster.internal\"");
    assert_eq!(ask(vec![other], &query(NAME, "A"), &answer(&["198.51.100.1"])), Resolved(None));
    assert_eq!(ask(vec![], &query(NAME, "A"), &answer(&[])), Resolved(None));
}

#[test]
fn the_first_rule_that_matches_decides_and_one_that_is_not_enabled_is_passed_over() {
    let below = "any(dns.domains[*] == \"cluster.internal\")";
    let rules = vec![rule(2, Action::Allow, ""), rule(1, Action::Block, below)];
    assert_eq!(ask(rules.clone(), &query(NAME, "A"), &answer(&[])), BlockedAtOnce(1));
    assert_eq!(ask(rules.clone(), &query("cluster.internal", "A"), &answer(&[])), BlockedAtOnce(1));
    assert_eq!(ask(rules.clone(), &query("acluster.internal", "A"), &answer(&[])), Resolved(Some(2)));
    let off = Rule { enabled: false, ..rules[1].clone() };
    assert_eq!(ask(vec![rules[0].clone(), off], &query(NAME, "A"), &answer(&[])), Resolved(Some(2)));
}

/// Worked case 9.
#[test]
fn a_rule_on_the_name_is_decided_before_a_rule_on_the_answer_that_stands_above_it() {
    let rules = || {
        vec![
            rule(1, Action::Allow, &in_list()),
            rule(2, Action::Block, "dns.fqdn == \"api.cluster.internal\""),
        ]
    };
    assert_eq!(ask(rules(), &query(NAME, "A"), &answer(&["198.51.100.1"])), BlockedAtOnce(2));
    assert_eq!(ask(rules(), &query("b.example", "A"), &answer(&["198.51.100.1"])), Resolved(Some(1)));
    assert_eq!(ask(rules(), &query("b.example", "A"), &answer(&["192.0.2.1"])), Resolved(None));
}

/// Worked case 10, with a list in place of a country.
#[test]
fn an_allow_on_the_name_ends_the_evaluation() {
    let allow = rule(1, Action::Allow, "dns.fqdn == \"api.cluster.internal\"");
    let rules = || vec![allow.clone(), rule(2, Action::Block, &in_list())];
    assert_eq!(ask(rules(), &query(NAME, "A"), &answer(&["198.51.100.1"])), Resolved(Some(1)));
    assert_eq!(ask(rules(), &query("b.example", "A"), &answer(&["198.51.100.1"])), BlockedByAnswer(2));
    assert_eq!(ask(rules(), &query("b.example", "A"), &answer(&["::ffff:198.51.100.1"])), BlockedByAnswer(2));
}

/// Worked case 11, as far as rules go.
#[test]
fn a_rule_on_the_type_leaves_the_other_types_alone() {
    let rules = || vec![rule(1, Action::Block, "dns.query_rtype == \"AAAA\"")];
    assert_eq!(ask(rules(), &query(NAME, "AAAA"), &answer(&[])), BlockedAtOnce(1));
    assert_eq!(ask(rules(), &query(NAME, "A"), &answer(&[])), Resolved(None));
}

#[test]
fn a_rule_that_mixes_name_and_answer_is_decided_by_the_answer() {
    let mixed = format!("dns.fqdn == \"api.cluster.internal\" and {}", in_list());
    let rules = || vec![rule(1, Action::Block, &mixed), rule(2, Action::Allow, "dns.fqdn == \"b.example\"")];
    assert_eq!(ask(rules(), &query(NAME, "A"), &answer(&["198.51.100.1"])), BlockedByAnswer(1));
    assert_eq!(ask(rules(), &query(NAME, "A"), &answer(&["192.0.2.1"])), Resolved(None));
}

#[test]
fn every_name_of_the_chain_is_asked_and_so_are_texts_and_mail_servers() {
    let asked = [
        "any(dns.response.cname[*] == \"tracker.example\")",
        "any(dns.response.mx[*] == \"mail.example\")",
        "any(dns.response.ptr[*] == \"host.example\")",
        "any(dns.response.txt[*] contains \"secret\")",
    ];
    let found = AnswerFacts {
        cnames: vec!["cdn.example".into(), "tracker.example".into()],
        mx: vec!["mail.example".into()],
        ptr: vec!["host.example".into()],
        txt: vec!["a secret".into()],
        ..AnswerFacts::default()
    };
    for traffic in asked {
        let rules = || vec![rule(1, Action::Block, traffic)];
        assert_eq!(ask(rules(), &query(NAME, "A"), &found), BlockedByAnswer(1), "{traffic}");
        assert_eq!(ask(rules(), &query(NAME, "A"), &answer(&["192.0.2.1"])), Resolved(None), "{traffic}");
    }
}

#[test]
fn rules_ask_for_source_location_and_resolver() {
    let location = LocationId::from_uuid(Uuid::from_u128(9));
    let there = QueryFacts {
        location: Some(location),
        subdomain: Some("office"),
        resolver: Some("192.0.2.53".parse().unwrap()),
        ..query(NAME, "A")
    };
    let here = query(NAME, "A");
    let listed = format!("dns.location == \"{}\"", location.uuid().simple());
    for traffic in
        [listed.as_str(), "dns.doh_subdomain == \"office\"", "any(dns.resolved_ip[*] in {192.0.2.53})"]
    {
        let rules = || vec![rule(1, Action::Block, traffic)];
        assert_eq!(ask(rules(), &there, &answer(&[])), BlockedAtOnce(1), "{traffic}");
        assert_eq!(ask(rules(), &here, &answer(&[])), Resolved(None), "{traffic}");
    }
    let source = vec![rule(1, Action::Block, "dns.src_ip in {203.0.113.0/24}")];
    assert_eq!(ask(source, &here, &answer(&[])), BlockedAtOnce(1));
}

#[test]
fn an_override_gives_addresses_or_a_name() {
    let address: IpAddr = "192.0.2.7".parse().unwrap();
    let addresses = RuleSettings { override_ips: vec![address], ..RuleSettings::default() };
    let rules = vec![Rule { settings: addresses, ..rule(1, Action::Override, "") }];
    assert_eq!(ask(rules, &query(NAME, "A"), &answer(&[])), Addresses(1, vec![address]));
    let host = RuleSettings { override_host: "other.example".into(), ..RuleSettings::default() };
    let rules = vec![Rule { settings: host, ..rule(1, Action::Override, "") }];
    assert_eq!(ask(rules, &query(NAME, "A"), &answer(&[])), Host(1, "other.example".into()));
    assert_eq!(
        ask(vec![rule(1, Action::Override, "")], &query(NAME, "A"), &answer(&[])),
        BlockedAtOnce(1),
        "an override that overrides nothing lets nothing pass"
    );
}

#[test]
fn a_search_engine_is_answered_with_its_safe_host() {
    let rules = || vec![rule(1, Action::Safesearch, ""), rule(2, Action::Block, "")];
    let safe = Host(1, "forcesafesearch.google.com".into());
    assert_eq!(ask(rules(), &query("www.google.com", "A"), &answer(&[])), safe);
    assert_eq!(
        ask(rules(), &query(NAME, "A"), &answer(&[])),
        Resolved(Some(1)),
        "which matches, and decides"
    );
}

#[test]
fn a_rule_that_cannot_be_read_lets_nothing_pass_that_it_might_have_blocked() {
    let unreadable = rule(1, Action::Block, "dns.tide == 1");
    assert_eq!(ask(vec![unreadable], &query(NAME, "A"), &answer(&[])), BlockedAtOnce(1));
    let resolver = snapshot(vec![rule(1, Action::Resolve, "dns.tide == 1")]);
    assert!(matches!(resolver.resolver(&query(NAME, "A")), Resolver::Nobody(_)));
}

#[test]
fn the_first_resolver_rule_that_matches_says_who_resolves() {
    let private = DnsResolver {
        ip: "198.51.100.53".parse().unwrap(),
        port: None,
        vnet_id: None,
        route_through_private_network: Some(true),
    };
    let resolvers = DnsResolvers { ipv4: vec![private.clone()], ipv6: Vec::new() };
    let given = RuleSettings { dns_resolvers: Some(resolvers), ..RuleSettings::default() };
    let own = RuleSettings { resolve_dns_through_cloudflare: true, ..RuleSettings::default() };
    let below = "any(dns.domains[*] == \"cluster.internal\")";
    let snapshot = snapshot(vec![
        Rule { settings: own, ..rule(1, Action::Resolve, "dns.fqdn == \"public.cluster.internal\"") },
        Rule { settings: given, ..rule(2, Action::Resolve, below) },
        rule(3, Action::Resolve, "dns.fqdn == \"empty.example\""),
    ]);
    match snapshot.resolver(&query(NAME, "A")) {
        Resolver::Given(rule, resolvers) => {
            assert_eq!((number(rule), resolvers.ipv4.as_slice()), (2, [private].as_slice()));
        }
        other @ (Resolver::Own(_) | Resolver::Nobody(_)) => panic!("{other:?}"),
    }
    assert!(matches!(
        snapshot.resolver(&query("public.cluster.internal", "A")),
        Resolver::Own(Some(rule)) if number(rule) == 1
    ));
    assert!(matches!(snapshot.resolver(&query("example.com", "A")), Resolver::Own(None)));
    assert!(matches!(snapshot.resolver(&query("empty.example", "A")), Resolver::Nobody(_)));
}

#[test]
fn a_rule_that_is_expired_or_out_of_its_schedule_is_passed_over() {
    // 1970 began on a Thursday.
    let mut schedule = Schedule::default();
    schedule.days[3] = Some("00:00-01:00".parse().unwrap());
    let expired = Rule { expires_at_micros: Some(60_000_000), ..rule(1, Action::Block, "") };
    let scheduled = Rule { schedule: Some(schedule.clone()), ..rule(2, Action::Block, &in_list()) };
    let rules = || vec![expired.clone(), scheduled.clone()];
    let at = |minute: i64| QueryFacts { at_micros: minute * 60_000_000, ..query(NAME, "A") };
    let found = answer(&["198.51.100.1"]);
    assert_eq!(ask(rules(), &at(0), &found), BlockedAtOnce(1));
    assert_eq!(ask(rules(), &at(1), &found), BlockedByAnswer(2));
    assert_eq!(ask(rules(), &at(60), &found), Resolved(None));
    let resolver = snapshot(vec![Rule { schedule: Some(schedule), ..rule(3, Action::Resolve, "") }]);
    assert!(matches!(resolver.resolver(&at(0)), Resolver::Nobody(_)), "it has no resolvers");
    assert!(matches!(resolver.resolver(&at(60)), Resolver::Own(None)));
}

#[test]
fn rules_of_another_account_or_filter_decide_nothing() {
    let other = Rule { account: AccountId::from_bytes([2; 16]), ..rule(1, Action::Block, "") };
    let l4 = Rule { filter: Filter::L4, ..rule(2, Action::Block, "") };
    assert_eq!(ask(vec![other, l4], &query(NAME, "A"), &answer(&[])), Resolved(None));
}
