//! Decisions, through the public interface only: changes go in, a decision comes out.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::net::{IpAddr, SocketAddr};

use adit_model::{
    AccountId, Action, Change, ChangeBatch, Cidr, DeviceId, DeviceKey, FallbackDomain, FallbackDomains,
    Filter, FlowFacts, Hostname, List, ListId, ListKind, Location, LocationEndpoint, LocationId, LocationTtl,
    Protocol, Refusal, Registration, RegistrationId, Route, RouteId, Rule, RuleId, RuleSettings, SecretHash,
    ServiceToken, ServiceTokenId, Tunnel, TunnelConfiguration, TunnelId, VirtualNetwork, VirtualNetworkId,
};
use adit_policy::{Decision, Known, State, TunnelRefusal};
use proptest::prelude::*;
use uuid::Uuid;

const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);
const OTHER_ACCOUNT: AccountId = AccountId::from_bytes([2; 16]);
const NETWORK: VirtualNetworkId = VirtualNetworkId::from_uuid(Uuid::from_u128(10));
const DEVICE: RegistrationId = RegistrationId::from_uuid(Uuid::from_u128(20));

fn tunnel(number: u128, account: AccountId) -> Change {
    Change::TunnelPut(Tunnel {
        id: TunnelId::from_uuid(Uuid::from_u128(number)),
        account,
        name: format!("tunnel {number}"),
        secret: SecretHash::of(b"secret"),
        remotely_managed: false,
    })
}

fn route(number: u128, network: &str, tunnel: u128) -> Change {
    Change::RoutePut(Route {
        id: RouteId::from_uuid(Uuid::from_u128(number)),
        account: ACCOUNT,
        virtual_network: NETWORK,
        network: network.parse().unwrap(),
        tunnel: TunnelId::from_uuid(Uuid::from_u128(tunnel)),
    })
}

fn registration(revoked: bool) -> Change {
    Change::RegistrationPut(Registration {
        id: DEVICE,
        account: ACCOUNT,
        device: DeviceId::from_uuid(Uuid::from_u128(21)),
        device_name: "laptop".into(),
        key: DeviceKey::of_public_key(b"key"),
        user: "non_identity@example".into(),
        service_token: None,
        revoked,
    })
}

fn state(changes: Vec<Change>) -> State {
    let mut state = State::default();
    let network = VirtualNetwork { id: NETWORK, account: ACCOUNT, is_default: true };
    let first =
        vec![Change::VirtualNetworkPut(network), tunnel(1, ACCOUNT), tunnel(2, ACCOUNT), registration(false)];
    state.apply(ChangeBatch { number: 1, changes: first });
    state.apply(ChangeBatch { number: 2, changes });
    state
}

fn decide(state: &mut State, destination: &str) -> Result<u128, Refusal> {
    let facts = FlowFacts {
        account: ACCOUNT,
        registration: DEVICE,
        device: DeviceId::from_uuid(Uuid::from_u128(21)),
        virtual_network: NETWORK,
        protocol: Protocol::Tcp,
        source: "203.0.113.9".parse().unwrap(),
        destination: destination.parse().unwrap(),
        named: None,
    };
    match state.snapshot().decide(&facts, Known::Opening) {
        Decision::Permitted(permit) => Ok(permit.tunnel.uuid().as_u128()),
        Decision::Refused { refusal, .. } => Err(refusal),
        Decision::AwaitsFirstBytes => panic!("there are no rules"),
    }
}

#[test]
fn the_longest_prefix_decides_in_both_families() {
    let mut state = state(vec![
        route(1, "198.51.100.0/24", 1),
        route(2, "198.51.100.101", 2),
        route(3, "2001:db8::/32", 1),
        route(4, "2001:db8::101", 2),
    ]);
    assert_eq!(decide(&mut state, "198.51.100.7:443"), Ok(1));
    assert_eq!(decide(&mut state, "198.51.100.101:6443"), Ok(2));
    assert_eq!(decide(&mut state, "[2001:db8::7]:443"), Ok(1));
    assert_eq!(decide(&mut state, "[2001:db8::101]:6443"), Ok(2));
    assert_eq!(decide(&mut state, "[::ffff:198.51.100.101]:6443"), Ok(2));
    assert_eq!(decide(&mut state, "203.0.113.1:443"), Err(Refusal::Unroutable));
}

#[test]
fn special_addresses_are_never_dialled_whatever_a_route_says() {
    let mut state = state(vec![route(1, "0.0.0.0/0", 1), route(2, "::/0", 1)]);
    assert_eq!(decide(&mut state, "198.51.100.7:443"), Ok(1));
    for destination in
        ["127.0.0.1:80", "169.254.169.254:80", "[::1]:80", "[::ffff:127.0.0.1]:80", "[fe80::1]:80"]
    {
        assert_eq!(decide(&mut state, destination), Err(Refusal::NeverDialled), "{destination}");
    }
}

#[test]
fn a_revoked_or_removed_registration_opens_nothing() {
    let mut state = state(vec![route(1, "198.51.100.0/24", 1)]);
    state.apply(ChangeBatch { number: 3, changes: vec![registration(true)] });
    assert_eq!(decide(&mut state, "198.51.100.7:443"), Err(Refusal::Revoked));
    state.apply(ChangeBatch { number: 4, changes: vec![registration(false)] });
    assert_eq!(decide(&mut state, "198.51.100.7:443"), Ok(1));
    state.apply(ChangeBatch { number: 5, changes: vec![Change::RegistrationRemoved { id: DEVICE }] });
    assert_eq!(decide(&mut state, "198.51.100.7:443"), Err(Refusal::Revoked));
}

#[test]
fn a_tunnel_of_another_account_serves_nothing() {
    let mut state = state(vec![tunnel(3, OTHER_ACCOUNT), route(1, "198.51.100.0/24", 3)]);
    assert_eq!(decide(&mut state, "198.51.100.7:443"), Err(Refusal::Unroutable));
}

#[test]
fn a_route_that_moves_or_goes_takes_its_network_along() {
    let mut state = state(vec![route(1, "198.51.100.0/24", 1)]);
    state.apply(ChangeBatch { number: 3, changes: vec![route(1, "203.0.113.0/24", 2)] });
    assert_eq!(decide(&mut state, "198.51.100.7:443"), Err(Refusal::Unroutable));
    assert_eq!(decide(&mut state, "203.0.113.7:443"), Ok(2));
    let snapshot = state.snapshot();
    let gone = Change::RouteRemoved { id: RouteId::from_uuid(Uuid::from_u128(1)) };
    state.apply(ChangeBatch { number: 4, changes: vec![gone] });
    assert_eq!(decide(&mut state, "203.0.113.7:443"), Err(Refusal::Unroutable));
    assert_eq!(snapshot.networks(NETWORK), ["203.0.113.0/24".parse().unwrap()], "a snapshot does not change");
}

#[test]
fn a_connector_is_let_in_with_account_tunnel_and_secret_that_belong_together() {
    let snapshot = state(vec![]).snapshot();
    let admit = |account: &str, tunnel: u128, secret: &[u8]| {
        let id = TunnelId::from_uuid(Uuid::from_u128(tunnel));
        snapshot.admit_connector(account, id, secret).map(|_| ())
    };
    let account = ACCOUNT.to_string();
    assert_eq!(admit(&account, 1, b"secret"), Ok(()));
    assert_eq!(admit(&account, 1, b"guess"), Err(TunnelRefusal::WrongSecret));
    assert_eq!(admit(&account, 9, b"secret"), Err(TunnelRefusal::NotFound));
    assert_eq!(admit(&OTHER_ACCOUNT.to_string(), 1, b"secret"), Err(TunnelRefusal::NotFound));
}

fn hostname(name: &str, account: AccountId, tunnel: u128) -> Change {
    let tunnel = TunnelId::from_uuid(Uuid::from_u128(tunnel));
    Change::HostnamePut(Hostname { hostname: name.parse().unwrap(), account, tunnel })
}

#[test]
fn a_host_name_is_found_in_every_spelling_while_its_tunnel_is_there() {
    let mut state = state(vec![
        hostname("App.example.com", ACCOUNT, 1),
        hostname("other.example.com", OTHER_ACCOUNT, 1),
        hostname("gone.example.com", ACCOUNT, 9),
    ]);
    let leads = |state: &mut State, name: &str| {
        state.snapshot().hostname(name).map(|hostname| hostname.tunnel.uuid().as_u128())
    };
    assert_eq!(leads(&mut state, "app.example.com"), Some(1));
    assert_eq!(leads(&mut state, "APP.Example.com."), Some(1));
    assert_eq!(leads(&mut state, "x.app.example.com"), None);
    assert_eq!(leads(&mut state, "other.example.com"), None, "the tunnel is another account's");
    assert_eq!(leads(&mut state, "gone.example.com"), None, "there is no such tunnel");
    state.apply(ChangeBatch { number: 3, changes: vec![hostname("app.example.com", ACCOUNT, 2)] });
    assert_eq!(leads(&mut state, "app.example.com"), Some(2));
    let removed = Change::HostnameRemoved { hostname: "app.example.com".parse().unwrap() };
    state.apply(ChangeBatch { number: 4, changes: vec![removed] });
    assert_eq!(leads(&mut state, "app.example.com"), None);
}

#[test]
fn a_configuration_is_replaced_and_goes_with_its_tunnel() {
    let id = TunnelId::from_uuid(Uuid::from_u128(1));
    let put = |version: i32| {
        let config = format!(r#"{{"version":{version}}}"#);
        Change::TunnelConfigurationPut(TunnelConfiguration { tunnel: id, version, config })
    };
    let mut state = state(vec![put(0)]);
    state.apply(ChangeBatch { number: 3, changes: vec![put(1)] });
    let snapshot = state.snapshot();
    let (version, config) = snapshot.tunnel_configuration(id).unwrap();
    assert_eq!((version, config), (1, r#"{"version":1}"#));
    state.apply(ChangeBatch { number: 4, changes: vec![Change::TunnelRemoved { id }] });
    assert_eq!(state.snapshot().tunnel_configuration(id), None);
}

fn location(id: u128, subdomain: &str) -> Change {
    let endpoint = LocationEndpoint { enabled: true, require_token: false, networks: Vec::new() };
    Change::LocationPut(Location {
        id: LocationId::from_uuid(Uuid::from_u128(id)),
        account: ACCOUNT,
        name: "office".into(),
        subdomain: subdomain.into(),
        networks: Vec::new(),
        https: endpoint.clone(),
        tls: endpoint,
        max_ttl: LocationTtl::Inherit,
    })
}

fn fallbacks(account: AccountId, suffixes: &[&str]) -> Change {
    let domain = |suffix: &&str| FallbackDomain { suffix: suffix.parse().unwrap(), servers: Vec::new() };
    let domains = suffixes.iter().map(domain).collect();
    Change::FallbackDomainsPut(FallbackDomains { account, domains })
}

fn service_token(secret: &[u8]) -> Change {
    Change::ServiceTokenPut(ServiceToken {
        id: ServiceTokenId::from_uuid(Uuid::from_u128(1)),
        account: ACCOUNT,
        client_id: "x.access".into(),
        secret: SecretHash::of(secret),
        previous: None,
        enabled: true,
        expires_at: None,
    })
}

#[test]
fn a_location_is_found_by_its_label_until_another_one_has_it_or_it_is_gone() {
    let mut state = state(vec![location(1, "one")]);
    let found = |state: &mut State, label: &str| {
        state.snapshot().location_of(label).map(|location| location.id.uuid().as_u128())
    };
    assert_eq!(found(&mut state, "one"), Some(1));
    state.apply(ChangeBatch { number: 3, changes: vec![location(1, "other"), location(2, "one")] });
    assert_eq!((found(&mut state, "one"), found(&mut state, "other")), (Some(2), Some(1)));
    let gone = Change::LocationRemoved { id: LocationId::from_uuid(Uuid::from_u128(2)) };
    state.apply(ChangeBatch { number: 4, changes: vec![gone] });
    assert_eq!((found(&mut state, "one"), found(&mut state, "other")), (None, Some(1)));
}

#[test]
fn a_service_token_is_known_to_its_account_by_its_latest_secret() {
    let mut state = state(vec![service_token(b"secret")]);
    let known = |state: &mut State, account: AccountId, secret: &[u8]| {
        state.snapshot().service_token(account, ("x.access", secret), 0).is_some()
    };
    assert!(known(&mut state, ACCOUNT, b"secret") && !known(&mut state, OTHER_ACCOUNT, b"secret"));
    state.apply(ChangeBatch { number: 3, changes: vec![service_token(b"other")] });
    assert!(known(&mut state, ACCOUNT, b"other") && !known(&mut state, ACCOUNT, b"secret"));
    assert!(state.snapshot().service_token(ACCOUNT, ("y.access", b"other"), 0).is_none());
    let gone = Change::ServiceTokenRemoved { id: ServiceTokenId::from_uuid(Uuid::from_u128(1)) };
    state.apply(ChangeBatch { number: 4, changes: vec![gone] });
    assert!(!known(&mut state, ACCOUNT, b"other"));
}

/// As texts, since a state's batch has its changes in no order.
fn texts(state: &State) -> Vec<String> {
    let mut texts: Vec<String> =
        state.to_batch().changes.iter().map(|change| format!("{change:?}")).collect();
    texts.sort_unstable();
    texts
}

#[test]
fn a_state_is_what_its_batch_makes_of_an_empty_one() {
    let id = ListId::from_uuid(Uuid::from_u128(7));
    let items = vec!["198.51.100.7".to_owned()];
    let list = List { id, account: ACCOUNT, kind: ListKind::Ip, items };
    let rule = Rule {
        id: RuleId::from_uuid(Uuid::from_u128(8)),
        account: ACCOUNT,
        name: "blocks".into(),
        version: 1,
        precedence: 1000,
        enabled: true,
        filter: Filter::L4,
        action: Action::Block,
        traffic: "net.dst.ip in $00000000000000000000000000000007".into(),
        identity: String::new(),
        device_posture: String::new(),
        settings: RuleSettings::default(),
        schedule: None,
        expires_at_micros: None,
    };
    let (tunnel, version) = (TunnelId::from_uuid(Uuid::from_u128(1)), 3);
    let mut before = state(vec![
        route(1, "198.51.100.0/24", 1),
        route(2, "2001:db8::/32", 2),
        route(3, "203.0.113.0/24", 2),
        Change::RouteRemoved { id: RouteId::from_uuid(Uuid::from_u128(3)) },
        hostname("app.example.com", ACCOUNT, 1),
        Change::TunnelConfigurationPut(TunnelConfiguration { tunnel, version, config: "{}".into() }),
        Change::ListPut(list),
        Change::RulePut(Box::new(rule)),
        location(1, "one"),
        location(2, "two"),
        Change::LocationRemoved { id: LocationId::from_uuid(Uuid::from_u128(2)) },
        service_token(b"secret"),
        fallbacks(ACCOUNT, &["lan", "corp.example"]),
        fallbacks(OTHER_ACCOUNT, &["lan"]),
        fallbacks(OTHER_ACCOUNT, &[]),
    ]);
    let mut after = State::default();
    after.apply(before.to_batch());
    assert_eq!(after.snapshot().number(), 2);
    assert_eq!(texts(&after), texts(&before));
    let told = [ACCOUNT, OTHER_ACCOUNT].map(|account| after.snapshot().fallback_domains(account).len());
    assert_eq!(told, [2, 0]);
    for destination in ["198.51.100.7:443", "198.51.100.8:443", "[2001:db8::1]:443", "203.0.113.1:443"] {
        assert_eq!(decide(&mut after, destination), decide(&mut before, destination), "{destination}");
    }
    assert_eq!(decide(&mut after, "198.51.100.7:443"), Err(Refusal::Blocked), "the rule knows its list");
}

#[test]
fn an_old_batch_changes_nothing() {
    let mut state = state(vec![route(1, "198.51.100.0/24", 1)]);
    state.apply(ChangeBatch { number: 2, changes: vec![registration(true)] });
    assert_eq!(decide(&mut state, "198.51.100.7:443"), Ok(1));
}

proptest! {
    #[test]
    fn the_route_is_the_longest_of_those_that_hold_the_address(
        networks in proptest::collection::vec((any::<[u8; 2]>(), 8u8..=32), 0..40),
        address: [u8; 2],
    ) {
        let address = IpAddr::from([10, 0, address[0], address[1]]);
        let networks: Vec<Cidr> = networks
            .into_iter()
            .map(|([high, low], length)| ipnet::IpNet::new([10, 0, high, low].into(), length).unwrap().trunc())
            .map(|network| Cidr::new(network).unwrap())
            .collect();
        let routes = networks.iter().enumerate().map(|(index, network)| route(index as u128, &network.to_string(), 1));
        let snapshot = state(routes.collect()).snapshot();
        let expected = networks.iter().filter(|network| network.contains(address)).map(|network| network.net().prefix_len()).max();
        let found = snapshot.route(NETWORK, address).map(|route| route.network.net().prefix_len());
        prop_assert_eq!(found, expected);
        prop_assert!(SocketAddr::new(address, 1).is_ipv4());
    }
}
