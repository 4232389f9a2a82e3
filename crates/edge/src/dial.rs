//! Step 7 of a flow: a stream or a session on a connection of the tunnel, the request, and the connector's answer.
//!
//! What a flow travels on does not matter to who dials: [`dial`] gives a stream, [`dial_datagrams`] packets, [`request`] an
//! exchange of HTTP. A tunnel without a connection here is dialled through a peer node that holds one ([`crate::peer`]). What
//! always holds: a flow is tried again only if nothing of it can have arrived, once, on another connection; a flow that a
//! peer relayed is dialled here or not at all; and every wait has a deadline, or ends when the other end does not answer
//! any more.

mod request;
mod stream;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use adit_model::{ConnectionId, NodeId, Protocol, Refusal};
use adit_transport::Duplex;
use adit_transport::splice::HalfClose;
use adit_wire::device::REFUSAL_METADATA;
use adit_wire::peer::RelayedFlow;
use adit_wire::tunnel::{ConnectResponse, METADATA_RATE_LIMITED};

pub(crate) use request::{OriginAnswer, OriginExchange, OriginRequest, PendingAnswer, request};

use crate::Shared;
use crate::connections::{Connection, FlowGuard, NoneChosen};
use crate::datagram::{self, FarDatagrams};
use crate::far::{FarReader, FarWriter};
use crate::limits::{DIAL_ATTEMPTS, DIAL_DEADLINE, RELAY_DEADLINE};
use crate::peer::{Link, LinkGuard};

/// What is to be dialled through: the flow, whose it is, and how far it may go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    pub(crate) flow: RelayedFlow,
    pub(crate) reach: Reach,
}

/// How far a flow may go to be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// A peer node may dial it.
    AnyNode,
    /// It came from a peer node: this node dials it, or nobody.
    ThisNode,
}

/// What carries a flow, counted there for as long as this lives.
#[derive(Debug)]
pub(crate) enum Via {
    /// A connection of this node.
    Connection(FlowGuard),
    /// A peer node, and the connection there if it told.
    Peer(LinkGuard, Option<ConnectionId>),
}

impl Via {
    /// The connection that carries the flow, as far as it is known.
    pub(crate) fn connection(&self) -> Option<ConnectionId> {
        match self {
            Self::Connection(guard) => Some(guard.connection().id),
            Self::Peer(_, connection) => *connection,
        }
    }

    /// The connection of this node.
    #[cfg(test)]
    pub(crate) fn own(&self) -> &Connection {
        match self {
            Self::Connection(guard) => guard.connection(),
            Self::Peer(..) => panic!("the flow was relayed"),
        }
    }

    /// The node that the flow is relayed to.
    pub(crate) fn relayed_to(&self) -> Option<NodeId> {
        match self {
            Self::Connection(_) => None,
            Self::Peer(guard, _) => Some(guard.link().node),
        }
    }

    /// Whether the flow's directions end one by one. A peer sees to what its connector needs.
    pub(crate) fn half_close(&self) -> HalfClose {
        match self {
            Self::Connection(guard) => guard.connection().half_close,
            Self::Peer(..) => HalfClose::Kept,
        }
    }
}

/// A flow that the connector has dialled.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) via: Via,
    pub(crate) stream: Duplex<FarReader, FarWriter>,
}

/// A flow of datagrams that the connector takes.
#[derive(Debug)]
pub(crate) struct DialledDatagrams {
    pub(crate) via: Via,
    pub(crate) far: FarDatagrams,
}

/// A flow that could not be dialled.
#[derive(Debug)]
pub(crate) struct NotDialled {
    pub(crate) refusal: Refusal,
    pub(crate) connection: Option<ConnectionId>,
    /// The node that was asked to dial it.
    pub(crate) relayed_to: Option<NodeId>,
    /// The connector's words, for the log.
    pub(crate) detail: String,
}

impl NotDialled {
    /// A flow that reached no connection.
    pub(crate) fn nowhere(refusal: Refusal, detail: String) -> Self {
        Self { refusal, connection: None, relayed_to: None, detail }
    }
}

/// Why one attempt failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The connection was lost before it answered: another may do.
    Lost,
    /// The connector answered, or did not in time.
    Answered(Refusal, String),
}

impl Failure {
    /// The connector is at fault, or cannot be understood.
    pub(crate) fn connector(words: impl Into<String>) -> Self {
        Self::Answered(Refusal::ConnectorError, words.into())
    }

    /// The connector does not say by name what is wrong: there is only the text of Go's net package.
    pub(crate) fn in_words(words: String) -> Self {
        let known = [
            ("connection refused", Refusal::Refused),
            ("no route to host", Refusal::HostUnreachable),
            ("network is unreachable", Refusal::NetworkUnreachable),
            ("i/o timeout", Refusal::TimedOut),
            ("deadline exceeded", Refusal::TimedOut),
            ("too many active flows", Refusal::TooManyFlows),
        ];
        let refusal = known
            .into_iter()
            .find(|(part, _)| words.contains(part))
            .map_or(Refusal::ConnectorError, |(_, refusal)| refusal);
        Self::Answered(refusal, words)
    }
}

/// Dials TCP through the tunnel's best connection, and through another if that one is lost before it answered.
pub(crate) async fn dial(
    shared: &Shared,
    order: Order,
    destination: SocketAddr,
) -> Result<Dialled, NotDialled> {
    let flow = order.flow.flow;
    let own = |connection: Arc<Connection>| async move { stream::tcp(&connection, flow, destination).await };
    match attempts(shared, &order, own).await {
        Err(not) if not.refusal == Refusal::NoConnection && order.reach == Reach::AnyNode => {
            let peer =
                |link: Arc<Link>| async move { stream::relayed(&link, &order.flow, destination).await };
            let (guard, (stream, connection)) = relay(shared, &order, not, peer).await?;
            Ok(Dialled { via: Via::Peer(guard, connection), stream })
        }
        outcome => outcome.map(|(guard, stream)| Dialled { via: Via::Connection(guard), stream }),
    }
}

/// Opens a flow of UDP or ICMP datagrams, in the same way.
pub(crate) async fn dial_datagrams(
    shared: &Shared,
    order: Order,
    destination: SocketAddr,
) -> Result<DialledDatagrams, NotDialled> {
    let RelayedFlow { flow, protocol, source, .. } = order.flow;
    let source = source.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let own = |connection: Arc<Connection>| async move {
        let Some((quic, sessions)) = connection.sessions() else {
            let flow = stream::datagrams(&connection, flow, protocol, destination).await?;
            return Ok(FarDatagrams::of_stream(flow));
        };
        match protocol {
            Protocol::Tcp => Err(Failure::connector("TCP has no datagrams")),
            Protocol::Udp => datagram::session(&shared.tasks, quic, sessions, destination).await,
            Protocol::Icmp => datagram::echoes(quic, sessions, destination.ip(), source),
        }
    };
    match attempts(shared, &order, own).await {
        Err(not) if not.refusal == Refusal::NoConnection && order.reach == Reach::AnyNode => {
            let peer = |link: Arc<Link>| async move {
                stream::relayed_datagrams(&link, &order.flow, destination).await
            };
            let (guard, (flow, connection)) = relay(shared, &order, not, peer).await?;
            Ok(DialledDatagrams { via: Via::Peer(guard, connection), far: FarDatagrams::of_stream(flow) })
        }
        outcome => outcome.map(|(guard, far)| DialledDatagrams { via: Via::Connection(guard), far }),
    }
}

/// Tries the tunnel's best connection, and another one if that is lost.
async fn attempts<T, F>(
    shared: &Shared,
    order: &Order,
    attempt: impl Fn(Arc<Connection>) -> F,
) -> Result<(FlowGuard, T), NotDialled>
where
    F: Future<Output = Result<T, Failure>>,
{
    let RelayedFlow { tunnel, protocol, .. } = order.flow;
    let mut tried: Vec<Arc<Connection>> = Vec::with_capacity(DIAL_ATTEMPTS);
    while tried.len() < DIAL_ATTEMPTS {
        let connection = match shared.connections.choose(tunnel, protocol, &tried) {
            Ok(connection) => connection,
            Err(NoneChosen::NoneLive) => break,
            Err(NoneChosen::Full) => {
                let detail = "every connection has as many flows open as its connector allows".to_owned();
                return Err(NotDialled::nowhere(Refusal::TooManyFlows, detail));
            }
        };
        let guard = connection.begin_flow();
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(DIAL_DEADLINE, attempt(Arc::clone(&connection))) => {
                let late = || Err(Failure::Answered(Refusal::TimedOut, "no answer from the connector".into()));
                outcome.unwrap_or_else(|_| late())
            }
            () = connection.lost() => Err(Failure::Lost),
        };
        match outcome {
            Ok(dialled) => return Ok((guard, dialled)),
            Err(Failure::Answered(refusal, detail)) => {
                let connection = Some(connection.id);
                return Err(NotDialled { refusal, connection, relayed_to: None, detail });
            }
            Err(Failure::Lost) => {
                tracing::debug!(connection = %connection.id, "connection lost while dialling");
                shared.metrics.dial_retried();
                tried.push(connection);
            }
        }
    }
    let detail = if tried.is_empty() {
        format!("no live connection of the tunnel that carries {protocol}")
    } else {
        format!("{} connections were lost while dialling", tried.len())
    };
    let connection = tried.last().map(|connection| connection.id);
    Err(NotDialled { refusal: Refusal::NoConnection, connection, relayed_to: None, detail })
}

/// Tries the best peer node that holds a connection of the tunnel, and another one if that is lost or holds none any more.
/// `not`: why this node could not.
async fn relay<T, F>(
    shared: &Shared,
    order: &Order,
    not: NotDialled,
    attempt: impl Fn(Arc<Link>) -> F,
) -> Result<(LinkGuard, T), NotDialled>
where
    F: Future<Output = Result<T, Failure>>,
{
    let snapshot = shared.snapshots.current();
    let mut tried: Vec<NodeId> = Vec::with_capacity(DIAL_ATTEMPTS);
    let mut last = not;
    while tried.len() < DIAL_ATTEMPTS {
        let Some(link) = shared.peers.choose(snapshot.holders(order.flow.tunnel), &tried).await else {
            break;
        };
        let node = link.node;
        tried.push(node);
        shared.metrics.relayed_to_peer();
        let guard = link.begin_flow();
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(RELAY_DEADLINE, attempt(Arc::clone(&link))) => {
                let late = || Err(Failure::Answered(Refusal::TimedOut, "no answer from the peer node".into()));
                outcome.unwrap_or_else(|_| late())
            }
            () = link.lost() => Err(Failure::Lost),
        };
        let (refusal, detail) = match outcome {
            Ok(dialled) => return Ok((guard, dialled)),
            Err(Failure::Answered(refusal, detail)) => (refusal, detail),
            Err(Failure::Lost) => (Refusal::NoConnection, "the peer node was lost while dialling".to_owned()),
        };
        last = NotDialled { refusal, connection: None, relayed_to: Some(node), detail };
        if refusal != Refusal::NoConnection {
            break;
        }
        shared.metrics.dial_retried();
    }
    Err(last)
}

/// Why a connector says that there is no flow. adit's names the refusal.
fn refusal_of(response: ConnectResponse) -> Failure {
    if let Some(refusal) = response.metadata(REFUSAL_METADATA).and_then(|name| name.parse().ok()) {
        return Failure::Answered(refusal, response.error);
    }
    if response.metadata(METADATA_RATE_LIMITED) == Some("true") {
        return Failure::Answered(Refusal::TooManyFlows, response.error);
    }
    Failure::in_words(response.error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use adit_wire::tunnel::Metadata;

    #[track_caller]
    fn check(error: &str, metadata: Vec<Metadata>, expected: Refusal) {
        match refusal_of(ConnectResponse { error: error.into(), metadata }) {
            Failure::Answered(refusal, words) => assert_eq!((refusal, words.as_str()), (expected, error)),
            Failure::Lost => panic!("an answer is an answer"),
        }
    }

    #[test]
    fn the_words_of_an_unmodified_connector_name_the_refusal() {
        let refused =
            "unable to dial tcp to origin 10.0.0.1:1: dial tcp 10.0.0.1:1: connect: connection refused";
        check(refused, Vec::new(), Refusal::Refused);
        check("dial tcp 10.0.0.1:1: i/o timeout", Vec::new(), Refusal::TimedOut);
        check("something else", Vec::new(), Refusal::ConnectorError);
        check("any", vec![Metadata::new(METADATA_RATE_LIMITED, "true")], Refusal::TooManyFlows);
    }

    #[test]
    fn the_name_that_our_connector_gives_goes_before_the_words() {
        let metadata = vec![Metadata::new(REFUSAL_METADATA, "never-dialled")];
        check("connection refused", metadata, Refusal::NeverDialled);
    }
}
