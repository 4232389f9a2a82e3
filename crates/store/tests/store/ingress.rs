//! Configurations of tunnels and public host names.

use adit_model::{HostnameId, PublicHostname};
use adit_store::{HostnameFilter, HostnamePut, HostnameWriteError, Overwrite};

use super::*;

fn name(text: &str) -> PublicHostname {
    text.parse().unwrap()
}

async fn put(
    store: &Store,
    text: &str,
    tunnel: TunnelId,
    overwrite: Overwrite,
) -> Result<HostnamePut, HostnameWriteError> {
    store.hostname_put(&Actor::system(), ACCOUNT, name(text), tunnel, overwrite).await
}

#[tokio::test]
async fn a_host_name_leads_to_one_tunnel_and_is_taken_only_where_that_is_allowed() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let (one, two) = (tunnel(&store, "one").await.unwrap().id, tunnel(&store, "two").await.unwrap().id);
    let before = store.state().await.unwrap().number;
    let made = put(&store, "app.example.com", one, Overwrite::Refuse).await.unwrap();
    let HostnamePut::New(row) = made else { panic!("{made:?}") };
    let again = put(&store, "App.Example.com.", one, Overwrite::Refuse).await.unwrap();
    assert_eq!(again, HostnamePut::Unchanged(row.clone()));
    assert_eq!(store.state().await.unwrap().number, before + 1, "nothing new was said");
    let taken = put(&store, "app.example.com", two, Overwrite::Refuse).await.unwrap_err();
    assert!(matches!(taken, HostnameWriteError::Taken), "{taken:?}");
    let moved = put(&store, "app.example.com", two, Overwrite::Allow).await.unwrap();
    assert!(
        matches!(&moved, HostnamePut::Updated(now) if now.id == row.id && now.tunnel == two),
        "{moved:?}"
    );
    let unknown = TunnelId::from_uuid(uuid::Uuid::from_u128(1));
    let error = put(&store, "x.example.com", unknown, Overwrite::Refuse).await.unwrap_err();
    assert!(matches!(error, HostnameWriteError::TunnelNotFound), "{error:?}");

    let filter = HostnameFilter { tunnel: Some(two), ..HostnameFilter::default() };
    let listed = store.hostname_list(ACCOUNT, &filter, Window::ALL).await.unwrap();
    assert_eq!((listed.total, listed.rows[0].hostname.as_str()), (1, "app.example.com"));
    let other = AccountId::from_bytes([1; 16]);
    store.hostname_fetch(other, row.id).await.unwrap_err();
    store.hostname_delete(&Actor::system(), other, row.id).await.unwrap_err();
    store.hostname_delete(&Actor::system(), ACCOUNT, row.id).await.unwrap();
    store.hostname_fetch(ACCOUNT, row.id).await.unwrap_err();
    store
        .hostname_delete(&Actor::system(), ACCOUNT, HostnameId::from_uuid(uuid::Uuid::nil()))
        .await
        .unwrap_err();
    let fresh = put(&store, "app.example.com", one, Overwrite::Refuse).await.unwrap();
    assert!(matches!(fresh, HostnamePut::New(_)), "a deleted name is free: {fresh:?}");
}

#[tokio::test]
async fn a_tunnel_with_host_names_goes_only_with_them() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let one = tunnel(&store, "one").await.unwrap().id;
    put(&store, "app.example.com", one, Overwrite::Refuse).await.unwrap();
    let refused = store.tunnel_delete(&Actor::system(), ACCOUNT, one, Cascade::Refuse).await.unwrap_err();
    assert!(matches!(refused, TunnelDeleteError::HasRoutes), "{refused:?}");
    let before = store.state().await.unwrap().number;
    store.tunnel_delete(&Actor::system(), ACCOUNT, one, Cascade::Delete).await.unwrap();
    let told = store.changes_since(before).await.unwrap();
    let gone = Change::HostnameRemoved { hostname: name("app.example.com") };
    assert_eq!(told[0].changes, [gone, Change::TunnelRemoved { id: one }]);
}

#[tokio::test]
async fn configurations_are_numbered_and_make_a_tunnel_remotely_managed() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let one = tunnel(&store, "one").await.unwrap().id;
    assert_eq!(store.configuration_fetch(one).await.unwrap(), None);
    let first = store.configuration_put(&Actor::system(), ACCOUNT, one, "{}".into()).await.unwrap();
    assert_eq!(first.value.version, 1);
    let [Change::TunnelPut(switched), Change::TunnelConfigurationPut(told)] = first.batch.changes.as_slice()
    else {
        panic!("{:?}", first.batch)
    };
    assert!(switched.remotely_managed);
    assert_eq!((told.version, told.config.as_str()), (1, "{}"));
    let second = store.configuration_put(&Actor::system(), ACCOUNT, one, "[]".into()).await.unwrap();
    assert_eq!(second.value.version, 2);
    assert_eq!(second.batch.changes.len(), 1, "it is switched once");
    assert_eq!(store.configuration_fetch(one).await.unwrap().unwrap(), second.value);
    let other = AccountId::from_bytes([1; 16]);
    store.configuration_put(&Actor::system(), other, one, "{}".into()).await.unwrap_err();
    store.tunnel_delete(&Actor::system(), ACCOUNT, one, Cascade::Refuse).await.unwrap();
    store.configuration_put(&Actor::system(), ACCOUNT, one, "{}".into()).await.unwrap_err();
    let state = store.state().await.unwrap();
    assert!(
        !state.changes.iter().any(|change| matches!(change, Change::TunnelConfigurationPut(_))),
        "{state:?}"
    );
}
