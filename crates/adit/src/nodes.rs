//! This process as one of several edge nodes: what it shows the others in the database, and what it learns of them.
//!
//! [`Member`] is common to `adit up` and `adit edge`; [`reports`] is what a control plane does beside it, [`enrolment`] how a
//! node gets its key known and its certificate. What holds: nothing that a flow waits for waits for the database, and when
//! it is gone, what was last known of the other nodes stands.

pub(crate) mod enrolment;
pub(crate) mod identity;
pub(crate) mod inspection;
pub(crate) mod reports;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use adit_model::{Change, ChangeBatch, Command, ConnectionId, ConnectionOpened, NodeId, Record};
use adit_store::{Cluster, Fault, NodeDatabase};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// A node among others.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) database: NodeDatabase,
    pub(crate) id: NodeId,
    /// Where other nodes and connectors find it.
    pub(crate) address: String,
    /// Where devices find it.
    pub(crate) devices: String,
    pub(crate) open: Arc<Open>,
    pub(crate) health: Arc<Health>,
}

/// The connections that this node holds.
#[derive(Debug)]
pub(crate) struct Open(watch::Sender<BTreeMap<ConnectionId, ConnectionOpened>>);

impl Default for Open {
    fn default() -> Self {
        Self(watch::Sender::new(BTreeMap::new()))
    }
}

impl Open {
    /// Notes what a record says of them.
    pub(crate) fn note(&self, record: &Record) {
        match record {
            Record::ConnectionOpened(opened) => {
                self.0.send_modify(|open| drop(open.insert(opened.connection, opened.clone())));
            }
            Record::ConnectionClosed(closed) => {
                self.0.send_modify(|open| drop(open.remove(&closed.connection)));
            }
            Record::LocalConfiguration(_)
            | Record::RegistrationSeen(_)
            | Record::Decision(_)
            | Record::Http(_)
            | Record::Flow(_)
            | Record::Request(_)
            | Record::Dns(_) => {}
        }
    }
}

/// Whether the database answers.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<Answers>);

#[derive(Debug, Clone, Copy, Default)]
enum Answers {
    /// It did so far.
    #[default]
    Always,
    NotSince(Instant),
    /// It did not for a while.
    AgainSince(Instant),
}

impl Health {
    /// Notes how a use of it went; says so once when that changes.
    pub(crate) fn note<T>(&self, used: Result<T, Fault>) -> Option<T> {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (used, *answers) {
            (Ok(value), Answers::NotSince(_)) => {
                tracing::info!("the database answers again");
                *answers = Answers::AgainSince(Instant::now());
                Some(value)
            }
            (Ok(value), Answers::Always | Answers::AgainSince(_)) => Some(value),
            (Err(error), Answers::Always | Answers::AgainSince(_)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the database does not answer; going on with what is known");
                *answers = Answers::NotSince(Instant::now());
                None
            }
            (Err(_), Answers::NotSince(_)) => None,
        }
    }

    /// For how long it has not answered; `None` if it does.
    pub(crate) fn silent_for(&self) -> Option<Duration> {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Answers::NotSince(since) => Some(since.elapsed()),
            Answers::Always | Answers::AgainSince(_) => None,
        }
    }

    /// Whether the heartbeats in it say something. While it was away nobody could write one: after that all nodes get the
    /// time to do so before any of them is taken for dead.
    fn tells_who_lives(&self) -> bool {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Answers::Always => true,
            Answers::NotSince(_) => false,
            Answers::AgainSince(since) => since.elapsed() > RETURN,
        }
    }
}

impl Member {
    /// Keeps this node's heartbeat and connections in the database.
    pub(crate) async fn show(self, stop: CancellationToken) {
        let mut open = self.open.0.subscribe();
        let mut written = false;
        loop {
            let now: Vec<ConnectionOpened> = open.borrow_and_update().values().cloned().collect();
            let beat = self.database.beat(self.id, &self.address, &self.devices).await;
            if self.health.note(beat).is_some() && !written {
                written = self.health.note(self.database.connections_set(self.id, &now).await).is_some();
            }
            tokio::select! {
                changed = open.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    written = false;
                    // Connections come and go by the handful.
                    tokio::time::sleep(GATHER).await;
                }
                () = tokio::time::sleep(HEARTBEAT) => {}
                () = stop.cancelled() => break,
            }
        }
        // So that others need not wait for the heartbeat to grow old.
        let leaving = self.database.connections_set(self.id, &[]);
        if !matches!(tokio::time::timeout(FAREWELL, leaving).await, Ok(Ok(()))) {
            tracing::debug!("the others will notice by themselves that this node is gone");
        }
    }

    /// Tells the edge which other nodes there are and what they hold, as that changes.
    pub(crate) async fn learn(self, changes: mpsc::Sender<ChangeBatch>, stop: CancellationToken) {
        let mut notices = self.database.notices();
        let mut known = Cluster::default();
        loop {
            let now = self.health.note(self.database.cluster().await);
            let is_first = known == Cluster::default();
            if let Some(now) = now.filter(|_| is_first || self.health.tells_who_lives()) {
                let differences = differences(&known, &now);
                known = now;
                // Beside the change log: the edge's number is the log's.
                let batch = ChangeBatch { number: 0, changes: differences };
                if !batch.changes.is_empty() && changes.send(batch).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = notices.wait() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Passes on what edges are asked to do by another node's control plane.
    pub(crate) async fn obey(self, commands: mpsc::Sender<Command>, stop: CancellationToken) {
        let mut notices = self.database.notices();
        let mut number = None;
        loop {
            let asked = self.health.note(self.database.commands_after(self.id, number).await);
            if let Some((last, asked)) = asked {
                number = Some(last);
                for command in asked {
                    if commands.send(command).await.is_err() {
                        return;
                    }
                }
            }
            tokio::select! {
                () = notices.wait() => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// What makes `now` of `before`.
fn differences(before: &Cluster, now: &Cluster) -> Vec<Change> {
    let mut changes = Vec::new();
    let there: BTreeSet<NodeId> = now.nodes.iter().map(|node| node.id).collect();
    changes
        .extend(now.nodes.iter().filter(|node| !before.nodes.contains(node)).cloned().map(Change::NodePut));
    let gone = before.nodes.iter().filter(|node| !there.contains(&node.id));
    changes.extend(gone.map(|node| Change::NodeRemoved { id: node.id }));
    let (old, new): (BTreeSet<_>, BTreeSet<_>) = (
        before.leases.iter().map(|lease| (lease.tunnel, lease.node)).collect(),
        now.leases.iter().map(|lease| (lease.tunnel, lease.node)).collect(),
    );
    let lease = |&(tunnel, node): &(_, _)| adit_model::Lease { node, tunnel };
    changes.extend(new.difference(&old).map(lease).map(Change::LeasePut));
    changes.extend(old.difference(&new).map(lease).map(Change::LeaseRemoved));
    changes
}

/// How often a node shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// For all nodes to show that they live, after the database was away.
const RETURN: Duration = Duration::from_secs(6);
/// After a change of connections, before the next is written.
const GATHER: Duration = Duration::from_millis(50);
/// For the last words to the database.
const FAREWELL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use adit_model::{Lease, Node, NodeKey, TunnelId};
    use uuid::Uuid;

    fn node(number: u128, address: &str) -> Node {
        Node {
            id: NodeId::from_uuid(Uuid::from_u128(number)),
            name: format!("node{number}"),
            key: NodeKey::from_bytes([1; 32]),
            address: address.into(),
            devices: String::new(),
        }
    }

    #[test]
    fn only_what_differs_is_told() {
        let lease = |number, tunnel| Lease {
            node: node(number, "").id,
            tunnel: TunnelId::from_uuid(Uuid::from_u128(tunnel)),
        };
        let before = Cluster { nodes: vec![node(1, "a:1"), node(2, "b:1")], leases: vec![lease(1, 1)] };
        assert_eq!(differences(&before, &before), []);
        let now = Cluster { nodes: vec![node(1, "a:2")], leases: vec![lease(1, 2)] };
        let expected = [
            Change::NodePut(node(1, "a:2")),
            Change::NodeRemoved { id: node(2, "").id },
            Change::LeasePut(lease(1, 2)),
            Change::LeaseRemoved(lease(1, 1)),
        ];
        assert_eq!(differences(&before, &now), expected);
        let mut state = adit_policy::State::default();
        state.apply(ChangeBatch { number: 7, changes: Vec::new() });
        state.apply(ChangeBatch { number: 0, changes: differences(&Cluster::default(), &before) });
        let snapshot = state.snapshot();
        assert_eq!((snapshot.number(), snapshot.nodes().count()), (7, 2));
        assert_eq!(snapshot.holders(lease(1, 1).tunnel), [node(1, "").id]);
    }
}
