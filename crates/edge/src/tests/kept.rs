//! A node that keeps its snapshot, and one that starts from it.

use super::*;
use crate::Kept;

#[tokio::test]
async fn what_an_edge_decides_by_is_kept_and_is_there_after_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(crate::KEPT_FILE);
    let mut bench = Bench::start().await;
    bench.edge.keep(path.clone());
    within(async {
        while Kept::read(&path).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    bench.configure(7, "{}").await;
    bench.edge.stop().await;
    let kept = Kept::read(&path).unwrap();
    assert_eq!(kept.state.number, bench.number, "the last state is written when the edge stops");
    assert!(kept.age(std::time::SystemTime::now()) < LIMIT);
    let next = Bench::with(kept.state.changes, None).await;
    let snapshot = next.edge.shared.snapshots.current();
    assert_eq!(snapshot.tunnel_configuration(tunnel_id()), Some((7, "{}")));
    assert!(snapshot.admit_connector(&ACCOUNT.to_string(), tunnel_id(), SECRET).is_ok());
}
