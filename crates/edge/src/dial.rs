//! Step 7 of a flow: a stream or a session on a connection of the tunnel, the request, and the connector's answer.
//!
//! What a flow travels on does not matter to who dials: [`dial`] gives a stream, [`dial_datagrams`] packets, [`request`] an
//! exchange of HTTP. What always holds: a flow is tried again only if nothing of it can have arrived, once, on another
//! connection; and every wait has a deadline, or ends when the connector does not answer any more.

mod request;
mod stream;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use adit_model::{ConnectionId, FlowId, Protocol, Refusal, TunnelId};
use adit_transport::Duplex;
use adit_wire::device::REFUSAL_METADATA;
use adit_wire::tunnel::{ConnectResponse, METADATA_RATE_LIMITED};

#[cfg(test)]
pub(crate) use request::OriginExchange;
pub(crate) use request::{OriginAnswer, OriginRequest, PendingAnswer, request};

use crate::Shared;
use crate::connections::{Connection, FlowGuard, NoneChosen};
use crate::datagram::{self, FarDatagrams};
use crate::far::{FarReader, FarWriter};
use crate::limits::{DIAL_ATTEMPTS, DIAL_DEADLINE};

/// A flow that the connector has dialled.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) connection: Arc<Connection>,
    pub(crate) stream: Duplex<FarReader, FarWriter>,
    pub(crate) guard: FlowGuard,
}

/// A flow of datagrams that the connector takes.
#[derive(Debug)]
pub(crate) struct DialledDatagrams {
    pub(crate) connection: Arc<Connection>,
    pub(crate) far: FarDatagrams,
    pub(crate) guard: FlowGuard,
}

/// A flow that could not be dialled.
#[derive(Debug)]
pub(crate) struct NotDialled {
    pub(crate) refusal: Refusal,
    pub(crate) connection: Option<ConnectionId>,
    /// The connector's words, for the log.
    pub(crate) detail: String,
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
    tunnel: TunnelId,
    flow: FlowId,
    destination: SocketAddr,
) -> Result<Dialled, NotDialled> {
    let attempt =
        |connection: Arc<Connection>| async move { stream::tcp(&connection, flow, destination).await };
    let (connection, stream, guard) = attempts(shared, tunnel, Protocol::Tcp, attempt).await?;
    Ok(Dialled { connection, stream, guard })
}

/// Opens a flow of UDP or ICMP datagrams, in the same way. `source` is the device's address, by which connectors that are
/// not ours tell those apart who ask for echoes.
pub(crate) async fn dial_datagrams(
    shared: &Shared,
    tunnel: TunnelId,
    flow: FlowId,
    protocol: Protocol,
    destination: SocketAddr,
    source: IpAddr,
) -> Result<DialledDatagrams, NotDialled> {
    let attempt = |connection: Arc<Connection>| async move {
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
    let (connection, far, guard) = attempts(shared, tunnel, protocol, attempt).await?;
    Ok(DialledDatagrams { connection, far, guard })
}

/// Tries the tunnel's best connection, and another one if that is lost.
async fn attempts<T, F>(
    shared: &Shared,
    tunnel: TunnelId,
    protocol: Protocol,
    attempt: impl Fn(Arc<Connection>) -> F,
) -> Result<(Arc<Connection>, T, FlowGuard), NotDialled>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut tried: Vec<Arc<Connection>> = Vec::with_capacity(DIAL_ATTEMPTS);
    while tried.len() < DIAL_ATTEMPTS {
        let connection = match shared.connections.choose(tunnel, protocol, &tried) {
            Ok(connection) => connection,
            Err(NoneChosen::NoneLive) => break,
            Err(NoneChosen::Full) => {
                let detail = "every connection has as many flows open as its connector allows".to_owned();
                return Err(NotDialled { refusal: Refusal::TooManyFlows, connection: None, detail });
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
            Ok(dialled) => return Ok((connection, dialled, guard)),
            Err(Failure::Answered(refusal, detail)) => {
                return Err(NotDialled { refusal, connection: Some(connection.id), detail });
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
    Err(NotDialled { refusal: Refusal::NoConnection, connection, detail })
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
