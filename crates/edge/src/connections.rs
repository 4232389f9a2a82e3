//! The live connections of connectors, by tunnel, and the choice among them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use adit_model::{ConnectionId, ConnectorId, Protocol, TunnelId};
use adit_policy::Snapshot;
use adit_transport::splice::HalfClose;
use adit_wire::datagram::Generation;

use crate::carrier::{Carrier, Datagrams, Features};
use crate::limits::MAX_CONNECTIONS_PER_TUNNEL;
use crate::pulse::Pulse;

/// One connection of a connector, registered.
#[derive(Debug)]
pub struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) tunnel: TunnelId,
    pub(crate) connector: ConnectorId,
    pub(crate) index: u8,
    pub(crate) half_close: HalfClose,
    pub(crate) carrier: Carrier,
    features: Features,
    pulse: Arc<Pulse>,
    leaving: AtomicBool,
    reported: AtomicBool,
    flows: AtomicUsize,
}

impl Connection {
    pub(crate) fn new(
        id: ConnectionId,
        tunnel: TunnelId,
        (connector, index): (ConnectorId, u8),
        features: Features,
        carrier: Carrier,
        pulse: Arc<Pulse>,
    ) -> Self {
        Self {
            id,
            tunnel,
            connector,
            index,
            half_close: features.half_close,
            carrier,
            features,
            pulse,
            leaving: AtomicBool::new(false),
            reported: AtomicBool::new(false),
            flows: AtomicUsize::new(0),
        }
    }

    /// Whether new flows may go to it.
    fn takes_flows(&self) -> bool {
        !self.leaving.load(Ordering::Relaxed) && self.pulse.answers() && self.carrier.is_open()
    }

    fn has_room(&self) -> bool {
        self.carrier.has_room(self.flows.load(Ordering::Relaxed))
    }

    /// Whether flows of this protocol can be carried: to a connector that is not ours, datagrams need QUIC.
    fn carries(&self, protocol: Protocol) -> bool {
        match (protocol, &self.carrier) {
            (Protocol::Tcp, _) => true,
            (Protocol::Udp | Protocol::Icmp, _) if self.features.datagram_streams => true,
            (Protocol::Udp, Carrier::Quic(carrier)) => carrier.connection.max_datagram_size().is_some(),
            (Protocol::Icmp, Carrier::Quic(carrier)) => {
                self.features.generation != Generation::V1 && carrier.connection.max_datagram_size().is_some()
            }
            (Protocol::Udp | Protocol::Icmp, Carrier::Http2(_)) => false,
        }
    }

    /// What one more flow would wait for: those before it, each as long as the way is.
    fn cost(&self) -> Duration {
        let flows = u32::try_from(self.flows.load(Ordering::Relaxed)).unwrap_or(u32::MAX - 1);
        self.pulse.round_trip().max(NEAR).saturating_mul(flows + 1)
    }

    /// Waits until the connector does not answer any more, or its connection has ended.
    pub(crate) async fn lost(&self) {
        self.pulse.lost().await;
    }

    /// Waits until its transport has ended.
    pub(crate) async fn ended(&self) {
        self.carrier.ended().await;
    }

    /// Whether its end has yet to be reported; true once.
    pub(crate) fn report_end(&self) -> bool {
        !self.reported.swap(true, Ordering::Relaxed)
    }

    /// Counts a flow for as long as the guard lives.
    pub(crate) fn begin_flow(self: &Arc<Self>) -> FlowGuard {
        self.flows.fetch_add(1, Ordering::Relaxed);
        FlowGuard(Arc::clone(self))
    }

    /// Where UDP and ICMP flows go, if they go in sessions.
    pub(crate) fn sessions(&self) -> Option<(&quinn::Connection, &Arc<crate::datagram::SessionTable>)> {
        match &self.carrier {
            Carrier::Quic(carrier) => match &carrier.datagrams {
                Datagrams::Sessions(table) => Some((&carrier.connection, table)),
                Datagrams::Streams(_) => None,
            },
            Carrier::Http2(_) => None,
        }
    }

    pub(crate) fn close(&self, reason: &'static str) {
        self.carrier.close(reason);
    }
}

/// One open flow of a connection.
#[derive(Debug)]
pub(crate) struct FlowGuard(Arc<Connection>);

impl FlowGuard {
    /// The connection.
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for FlowGuard {
    fn drop(&mut self) {
        self.0.flows.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Connections {
    by_tunnel: RwLock<HashMap<TunnelId, Vec<Arc<Connection>>>>,
}

/// There are as many connections of the tunnel as may be.
#[derive(Debug, thiserror::Error)]
#[error("the tunnel has {MAX_CONNECTIONS_PER_TUNNEL} connections already")]
pub(crate) struct TooManyConnections;

/// No connection can take a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoneChosen {
    /// There is none that carries it.
    NoneLive,
    /// Each has as many streams open as its connector allows.
    Full,
}

impl Connections {
    /// Puts a connection into the rotation. One with the same connector and index is stale, and is closed
    /// (tunnel protocol, section 10, point 5).
    pub(crate) fn insert(&self, connection: Arc<Connection>) -> Result<(), TooManyConnections> {
        let mut by_tunnel = self.by_tunnel.write().unwrap_or_else(PoisonError::into_inner);
        let connections = by_tunnel.entry(connection.tunnel).or_default();
        let same = |other: &Arc<Connection>| {
            other.connector == connection.connector && other.index == connection.index
        };
        if let Some(stale) = connections.iter().position(same) {
            connections.swap_remove(stale).close("replaced by a newer connection");
        }
        if connections.len() >= MAX_CONNECTIONS_PER_TUNNEL {
            return Err(TooManyConnections);
        }
        connections.push(connection);
        Ok(())
    }

    /// Takes a connection out of the rotation; whether it was in.
    pub(crate) fn remove(&self, connection: &Connection) -> bool {
        connection.leaving.store(true, Ordering::Relaxed);
        let mut by_tunnel = self.by_tunnel.write().unwrap_or_else(PoisonError::into_inner);
        let Some(connections) = by_tunnel.get_mut(&connection.tunnel) else { return false };
        let before = connections.len();
        connections.retain(|other| other.id != connection.id);
        let removed = connections.len() < before;
        if connections.is_empty() {
            by_tunnel.remove(&connection.tunnel);
        }
        removed
    }

    /// The connection of the tunnel by which a flow of this protocol is served soonest: few flows before it, a short way.
    /// None of `tried`, and rather of another connector than they are, since a process or host that fails fails whole.
    pub(crate) fn choose(
        &self,
        tunnel: TunnelId,
        protocol: Protocol,
        tried: &[Arc<Connection>],
    ) -> Result<Arc<Connection>, NoneChosen> {
        let by_tunnel = self.by_tunnel.read().unwrap_or_else(PoisonError::into_inner);
        let best = by_tunnel
            .get(&tunnel)
            .into_iter()
            .flatten()
            .filter(|connection| connection.takes_flows() && connection.carries(protocol))
            .filter(|connection| !tried.iter().any(|tried| tried.id == connection.id))
            .min_by_key(|connection| {
                let failed = tried.iter().any(|tried| tried.connector == connection.connector);
                (!connection.has_room(), failed, connection.cost())
            });
        match best {
            Some(connection) if connection.has_room() => Ok(Arc::clone(connection)),
            Some(_) => Err(NoneChosen::Full),
            None => Err(NoneChosen::NoneLive),
        }
    }

    /// Closes the connections of a tunnel, or only one connector's, so that they are made anew.
    pub(crate) fn close_tunnel(
        &self,
        tunnel: TunnelId,
        connector: Option<ConnectorId>,
        reason: &'static str,
    ) {
        let by_tunnel = self.by_tunnel.read().unwrap_or_else(PoisonError::into_inner);
        let connections = by_tunnel.get(&tunnel).map(Vec::as_slice).unwrap_or_default();
        connections
            .iter()
            .filter(|connection| connector.is_none_or(|connector| connector == connection.connector))
            .for_each(|connection| connection.close(reason));
    }

    /// Closes the connections of tunnels that are no more.
    pub(crate) fn close_removed(&self, snapshot: &Snapshot) {
        let by_tunnel = self.by_tunnel.read().unwrap_or_else(PoisonError::into_inner);
        for (tunnel, connections) in &*by_tunnel {
            if snapshot.tunnel(*tunnel).is_none() {
                for connection in connections {
                    connection.close("the tunnel was deleted");
                }
            }
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_tunnel.read().unwrap_or_else(PoisonError::into_inner).values().map(Vec::len).sum()
    }
}

/// Round trips up to this are alike: below it, what is measured is mostly how busy a processor was.
const NEAR: Duration = Duration::from_millis(5);
