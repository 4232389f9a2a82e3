//! One stream that the edge opened: its request, the dial, the answer, and the flow (contract, sections 3 and 5).
//!
//! [`quic`] and [`http2`] read the request of a stream and make the same two things of it: a [`Request`] and an [`Opened`]
//! stream that can be accepted or refused. What is done with them is the same for both: TCP here, datagrams in
//! `datagrams`.

pub(crate) mod datagrams;
pub(crate) mod http2;
pub(crate) mod quic;
pub(crate) mod rpc;

use std::future::Future;
use std::time::Instant;

use adit_model::{Protocol, Refusal};
use adit_transport::datagram::DatagramFlow;
use adit_transport::splice::{HalfClose, Passed, SpliceEnd, splice};
use adit_transport::{Duplex, ReadChunk, WriteChunk, tcp};

use crate::dial::{self, NotDialled};
use crate::process::{FlowGuard, Process};

/// What the edge wants on a stream.
#[derive(Debug)]
pub(crate) struct Request {
    /// TCP, or a stream of datagrams.
    protocol: Protocol,
    /// `IP:port`.
    destination: String,
    /// The flow's id, for logs.
    flow: String,
}

/// A stream whose request is read.
pub(crate) trait Opened {
    type Reader: ReadChunk;
    type Writer: WriteChunk;

    /// Tells the edge that the flow is there; `None` if it no longer wants it.
    fn accept(self) -> impl Future<Output = Option<Duplex<Self::Reader, Self::Writer>>> + Send;

    /// The same for a flow of datagrams.
    fn accept_datagrams(
        self,
    ) -> impl Future<Output = Option<DatagramFlow<Self::Reader, Self::Writer>>> + Send;

    /// Tells the edge why there is no flow, and ends the stream.
    fn refuse(self, why: NotDialled) -> impl Future<Output = ()> + Send;

    /// Waits until the edge no longer wants the flow.
    fn withdrawn(&mut self) -> impl Future<Output = ()> + Send;

    /// Waits until the edge has all that was written before the end.
    fn delivered(writer: &mut Self::Writer) -> impl Future<Output = bool> + Send;
}

/// Counts a flow in, or says that there are too many.
pub(crate) fn begin<'a>(process: &'a Process, protocol: &str) -> Result<FlowGuard<'a>, NotDialled> {
    let Some(guard) = process.begin_flow() else {
        process.metrics.request_failed();
        let text = format!("failed to start {protocol} flow due to rate limiting: too many active flows");
        return Err(NotDialled { refusal: Refusal::TooManyFlows, text });
    };
    process.metrics.request(guard.concurrent());
    Ok(guard)
}

/// Serves a flow to an address.
async fn serve<S: Opened>(process: &Process, request: Request, stream: S) {
    let _guard = match begin(process, request.protocol.as_str()) {
        Ok(guard) => guard,
        Err(why) => return stream.refuse(why).await,
    };
    match request.protocol {
        Protocol::Tcp => serve_tcp(process, &request, stream).await,
        Protocol::Udp => datagrams::serve_udp(process, &request, stream).await,
        Protocol::Icmp => datagrams::serve_echo(process, &request, stream).await,
    }
}

async fn serve_tcp<S: Opened>(process: &Process, request: &Request, mut stream: S) {
    let flow = &request.flow;
    let begun = Instant::now();
    let dialled = tokio::select! {
        dialled = dial::dial(process, &request.destination) => dialled,
        () = stream.withdrawn() => return,
    };
    let origin = match dialled {
        Ok(origin) => origin,
        Err(why) => return refuse(process, request, stream, why).await,
    };
    let _session = process.metrics.dialled(begun.elapsed());
    tracing::debug!(flow, dst = %request.destination, "flow dialled");
    let Some(mut edge) = stream.accept().await else { return };
    let mut origin = tcp::duplex(origin);
    let mut passed = Passed::default();
    // A token of the flow's own, so that flows share no lock while they carry.
    let closing = process.closing.child_token();
    // An edge that does not know about half-closes holds its own end back (contract, 3.4), so that keeping them is right
    // towards every edge.
    let spliced = splice(&mut edge, &mut origin, HalfClose::Kept, &mut passed);
    let end = closing.run_until_cancelled(spliced).await;
    match &end {
        Some(SpliceEnd::Finished) => {
            // Finished here is not arrived there: a connection that is closed now would cut the end off.
            let delivered = closing.run_until_cancelled(S::delivered(&mut edge.writer)).await;
            tracing::trace!(flow, delivered, "flow delivered");
        }
        Some(SpliceEnd::NearFailed(_) | SpliceEnd::FarFailed(_)) => {}
        None => {
            // Dropped halves would look like an end.
            edge.reset();
            origin.reset();
        }
    }
    tracing::debug!(flow, up = passed.up, down = passed.down, end = ?end, "flow ended");
}

async fn refuse<S: Opened>(process: &Process, request: &Request, stream: S, why: NotDialled) {
    process.metrics.request_failed();
    let Request { flow, destination, .. } = request;
    tracing::info!(flow, dst = destination, refusal = %why.refusal, error = why.text, "flow refused");
    stream.refuse(why).await;
}

/// The protocol of this name.
fn protocol(name: &str) -> Result<Protocol, NotDialled> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Icmp]
        .into_iter()
        .find(|protocol| protocol.as_str() == name)
        .ok_or_else(|| NotDialled {
            refusal: Refusal::ConnectorError,
            text: format!("unknown protocol {:?}", dial::shortened(name)),
        })
}
