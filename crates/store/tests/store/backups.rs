//! Copies of the database, and a disk that is full.

use adit_model::{AccountId, SecretHash};
use adit_store::{Actor, BackupError, Bootstrap, ConfigSource, NewTunnel, Store, TunnelWriteError, backup};
use zeroize::Zeroizing;

use super::Place;

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

async fn tunnel(store: &Store, name: &str) -> Result<(), TunnelWriteError> {
    let new = NewTunnel {
        kind: adit_store::TunnelKind::Connector,
        name: name.into(),
        secret: Zeroizing::new(vec![7; 32]),
        config_source: ConfigSource::Local,
    };
    store.tunnel_create(&Actor::system(), ACCOUNT, new).await.map(drop)
}

#[tokio::test]
async fn a_backup_taken_while_others_write_is_one_state_and_is_restored_with_the_key() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    store.secret_create(&Actor::system(), "ca", b"key").await.unwrap();
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..60 {
                tunnel(&store, &format!("t{n}")).await.unwrap();
            }
        })
    };
    let restored = Place::new().unwrap();
    std::fs::create_dir(restored.dir()).unwrap();
    let copy = restored.dir().join("adit.db");
    backup(place.dir(), &copy).await.unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&copy).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    writer.await.unwrap();

    std::fs::copy(place.dir().join("seal.key"), restored.dir().join("seal.key")).unwrap();
    let again = restored.open().await.unwrap();
    let state = again.state().await.unwrap();
    let log = store.changes_since(0).await.unwrap();
    let told = again.changes_since(0).await.unwrap();
    assert_eq!(u64::try_from(told.len()).unwrap(), state.number);
    assert_eq!(told[..], log[..told.len()], "it is a state that was");
    assert_eq!(again.secret_fetch("ca").await.unwrap().unwrap().as_slice(), b"key");
    tunnel(&again, "later").await.unwrap();
}

#[tokio::test]
async fn a_backup_writes_over_nothing_and_says_where_there_is_no_database() {
    let Some(place) = Place::new() else { return };
    let nothing = backup(place.dir(), &place.dir().join("copy")).await.unwrap_err();
    assert!(matches!(nothing, BackupError::NoDatabase { .. }), "{nothing:?}");
    let _store = open(&place).await;
    let there = backup(place.dir(), &place.dir().join("seal.key")).await.unwrap_err();
    assert!(matches!(there, BackupError::Exists { .. }), "{there:?}");
    let nowhere = place.dir().join("missing").join("copy");
    assert!(backup(place.dir(), &nowhere).await.is_err());
}
