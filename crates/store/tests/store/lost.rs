//! What only PostgreSQL can do: other nodes, and going away.

use std::time::Duration;

use adit_model::{AccountId, SecretHash};
use adit_store::{Actor, Bootstrap, ConfigSource, Fault, NewTunnel, Store, TunnelWriteError};
use zeroize::Zeroizing;

use super::Place;
use crate::postgres_server::Postgres;

const ACCOUNT: AccountId = AccountId::from_bytes([0xab; 16]);
/// By when a thing that happens by itself has happened.
const DEADLINE: Duration = Duration::from_secs(30);

pub(super) async fn begin(store: &Store) {
    let first = Bootstrap {
        account: ACCOUNT,
        name: "home".into(),
        token_hash: SecretHash::of(b"admin"),
        token_policies: serde_json::json!([]),
    };
    store.account_bootstrap(&first).await.unwrap();
}

pub(super) async fn tunnel(store: &Store, name: &str) -> Result<(), TunnelWriteError> {
    let new = NewTunnel {
        kind: adit_store::TunnelKind::Connector,
        name: name.into(),
        secret: Zeroizing::new(vec![7; 32]),
        config_source: ConfigSource::Local,
    };
    store.tunnel_create(&Actor::system(), ACCOUNT, new).await.map(drop)
}

#[tokio::test]
async fn nodes_share_one_change_log_without_gaps_and_hear_of_each_other() {
    let Some(place) = Place::new() else { return };
    let one = place.open().await.unwrap();
    begin(&one).await;
    let dir = tempfile::tempdir().unwrap();
    let two = place.open_beside(dir.path()).await.unwrap();
    let before = one.state().await.unwrap().number;
    let (mut heard_by_one, mut heard_by_two) = (one.follow(before), two.follow(before));
    let writers: Vec<_> = (0..40)
        .map(|n| {
            let store = if n % 2 == 0 { one.clone() } else { two.clone() };
            tokio::spawn(async move { tunnel(&store, &format!("t{n}")).await.unwrap() })
        })
        .collect();
    for number in before + 1..=before + 40 {
        let batch = tokio::time::timeout(DEADLINE, heard_by_one.next()).await.unwrap().unwrap();
        assert_eq!(batch.number, number);
        assert_eq!(tokio::time::timeout(DEADLINE, heard_by_two.next()).await.unwrap().unwrap(), batch);
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn two_nodes_that_begin_at_once_make_one_schema() {
    let Some(place) = Place::new() else { return };
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(one.path().join("seal.key"), [9; 32]).unwrap();
    std::fs::write(two.path().join("seal.key"), [9; 32]).unwrap();
    let (first, second) = tokio::join!(place.open_in(one.path()), place.open_in(two.path()));
    let (first, second) = (first.unwrap(), second.unwrap());
    begin(&first).await;
    assert_eq!(second.account_list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_database_that_went_away_is_told_as_such_and_comes_back_with_all_that_was_acknowledged() {
    let files =
        tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir();
    let (files, dir) = (files.unwrap(), tempfile::tempdir().unwrap());
    let server = match Postgres::own(files.path()) {
        Ok(server) => server,
        Err(reason) => return crate::place::skipped(&reason),
    };
    let store = Store::open_postgres(&server.url(), dir.path()).await.unwrap();
    begin(&store).await;
    let mut feed = store.follow(store.state().await.unwrap().number);
    tunnel(&store, "before").await.unwrap();
    assert_eq!(feed.next().await.unwrap().changes.len(), 1);

    server.stop().unwrap();
    let read = store.state().await.unwrap_err();
    assert!(matches!(read, Fault::Unavailable(_)), "{read:?}");
    let wrote = tunnel(&store, "while").await.unwrap_err();
    assert!(matches!(wrote, TunnelWriteError::Fault(Fault::Unavailable(_))), "{wrote:?}");

    server.start().unwrap();
    tokio::time::timeout(DEADLINE, async { while tunnel(&store, "after").await.is_err() {} }).await.unwrap();
    let names: Vec<u64> = store.changes_since(0).await.unwrap().iter().map(|batch| batch.number).collect();
    let expected: Vec<u64> = (1..).take(names.len()).collect();
    assert_eq!(names, expected);
    tokio::time::timeout(DEADLINE, async { while feed.next().await.is_err() {} }).await.unwrap();
    assert_eq!(feed.number(), expected.len() as u64, "the follower catches up");
}

#[tokio::test]
async fn an_error_of_opening_does_not_tell_the_password() {
    let dir = tempfile::tempdir().unwrap();
    for url in ["postgres://me:hunter2@127.0.0.1:1/adit", "postgres://me:hunter2@[/adit"] {
        let error = Store::open_postgres(url, dir.path()).await.unwrap_err();
        let mut told = format!("{error} {error:?}");
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            told = format!("{told} {error} {error:?}");
            cause = error.source();
        }
        assert!(!told.contains("hunter2"), "{told}");
    }
}
