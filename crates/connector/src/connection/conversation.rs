//! What is said on a connection's control stream, from the registration to the end (contract, 2.2 to 2.5).

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use adit_transport::{Duplex, ReadChunk, WriteChunk};
use adit_wire::rpc::{ClientCall, ClientEvent, ConnectionDetails};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Attempt, ConnectionFailure};
use crate::control::{Control, ControlError};
use crate::error_chain;
use crate::process::{Process, RegistrationGuard, Shown, ShownLink};

/// How far a connection's registration has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Registration {
    had: CancellationToken,
    left: CancellationToken,
}

impl Registration {
    /// Whether the connection was registered, perhaps a while ago.
    pub(super) fn was_had(&self) -> bool {
        self.had.is_cancelled()
    }

    /// Waits until it is registered.
    pub(super) async fn had(&self) {
        self.had.cancelled().await;
    }

    /// Waits until the edge opens no more flows on it, after it was asked.
    pub(super) async fn left(&self) {
        self.left.cancelled().await;
    }
}

/// Registers on `stream` and serves until the connector closes, or until the connection was asked to leave and its last
/// flow has ended. Whoever calls drives the connection meanwhile, and ends this when it is lost.
pub(super) async fn hold<R: ReadChunk, W: WriteChunk>(
    attempt: &Attempt,
    link: ShownLink,
    local: Option<std::net::IpAddr>,
    stream: Duplex<R, W>,
    flows: &TaskTracker,
) -> Result<(), ConnectionFailure> {
    let process = &attempt.process;
    let mut control = Control::new(stream);
    let answer = tokio::select! {
        answer = control.register(process, attempt.index, local, attempt.failures) => answer,
        () = process.stopping.cancelled() => return Ok(()),
    };
    let details = answer.inspect_err(|error| {
        let cause = if let ControlError::Refused(refusal) = error { &refusal.cause } else { "" };
        process.metrics.registration_failed(cause);
    })?;
    let shown = registered(attempt, &details, link);
    if attempt.index == 0 && !details.tunnel_is_remotely_managed {
        control.report(&process.config.report)?;
    }
    let conversation = Conversation {
        attempt,
        control,
        open: true,
        unregistering: false,
        registration: Some((process.begin_registration(), shown)),
    };
    conversation.run(flows).await;
    Ok(())
}

fn registered<'a>(attempt: &'a Attempt, details: &ConnectionDetails, link: ShownLink) -> Shown<'a> {
    let process: &Arc<Process> = &attempt.process;
    attempt.registration.had.cancel();
    process.metrics.registered();
    tracing::info!(
        connIndex = attempt.index,
        connection = %details.uuid,
        event = 0,
        ip = %attempt.edge.ip(),
        location = details.location_name,
        protocol = %link.kind(),
        "Registered tunnel connection"
    );
    if !process.first_registered.is_cancelled() {
        process.first_registered.cancel();
        write_pidfile(process.config.pidfile.as_deref());
    }
    process.show(attempt.index, attempt.edge, details.location_name.clone(), link)
}

/// What is said on the control stream of a registered connection.
struct Conversation<'a, R, W> {
    attempt: &'a Attempt,
    control: Control<R, W>,
    /// The stream can be read and written.
    open: bool,
    /// The edge was asked for no new flows.
    unregistering: bool,
    /// Held while the edge may open flows.
    registration: Option<(RegistrationGuard<'a>, Shown<'a>)>,
}

impl<R: ReadChunk, W: WriteChunk> Conversation<'_, R, W> {
    async fn run(mut self, flows: &TaskTracker) {
        let attempt = self.attempt;
        let process = &attempt.process;
        // Asked to leave, a connection goes with its last flow, or after the grace period.
        let mut done = pin!(async {
            attempt.registration.left().await;
            if !attempt.leave.is_cancelled() {
                // The connector stops: it says when all is closed.
                std::future::pending::<()>().await;
            }
            flows.close();
            // Either way the connection is closed then.
            let _ = tokio::time::timeout(process.config.grace_period, flows.wait()).await;
        });
        loop {
            self.advance().await;
            tokio::select! {
                read = self.control.read(), if self.open => {
                    if let Err(error) = read {
                        self.end(&error).await;
                    }
                }
                () = process.stopping.cancelled(), if !self.unregistering => self.unregister(),
                () = attempt.leave.cancelled(), if !self.unregistering => self.unregister(),
                () = process.closing.cancelled() => return,
                () = &mut done => return,
            }
        }
    }

    fn unregister(&mut self) {
        self.unregistering = true;
        self.control.unregister();
    }

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
            self.left();
        }
    }

    async fn handle(&mut self, event: ClientEvent) {
        let index = self.attempt.index;
        match event {
            ClientEvent::LocalConfigurationReceived => {
                tracing::debug!(connIndex = index, "the edge has the local configuration");
            }
            ClientEvent::Unregistered => {
                tracing::info!(connIndex = index, "Unregistered tunnel connection");
                self.left();
                self.open = false;
                self.control.shutdown().await;
            }
            // A report that is not understood, or an `unregister`: neither is a reason to drop flows.
            ClientEvent::CallFailed { call, reason } => {
                tracing::warn!(connIndex = index, call = ?call, error = reason, "the edge did not take a call");
                if call == ClientCall::Unregister {
                    self.left();
                }
            }
            ClientEvent::Aborted { reason } => {
                tracing::warn!(connIndex = index, error = reason, "the edge ended the control stream");
                self.open = false;
            }
            ClientEvent::Registered(_) | ClientEvent::Refused(_) => {}
        }
    }

    fn left(&mut self) {
        self.registration = None;
        self.attempt.registration.left.cancel();
    }

    /// The stream is of no more use. An edge that wants the connection gone closes it (contract, 2.4).
    async fn end(&mut self, error: &ControlError) {
        tracing::debug!(connIndex = self.attempt.index, error = %error_chain(error), "control stream ended");
        self.open = false;
        // Perhaps an `Abort` that says why.
        let _ = self.control.flush().await;
    }
}

fn write_pidfile(path: Option<&Path>) {
    let Some(path) = path else { return };
    if let Err(error) = std::fs::write(path, std::process::id().to_string()) {
        tracing::error!(path = %path.display(), error = %error, "the pidfile cannot be written");
    }
}
