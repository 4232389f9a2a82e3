//! One of a connector's connections, from the first dial to the last close.
//!
//! [`keep`] dials again whatever happens. Which transport is dialled is `selection`'s to say; `quic` and `http2` are the
//! two, and on either of them `conversation` registers and serves.

mod conversation;
mod http2;
mod quic;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_transport::quic::EndpointError;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backoff::Backoff;
use crate::config::HostPort;
use crate::control::{ControlError, RPC_DEADLINE};
use crate::error_chain;
use crate::process::Process;
use crate::selection::{Kind, Udp};
use conversation::Registration;
pub(crate) use quic::QuicLink;

/// How long a handshake may take (contract, 2.1).
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// The same where HTTP/2 comes next: QUIC's first packet has been repeated twice by then.
const FALLBACK_DEADLINE: Duration = Duration::from_secs(3);
/// The same while an edge that was just there is called for: a packet that was lost while it started again would be
/// repeated after ever longer pauses, a new handshake is not.
const RECOVERY_HANDSHAKE_DEADLINE: Duration = Duration::from_secs(2);
/// How long names may take to resolve.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// Connections after the first begin this long after each other.
const STAGGER: Duration = Duration::from_millis(50);

/// Why a connection is not, or no more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionFailure {
    /// The edge's name has no address.
    #[error("the edge {0} cannot be resolved")]
    Resolve(String, #[source] std::io::Error),
    /// There is no socket to dial from.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The address cannot be dialled.
    #[error("the edge cannot be dialled")]
    Connect(#[from] quinn::ConnectError),
    /// The address cannot be dialled, or TLS failed.
    #[error("the edge cannot be dialled")]
    Tcp(#[source] std::io::Error),
    /// The handshake took too long.
    #[error("the edge did not answer")]
    TimedOut,
    /// The handshake failed.
    #[error("the handshake with the edge failed")]
    Handshake(#[source] quinn::ConnectionError),
    /// TLS stands, but HTTP/2 does not.
    #[error("the handshake with the edge failed")]
    Http2(#[source] h2::Error),
    /// The control stream failed.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A connection that was up is gone.
    #[error("the connection to the edge is lost")]
    Lost(#[source] quinn::ConnectionError),
    /// A connection that was up is gone.
    #[error("the connection to the edge is lost")]
    Broken(#[source] h2::Error),
    /// The edge closed the connection.
    #[error("the edge closed the connection")]
    Closed,
    /// The edge is silent.
    #[error("the edge answers no more")]
    Silent,
}

/// A connection to the edge whose handshake is done.
enum Link {
    Quic(quic::Link),
    Http2(Box<http2::Link>),
}

/// One try to have a connection.
#[derive(Clone)]
struct Attempt {
    process: Arc<Process>,
    index: u8,
    edge: SocketAddr,
    /// Failures before it.
    failures: u32,
    recovering: bool,
    /// Told by the conversation.
    registration: Registration,
    /// Asks the conversation to unregister, and to end with the last flow.
    leave: CancellationToken,
}

/// Keeps connection `index` up until the connector closes.
pub(crate) async fn keep(process: Arc<Process>, index: u8) {
    if index > 0 {
        // Nothing is gained by four failures at once: the first connection finds out whether there is an edge.
        tokio::select! {
            () = process.first_registered.cancelled() => {}
            () = process.stopping.cancelled() => return,
        }
        tokio::time::sleep(STAGGER * u32::from(index)).await;
    }
    let mut backoff = Backoff::new(process.config.retries);
    // Connections begin at different edges, and move on when one fails.
    let mut turn = usize::from(index);
    while !process.stopping.is_cancelled() {
        let registration = Registration::default();
        let ended = attempt(&process, index, turn, &backoff, &registration).await;
        let Err(failure) = ended else { return };
        if process.stopping.is_cancelled() {
            tracing::debug!(connIndex = index, error = %error_chain(&failure), "connection ended while stopping");
            return;
        }
        if registration.was_had() {
            backoff.lost(Instant::now());
        }
        // Also when the edge was there until now: another one surely is.
        turn = turn.wrapping_add(1);
        let (limit, mut wait) = backoff.next(Instant::now(), random());
        if registration.was_had() && process.config.has_several_edges() {
            // The edge that it is made at next has lost nobody.
            wait = crate::backoff::SHORTEST;
        }
        report(&process, index, &failure);
        tracing::info!(connIndex = index, "Retrying connection in up to {}s", limit.as_secs());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = process.stopping.cancelled() => return,
        }
    }
}

/// Makes the connection and serves it. `Ok` if the connector closes.
async fn attempt(
    process: &Arc<Process>,
    index: u8,
    turn: usize,
    backoff: &Backoff,
    registration: &Registration,
) -> Result<(), ConnectionFailure> {
    let dialled = async {
        let attempt = Attempt {
            process: Arc::clone(process),
            index,
            edge: choose(&process.config.edges, turn).await?,
            failures: backoff.failures(),
            recovering: backoff.is_recovering(Instant::now()),
            registration: registration.clone(),
            leave: CancellationToken::new(),
        };
        let link = attempt.dial().await?;
        Ok::<_, ConnectionFailure>((attempt, link))
    };
    let (attempt, link) = tokio::select! {
        dialled = dialled => dialled?,
        () = process.stopping.cancelled() => return Ok(()),
    };
    match link {
        Link::Quic(link) => link.serve(&attempt).await,
        Link::Http2(link) if process.selection.prefers_quic(index) => attempt.serve_until_udp(*link).await,
        Link::Http2(link) => link.serve(&attempt).await,
    }
}

impl Attempt {
    /// Dials the kinds that are to be dialled, in order.
    async fn dial(&self) -> Result<Link, ConnectionFailure> {
        let selection = &self.process.selection;
        match selection.kinds(self.index) {
            [Kind::Quic] => quic::dial(self, HANDSHAKE_DEADLINE).await.map(Link::Quic),
            [Kind::Quic, ..] => match quic::dial(self, FALLBACK_DEADLINE).await {
                Ok(link) => Ok(Link::Quic(link)),
                Err(failure) if !failure.is_silence() => Err(failure),
                Err(failure) => match http2::dial(self).await {
                    Ok(link) => {
                        tracing::warn!(
                            connIndex = self.index,
                            edge = %self.edge,
                            error = %error_chain(&failure),
                            hint = "let UDP out to the edge's port: QUIC is tried again by itself",
                            "Switching to fallback protocol http2"
                        );
                        selection.blocked(Instant::now());
                        Ok(Link::Http2(Box::new(link)))
                    }
                    Err(error) => {
                        tracing::debug!(connIndex = self.index, error = %error_chain(&error), "no HTTP/2 either");
                        Err(failure)
                    }
                },
            },
            kinds => match http2::dial(self).await {
                Ok(link) => Ok(Link::Http2(Box::new(link))),
                Err(failure) if kinds.contains(&Kind::Quic) => {
                    // Whatever is wrong, it is not only UDP.
                    let link = quic::dial(self, FALLBACK_DEADLINE).await.map_err(|_| failure)?;
                    selection.passes();
                    Ok(Link::Quic(link))
                }
                Err(failure) => Err(failure),
            },
        }
    }

    /// Serves an HTTP/2 connection until QUIC passes again; then moves to QUIC, and lets the open flows end where they are.
    async fn serve_until_udp(self, link: http2::Link) -> Result<(), ConnectionFailure> {
        let serving = self.clone();
        let mut task: JoinHandle<_> = self.process.flows.spawn(async move { link.serve(&serving).await });
        let moved = Self {
            registration: Registration::default(),
            leave: CancellationToken::new(),
            recovering: false,
            // Those that counted are behind us.
            failures: 0,
            ..self.clone()
        };
        let (quic, turn) = tokio::select! {
            ended = &mut task => return ended.unwrap_or(Err(ConnectionFailure::Closed)),
            again = moved.quic_again() => again,
        };
        tracing::info!(connIndex = self.index, "UDP passes again: moving to quic");
        // In this order, so that an edge that knows connections by their index takes the new one for no replacement.
        self.leave.cancel();
        tokio::select! {
            _ = tokio::time::timeout(RPC_DEADLINE, self.registration.left()) => {}
            _ = &mut task => {}
        }
        let registered = moved.registration.clone();
        let holds_turn = async move {
            registered.had().await;
            drop(turn);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            served = quic.serve(&moved) => served,
            () = holds_turn => Ok(()),
        }
    }

    /// Waits until QUIC gets an answer.
    async fn quic_again(&self) -> (quic::Link, tokio::sync::MutexGuard<'_, ()>) {
        let selection = &self.process.selection;
        let mut changes = selection.changes();
        loop {
            if selection.udp() == Udp::Blocked {
                tokio::select! {
                    () = tokio::time::sleep(selection.wait(Instant::now())) => {}
                    _ = changes.changed() => {}
                }
            }
            let turn = selection.turn().await;
            // Another may have tried while we waited.
            if selection.udp() == Udp::Blocked && !selection.wait(Instant::now()).is_zero() {
                continue;
            }
            selection.count(Instant::now());
            match quic::dial(self, FALLBACK_DEADLINE).await {
                Ok(link) => {
                    selection.passes();
                    return (link, turn);
                }
                Err(failure) => {
                    selection.blocked(Instant::now());
                    tracing::debug!(connIndex = self.index, error = %error_chain(&failure), "still no QUIC");
                }
            }
        }
    }
}

impl ConnectionFailure {
    /// Whether nobody answered: what a network that lets no UDP pass looks like.
    fn is_silence(&self) -> bool {
        match self {
            Self::Endpoint(_) | Self::Connect(_) | Self::TimedOut => true,
            Self::Handshake(error) | Self::Lost(error) => *error == quinn::ConnectionError::TimedOut,
            Self::Resolve(..)
            | Self::Tcp(_)
            | Self::Http2(_)
            | Self::Control(_)
            | Self::Broken(_)
            | Self::Closed
            | Self::Silent => false,
        }
    }
}

/// The address whose turn it is, of all that the edges' names have now.
async fn choose(edges: &[HostPort], turn: usize) -> Result<SocketAddr, ConnectionFailure> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    let mut failure = None;
    for edge in edges {
        let lookup = tokio::net::lookup_host((edge.host.as_str(), edge.port));
        let found = tokio::time::timeout(RESOLVE_DEADLINE, lookup)
            .await
            .unwrap_or_else(|_| Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer")));
        match found {
            Ok(found) => {
                for address in found {
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
            }
            Err(error) => failure = Some((edge.to_string(), error)),
        }
    }
    match (addresses.get(turn % addresses.len().max(1)), failure) {
        (Some(address), _) => Ok(*address),
        (None, Some((edge, error))) => Err(ConnectionFailure::Resolve(edge, error)),
        (None, None) => {
            let error = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
            Err(ConnectionFailure::Resolve(edges.first().map(ToString::to_string).unwrap_or_default(), error))
        }
    }
}

/// Where to dial from: the address that was configured, if it is of the edge's family.
fn local(bind: Option<IpAddr>, edge: SocketAddr) -> IpAddr {
    match (bind, edge) {
        (Some(bind), _) if bind.is_ipv4() == edge.is_ipv4() => bind,
        (_, SocketAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
        (_, SocketAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Says what went wrong, and what to do where that is known.
fn report(process: &Process, index: u8, failure: &ConnectionFailure) {
    let error = error_chain(failure);
    match failure {
        ConnectionFailure::Control(ControlError::Refused(refusal))
            if refusal.cause.contains("Unauthorized") =>
        {
            let origin = &process.config.credentials_origin;
            tracing::error!(
                connIndex = index,
                error,
                tunnelID = %process.config.tunnel,
                hint = format!("compare the tunnel's id and secret at the edge with those in {origin}"),
                "Registration refused"
            );
        }
        ConnectionFailure::Handshake(_) | ConnectionFailure::Tcp(_)
            if error.contains("UnknownIssuer") || error.contains("certificate") =>
        {
            let origin = &process.config.roots_origin;
            tracing::error!(
                connIndex = index,
                error,
                hint = format!(
                    "the edge's certificate must be for {} and {} and signed by one of {origin}",
                    quic::SERVER_NAME,
                    http2::SERVER_NAME
                ),
                "Unable to establish connection with the edge"
            );
        }
        ConnectionFailure::Lost(_)
        | ConnectionFailure::Broken(_)
        | ConnectionFailure::Closed
        | ConnectionFailure::Silent => {
            tracing::warn!(connIndex = index, error, "Connection terminated");
        }
        ConnectionFailure::Resolve(..)
        | ConnectionFailure::Endpoint(_)
        | ConnectionFailure::Connect(_)
        | ConnectionFailure::Tcp(_)
        | ConnectionFailure::TimedOut
        | ConnectionFailure::Handshake(_)
        | ConnectionFailure::Http2(_)
        | ConnectionFailure::Control(_) => {
            tracing::warn!(connIndex = index, error, "Unable to establish connection with the edge");
        }
    }
}

/// A number that differs between processes and calls, to spread retries; nothing secret hangs on it.
fn random() -> u64 {
    // The low half has six random bytes behind the variant's bits.
    Uuid::new_v4().as_u64_pair().1 & 0xffff_ffff_ffff
}
