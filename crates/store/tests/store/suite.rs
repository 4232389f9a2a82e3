//! What lasts, what is refused, and what the edges are told.

#[path = "batches.rs"]
mod batches;
#[path = "gateway.rs"]
mod gateway;
#[path = "ingress.rs"]
mod ingress;
#[path = "members.rs"]
mod members;
#[path = "own_nodes.rs"]
mod own_nodes;
#[path = "writers.rs"]
mod writers;

use std::collections::BTreeMap;
use std::path::Path;

use adit_model::{
    AccountId, CertificateId, Change, ChangeBatch, GatewaySettings, LocationEndpoint, LocationId,
    LocationTtl, OwnPage, RegistrationId, RouteId, SecretHash, TunnelId, VirtualNetworkId,
};
use adit_store::{
    Actor, AuditWindow, Bootstrap, Cascade, CertificateError, CertificateKind, ConfigSource, Direction,
    EnrollError, GatewaySettingsContent, GatewaySettingsError, HostnameFilter, LocationContent, LocationEdge,
    LocationWriteError, MAX_CERTIFICATES, NewCertificate, NewRegistration, NewRoute, NewServiceToken,
    NewTunnel, NewVirtualNetwork, OpenError, Overwrite, RouteEdit, RouteFilter, RouteWriteError,
    ServiceTokenEdit, ServiceTokenRow, Store, Takeover, TunnelDeleteError, TunnelEdit, TunnelFilter,
    TunnelRow, TunnelWriteError, VirtualNetworkDeleteError, VirtualNetworkEdit, VirtualNetworkFilter, Window,
};
use proptest::prelude::*;

use super::Place;
use zeroize::Zeroizing;

const ACCOUNT: AccountId = AccountId::from_bytes([0xab; 16]);

async fn open(place: &Place) -> Store {
    let store = place.open().await.unwrap();
    let first = Bootstrap {
        account: ACCOUNT,
        name: "home".into(),
        token_hash: SecretHash::of(b"admin"),
        token_policies: serde_json::json!([]),
    };
    store.account_bootstrap(&first).await.unwrap();
    store
}

async fn tunnel(store: &Store, name: &str) -> Result<TunnelRow, TunnelWriteError> {
    let new = NewTunnel {
        kind: adit_store::TunnelKind::Connector,
        name: name.into(),
        secret: Zeroizing::new(vec![7; 32]),
        config_source: ConfigSource::Local,
    };
    Ok(store.tunnel_create(&Actor::system(), ACCOUNT, new).await?.value)
}

async fn service_token(store: &Store) -> ServiceTokenRow {
    let new = NewServiceToken {
        name: "ci".into(),
        client_id: format!("{}.access", uuid::Uuid::new_v4().simple()),
        secret_hash: SecretHash::of(b"token"),
        secret_version: 1,
        duration: "forever".into(),
        enabled: true,
        expires_at: None,
    };
    store.service_token_create(&Actor::system(), ACCOUNT, new).await.unwrap().value
}

fn location(name: u8, client_default: bool) -> LocationContent {
    let network = format!("10.{name}.0.0/16");
    let endpoint = LocationEndpoint { enabled: true, require_token: false, networks: Vec::new() };
    LocationContent {
        name: format!("l{name}"),
        client_default,
        networks: serde_json::json!([{ "network": network }]),
        endpoints: serde_json::Value::Null,
        max_ttl: serde_json::Value::Null,
        edge: LocationEdge {
            networks: vec![network.parse().unwrap()],
            https: endpoint.clone(),
            tls: endpoint,
            max_ttl: LocationTtl::Seconds(60),
        },
    }
}

#[tokio::test]
async fn an_account_has_one_default_location_and_no_two_of_a_name() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let actor = Actor::system();
    let [first] = store.location_list(ACCOUNT).await.unwrap().try_into().unwrap();
    assert!(first.content.client_default && first.content.edge.networks.is_empty(), "{first:?}");
    let kept = store.location_delete(&actor, ACCOUNT, first.id).await;
    assert!(matches!(kept, Err(LocationWriteError::DefaultNeeded)), "{kept:?}");
    let made = store.location_create(&actor, ACCOUNT, location(1, true)).await.unwrap().value;
    assert_ne!(made.subdomain, first.subdomain);
    let again = store.location_create(&actor, ACCOUNT, location(1, false)).await;
    assert!(matches!(again, Err(LocationWriteError::NameTaken)), "{again:?}");
    let unset = store.location_replace(&actor, ACCOUNT, made.id, location(1, false)).await;
    assert!(matches!(unset, Err(LocationWriteError::DefaultNeeded)), "{unset:?}");
    store.location_delete(&actor, ACCOUNT, first.id).await.unwrap();
    let stranger = AccountId::from_bytes([1; 16]);
    store.location_fetch(stranger, made.id).await.unwrap_err();
    store.location_delete(&actor, stranger, made.id).await.unwrap_err();
    assert_eq!(store.location_list(ACCOUNT).await.unwrap(), [made]);
}

#[tokio::test]
async fn accounts_from_before_there_were_locations_get_one_and_nodes_learn_of_their_tokens() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let token = service_token(&store).await;
    let number = store.state().await.unwrap().number;
    store.close().await;
    drop(store);
    let pool = place.pool().await;
    // What came with them and after them.
    for undo in [
        "DROP TABLE locations",
        "DROP TABLE fallback_domains",
        "DROP TABLE inspection_certificates",
        "DROP TABLE origin_roots",
        "DROP TABLE node_authorities",
        "DROP TABLE node_inspection_keys",
        "ALTER TABLE gateway_settings DROP COLUMN block_page",
        "DELETE FROM migrations WHERE number >= 14",
    ] {
        sqlx::query(undo).execute(&pool).await.unwrap();
    }
    pool.close().await;

    let store = open(&place).await;
    let [first] = store.location_list(ACCOUNT).await.unwrap().try_into().unwrap();
    assert!(first.content.client_default);
    let told = store.changes_since(number).await.unwrap();
    let [Change::LocationPut(location), Change::ServiceTokenPut(told)] = told[0].changes.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!((location.id, told.id), (first.id, token.id));
}

fn route(network: &str, tunnel: TunnelId) -> NewRoute {
    NewRoute {
        network: network.parse().unwrap(),
        network_as_written: network.into(),
        tunnel,
        comment: String::new(),
        virtual_network: None,
    }
}

fn registration(key: &[u8], token: &ServiceTokenRow) -> NewRegistration {
    NewRegistration {
        public_key_der: key.to_vec(),
        device_name: "laptop".into(),
        device_type: "linux".into(),
        os_version: String::new(),
        client_version: String::new(),
        public_ip: None,
        user: "non_identity@x".into(),
        service_token: token.id,
    }
}

#[tokio::test]
async fn reopening_keeps_everything_and_makes_no_second_account() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let kept = tunnel(&store, "k8s").await.unwrap();
    store.secret_create(&Actor::system(), "ca", b"key").await.unwrap();
    let state = store.state().await.unwrap();
    store.close().await;
    drop(store);

    let store = open(&place).await;
    assert_eq!(store.account_list().await.unwrap().len(), 1);
    assert_eq!(store.state().await.unwrap(), state);
    assert_eq!(store.tunnel_fetch(ACCOUNT, kept.id).await.unwrap(), kept);
    assert_eq!(store.tunnel_secret(ACCOUNT, kept.id).await.unwrap().as_slice(), [7; 32]);
    assert_eq!(store.secret_fetch("ca").await.unwrap().unwrap().as_slice(), b"key");
    assert_eq!(
        store.secret_create(&Actor::system(), "ca", b"other").await.unwrap().as_slice(),
        b"key",
        "the first stays"
    );
}

#[tokio::test]
async fn the_gateways_settings_and_authority_are_kept_and_the_edges_are_told() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    assert_eq!(store.gateway_settings_fetch(ACCOUNT).await.unwrap(), None);
    let edge = |tls_decrypt| GatewaySettings { tls_decrypt, ..GatewaySettings::of(ACCOUNT) };
    for on in [false, true] {
        let change = |before: Option<&serde_json::Value>| {
            assert_eq!(before.is_some(), on);
            let page = on.then(|| OwnPage::CustomizedBlockPage(Box::default()));
            let settings = serde_json::json!({ "on": on });
            Ok::<_, GatewaySettingsError>(GatewaySettingsContent {
                settings,
                edge: edge(on),
                block_page: page,
            })
        };
        store.gateway_settings_change(&Actor::system(), ACCOUNT, change).await.unwrap();
    }
    let row = store.gateway_settings_fetch(ACCOUNT).await.unwrap().unwrap();
    assert_eq!((row.settings, row.edge), (serde_json::json!({ "on": true }), edge(true)));
    let told = store.state().await.unwrap().changes;
    assert!(told.contains(&Change::GatewaySettingsPut(edge(true))));
    assert!(told.iter().any(|change| matches!(change, Change::BlockPagePut(put) if put.page.is_some())));

    assert!(store.inspection_authority_fetch(ACCOUNT).await.unwrap().is_none());
    let create = async |key| {
        store.inspection_authority_create(&Actor::system(), ACCOUNT, "certificate", key).await.unwrap()
    };
    assert_eq!(create("key").await.key.as_str(), "key");
    assert_eq!(create("other").await.key.as_str(), "key", "the first stays");
    store.close().await;
    drop(store);
    let store = open(&place).await;
    let kept = store.inspection_authority_fetch(ACCOUNT).await.unwrap().unwrap();
    assert_eq!((kept.certificate.as_str(), kept.key.as_str()), ("certificate", "key"));
}

#[tokio::test]
async fn an_authority_of_inspection_stays_available_for_as_long_as_settings_name_it() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let actor = Actor::system();
    let new = || NewCertificate {
        kind: CertificateKind::Custom,
        certificate: "certificate".into(),
        key: Zeroizing::new("key".into()),
    };
    let made = store.certificate_create(&actor, ACCOUNT, new()).await.unwrap().value;
    assert!(!made.available);
    let choose = async |certificate| {
        let edge = GatewaySettings { certificate, ..GatewaySettings::of(ACCOUNT) };
        let content = GatewaySettingsContent { settings: serde_json::json!({}), edge, block_page: None };
        let change = |_: Option<&_>| Ok::<_, GatewaySettingsError>(content);
        store.gateway_settings_change(&actor, ACCOUNT, change).await.map(|_| ())
    };
    assert!(matches!(choose(made.id).await, Err(GatewaySettingsError::Certificate(id)) if id == made.id));
    let set = async |on| store.certificate_available_set(&actor, ACCOUNT, made.id, on).await;
    assert!(set(true).await.unwrap().value.available);
    choose(made.id).await.unwrap();
    assert!(matches!(set(false).await, Err(CertificateError::InUse)));
    let delete = async || store.certificate_delete(&actor, ACCOUNT, made.id).await;
    assert!(matches!(delete().await, Err(CertificateError::InUse)));
    let (certificate, key) = store.certificate_key(ACCOUNT, made.id).await.unwrap();
    assert_eq!((certificate.as_str(), key.as_str()), ("certificate", "key"));
    choose(CertificateId::BUILT_IN).await.unwrap();
    assert_eq!(delete().await.unwrap().id, made.id);
    assert!(matches!(delete().await, Err(CertificateError::NotFound)));
    for _ in 0..MAX_CERTIFICATES {
        store.certificate_create(&actor, ACCOUNT, new()).await.unwrap();
    }
    let more = store.certificate_create(&actor, ACCOUNT, new()).await;
    assert!(matches!(more, Err(CertificateError::TooMany)));
}

#[tokio::test]
async fn files_are_the_owners_only() {
    use std::os::unix::fs::PermissionsExt;
    let Some(place) = Place::new() else { return };
    let inner = place.dir();
    let _store = open(&place).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(inner), 0o700);
    for entry in std::fs::read_dir(inner).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn a_second_opening_is_refused_with_what_to_do() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let error = place.open().await.unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    drop(store);
}

#[tokio::test]
async fn another_seal_key_or_none_is_refused() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    store.close().await;
    drop(store);
    let key = place.dir().join("seal.key");
    let right = std::fs::read(&key).unwrap();

    std::fs::write(&key, [1; 32]).unwrap();
    assert!(matches!(place.open().await, Err(OpenError::SealKeyWrong { .. })));
    std::fs::write(&key, b"short").unwrap();
    assert!(matches!(place.open().await, Err(OpenError::SealKeyWrong { .. })));
    std::fs::remove_file(&key).unwrap();
    assert!(matches!(place.open().await, Err(OpenError::SealKeyMissing { .. })));
    assert!(!key.exists(), "no new key is made for an old database");
    std::fs::write(&key, right).unwrap();
    place.open().await.unwrap();
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_refused() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    store.close().await;
    drop(store);
    let pool = place.pool().await;
    sqlx::query("INSERT INTO migrations (number, at) VALUES (1000, 0)").execute(&pool).await.unwrap();
    pool.close().await;
    let error = place.open().await.unwrap_err();
    assert!(error.to_string().contains("newer adit (schema 1000"), "{error}");
}

#[tokio::test]
async fn of_equal_tunnels_made_at_once_one_wins() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { tunnel(&store, "same").await })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => won += 1,
            Err(error) => assert!(matches!(error, TunnelWriteError::NameTaken), "{error:?}"),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn a_follower_gets_every_batch_once_and_in_order() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let mut feed = store.follow(store.state().await.unwrap().number);
    let writers: Vec<_> = (0..20)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { tunnel(&store, &format!("t{n}")).await.unwrap() })
        })
        .collect();
    let mut last = feed.number();
    for _ in 0..20 {
        let batch = feed.next().await.unwrap();
        assert_eq!(batch.number, last + 1);
        assert!(matches!(batch.changes.as_slice(), [Change::TunnelPut(_)]), "{batch:?}");
        last = batch.number;
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn a_tunnel_with_routes_goes_only_with_them() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let actor = Actor::system();
    let k8s = tunnel(&store, "k8s").await.unwrap();
    let made = store
        .route_create(&actor, ACCOUNT, route("10.0.0.0/8", k8s.id), Takeover::Refuse)
        .await
        .unwrap()
        .value;
    let refused = store.tunnel_delete(&actor, ACCOUNT, k8s.id, Cascade::Refuse).await;
    assert!(matches!(refused, Err(TunnelDeleteError::HasRoutes)), "{refused:?}");

    let number = store.state().await.unwrap().number;
    let deleted = store.tunnel_delete(&actor, ACCOUNT, k8s.id, Cascade::Delete).await.unwrap();
    assert!(deleted.deleted_at.is_some());
    let told = store.changes_since(number).await.unwrap();
    assert_eq!(
        told,
        [ChangeBatch {
            number: number + 1,
            changes: vec![Change::RouteRemoved { id: made.id }, Change::TunnelRemoved { id: k8s.id }],
        }]
    );
    let again = store.tunnel_delete(&actor, ACCOUNT, k8s.id, Cascade::Refuse).await.unwrap();
    assert_eq!(again, deleted, "deleting twice is deleting once");
    tunnel(&store, "k8s").await.expect("a deleted tunnel's name is free");
}

#[tokio::test]
async fn lookups_take_the_longest_prefix_and_filters_compare_networks() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let actor = Actor::system();
    let k8s = tunnel(&store, "k8s").await.unwrap();
    for network in ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "2001:db8::/32"] {
        store.route_create(&actor, ACCOUNT, route(network, k8s.id), Takeover::Refuse).await.unwrap();
    }
    let network = store.virtual_network_default(ACCOUNT).await.unwrap().id;
    for (address, expected) in [
        ("10.1.2.3", Some("10.1.2.3/32")),
        ("10.1.2.4", Some("10.1.0.0/16")),
        ("10.2.0.1", Some("10.0.0.0/8")),
        ("192.0.2.1", Some("0.0.0.0/0")),
        ("2001:db8::1", Some("2001:db8::/32")),
        ("2001:db9::1", None),
    ] {
        let found = store.route_lookup(ACCOUNT, network, address.parse().unwrap()).await.unwrap();
        let found = found.map(|route| route.network.to_string());
        assert_eq!(found.as_deref(), expected, "{address}");
    }
    for (inside, around, expected) in [
        (Some("10.1.0.0/16"), None, 2),
        (None, Some("10.1.0.0/16"), 3),
        (Some("10.1.0.0/16"), Some("10.1.0.0/16"), 1),
    ] {
        let parse = |text: Option<&str>| text.map(|text| text.parse().unwrap());
        let filter = RouteFilter { inside: parse(inside), around: parse(around), ..RouteFilter::default() };
        let found = store.route_list(ACCOUNT, &filter, Window::ALL).await.unwrap();
        assert_eq!(found.total, expected, "{inside:?} {around:?}");
    }
    let taken = store.route_create(&actor, ACCOUNT, route("10.0.0.0/8", k8s.id), Takeover::Refuse).await;
    assert!(matches!(taken, Err(RouteWriteError::NetworkTaken)), "{taken:?}");
    let other = AccountId::from_bytes([1; 16]);
    assert_eq!(store.route_list(other, &RouteFilter::default(), Window::ALL).await.unwrap().total, 0);
}

#[tokio::test]
async fn addresses_of_another_tunnel_are_taken_only_where_it_is_allowed() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let actor = Actor::system();
    let (old, new) = (tunnel(&store, "old").await.unwrap(), tunnel(&store, "new").await.unwrap());
    let wide = store.route_create(&actor, ACCOUNT, route("10.0.0.0/8", old.id), Takeover::Refuse).await;
    let wide = wide.unwrap().value;
    let narrow = |tunnel: &TunnelRow| route("10.1.0.0/16", tunnel.id);
    let refused = store.route_create(&actor, ACCOUNT, narrow(&new), Takeover::Refuse).await;
    assert!(matches!(refused, Err(RouteWriteError::TakesAddresses)), "{refused:?}");
    let edit = RouteEdit { tunnel: Some(new.id), ..RouteEdit::default() };
    let refused = store.route_update(&actor, ACCOUNT, wide.id, edit, Takeover::Refuse).await;
    assert!(matches!(refused, Err(RouteWriteError::TakesAddresses)), "{refused:?}");
    store.route_create(&actor, ACCOUNT, narrow(&new), Takeover::Allow).await.unwrap();
    let records = store.audit_list(ACCOUNT, &everything()).await.unwrap();
    assert_eq!(records.iter().filter(|record| record.detail["takes_addresses"] == true).count(), 1);
}

#[tokio::test]
async fn there_is_always_one_default_network() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let actor = Actor::system();
    let old = store.virtual_network_default(ACCOUNT).await.unwrap();
    let new = NewVirtualNetwork { name: "lab".into(), comment: String::new(), is_default: true };
    let new = store.virtual_network_create(&actor, ACCOUNT, new).await.unwrap().value;
    assert_eq!(store.virtual_network_default(ACCOUNT).await.unwrap().id, new.id);
    let refused = store.virtual_network_delete(&actor, ACCOUNT, new.id, Cascade::Delete).await;
    assert!(matches!(refused, Err(VirtualNetworkDeleteError::DefaultNeeded)), "{refused:?}");
    let back = VirtualNetworkEdit { is_default: Some(true), ..VirtualNetworkEdit::default() };
    store.virtual_network_update(&actor, ACCOUNT, old.id, back).await.unwrap();
    store.virtual_network_delete(&actor, ACCOUNT, new.id, Cascade::Refuse).await.unwrap();
    let all = store.virtual_network_list(ACCOUNT, &VirtualNetworkFilter::default()).await.unwrap();
    assert_eq!(all.len(), 2, "a deleted one is still listed");
}

#[tokio::test]
async fn a_key_enrols_once_and_a_revoked_one_not_again() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let actor = Actor::system();
    let token = service_token(&store).await;
    let first = store.registration_create(&actor, ACCOUNT, registration(b"key", &token)).await.unwrap().value;
    let again = store.registration_create(&actor, ACCOUNT, registration(b"key", &token)).await;
    assert!(matches!(again, Err(EnrollError::KeyTaken)), "{again:?}");

    let told = store.registration_revoke(&actor, ACCOUNT, &[first.id]).await.unwrap().batch;
    assert!(matches!(told.changes.as_slice(), [Change::RegistrationPut(put)] if put.revoked), "{told:?}");
    let again = store.registration_create(&actor, ACCOUNT, registration(b"key", &token)).await;
    assert!(matches!(again, Err(EnrollError::KeyRevoked)), "{again:?}");

    let unknown = RegistrationId::from_uuid(uuid::Uuid::new_v4());
    store.registration_unrevoke(&actor, ACCOUNT, &[first.id, unknown]).await.unwrap_err();
    let row = store.registration_fetch(ACCOUNT, first.id).await.unwrap();
    assert!(row.revoked_at.is_some(), "all or none");

    store.service_token_delete(&actor, ACCOUNT, token.id).await.unwrap();
    let other = store.registration_create(&actor, ACCOUNT, registration(b"other", &token)).await;
    assert!(matches!(other, Err(EnrollError::ServiceTokenRefused)), "{other:?}");
}

#[tokio::test]
async fn objects_of_another_account_are_not_found() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let (actor, other) = (Actor::system(), AccountId::from_bytes([1; 16]));
    let k8s = tunnel(&store, "k8s").await.unwrap();
    let made = store.route_create(&actor, ACCOUNT, route("10.0.0.0/8", k8s.id), Takeover::Refuse).await;
    let made = made.unwrap().value;
    let token = service_token(&store).await;
    let enrolled = store.registration_create(&actor, ACCOUNT, registration(b"key", &token)).await;
    let enrolled = enrolled.unwrap().value;
    let state = store.state().await.unwrap();
    store.tunnel_fetch(other, k8s.id).await.unwrap_err();
    store.tunnel_secret(other, k8s.id).await.unwrap_err();
    store.tunnel_update(&actor, other, k8s.id, TunnelEdit::default()).await.unwrap_err();
    store.tunnel_delete(&actor, other, k8s.id, Cascade::Delete).await.unwrap_err();
    store.route_fetch(other, made.id).await.unwrap_err();
    store.route_delete(&actor, other, made.id).await.unwrap_err();
    store.virtual_network_fetch(other, made.virtual_network).await.unwrap_err();
    store.service_token_delete(&actor, other, token.id).await.unwrap_err();
    store.registration_fetch(other, enrolled.id).await.unwrap_err();
    store.registration_revoke(&actor, other, &[enrolled.id]).await.unwrap_err();
    store.registration_delete(&actor, other, &[enrolled.id]).await.unwrap_err();
    store.device_delete(&actor, other, enrolled.device).await.unwrap_err();
    assert_eq!(store.state().await.unwrap(), state);
}

#[tokio::test]
async fn every_write_leaves_an_audit_record_without_secrets() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let actor = Actor { who: "api_token:x".into(), request: "r1".into(), ..Actor::system() };
    let secret = [0x53; 32];
    let new = NewTunnel {
        kind: adit_store::TunnelKind::Connector,
        name: "k8s".into(),
        secret: Zeroizing::new(secret.to_vec()),
        config_source: ConfigSource::Local,
    };
    let made = store.tunnel_create(&actor, ACCOUNT, new).await.unwrap().value;
    store.audit_refusal(&actor, None, "unknown token").await.unwrap();
    let records = store.audit_list(ACCOUNT, &everything()).await.unwrap();
    let create = records.iter().find(|record| record.action == "tunnel.create").unwrap();
    assert_eq!((create.object_id.as_str(), create.request.as_str()), (made.id.to_string().as_str(), "r1"));
    assert!(!create.detail.to_string().contains("SSSS"), "{}", create.detail);
    assert!(records.iter().any(|record| record.action == "credential.refuse" && !record.success));
    // SQLite takes its journal away when the last connection goes: before the files are read, and not meanwhile.
    store.close().await;
    for entry in std::fs::read_dir(place.dir()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(32).any(|window| window == secret), "the secret lies open on the disk");
    }
}

#[derive(Debug, Clone)]
enum Step {
    TunnelCreate(u8),
    TunnelRename(u8, u8),
    TunnelDelete(u8, bool),
    RouteCreate(u8, u8),
    RouteMove(u8, u8),
    RouteDelete(u8),
    NetworkCreate(u8, bool),
    NetworkDefault(u8),
    NetworkDelete(u8, bool),
    Enroll(u8),
    Revoke(u8),
    Unrevoke(u8),
    Unregister(u8),
    Configure(u8),
    HostnamePut(u8, u8, bool),
    HostnameDelete(u8),
    LocationCreate(u8, bool),
    LocationReplace(u8, u8, bool),
    LocationDelete(u8),
    TokenToggle(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..4).prop_map(Step::TunnelCreate),
        (any::<u8>(), 0u8..4).prop_map(|(which, name)| Step::TunnelRename(which, name)),
        (any::<u8>(), any::<bool>()).prop_map(|(which, cascade)| Step::TunnelDelete(which, cascade)),
        (any::<u8>(), 0u8..6).prop_map(|(tunnel, network)| Step::RouteCreate(tunnel, network)),
        (any::<u8>(), 0u8..6).prop_map(|(which, network)| Step::RouteMove(which, network)),
        any::<u8>().prop_map(Step::RouteDelete),
        (0u8..4, any::<bool>()).prop_map(|(name, default)| Step::NetworkCreate(name, default)),
        any::<u8>().prop_map(Step::NetworkDefault),
        (any::<u8>(), any::<bool>()).prop_map(|(which, force)| Step::NetworkDelete(which, force)),
        (0u8..4).prop_map(Step::Enroll),
        any::<u8>().prop_map(Step::Revoke),
        any::<u8>().prop_map(Step::Unrevoke),
        any::<u8>().prop_map(Step::Unregister),
        any::<u8>().prop_map(Step::Configure),
        (0u8..3, any::<u8>(), any::<bool>())
            .prop_map(|(name, tunnel, overwrite)| Step::HostnamePut(name, tunnel, overwrite)),
        any::<u8>().prop_map(Step::HostnameDelete),
        (0u8..4, any::<bool>()).prop_map(|(name, default)| Step::LocationCreate(name, default)),
        (any::<u8>(), 0u8..4, any::<bool>())
            .prop_map(|(which, name, default)| Step::LocationReplace(which, name, default)),
        any::<u8>().prop_map(Step::LocationDelete),
        any::<u8>().prop_map(Step::TokenToggle),
    ]
}

/// What an edge would hold: the live objects by id.
#[derive(Debug, Default, PartialEq)]
struct Replayed(BTreeMap<String, Change>);

impl Replayed {
    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::TunnelPut(put) => self.0.insert(put.id.to_string(), change.clone()),
                Change::RoutePut(put) => self.0.insert(put.id.to_string(), change.clone()),
                Change::VirtualNetworkPut(put) => self.0.insert(put.id.to_string(), change.clone()),
                Change::RegistrationPut(put) => self.0.insert(put.id.to_string(), change.clone()),
                Change::TunnelConfigurationPut(put) => {
                    self.0.insert(format!("configuration of {}", put.tunnel), change.clone())
                }
                Change::HostnamePut(put) => self.0.insert(put.hostname.to_string(), change.clone()),
                Change::HostnameRemoved { hostname } => self.0.remove(hostname.as_str()),
                Change::TunnelRemoved { id } => {
                    self.0.remove(&format!("configuration of {id}"));
                    self.0.remove(&id.to_string())
                }
                Change::RouteRemoved { id } | Change::HostnameRouteRemoved { id } => {
                    self.0.remove(&id.to_string())
                }
                Change::HostnameRoutePut(put) => self.0.insert(put.id.to_string(), change.clone()),
                Change::VirtualNetworkRemoved { id } => self.0.remove(&id.to_string()),
                Change::RegistrationRemoved { id } => self.0.remove(&id.to_string()),
                Change::LocationPut(put) => self.0.insert(put.id.to_string(), change.clone()),
                Change::LocationRemoved { id } => self.0.remove(&id.to_string()),
                Change::ServiceTokenPut(put) => self.0.insert(put.id.to_string(), change.clone()),
                Change::ServiceTokenRemoved { id } => self.0.remove(&id.to_string()),
                // No step makes these here: lists and rules have a property of their own, and nodes are not stored.
                Change::ListPut(_)
                | Change::ListItemsChanged(_)
                | Change::ListRemoved { .. }
                | Change::RulePut(_)
                | Change::RuleRemoved { .. }
                | Change::NodePut(_)
                | Change::NodeRemoved { .. }
                | Change::LeasePut(_)
                | Change::LeaseRemoved(_)
                | Change::BlockPagePut(_)
                | Change::OriginRootPut(_)
                | Change::OriginRootRemoved { .. }
                | Change::FallbackDomainsPut(_)
                | Change::GatewaySettingsPut(_) => None,
            };
        }
    }

    fn pick<T>(&self, which: u8, kind: impl Fn(&Change) -> Option<T>) -> Option<T> {
        let all: Vec<T> = self.0.values().filter_map(kind).collect();
        let at = usize::from(which).checked_rem(all.len())?;
        all.into_iter().nth(at)
    }

    fn tunnel(&self, which: u8) -> Option<TunnelId> {
        self.pick(which, |change| if let Change::TunnelPut(put) = change { Some(put.id) } else { None })
    }

    fn route(&self, which: u8) -> Option<RouteId> {
        self.pick(which, |change| if let Change::RoutePut(put) = change { Some(put.id) } else { None })
    }

    fn network(&self, which: u8) -> Option<VirtualNetworkId> {
        self.pick(
            which,
            |change| if let Change::VirtualNetworkPut(put) = change { Some(put.id) } else { None },
        )
    }

    fn location(&self, which: u8) -> Option<LocationId> {
        self.pick(which, |change| if let Change::LocationPut(put) = change { Some(put.id) } else { None })
    }

    fn registration(&self, which: u8) -> Option<RegistrationId> {
        self.pick(which, |change| if let Change::RegistrationPut(put) = change { Some(put.id) } else { None })
    }
}

/// Does one step. Refusals are part of the game: a refused step must change nothing.
async fn take(store: &Store, seen: &Replayed, token: &ServiceTokenRow, step: &Step) -> Option<()> {
    let actor = Actor::system();
    match step {
        Step::TunnelCreate(name) => tunnel(store, &format!("t{name}")).await.ok().map(drop),
        Step::TunnelRename(which, name) => {
            let edit = TunnelEdit { name: Some(format!("t{name}")), secret: None };
            store.tunnel_update(&actor, ACCOUNT, seen.tunnel(*which)?, edit).await.ok().map(drop)
        }
        Step::TunnelDelete(which, cascade) => {
            let cascade = if *cascade { Cascade::Delete } else { Cascade::Refuse };
            store.tunnel_delete(&actor, ACCOUNT, seen.tunnel(*which)?, cascade).await.ok().map(drop)
        }
        Step::RouteCreate(which, network) => {
            let new = NewRoute {
                virtual_network: seen.network(*network),
                ..route(&format!("10.{network}.0.0/16"), seen.tunnel(*which)?)
            };
            store.route_create(&actor, ACCOUNT, new, Takeover::Allow).await.ok().map(drop)
        }
        Step::RouteMove(which, network) => {
            let written = format!("10.{network}.0.0/16");
            let edit =
                RouteEdit { network: Some((written.parse().unwrap(), written)), ..RouteEdit::default() };
            store
                .route_update(&actor, ACCOUNT, seen.route(*which)?, edit, Takeover::Allow)
                .await
                .ok()
                .map(drop)
        }
        Step::RouteDelete(which) => {
            store.route_delete(&actor, ACCOUNT, seen.route(*which)?).await.ok().map(drop)
        }
        Step::NetworkCreate(name, is_default) => {
            let new = NewVirtualNetwork {
                name: format!("n{name}"),
                comment: String::new(),
                is_default: *is_default,
            };
            store.virtual_network_create(&actor, ACCOUNT, new).await.ok().map(drop)
        }
        Step::NetworkDefault(which) => {
            let edit = VirtualNetworkEdit { is_default: Some(true), ..VirtualNetworkEdit::default() };
            store.virtual_network_update(&actor, ACCOUNT, seen.network(*which)?, edit).await.ok().map(drop)
        }
        Step::NetworkDelete(which, force) => {
            let cascade = if *force { Cascade::Delete } else { Cascade::Refuse };
            store.virtual_network_delete(&actor, ACCOUNT, seen.network(*which)?, cascade).await.ok().map(drop)
        }
        Step::Enroll(key) => {
            store.registration_create(&actor, ACCOUNT, registration(&[*key], token)).await.ok().map(drop)
        }
        Step::Revoke(which) => {
            let ids = [seen.registration(*which)?];
            store.registration_revoke(&actor, ACCOUNT, &ids).await.ok().map(drop)
        }
        Step::Unrevoke(which) => {
            let ids = [seen.registration(*which)?];
            store.registration_unrevoke(&actor, ACCOUNT, &ids).await.ok().map(drop)
        }
        Step::Unregister(which) => {
            let ids = [seen.registration(*which)?];
            store.registration_delete(&actor, ACCOUNT, &ids).await.ok().map(drop)
        }
        Step::Configure(which) => {
            let tunnel = seen.tunnel(*which)?;
            store.configuration_put(&actor, ACCOUNT, tunnel, "{}".into()).await.ok().map(drop)
        }
        Step::HostnamePut(name, which, overwrite) => {
            let overwrite = if *overwrite { Overwrite::Allow } else { Overwrite::Refuse };
            let name = format!("h{name}.example.com").parse().unwrap();
            let tunnel = seen.tunnel(*which)?;
            store.hostname_put(&actor, ACCOUNT, name, tunnel, overwrite).await.ok().map(drop)
        }
        Step::LocationCreate(name, default) => {
            store.location_create(&actor, ACCOUNT, location(*name, *default)).await.ok().map(drop)
        }
        Step::LocationReplace(which, name, default) => {
            let (id, content) = (seen.location(*which)?, location(*name, *default));
            store.location_replace(&actor, ACCOUNT, id, content).await.ok().map(drop)
        }
        Step::LocationDelete(which) => {
            store.location_delete(&actor, ACCOUNT, seen.location(*which)?).await.ok().map(drop)
        }
        Step::TokenToggle(which) => {
            let edit = ServiceTokenEdit { enabled: Some(which % 2 == 0), ..ServiceTokenEdit::default() };
            store.service_token_update(&actor, ACCOUNT, token.id, edit).await.ok().map(drop)
        }
        Step::HostnameDelete(which) => {
            let all = store.hostname_list(ACCOUNT, &HostnameFilter::default(), Window::ALL).await.unwrap();
            let at = usize::from(*which).checked_rem(all.rows.len())?;
            store.hostname_delete(&actor, ACCOUNT, all.rows[at].id).await.ok().map(drop)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: Place::CASES, ..ProptestConfig::default() })]

    #[test]
    fn the_state_is_what_replaying_the_change_log_gives(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let Some(place) = Place::new() else { return };
            let store = open(&place).await;
            let token = service_token(&store).await;
            let (mut replayed, mut number) = (Replayed::default(), 0);
            for step in &steps {
                take(&store, &replayed, &token, step).await;
                for batch in store.changes_since(number).await.unwrap() {
                    assert_eq!(batch.number, number + 1);
                    number = batch.number;
                    replayed.apply(&batch.changes);
                }
                let mut fresh = Replayed::default();
                let state = store.state().await.unwrap();
                assert_eq!(state.number, number);
                fresh.apply(&state.changes);
                assert_eq!(fresh, replayed, "after {step:?}");
            }
            let defaults = store.location_list(ACCOUNT).await.unwrap();
            assert_eq!(defaults.iter().filter(|row| row.content.client_default).count(), 1);
            let live = TunnelFilter { deleted: adit_store::Deleted::Without, ..TunnelFilter::default() };
            let listed = store.tunnel_list(ACCOUNT, &live, Window::ALL).await.unwrap();
            let held = replayed.0.values().filter(|change| matches!(change, Change::TunnelPut(_))).count();
            assert_eq!(listed.rows.len(), held);
        });
    }
}

/// Every audit record, newest first.
fn everything() -> AuditWindow {
    AuditWindow {
        since: None,
        before: None,
        direction: Direction::Descending,
        after: None,
        limit: 10_000,
        unowned: true,
    }
}
