//! Log records: written many at a time, found by time and by what they are about, and removed when they are old.

use std::time::{Duration, SystemTime};

use adit_model::{AccountId, Dataset, LogRecord};
use adit_store::{Direction, RecordKey, RecordWindow, Retention, Store};
use uuid::Uuid;

use super::Place;

const MINE: AccountId = AccountId::from_bytes([1; 16]);
const OTHER: AccountId = AccountId::from_bytes([2; 16]);

pub(super) fn record(account: AccountId, dataset: Dataset, number: u64, at: SystemTime) -> LogRecord {
    let mut record = LogRecord::new(dataset, account, at, Uuid::new_v4());
    record.set("SessionID", Uuid::from_u128(number.into()).to_string());
    record.set("Action", if number.is_multiple_of(2) { "allow" } else { "block" });
    record.set("DestinationPort", number);
    record
}

pub(super) fn all() -> RecordWindow {
    RecordWindow {
        since: None,
        before: None,
        direction: Direction::Ascending,
        after: None,
        limit: 10_000,
        having: Vec::new(),
    }
}

async fn ports(store: &Store, account: AccountId, window: &RecordWindow) -> Vec<u64> {
    let rows = store.records().list(account, Dataset::Network, window).await.unwrap();
    rows.iter()
        .map(|row| row.fields.get("DestinationPort").map_or(0, |port| port.as_u64().unwrap()))
        .collect()
}

fn hours_ago(hours: u64) -> SystemTime {
    SystemTime::now() - Duration::from_hours(hours)
}

#[tokio::test]
async fn records_come_back_in_order_whole_and_to_their_account_alone() {
    let Some(place) = Place::new() else { return };
    let store = place.open().await.unwrap();
    // More than one statement takes, some of them of the same moment.
    let at = |number: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + number / 3);
    let mut records: Vec<_> =
        (1..=250).map(|number| record(MINE, Dataset::Network, number, at(number))).collect();
    records.extend((1..=5).map(|number| record(OTHER, Dataset::Network, number, at(number))));
    records.extend((1..=5).map(|number| record(MINE, Dataset::Http, number, at(number))));
    store.records().add(&records).await.unwrap();
    store.records().add(&records).await.unwrap();
    assert_eq!(ports(&store, MINE, &all()).await.len(), 250, "once, though it was written twice");
    assert_eq!(ports(&store, OTHER, &all()).await.len(), 5);
    for direction in [Direction::Ascending, Direction::Descending] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let window = RecordWindow { limit: 7, after, direction, ..all() };
            let page = store.records().list(MINE, Dataset::Network, &window).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.place());
            seen.extend(page.iter().map(|row| row.fields["DestinationPort"].as_u64().unwrap()));
        }
        seen.sort_unstable();
        assert_eq!(seen, (1..=250).collect::<Vec<_>>(), "each once");
    }
    let blocks = RecordWindow { having: vec![(RecordKey::Action, "block".into())], ..all() };
    assert_eq!(ports(&store, MINE, &blocks).await.len(), 125);
    let one = (RecordKey::Session, Uuid::from_u128(9).to_string());
    assert_eq!(ports(&store, MINE, &RecordWindow { having: vec![one], ..all() }).await, [9]);
    let stretch = RecordWindow { since: Some(at(30).into()), before: Some(at(33).into()), ..all() };
    assert_eq!(ports(&store, MINE, &stretch).await.len(), 3);
}

#[tokio::test]
async fn what_is_too_old_or_too_much_or_nobodys_is_removed() {
    let Some(place) = Place::new() else { return };
    let store = place.open().await.unwrap();
    let records = store.records();
    for hours in 0..50 {
        let rows = [MINE, OTHER].map(|account| record(account, Dataset::Network, hours, hours_ago(hours)));
        records.add(&rows).await.unwrap();
    }
    let retention = |hours, rows| Retention { age: Duration::from_hours(hours), rows };
    assert_eq!(records.sweep(retention(1000, 1000), &[MINE, OTHER]).await.unwrap(), 0);
    assert_eq!(records.sweep(retention(30, 1000), &[MINE, OTHER]).await.unwrap(), 40);
    assert_eq!(records.sweep(retention(1000, 12), &[MINE, OTHER]).await.unwrap(), 36);
    let mut kept = ports(&store, MINE, &all()).await;
    kept.sort_unstable();
    assert_eq!(kept, (0..12).collect::<Vec<_>>(), "the latest stay");
    assert_eq!(records.sweep(retention(1000, 1000), &[MINE]).await.unwrap(), 12, "the other account is gone");
    assert!(ports(&store, OTHER, &all()).await.is_empty());
    assert_eq!(ports(&store, MINE, &all()).await.len(), 12);
}

#[tokio::test]
async fn records_are_there_after_a_start_anew() {
    let Some(place) = Place::new() else { return };
    let store = place.open().await.unwrap();
    store.records().add(&[record(MINE, Dataset::Network, 3, hours_ago(1))]).await.unwrap();
    store.close().await;
    drop(store);
    let store = place.open().await.unwrap();
    assert_eq!(ports(&store, MINE, &all()).await, [3]);
}
