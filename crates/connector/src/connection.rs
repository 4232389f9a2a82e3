//! One of a connector's connections, from the first dial to the last close.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_transport::quic::{self, EndpointError, NO_ERROR};
use adit_wire::rpc::{ClientCall, ClientEvent};
use uuid::Uuid;

use crate::backoff::Backoff;
use crate::config::HostPort;
use crate::control::{Control, ControlError};
use crate::error_chain;
use crate::flow;
use crate::process::{Process, RegistrationGuard};

/// The name that an edge's certificate has for QUIC (contract, 1.3).
const SERVER_NAME: &str = "quic.cftunnel.com";
/// How long a handshake may take (contract, 2.1).
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// The same while an edge that was just there is called for: a packet that was lost while it started again would be
/// repeated after ever longer pauses, a new handshake is not.
const RECOVERY_HANDSHAKE_DEADLINE: Duration = Duration::from_secs(2);
/// How long names may take to resolve.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the last packet, which says that the connection is closed, is waited for.
const CLOSE_DEADLINE: Duration = Duration::from_millis(500);
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
    /// The handshake took too long.
    #[error("the edge did not answer")]
    TimedOut,
    /// The handshake failed.
    #[error("the handshake with the edge failed")]
    Handshake(#[source] quinn::ConnectionError),
    /// The control stream failed.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A connection that was up is gone.
    #[error("the connection to the edge is lost")]
    Lost(#[source] quinn::ConnectionError),
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
        let mut registered = false;
        let ended = attempt(&process, index, turn, &backoff, &mut registered).await;
        let Err(failure) = ended else { return };
        if process.stopping.is_cancelled() {
            tracing::debug!(connIndex = index, error = %error_chain(&failure), "connection ended while stopping");
            return;
        }
        if registered {
            backoff.lost(Instant::now());
        } else {
            turn = turn.wrapping_add(1);
        }
        let (limit, wait) = backoff.next(Instant::now(), random());
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
    registered: &mut bool,
) -> Result<(), ConnectionFailure> {
    let address = tokio::select! {
        address = choose(&process.config.edges, turn) => address?,
        () = process.stopping.cancelled() => return Ok(()),
    };
    let endpoint = quic::dialer(SocketAddr::new(local(process.config.bind, address), 0))?;
    let connecting = endpoint.connect_with(process.quic.clone(), address, SERVER_NAME)?;
    let recovering = backoff.is_recovering(Instant::now());
    let deadline = if recovering { RECOVERY_HANDSHAKE_DEADLINE } else { HANDSHAKE_DEADLINE };
    let connected = tokio::select! {
        connected = tokio::time::timeout(deadline, connecting) => connected,
        () = process.stopping.cancelled() => return Ok(()),
    };
    let quic = connected.map_err(|_| ConnectionFailure::TimedOut)?.map_err(ConnectionFailure::Handshake)?;
    process.metrics.quic_opened();
    let served = serve(process, index, address, &quic, backoff.failures(), registered).await;
    quic.close(NO_ERROR, b"");
    // The endpoint sends until it is dropped.
    let _ = tokio::time::timeout(CLOSE_DEADLINE, endpoint.wait_idle()).await;
    process.metrics.quic_closed();
    served
}

async fn serve(
    process: &Arc<Process>,
    index: u8,
    address: SocketAddr,
    quic: &quinn::Connection,
    attempts: u32,
    registered: &mut bool,
) -> Result<(), ConnectionFailure> {
    // The first stream that a connector opens (contract, 2.2).
    let (send, receive) = quic.open_bi().await.map_err(ConnectionFailure::Lost)?;
    let mut control = Control::new(send, receive);
    let answer = tokio::select! {
        answer = control.register(process, index, quic.local_ip(), attempts) => answer,
        () = process.stopping.cancelled() => return Ok(()),
    };
    let details = match answer {
        Ok(details) => details,
        Err(error) => {
            let cause = if let ControlError::Refused(refusal) = &error { &refusal.cause } else { "" };
            process.metrics.registration_failed(cause);
            return Err(error.into());
        }
    };
    *registered = true;
    process.metrics.registered();
    let _shown = process.show(index, details.location_name.clone(), quic.clone());
    tracing::info!(
        connIndex = index,
        connection = %details.uuid,
        event = 0,
        ip = %address.ip(),
        location = details.location_name,
        protocol = "quic",
        "Registered tunnel connection"
    );
    if !process.first_registered.is_cancelled() {
        process.first_registered.cancel();
        write_pidfile(process.config.pidfile.as_deref());
    }
    if index == 0 && !details.tunnel_is_remotely_managed {
        control.report(&process.config.report)?;
    }
    serve_streams(process, index, quic, control).await
}

/// Serves what the edge opens until the connection or the connector ends.
async fn serve_streams(
    process: &Arc<Process>,
    index: u8,
    quic: &quinn::Connection,
    control: Control,
) -> Result<(), ConnectionFailure> {
    let registration = Some(process.begin_registration());
    let mut conversation = Conversation { index, control, open: true, unregistering: false, registration };
    loop {
        conversation.advance().await;
        tokio::select! {
            accepted = quic.accept_bi() => {
                let (send, receive) = accepted.map_err(ConnectionFailure::Lost)?;
                process.flows.spawn(flow::serve(Arc::clone(process), send, receive));
            }
            read = conversation.control.read(), if conversation.open => {
                if let Err(error) = read {
                    conversation.end(&error).await;
                }
            }
            () = process.stopping.cancelled(), if !conversation.unregistering => {
                conversation.unregistering = true;
                conversation.control.unregister();
            }
            () = process.closing.cancelled() => return Ok(()),
        }
    }
}

/// What is said on the control stream of a registered connection.
struct Conversation<'a> {
    index: u8,
    control: Control,
    /// The stream can be read and written.
    open: bool,
    /// The edge was asked for no new flows.
    unregistering: bool,
    /// Held while the edge may open flows.
    registration: Option<RegistrationGuard<'a>>,
}

impl Conversation<'_> {
    /// Sends what waits, and takes in what was said.
    async fn advance(&mut self) {
        if self.open
            && let Err(error) = self.control.flush().await
        {
            self.end(&error).await;
        }
        while let Some(event) = self.control.poll_event() {
            self.handle(event).await;
        }
        if self.unregistering && !self.open {
            // Nobody is left to answer.
            self.registration = None;
        }
    }

    async fn handle(&mut self, event: ClientEvent) {
        let index = self.index;
        match event {
            ClientEvent::LocalConfigurationReceived => {
                tracing::debug!(connIndex = index, "the edge has the local configuration");
            }
            ClientEvent::Unregistered => {
                tracing::info!(connIndex = index, "Unregistered tunnel connection");
                self.registration = None;
                self.open = false;
                self.control.shutdown().await;
            }
            // A report that is not understood, or an `unregister`: neither is a reason to drop flows.
            ClientEvent::CallFailed { call, reason } => {
                tracing::warn!(connIndex = index, call = ?call, error = reason, "the edge did not take a call");
                if call == ClientCall::Unregister {
                    self.registration = None;
                }
            }
            ClientEvent::Aborted { reason } => {
                tracing::warn!(connIndex = index, error = reason, "the edge ended the control stream");
                self.open = false;
            }
            ClientEvent::Registered(_) | ClientEvent::Refused(_) => {}
        }
    }

    /// The stream is of no more use. An edge that wants the connection gone closes it (contract, 2.4).
    async fn end(&mut self, error: &ControlError) {
        tracing::debug!(connIndex = self.index, error = %error_chain(error), "control stream ended");
        self.open = false;
        // Perhaps an `Abort` that says why.
        let _ = self.control.flush().await;
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
        ConnectionFailure::Handshake(_)
            if error.contains("UnknownIssuer") || error.contains("certificate") =>
        {
            let origin = &process.config.roots_origin;
            tracing::error!(
                connIndex = index,
                error,
                hint =
                    format!("the edge's certificate must be for {SERVER_NAME} and signed by one of {origin}"),
                "Unable to establish connection with the edge"
            );
        }
        ConnectionFailure::Lost(_) => tracing::warn!(connIndex = index, error, "Connection terminated"),
        ConnectionFailure::Resolve(..)
        | ConnectionFailure::Endpoint(_)
        | ConnectionFailure::Connect(_)
        | ConnectionFailure::TimedOut
        | ConnectionFailure::Handshake(_)
        | ConnectionFailure::Control(_) => {
            tracing::warn!(connIndex = index, error, "Unable to establish connection with the edge");
        }
    }
}

fn write_pidfile(path: Option<&Path>) {
    let Some(path) = path else { return };
    if let Err(error) = std::fs::write(path, std::process::id().to_string()) {
        tracing::error!(path = %path.display(), error = %error, "the pidfile cannot be written");
    }
}

/// A number that differs between processes and calls, to spread retries; nothing secret hangs on it.
fn random() -> u64 {
    // The low half has six random bytes behind the variant's bits.
    Uuid::new_v4().as_u64_pair().1 & 0xffff_ffff_ffff
}
