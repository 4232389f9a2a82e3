//! The record of one request, written when the last part of it has ended, however it ended.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use adit_model::{
    AccountId, ConnectionId, FlowId, NodeId, Protocol, PublicHostname, RequestEnd, RequestRecord, TunnelId,
};
use adit_wire::peer::RelayedFlow;

use crate::Shared;
use crate::dial::{Order, Reach};

/// What is known of a request from the start.
pub(super) struct Asked {
    pub(super) flow: FlowId,
    pub(super) account: AccountId,
    pub(super) hostname: PublicHostname,
    pub(super) tunnel: TunnelId,
    pub(super) source: IpAddr,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) snapshot: u64,
}

/// What is known at the end.
#[derive(Default, Clone, Copy)]
struct Ending {
    connection: Option<ConnectionId>,
    relayed_to: Option<NodeId>,
    end: Option<RequestEnd>,
}

/// A request on its way. Whoever carries a part of it holds it; the last one to let go writes the record.
pub(super) struct Recording {
    shared: Arc<Shared>,
    asked: Asked,
    began: SystemTime,
    clock: Instant,
    /// Bytes of the request's body so far.
    pub(super) up: AtomicU64,
    /// Bytes of the answer's body so far.
    pub(super) down: AtomicU64,
    status: AtomicU16,
    end: Mutex<Ending>,
}

impl Recording {
    pub(super) fn new(shared: Arc<Shared>, asked: Asked) -> Arc<Self> {
        shared.metrics.request_began();
        Arc::new(Self {
            shared,
            asked,
            began: SystemTime::now(),
            clock: Instant::now(),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            status: AtomicU16::new(0),
            end: Mutex::default(),
        })
    }

    /// The request's id.
    pub(super) fn flow(&self) -> FlowId {
        self.asked.flow
    }

    /// The request as those are told it who dial it.
    pub(super) fn order(&self) -> Order {
        let asked = &self.asked;
        let flow = RelayedFlow {
            flow: asked.flow,
            account: asked.account,
            tunnel: asked.tunnel,
            protocol: Protocol::Tcp,
            rule: None,
            snapshot: asked.snapshot,
            source: Some(asked.source),
        };
        Order { flow, reach: Reach::AnyNode }
    }

    /// Notes which connection carries it, and on which other node that is.
    pub(super) fn carried_by(&self, connection: Option<ConnectionId>, relayed_to: Option<NodeId>) {
        let mut ending = self.lock();
        (ending.connection, ending.relayed_to) = (connection, relayed_to);
    }

    /// Notes what the client is told.
    pub(super) fn answered(&self, status: http::StatusCode) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
    }

    /// Notes why it ended. What was noted first stands.
    pub(super) fn ended(&self, end: RequestEnd) {
        self.lock().end.get_or_insert(end);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ending> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let Ending { connection, relayed_to, end } = *self.lock();
        let asked = &self.asked;
        let record = RequestRecord {
            flow: asked.flow,
            account: asked.account,
            hostname: asked.hostname.clone(),
            tunnel: asked.tunnel,
            connection,
            relayed_to,
            source: asked.source,
            method: asked.method.clone(),
            path: asked.path.clone(),
            status: self.status.load(Ordering::Relaxed),
            snapshot: asked.snapshot,
            bytes_up: self.up.load(Ordering::Relaxed),
            bytes_down: self.down.load(Ordering::Relaxed),
            began: self.began,
            lasted: self.clock.elapsed(),
            // Nobody noted an end: the client's connection took all that carried it with it.
            end: end.unwrap_or(RequestEnd::ResetByClient),
        };
        let status = record.status;
        let recorded = self.shared.records.request(record);
        self.shared.metrics.request_ended(status, recorded);
    }
}
