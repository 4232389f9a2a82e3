//! Rules of the `http` filter: which TLS is opened, and what becomes of requests.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use adit_model::{
    AccountId, Action, Change, ChangeBatch, DeviceId, Filter, FirstBytes, FlowFacts, GatewaySettings,
    InspectionMode, List, ListId, ListKind, NonHttpTls, OriginRoot, OriginRootId, Protocol, RegistrationId,
    RequestFacts, ResponseFacts, Rule, RuleId, RuleSettings, VirtualNetworkId,
};
use adit_policy::{HttpVerdict, PassReason, State, Treatment};
use uuid::Uuid;

const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);
const LIST: ListId = ListId::from_uuid(Uuid::from_u128(7));

struct Case(State, u64);

impl Case {
    fn new(decrypt: bool, rules: Vec<Rule>) -> Self {
        let items = vec!["198.51.100.101/32".into(), "2001:db8::101/128".into()];
        let mut case = Self(State::default(), 0);
        case.apply(Change::ListPut(List { id: LIST, account: ACCOUNT, kind: ListKind::Ip, items }));
        case.apply(settings(decrypt, InspectionMode::Dynamic));
        for rule in rules {
            case.apply(Change::RulePut(Box::new(rule)));
        }
        case
    }

    fn apply(&mut self, change: Change) {
        self.1 += 1;
        self.0.apply(ChangeBatch { number: self.1, changes: vec![change] });
    }

    fn treatment(
        &mut self,
        destination: &str,
        protocol: Option<&'static str>,
        name: Option<&str>,
    ) -> Treatment {
        let first = FirstBytes { server_name: name.map(str::to_owned), protocol, ..FirstBytes::default() };
        self.0.snapshot().treatment(&flow(destination), &first)
    }

    fn verdict(&mut self, request: &RequestFacts<'_>) -> (&'static str, Option<u128>) {
        let snapshot = self.0.snapshot();
        let number = |rule: &Rule| Some(rule.id.uuid().as_u128());
        match snapshot.http_verdict(&flow(SERVER), request) {
            HttpVerdict::Allow(rule) => ("allow", rule.and_then(number)),
            HttpVerdict::Block(rule) => ("block", number(rule)),
            HttpVerdict::Redirect(rule) => ("redirect", number(rule)),
            HttpVerdict::Later => ("later", None),
        }
    }
}

fn settings(tls_decrypt: bool, inspection: InspectionMode) -> Change {
    Change::GatewaySettingsPut(GatewaySettings {
        account: ACCOUNT,
        tls_decrypt,
        inspection,
        non_http_tls: NonHttpTls::Error,
        ..GatewaySettings::of(ACCOUNT)
    })
}

fn flow(destination: &str) -> FlowFacts {
    FlowFacts {
        account: ACCOUNT,
        registration: RegistrationId::from_uuid(Uuid::from_u128(20)),
        device: DeviceId::from_uuid(Uuid::from_u128(21)),
        virtual_network: VirtualNetworkId::from_uuid(Uuid::from_u128(10)),
        protocol: Protocol::Tcp,
        source: "203.0.113.9".parse().unwrap(),
        destination: destination.parse().unwrap(),
        named: None,
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
        filter: Filter::Http,
        action,
        traffic: traffic.into(),
        identity: String::new(),
        device_posture: String::new(),
        settings: RuleSettings::default(),
        schedule: None,
        expires_at_micros: None,
    }
}

fn by_rule(id: u128) -> Treatment {
    Treatment::Pass(PassReason::Rule(RuleId::from_uuid(Uuid::from_u128(id))))
}

const SERVER: &str = "198.51.100.101:6443";
const NOT_ASKED: Treatment = Treatment::Pass(PassReason::NotAsked);
const NOT_RECOGNISED: Treatment = Treatment::Pass(PassReason::NotRecognised);

#[test]
fn the_reference_rule_lets_the_api_server_pass_unopened_without_a_name() {
    let reference = format!("any(http.conn.dst_ip[*] in ${})", LIST.uuid().simple());
    let mut case = Case::new(true, vec![rule(1, 10000, Action::Off, &reference)]);
    assert_eq!(case.treatment(SERVER, Some("tls"), None), by_rule(1));
    assert_eq!(case.treatment("[2001:db8::101]:6443", Some("tls"), None), by_rule(1));
    assert_eq!(case.treatment("198.51.100.7:6443", Some("tls"), None), Treatment::OpenTls);
    case.apply(Change::RuleRemoved { id: RuleId::from_uuid(Uuid::from_u128(1)) });
    assert_eq!(case.treatment(SERVER, Some("tls"), None), Treatment::OpenTls);
}

#[test]
fn tls_is_opened_only_where_it_is_asked_for_and_on_the_ports_of_the_mode() {
    let mut case = Case::new(false, vec![]);
    assert_eq!(case.treatment(SERVER, Some("tls"), None), NOT_ASKED);
    case.apply(settings(true, InspectionMode::Static));
    assert_eq!(case.treatment(SERVER, Some("tls"), None), NOT_RECOGNISED);
    assert_eq!(case.treatment("198.51.100.7:443", Some("tls"), None), Treatment::OpenTls);
    case.apply(settings(true, InspectionMode::Dynamic));
    assert_eq!(case.treatment(SERVER, Some("tls"), None), Treatment::OpenTls);
    assert_eq!(case.treatment("198.51.100.7:443", Some("ssh"), None), NOT_RECOGNISED, "worked case 21");
    assert_eq!(case.treatment("198.51.100.7:443", None, None), NOT_RECOGNISED);
}

#[test]
fn tls_that_offers_something_else_than_http_is_refused_or_passes_as_the_account_says() {
    let mut case = Case::new(true, vec![]);
    let chat = FirstBytes {
        protocol: Some("tls"),
        application_protocols: vec!["xmpp-client".into()],
        ..FirstBytes::default()
    };
    assert_eq!(case.0.snapshot().treatment(&flow(SERVER), &chat), Treatment::Refuse);
    case.apply(Change::GatewaySettingsPut(GatewaySettings {
        tls_decrypt: true,
        non_http_tls: NonHttpTls::Passthrough,
        ..GatewaySettings::of(ACCOUNT)
    }));
    assert_eq!(case.0.snapshot().treatment(&flow(SERVER), &chat), Treatment::Pass(PassReason::NotHttp));
    let both = FirstBytes { application_protocols: vec!["acme".into(), "http/1.1".into()], ..chat };
    assert_eq!(case.0.snapshot().treatment(&flow(SERVER), &both), Treatment::OpenTls);
}

#[test]
fn an_off_rule_wins_over_a_block_above_it_and_does_not_concern_plain_http() {
    let mut case = Case::new(
        true,
        vec![
            rule(1, 10, Action::Block, "http.request.host == \"example.com\""),
            rule(2, 20, Action::Off, "http.request.host == \"example.com\""),
        ],
    );
    assert_eq!(
        case.treatment("198.51.100.7:443", Some("tls"), Some("example.com")),
        by_rule(2),
        "worked case 4"
    );
    assert_eq!(
        case.treatment("198.51.100.7:443", Some("tls"), None),
        Treatment::OpenTls,
        "a name that is not there"
    );
    assert_eq!(case.treatment("198.51.100.7:80", Some("http"), None), Treatment::ReadHttp);
    let request = RequestFacts { host: Some("example.com"), method: "GET", ..RequestFacts::default() };
    assert_eq!(case.verdict(&request), ("block", Some(1)), "worked case 5");
}

#[test]
fn an_on_rule_ends_the_search_and_an_unreadable_off_rule_opens_no_way_round() {
    let mut case = Case::new(true, vec![rule(1, 10, Action::On, ""), rule(2, 20, Action::Off, "")]);
    assert_eq!(case.treatment(SERVER, Some("tls"), None), Treatment::OpenTls);
    case.apply(Change::RulePut(Box::new(rule(1, 10, Action::Off, "http.conn.tide == 1"))));
    assert_eq!(case.treatment(SERVER, Some("tls"), None), Treatment::OpenTls);
}

#[test]
fn requests_are_judged_by_the_first_rule_that_matches() {
    let mut case = Case::new(
        true,
        vec![
            rule(
                1,
                10,
                Action::Allow,
                "http.request.method == \"GET\" and http.request.uri.path == \"/healthz\"",
            ),
            rule(2, 20, Action::Redirect, "any(http.request.domains[*] == \"old.example.com\")"),
            rule(
                3,
                30,
                Action::Block,
                "http.request.uri contains \"/admin\" or http.upload.mime == \"application/zip\"",
            ),
        ],
    );
    let get =
        RequestFacts { method: "GET", path: "/healthz", uri: "https://a/healthz", ..RequestFacts::default() };
    assert_eq!(case.verdict(&get), ("allow", Some(1)));
    assert_eq!(case.verdict(&RequestFacts { method: "POST", ..get }), ("allow", None));
    assert_eq!(
        case.verdict(&RequestFacts { uri: "https://a/admin/x", path: "/admin/x", ..get }),
        ("block", Some(3))
    );
    let zip = RequestFacts { path: "/", upload_mime: Some("application/zip"), ..get };
    assert_eq!(case.verdict(&zip), ("block", Some(3)));
    assert_eq!(case.verdict(&RequestFacts { host: Some("a.old.example.com"), ..zip }), ("redirect", Some(2)));
}

#[test]
fn a_rule_on_the_response_is_decided_when_it_came() {
    let mut case = Case::new(
        true,
        vec![rule(1, 10, Action::Block, "http.response.status_code == 101"), rule(2, 20, Action::Allow, "")],
    );
    let request = RequestFacts { method: "GET", ..RequestFacts::default() };
    assert_eq!(case.verdict(&request), ("later", None));
    let answered = |status| {
        let response = Some(ResponseFacts { status, download_mime: None });
        RequestFacts { response, ..request }
    };
    assert_eq!(case.verdict(&answered(101)), ("block", Some(1)), "worked case 19");
    assert_eq!(case.verdict(&answered(200)), ("allow", Some(2)));
}

#[test]
fn flows_are_looked_into_only_for_an_account_that_asks() {
    let mut case = Case::new(false, vec![rule(1, 10, Action::Off, "")]);
    assert!(!case.0.snapshot().looks_into_flows(ACCOUNT));
    case.apply(Change::RulePut(Box::new(rule(2, 20, Action::Block, ""))));
    assert!(case.0.snapshot().looks_into_flows(ACCOUNT));
    assert!(!case.0.snapshot().looks_into_flows(AccountId::from_bytes([2; 16])));
    case.apply(Change::RulePut(Box::new(Rule { enabled: false, ..rule(2, 20, Action::Block, "") })));
    assert!(!case.0.snapshot().looks_into_flows(ACCOUNT));
    case.apply(settings(true, InspectionMode::Dynamic));
    assert!(case.0.snapshot().looks_into_flows(ACCOUNT));
}

#[test]
fn an_authority_of_origins_counts_in_its_networks_and_for_its_names() {
    let mut case = Case::new(true, Vec::new());
    let network = |id| VirtualNetworkId::from_uuid(Uuid::from_u128(id));
    let mut put = |id: u128, networks: &[u128], suffixes: &[&str]| {
        case.apply(Change::OriginRootPut(Box::new(OriginRoot {
            id: OriginRootId::from_uuid(Uuid::from_u128(id)),
            account: if id == 9 { AccountId::from_bytes([2; 16]) } else { ACCOUNT },
            certificate: id.to_string(),
            virtual_networks: networks.iter().map(|id| network(*id)).collect(),
            host_suffixes: suffixes.iter().map(|suffix| (*suffix).to_owned()).collect(),
        })));
    };
    put(1, &[], &[]);
    put(2, &[10, 11], &[]);
    put(3, &[11], &[]);
    put(4, &[], &["corp.example"]);
    put(5, &[11], &["corp.example"]);
    put(9, &[], &[]);
    let check = |case: &mut Case, name: Option<&str>, expected: &[&str]| {
        let snapshot = case.0.snapshot();
        assert_eq!(snapshot.origin_roots(&flow(SERVER), name).collect::<Vec<_>>(), expected, "{name:?}");
    };
    check(&mut case, None, &["1", "2"]);
    check(&mut case, Some("a.corp.example"), &["1", "2", "4"]);
    check(&mut case, Some("acorp.example"), &["1", "2"]);
    // What is kept of the state makes the same one.
    let kept = case.0.to_batch();
    let mut again = Case(State::default(), 0);
    again.0.apply(kept);
    check(&mut again, Some("corp.example"), &["1", "2", "4"]);
    case.apply(Change::OriginRootRemoved { id: OriginRootId::from_uuid(Uuid::from_u128(2)) });
    check(&mut case, None, &["1"]);
}
