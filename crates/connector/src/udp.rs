//! UDP sockets into the private network, one for each flow (contract, 4.3; device path, 5).
//!
//! A socket is connected, so that only its peer is heard and the system tells when nobody listens there. What always
//! holds: nothing is dialled that is not permitted; what the network says of a datagram goes back to the flow as a
//! refusal, and the flow goes on; a receiver holds a datagram's bytes and not a buffer for the largest.

use std::cell::RefCell;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use adit_model::{Protocol, Refusal};
use adit_transport::StreamError;
use adit_transport::datagram::{Packet, ReceivePacket, SendPacket};
use bytes::Bytes;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use crate::dial::{self, NotDialled};
use crate::process::Process;
use crate::resolver;

/// From the destination.
#[derive(Debug)]
pub(crate) struct UdpReceiver {
    socket: Arc<UdpSocket>,
    /// What became of datagrams that were sent.
    refusals: mpsc::Receiver<Refusal>,
}

/// To the destination.
#[derive(Debug)]
pub(crate) struct UdpSender {
    socket: Arc<UdpSocket>,
    refusals: mpsc::Sender<Refusal>,
}

/// A socket that is connected to `destination`, an address with a port.
pub(crate) async fn connect(
    process: &Process,
    destination: &str,
) -> Result<(UdpReceiver, UdpSender), NotDialled> {
    connect_to(process, dial::parse(destination)?).await
}

/// A socket that is connected to `destination`.
pub(crate) async fn connect_to(
    process: &Process,
    destination: SocketAddr,
) -> Result<(UdpReceiver, UdpSender), NotDialled> {
    // An IPv4 address in IPv6 spelling is dialled as IPv4.
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    let destination = resolver::dialled(process, Protocol::Udp, destination)?;
    let any: IpAddr = match destination {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let connected = async {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        socket.connect(destination).await?;
        Ok(socket)
    };
    let socket = connected.await.map_err(|error: io::Error| {
        let (refusal, words) = dial::reason(&error);
        let text = format!("unable to dial udp to origin {destination}: dial udp {destination}: {words}");
        NotDialled { refusal, text }
    })?;
    let socket = Arc::new(socket);
    let (sender, refusals) = mpsc::channel(MAX_REFUSALS);
    Ok((UdpReceiver { socket: Arc::clone(&socket), refusals }, UdpSender { socket, refusals: sender }))
}

impl ReceivePacket for UdpReceiver {
    async fn receive(&mut self) -> Result<Option<Packet>, StreamError> {
        tokio::select! {
            received = receive(&self.socket) => match received {
                Ok(payload) => Ok(Some(Packet::Datagram(payload))),
                Err(error) => match refusal(&error) {
                    Some(refusal) => Ok(Some(Packet::Refusal(refusal.as_str().to_owned()))),
                    None => Err(StreamError::Io(error)),
                },
            },
            Some(refusal) = self.refusals.recv() => {
                Ok(Some(Packet::Refusal(refusal.as_str().to_owned())))
            }
        }
    }

    fn stop(&mut self) {
        self.refusals.close();
    }
}

impl SendPacket for UdpSender {
    async fn send(&mut self, packet: Packet) -> Result<(), StreamError> {
        let Packet::Datagram(payload) = packet else { return Ok(()) };
        // The first error may be that of the datagram before, and this one has not been sent then.
        for _ in 0..2 {
            let Err(error) = self.socket.send(&payload).await else { return Ok(()) };
            if let Some(refusal) = refusal(&error) {
                // The flow has heard enough when the queue is full.
                let _ = self.refusals.try_send(refusal);
                if refusal == Refusal::TooLarge {
                    return Ok(());
                }
            } else {
                // As if the network had lost it.
                tracing::debug!(error = %error, "datagram not sent");
                return Ok(());
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        // UDP has no end to be told of.
        Ok(())
    }

    fn reset(&mut self) {}
}

/// What a socket's error says of a datagram that was sent; `None` if it says something of the socket.
pub(crate) fn refusal(error: &io::Error) -> Option<Refusal> {
    if error.raw_os_error() == Some(libc::EMSGSIZE) {
        return Some(Refusal::TooLarge);
    }
    [
        (io::ErrorKind::ConnectionRefused, Refusal::Refused),
        (io::ErrorKind::HostUnreachable, Refusal::HostUnreachable),
        (io::ErrorKind::NetworkUnreachable, Refusal::NetworkUnreachable),
    ]
    .into_iter()
    .find(|(kind, _)| *kind == error.kind())
    .map(|(_, refusal)| refusal)
}

/// The next datagram, or what the system says of one that was sent. May be cancelled.
///
/// Into a buffer for the largest datagram, of which each thread has one; only what there is, is kept.
pub(crate) async fn receive(socket: &UdpSocket) -> io::Result<Bytes> {
    loop {
        // An error alone does not make a socket readable; and tokio tries for one of the two only.
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        let interest = if ready.is_readable() { Interest::READABLE } else { Interest::ERROR };
        let received: io::Result<Bytes> = SCRATCH.with_borrow_mut(|buffer| {
            let length = socket.try_io(interest, || (&*SockRef::from(socket)).read(&mut buffer[..]))?;
            Ok(Bytes::copy_from_slice(&buffer[..length]))
        });
        match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => return received,
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Box<[u8; MAX_DATAGRAM_BYTES]>> = RefCell::new(Box::new([0; MAX_DATAGRAM_BYTES]));
}

/// No IP packet is longer.
const MAX_DATAGRAM_BYTES: usize = 65_535;
/// Refusals of one flow that wait to be told.
const MAX_REFUSALS: usize = 4;
