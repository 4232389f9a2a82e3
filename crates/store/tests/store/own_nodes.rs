//! A control plane that is an edge node too.

use adit_model::NodeKey;
use adit_store::{NewNode, NodeCreateError, OwnNodeError};

use super::*;

#[tokio::test]
async fn a_control_plane_s_node_keeps_its_id_and_its_name() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let key = |n| NodeKey::from_bytes([n; 32]);
    let id = store.node_own("edge01", &key(1)).await.unwrap();
    assert_eq!(store.node_own("edge01", &key(1)).await.unwrap(), id);
    // Its directory was lost: it is made anew, unless the one before lives.
    assert_eq!(store.node_own("edge01", &key(2)).await.unwrap(), id);
    let pool = place.pool().await;
    let beat = "INSERT INTO node_leases (node_id, address, devices, seen_at) VALUES ($1, 'a:1', '', 9000000000000000)";
    sqlx::query(beat).bind(id.to_string()).execute(&pool).await.unwrap();
    assert!(matches!(store.node_own("edge01", &key(3)).await, Err(OwnNodeError::NameTaken(_))));
    let other = store.node_own("edge02", &key(3)).await.unwrap();
    let nodes = store.node_list().await.unwrap();
    let names: Vec<_> = nodes.iter().map(|node| (node.id, node.name.as_str(), node.enrolled)).collect();
    assert_eq!(names, [(id, "edge01", true), (other, "edge02", true)]);
    store.node_delete(&Actor::system(), "edge02").await.unwrap();
    assert_eq!(store.node_list().await.unwrap().len(), 1);
    if !store.is_shared() {
        let new = NewNode {
            name: "edge03".into(),
            hosts: Vec::new(),
            code: SecretHash::of(b"code"),
            code_valid_for: std::time::Duration::from_mins(1),
        };
        let refused = store.node_create(&Actor::system(), &new).await;
        assert!(matches!(refused, Err(NodeCreateError::NotShared)));
    }
}
