//! Flows of datagrams on a stream of their own, as our edge opens them: UDP and ICMP echo.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_model::{Protocol, Refusal};
use adit_transport::datagram::{ExchangeEnd, Exchanged, ReceivePacket, SendPacket, exchange};

use super::{Opened, Request, refuse};
use crate::dial::{self, NotDialled};
use crate::echo::{EchoReceiver, EchoSender};
use crate::process::Process;
use crate::udp;

/// How long a UDP flow lives without traffic (contract, 4.3).
const UDP_IDLE: Duration = Duration::from_secs(210);
/// The same of ICMP echo (contract, 4.5).
const ECHO_IDLE: Duration = Duration::from_secs(10);

pub(super) async fn serve_udp<S: Opened>(process: &Process, request: &Request, stream: S) {
    let begun = Instant::now();
    match udp::connect(process, &request.destination).await {
        Ok(origin) => {
            let _session = process.metrics.udp_session(begun.elapsed());
            carry(process, request, stream, origin, UDP_IDLE).await;
        }
        Err(why) => refuse(process, request, stream, why).await,
    }
}

pub(super) async fn serve_echo<S: Opened>(process: &Process, request: &Request, stream: S) {
    match ping(process, request) {
        Ok(origin) => carry(process, request, stream, origin, ECHO_IDLE).await,
        Err(why) => refuse(process, request, stream, why).await,
    }
}

fn ping(process: &Process, request: &Request) -> Result<(EchoReceiver, EchoSender), NotDialled> {
    let destination = dial::parse(&request.destination)?;
    process.check(Protocol::Icmp, destination)?;
    echo_flow(process, destination.ip())
}

/// A flow of echo requests to an address that was checked.
pub(crate) fn echo_flow(
    process: &Process,
    destination: IpAddr,
) -> Result<(EchoReceiver, EchoSender), NotDialled> {
    process.echoes.flow(destination).ok_or_else(|| NotDialled {
        refusal: Refusal::ConnectorError,
        text: "this connector's host lets it send no ICMP echo".to_owned(),
    })
}

async fn carry<S: Opened, R: ReceivePacket, W: SendPacket>(
    process: &Process,
    request: &Request,
    stream: S,
    (mut receiver, mut sender): (R, W),
    idle: Duration,
) {
    let Request { flow, destination, protocol } = request;
    tracing::debug!(flow, dst = destination, protocol = protocol.as_str(), "flow dialled");
    let Some(edge) = stream.accept_datagrams().await else { return };
    let (mut from_edge, mut to_edge) = edge.split();
    let mut exchanged = Exchanged::default();
    // A token of the flow's own, so that flows share no lock while they carry.
    let closing = process.closing.child_token();
    let exchanging =
        exchange((&mut from_edge, &mut to_edge), (&mut receiver, &mut sender), idle, &mut exchanged);
    let end = closing.run_until_cancelled(exchanging).await;
    if end.is_none() {
        to_edge.reset();
        from_edge.stop();
    }
    if let Some(ExchangeEnd::FarFailed(error)) = &end {
        tracing::debug!(flow, error = %crate::error_chain(error), "the flow's socket failed");
    }
    tracing::debug!(
        flow,
        datagrams_up = exchanged.datagrams_up,
        datagrams_down = exchanged.datagrams_down,
        up = exchanged.bytes_up,
        down = exchanged.bytes_down,
        end = ?end,
        "flow ended"
    );
}
