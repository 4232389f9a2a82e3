//! Many who write at once: nothing is lost, nothing has two owners, and the change log has no gap.

use super::*;

/// Each adds a line to the comment of one route, as who reads, changes and writes back does in one call.
#[tokio::test]
async fn of_64_writers_at_once_none_loses_what_another_wrote() {
    const WRITERS: usize = 64;
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let before = store.state().await.unwrap().number;
    let shared = tunnel(&store, "shared").await.unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let new = route(&format!("10.0.{n}.0/24"), shared.id);
                store.route_create(&Actor::system(), ACCOUNT, new, Takeover::Allow).await.unwrap();
                store
                    .configuration_put(&Actor::system(), ACCOUNT, shared.id, format!("{{\"n\":{n}}}"))
                    .await
                    .unwrap()
            })
        })
        .collect();
    let mut versions = Vec::new();
    for writer in writers {
        versions.push(writer.await.unwrap().value.version);
    }
    versions.sort_unstable();
    let expected: Vec<i32> = (1..).take(WRITERS).collect();
    assert_eq!(versions, expected, "each one's number is its own");
    let routes = store.route_list(ACCOUNT, &RouteFilter::default(), Window::ALL).await.unwrap();
    assert_eq!(routes.total, u64::try_from(WRITERS).unwrap());
    let log = store.changes_since(before).await.unwrap();
    let numbers: Vec<u64> = log.iter().map(|batch| batch.number).collect();
    let expected: Vec<u64> = (before + 1..).take(1 + 2 * WRITERS).collect();
    assert_eq!(numbers, expected, "the change log has no gap");
}

#[tokio::test]
async fn a_refused_write_leaves_the_next_one_its_turn() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    tunnel(&store, "taken").await.unwrap();
    for n in 0..20 {
        assert!(matches!(tunnel(&store, "taken").await, Err(TunnelWriteError::NameTaken)));
        tunnel(&store, &format!("free {n}")).await.unwrap();
    }
    let all = store.tunnel_list(ACCOUNT, &TunnelFilter::default(), Window::ALL).await.unwrap();
    assert_eq!(all.total, 21);
}

/// The write is given up at a random point, often in the middle of a statement.
#[tokio::test]
async fn a_write_that_is_given_up_has_happened_or_has_not() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let before = store.state().await.unwrap().number;
    for n in 0..40_u64 {
        let name = format!("t{n}");
        let write = tunnel(&store, &name);
        let _given_up = tokio::time::timeout(std::time::Duration::from_micros(n * 60), write).await;
    }
    tunnel(&store, "last").await.unwrap();
    let all = store.tunnel_list(ACCOUNT, &TunnelFilter::default(), Window::ALL).await.unwrap();
    let log = store.changes_since(before).await.unwrap();
    assert_eq!(u64::try_from(log.len()).unwrap(), all.total, "each tunnel has its entry");
    let records = store.audit_list(ACCOUNT, &everything()).await.unwrap();
    let made = records.iter().filter(|record| record.action == "tunnel.create").count();
    assert_eq!(u64::try_from(made).unwrap(), all.total, "each tunnel has its record");
}

/// Writers who are committed together do not share each other's failures.
#[tokio::test]
async fn of_writers_at_once_those_that_fail_or_are_given_up_harm_no_other() {
    const WRITERS: u64 = 60;
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    tunnel(&store, "taken").await.unwrap();
    let before = store.state().await.unwrap().number;
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                match n % 3 {
                    0 => tunnel(&store, &format!("good {n}")).await.map(|_| true),
                    1 => match tunnel(&store, "taken").await {
                        Err(TunnelWriteError::NameTaken) => Ok(false),
                        other => panic!("{other:?}"),
                    },
                    _ => {
                        let name = format!("given up {n}");
                        let write = tunnel(&store, &name);
                        let patience = std::time::Duration::from_micros(n * 150);
                        tokio::time::timeout(patience, write)
                            .await
                            .map_or(Ok(false), |done| done.map(|_| true))
                    }
                }
            })
        })
        .collect();
    let mut acknowledged = 0;
    for writer in writers {
        acknowledged += u64::from(writer.await.unwrap().unwrap());
    }
    tunnel(&store, "last").await.unwrap();
    let all = store.tunnel_list(ACCOUNT, &TunnelFilter::default(), Window::ALL).await.unwrap();
    let good = all.rows.iter().filter(|row| row.name.starts_with("good")).count();
    assert_eq!(u64::try_from(good).unwrap(), WRITERS / 3);
    assert!(all.total >= acknowledged + 2, "{} of {acknowledged} acknowledged", all.total);
    let log = store.changes_since(before).await.unwrap();
    let numbers: Vec<u64> = log.iter().map(|batch| batch.number).collect();
    let expected: Vec<u64> = (before + 1..).take(usize::try_from(all.total).unwrap() - 1).collect();
    assert_eq!(numbers, expected, "each that happened has its entry, and no other");
}
