//! Several mutations as one.

use super::*;

async fn names(store: &Store) -> Vec<String> {
    let all = store.tunnel_list(ACCOUNT, &TunnelFilter::default(), Window::ALL).await.unwrap();
    all.rows.into_iter().map(|row| row.name).collect()
}

#[tokio::test]
async fn a_batch_is_one_entry_of_the_change_log_and_a_record_for_each_of_its_mutations() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let before = store.state().await.unwrap().number;
    let mut feed = store.follow(before);

    let batch = store.begin().await.unwrap();
    let made = tunnel(batch.store(), "a").await.unwrap();
    tunnel(batch.store(), "b").await.unwrap();
    let new = route("10.0.0.0/8", made.id);
    batch.store().route_create(&Actor::system(), ACCOUNT, new, Takeover::Refuse).await.unwrap();
    assert_eq!(names(batch.store()).await, ["a", "b"], "in the order of the mutations");
    assert!(names(&store).await.is_empty(), "nobody else sees them yet");
    let ended = batch.store().clone();
    let entry = batch.commit().await.unwrap();

    assert_eq!(entry.number, before + 1);
    assert_eq!(entry.changes.len(), 3);
    assert_eq!(feed.next().await.unwrap(), entry);
    assert_eq!(store.changes_since(before).await.unwrap(), [entry]);
    assert_eq!(names(&store).await, ["a", "b"]);
    let records = store.audit_list(ACCOUNT, &everything()).await.unwrap();
    assert_eq!(records.iter().filter(|record| record.action != "account.create").count(), 3);
    assert!(tunnel(&ended, "late").await.is_err(), "the batch is over");
}

#[tokio::test]
async fn a_batch_that_is_dropped_has_not_happened_and_the_next_writer_has_its_turn() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let before = store.state().await.unwrap();
    let batch = store.begin().await.unwrap();
    tunnel(batch.store(), "a").await.unwrap();
    let left = batch.store().clone();
    drop(batch);
    tunnel(&store, "b").await.unwrap();
    assert_eq!(names(&store).await, ["b"]);
    assert_eq!(store.changes_since(before.number).await.unwrap().len(), 1);
    assert!(left.state().await.is_err(), "the batch is over");
}

#[tokio::test]
async fn a_mutation_that_fails_in_a_batch_is_undone_alone() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let batch = store.begin().await.unwrap();
    tunnel(batch.store(), "a").await.unwrap();
    assert!(matches!(tunnel(batch.store(), "a").await, Err(TunnelWriteError::NameTaken)));
    tunnel(batch.store(), "b").await.unwrap();
    let entry = batch.commit().await.unwrap();
    assert_eq!(entry.changes.len(), 2);
    assert_eq!(names(&store).await, ["a", "b"]);
}
