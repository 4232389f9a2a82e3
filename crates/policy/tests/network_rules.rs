//! Rules of the `l4` filter decide flows: the worked cases of the Gateway semantics, and what they leave open.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use adit_model::{
    AccountId, Action, Change, ChangeBatch, CheckSession, DeviceId, DeviceKey, Filter, FirstBytes, FlowFacts,
    GatewaySettings, InspectionMode, List, ListId, ListKind, OverrideTarget, Protocol, Refusal, Registration,
    RegistrationId, Route, RouteId, Rule, RuleId, RuleSettings, SecretHash, Tunnel, TunnelId, VirtualNetwork,
    VirtualNetworkId,
};
use adit_policy::{Asked, Decision, Known, Permit, State};
use uuid::Uuid;

const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);
const NETWORK: VirtualNetworkId = VirtualNetworkId::from_uuid(Uuid::from_u128(10));
const DEVICE: RegistrationId = RegistrationId::from_uuid(Uuid::from_u128(20));
const LIST: ListId = ListId::from_uuid(Uuid::from_u128(7));

/// What became of a flow: the address that is dialled or why none is, and by which rule.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Dialled(&'static str, Option<u128>),
    Refused(Refusal, Option<u128>),
    Later,
}
use Verdict::{Dialled, Later, Refused};

struct Case(State, u64);

impl Case {
    fn new(rules: Vec<Rule>) -> Self {
        let tunnel = Tunnel {
            id: TunnelId::from_uuid(Uuid::from_u128(1)),
            account: ACCOUNT,
            name: "cluster".into(),
            secret: SecretHash::of(b"secret"),
            remotely_managed: false,
        };
        let device = Registration {
            id: DEVICE,
            account: ACCOUNT,
            device: DeviceId::from_uuid(Uuid::from_u128(21)),
            device_name: "laptop".into(),
            key: DeviceKey::of_public_key(b"key"),
            user: "non_identity@example".into(),
            service_token: None,
            revoked: false,
        };
        let mut changes = vec![
            Change::VirtualNetworkPut(VirtualNetwork { id: NETWORK, account: ACCOUNT, is_default: true }),
            Change::RegistrationPut(device),
            Change::ListPut(List {
                id: LIST,
                account: ACCOUNT,
                kind: ListKind::Ip,
                items: vec!["198.51.100.101/32".into(), "2001:db8::101/128".into()],
            }),
        ];
        for (number, network) in [(1, "198.51.100.0/24"), (2, "2001:db8::/32")] {
            changes.push(Change::RoutePut(Route {
                id: RouteId::from_uuid(Uuid::from_u128(number)),
                account: ACCOUNT,
                virtual_network: NETWORK,
                network: network.parse().unwrap(),
                tunnel: tunnel.id,
            }));
        }
        changes.insert(0, Change::TunnelPut(tunnel));
        changes.extend(rules.into_iter().map(|rule| Change::RulePut(Box::new(rule))));
        let mut state = State::default();
        state.apply(ChangeBatch { number: 1, changes });
        Self(state, 1)
    }

    fn apply(&mut self, change: Change) {
        self.1 += 1;
        self.0.apply(ChangeBatch { number: self.1, changes: vec![change] });
    }

    fn ask(&mut self, protocol: Protocol, destination: &str, known: Known<'_>) -> Verdict {
        let facts = FlowFacts {
            account: ACCOUNT,
            registration: DEVICE,
            device: DeviceId::from_uuid(Uuid::from_u128(21)),
            virtual_network: NETWORK,
            protocol,
            source: "203.0.113.9".parse().unwrap(),
            destination: destination.parse().unwrap(),
            named: None,
        };
        let number = |rule: Option<RuleId>| rule.map(|rule| rule.uuid().as_u128());
        let snapshot = self.0.snapshot();
        let decision = snapshot.decide(&facts, known);
        agrees(decision, &snapshot.explain_network(&facts, known));
        match decision {
            Decision::Permitted(Permit { destination, rule, .. }) => {
                Dialled(destination.to_string().leak(), number(rule))
            }
            Decision::Refused { refusal, rule } => Refused(refusal, number(rule)),
            Decision::AwaitsFirstBytes => Later,
        }
    }

    fn inspect(&mut self, inspection: InspectionMode) {
        self.apply(Change::GatewaySettingsPut(GatewaySettings {
            inspection,
            ..GatewaySettings::of(ACCOUNT)
        }));
    }

    fn tcp(&mut self, destination: &str) -> Verdict {
        self.ask(Protocol::Tcp, destination, Known::Opening)
    }

    fn tls(&mut self, destination: &str, server_name: Option<&str>) -> Verdict {
        let first = FirstBytes {
            server_name: server_name.map(str::to_owned),
            protocol: Some("tls"),
            ..FirstBytes::default()
        };
        self.ask(Protocol::Tcp, destination, Known::FirstBytes(&first))
    }
}

/// Whether the rules that were asked, as they are told to people, end with the one that decided.
fn agrees(decision: Decision, asked: &Asked) {
    let last = asked.rules.last().map(|rule| (rule.id, rule.outcome.as_str()));
    let by = match decision {
        // Rules are not asked.
        Decision::Refused { refusal: Refusal::NeverDialled, rule: None } => return,
        Decision::AwaitsFirstBytes => return assert!(matches!(last, Some((_, "waits"))), "{asked:?}"),
        Decision::Permitted(permit) => permit.rule,
        Decision::Refused { rule, .. } => rule,
    };
    match by {
        Some(by) => {
            assert!(
                matches!(last, Some((last, "matched" | "unreadable")) if last == by),
                "{decision:?}: {asked:?}"
            );
        }
        None => assert!(!matches!(last, Some((_, "matched" | "unreadable"))), "{decision:?}: {asked:?}"),
    }
    for rule in asked.rules.iter().filter(|rule| rule.outcome == "missed") {
        assert!(!rule.because.is_empty(), "{rule:?} has no reason");
    }
}

fn rule(id: u128, precedence: u64, action: Action, traffic: &str) -> Rule {
    Rule {
        id: RuleId::from_uuid(Uuid::from_u128(id)),
        account: ACCOUNT,
        name: format!("rule {id}"),
        version: 1,
        precedence,
        enabled: true,
        filter: Filter::L4,
        action,
        traffic: traffic.into(),
        identity: String::new(),
        device_posture: String::new(),
        settings: RuleSettings::default(),
        schedule: None,
        expires_at_micros: None,
    }
}

const SERVER: &str = "198.51.100.101:6443";
const OTHER: &str = "198.51.100.7:443";

#[test]
fn without_a_rule_that_matches_a_routed_flow_is_allowed() {
    let mut case = Case::new(vec![rule(1, 10, Action::Block, "net.dst.port == 22")]);
    assert_eq!(case.tcp(SERVER), Dialled(SERVER, None));
    assert_eq!(case.tcp("198.51.100.101:22"), Refused(Refusal::Blocked, Some(1)));
}

#[test]
fn the_first_rule_that_matches_decides_and_no_other_is_asked() {
    let list = format!("net.dst.ip in ${}", LIST.uuid().simple());
    let mut case = Case::new(vec![rule(2, 20, Action::Block, ""), rule(1, 10, Action::Allow, &list)]);
    assert_eq!(case.tcp(SERVER), Dialled(SERVER, Some(1)));
    assert_eq!(case.tcp("[2001:db8::101]:443"), Dialled("[2001:db8::101]:443", Some(1)));
    assert_eq!(case.tcp("[::ffff:198.51.100.101]:1"), Dialled("[::ffff:198.51.100.101]:1", Some(1)));
    assert_eq!(case.tcp(OTHER), Refused(Refusal::Blocked, Some(2)));
    case.apply(Change::RulePut(Box::new(Rule { enabled: false, ..rule(2, 20, Action::Block, "") })));
    assert_eq!(case.tcp(OTHER), Dialled(OTHER, None), "a rule that is not enabled is passed over");
}

#[test]
fn rules_come_before_routes_and_allow_nothing_that_no_route_carries() {
    let mut case =
        Case::new(vec![rule(1, 10, Action::Block, "net.dst.port == 22"), rule(2, 20, Action::Allow, "")]);
    assert_eq!(case.tcp("203.0.113.1:22"), Refused(Refusal::Blocked, Some(1)));
    assert_eq!(case.tcp("203.0.113.1:443"), Refused(Refusal::Unroutable, Some(2)));
    assert_eq!(case.tcp("169.254.169.254:80"), Refused(Refusal::NeverDialled, None), "whatever a rule says");
}

#[test]
fn rules_ask_for_protocol_source_and_virtual_network() {
    let traffic = format!(
        "net.protocol == \"udp\" and net.src.ip in {{203.0.113.0/24}} and net.vnet_id == \"{}\"",
        NETWORK.uuid()
    );
    let mut case = Case::new(vec![rule(1, 10, Action::Block, &traffic)]);
    assert_eq!(case.tcp(OTHER), Dialled(OTHER, None));
    assert_eq!(case.ask(Protocol::Udp, OTHER, Known::Opening), Refused(Refusal::Blocked, Some(1)));
    assert_eq!(case.ask(Protocol::Icmp, "198.51.100.7:9", Known::Opening), Dialled("198.51.100.7:9", None));
    case.apply(Change::RulePut(Box::new(rule(1, 10, Action::Block, "net.dst.port == 9"))));
    assert_eq!(
        case.ask(Protocol::Icmp, "198.51.100.7:9", Known::Opening),
        Dialled("198.51.100.7:9", None),
        "the identifier of an echo is no port"
    );
}

#[test]
fn a_person_who_is_not_known_meets_no_condition_on_who_they_are() {
    let mails =
        Rule { identity: "identity.email == \"a@example.com\"".into(), ..rule(1, 10, Action::Allow, "") };
    let mut case = Case::new(vec![mails, rule(2, 20, Action::Block, "")]);
    assert_eq!(case.tcp(SERVER), Refused(Refusal::Blocked, Some(2)));
    let posture = "not(any(device_posture.checks.passed[*] in {\"a\"}))";
    case.apply(Change::RulePut(Box::new(Rule {
        device_posture: posture.into(),
        ..rule(1, 10, Action::Block, "net.dst.port == 6443")
    })));
    assert_eq!(case.tcp(SERVER), Refused(Refusal::Blocked, Some(1)), "a check that never ran has not passed");
}

/// Worked case 23.
#[test]
fn names_are_seen_on_every_port_only_where_every_port_is_inspected() {
    let mut case = Case::new(vec![rule(1, 10, Action::Block, "net.sni.host == \"example.com\"")]);
    let blocked = Refused(Refusal::Blocked, Some(1));
    let others = "198.51.100.7:8443";
    assert_eq!(case.tls(others, Some("example.com")), blocked);
    case.inspect(InspectionMode::Static);
    assert_eq!(case.tls(others, Some("example.com")), Dialled(others, None));
    assert_eq!(case.tls("198.51.100.7:443", Some("example.com")), blocked);
}

#[test]
fn a_rule_on_the_server_name_waits_for_it_and_so_does_what_stands_below() {
    let by_name = rule(1, 10, Action::Block, "any(net.sni.domains[*] == \"example.com\")");
    let mut case = Case::new(vec![by_name, rule(2, 20, Action::Block, "net.dst.port == 22")]);
    assert_eq!(case.tcp(OTHER), Later);
    assert_eq!(case.tcp("198.51.100.7:22"), Later, "it is not blocked by what stands below");
    assert_eq!(case.tls(OTHER, Some("a.example.com")), Refused(Refusal::Blocked, Some(1)));
    assert_eq!(case.tls(OTHER, Some("example.org")), Dialled(OTHER, None));
    assert_eq!(case.tls(OTHER, None), Dialled(OTHER, None));
    assert_eq!(case.tls("198.51.100.7:22", None), Refused(Refusal::Blocked, Some(2)));
    assert_eq!(
        case.tcp("203.0.113.1:443"),
        Refused(Refusal::Unroutable, None),
        "what has no route is not waited for"
    );
}

#[test]
fn a_rule_that_is_decided_by_what_is_known_waits_for_nothing() {
    let mut case = Case::new(vec![
        rule(1, 10, Action::Block, "net.dst.port == 443 and net.sni.host == \"example.com\""),
        rule(2, 20, Action::Allow, "net.dst.port == 6443"),
        rule(3, 30, Action::Block, "net.protocol.detection == \"ssh\""),
    ]);
    assert_eq!(case.tcp(SERVER), Dialled(SERVER, Some(2)));
    assert_eq!(case.tcp("198.51.100.7:22"), Later);
    let ssh = FirstBytes { protocol: Some("ssh"), ..FirstBytes::default() };
    assert_eq!(
        case.ask(Protocol::Tcp, "198.51.100.7:22", Known::FirstBytes(&ssh)),
        Refused(Refusal::Blocked, Some(3))
    );
}

#[test]
fn an_override_dials_elsewhere_and_never_where_nothing_may_be_dialled() {
    let to = |ip: Option<&str>, port| {
        let ip = ip.map(|ip| ip.parse().unwrap());
        let settings =
            RuleSettings { l4override: Some(OverrideTarget { ip, port }), ..RuleSettings::default() };
        Rule { settings, ..rule(1, 10, Action::L4Override, "net.dst.ip == 198.51.100.7") }
    };
    let mut case = Case::new(vec![to(Some("198.51.100.101"), Some(6443)), rule(2, 20, Action::Block, "")]);
    assert_eq!(case.tcp(OTHER), Dialled(SERVER, Some(1)), "there is no second walk");
    case.apply(Change::RulePut(Box::new(to(None, Some(8443)))));
    assert_eq!(case.tcp(OTHER), Dialled("198.51.100.7:8443", Some(1)));
    assert_eq!(
        case.ask(Protocol::Icmp, "198.51.100.7:9", Known::Opening),
        Dialled("198.51.100.7:9", Some(1))
    );
    case.apply(Change::RulePut(Box::new(to(Some("127.0.0.1"), None))));
    assert_eq!(case.tcp(OTHER), Refused(Refusal::NeverDialled, Some(1)));
    case.apply(Change::RulePut(Box::new(to(Some("203.0.113.1"), None))));
    assert_eq!(case.tcp(OTHER), Refused(Refusal::Unroutable, Some(1)));
}

#[test]
fn an_enforced_session_is_never_satisfied_without_a_person() {
    let check = CheckSession { enforce: Some(true), duration: Some("1h0m0s".into()) };
    let settings = RuleSettings { check_session: Some(check), ..RuleSettings::default() };
    let allow = Rule { settings, ..rule(1, 10, Action::Allow, "") };
    let mut case = Case::new(vec![allow, rule(2, 20, Action::Allow, "")]);
    assert_eq!(case.tcp(SERVER), Refused(Refusal::Blocked, Some(1)), "and no later rule is asked");
}

#[test]
fn a_rule_that_cannot_be_read_lets_nothing_pass_that_it_might_have_blocked() {
    let unreadable =
        Rule { identity: "identity.email == \"\"".into(), ..rule(1, 10, Action::Block, "net.dst.tide == 1") };
    let mut case = Case::new(vec![unreadable]);
    assert_eq!(case.tcp(SERVER), Dialled(SERVER, None), "its identity is not met, whatever the rest says");
    case.apply(Change::RulePut(Box::new(rule(1, 10, Action::Allow, "net.dst.tide == 1"))));
    assert_eq!(case.tcp(SERVER), Refused(Refusal::Blocked, Some(1)));
}

#[test]
fn rules_of_another_account_or_filter_decide_nothing() {
    let other = Rule { account: AccountId::from_bytes([2; 16]), ..rule(1, 10, Action::Block, "") };
    let http = Rule { filter: Filter::Http, ..rule(2, 10, Action::Block, "") };
    let mut case = Case::new(vec![other, http]);
    assert_eq!(case.tcp(SERVER), Dialled(SERVER, None));
}

#[test]
fn a_rule_is_told_with_the_fact_that_made_it_miss_or_match() {
    let mut case = Case::new(vec![
        rule(1, 10, Action::Block, "net.protocol == \"udp\" and net.dst.port == 22"),
        Rule { enabled: false, ..rule(2, 20, Action::Block, "") },
        rule(3, 30, Action::Block, &format!("net.dst.port == 22 or net.dst.ip in ${}", LIST.uuid().simple())),
        rule(4, 40, Action::Block, ""),
    ]);
    let facts = FlowFacts {
        account: ACCOUNT,
        registration: DEVICE,
        device: DeviceId::from_uuid(Uuid::from_u128(21)),
        virtual_network: NETWORK,
        protocol: Protocol::Tcp,
        source: "203.0.113.9".parse().unwrap(),
        destination: SERVER.parse().unwrap(),
        named: None,
    };
    let asked = case.0.snapshot().explain_network(&facts, Known::Opening);
    let told: Vec<String> = asked
        .rules
        .iter()
        .map(|rule| {
            format!(
                "{} {}: {}",
                rule.name,
                rule.outcome,
                rule.because.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "rule 1 missed: net.protocol == \"udp\" does not hold: net.protocol is \"tcp\"",
            "rule 2 disabled: ",
            &format!(
                "rule 3 matched: net.dst.ip in ${} holds: net.dst.ip is 198.51.100.101",
                LIST.uuid().simple()
            ),
        ]
    );
}
