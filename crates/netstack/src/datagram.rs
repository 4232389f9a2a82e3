//! A flow of datagrams: what waits in each direction, and when it has been silent for too long.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use adit_model::Protocol;
use bytes::Bytes;

use crate::interface::{Refusal, SendError};
use crate::packet::datagram::{Datagram, max_datagram};
use crate::packet::icmp::{self, MAX_QUOTE, Unreachable};

/// How long a UDP flow may be silent before both sides have spoken more than once: one question and its answer. NATs are
/// not that patient, so programs do not count on more.
pub(crate) const UDP_QUESTION_IDLE: Duration = Duration::from_mins(1);
/// How long a UDP flow of several exchanges may be silent. Longer than what *RFC 4787 § 4.3* demands of a NAT, and shorter
/// than a connector's 210 s, so that it is the device that ends a flow that nobody uses.
pub(crate) const UDP_EXCHANGE_IDLE: Duration = Duration::from_mins(3);
/// How long a UDP flow to port 53 may be silent: a resolver takes a new port for every question.
pub(crate) const DNS_IDLE: Duration = Duration::from_secs(10);
const DNS_PORT: u16 = 53;
/// How long an ICMP flow may be silent. *RFC 5508 § 3.2* asks a NAT for 60 s, but a lost flow costs an echo nothing: the
/// next request opens another. A connector waits as long.
pub(crate) const ECHO_IDLE: Duration = Duration::from_secs(10);
/// What a datagram that waits costs besides its own bytes.
const OVERHEAD: usize = 64;
/// What is told to a program whose datagram was too large: what every path of IPv6 carries, *RFC 8200 § 5*, and every
/// connection to a connector.
const MIN_MTU: u16 = 1280;

#[derive(Debug)]
pub(crate) struct DatagramFlow {
    pub(crate) protocol: Protocol,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) phase: DatagramPhase,
    /// In the queue of flows that have something to send.
    pub(crate) queued: bool,
    /// The one entry in the stack's heap that counts.
    pub(crate) timer: Instant,
    /// From the device, not taken yet.
    received: Queue,
    /// To the device, not sent yet.
    sending: Queue,
    /// The beginning of the last packet from the device, for errors about it.
    quote: Vec<u8>,
    /// Waits for a datagram from the device.
    waker: Option<Waker>,
    last_active: Instant,
    talk: Talk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DatagramPhase {
    /// The caller has not decided.
    Requested,
    Open,
    /// It was silent for too long, or everything ends.
    Ended,
}

/// How far the two sides have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Talk {
    Asked,
    Answered,
    /// The device has spoken again after an answer.
    Going,
}

impl DatagramFlow {
    pub(crate) fn new(first: &Datagram<'_>, now: Instant) -> Self {
        Self {
            protocol: first.protocol,
            source: first.source,
            destination: first.destination,
            phase: DatagramPhase::Requested,
            queued: false,
            timer: now,
            received: Queue::default(),
            sending: Queue::default(),
            quote: Vec::new(),
            waker: None,
            last_active: now,
            talk: Talk::Asked,
        }
    }

    /// Takes a datagram from the device, and tells how much more waits now; nothing if there is no room for it.
    pub(crate) fn handle(&mut self, datagram: &Datagram<'_>, limit: usize, now: Instant) -> Option<usize> {
        self.last_active = now;
        if self.talk == Talk::Answered {
            self.talk = Talk::Going;
        }
        self.quote.clear();
        self.quote.extend_from_slice(&datagram.packet[..datagram.packet.len().min(MAX_QUOTE)]);
        let cost =
            self.received.push(datagram.payload.len(), limit, || Bytes::copy_from_slice(datagram.payload))?;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Some(cost)
    }

    /// The next datagram from the device, and how much less waits now; nothing once the flow has ended.
    pub(crate) fn poll_receive(&mut self, context: &Context<'_>) -> Poll<Option<(Bytes, usize)>> {
        let next = if self.phase == DatagramPhase::Requested { None } else { self.received.pop() };
        if next.is_some() || self.phase == DatagramPhase::Ended {
            return Poll::Ready(next);
        }
        self.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Takes a datagram for the device, and tells how much more waits now.
    pub(crate) fn send(&mut self, payload: Bytes, limit: usize, now: Instant) -> Result<usize, SendError> {
        if self.phase != DatagramPhase::Open {
            return Err(SendError::UnknownFlow);
        }
        if payload.len() > max_datagram(self.protocol, self.destination.ip()) {
            return Err(SendError::TooLong);
        }
        if self.protocol == Protocol::Icmp && !icmp::is_echo_reply(self.destination.ip(), &payload) {
            return Err(SendError::NotAReply);
        }
        self.last_active = now;
        if self.talk == Talk::Asked {
            self.talk = Talk::Answered;
        }
        self.sending.push(payload.len(), limit, || payload).ok_or(SendError::QueueFull)
    }

    /// The next datagram for the device, and how much less waits now.
    pub(crate) fn next_to_send(&mut self) -> Option<(Bytes, usize)> {
        self.sending.pop()
    }

    pub(crate) fn has_to_send(&self) -> bool {
        !self.sending.datagrams.is_empty()
    }

    /// What waits in both directions.
    pub(crate) fn waiting(&self) -> usize {
        self.received.cost + self.sending.cost
    }

    /// Ends the flow for its reader.
    pub(crate) fn end(&mut self) {
        self.phase = DatagramPhase::Ended;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// When the flow has been silent for too long, if nothing comes before.
    pub(crate) fn deadline(&self) -> Instant {
        let patience = match self.protocol {
            Protocol::Icmp => ECHO_IDLE,
            Protocol::Udp | Protocol::Tcp if self.destination.port() == DNS_PORT => DNS_IDLE,
            Protocol::Udp | Protocol::Tcp if self.talk == Talk::Going => UDP_EXCHANGE_IDLE,
            Protocol::Udp | Protocol::Tcp => UDP_QUESTION_IDLE,
        };
        self.last_active + patience
    }

    /// The ICMP error about the last datagram from the device.
    pub(crate) fn error(&self, refusal: Refusal) -> Vec<u8> {
        let reason = match refusal {
            Refusal::Refused if self.protocol == Protocol::Udp => Unreachable::Port,
            Refusal::Refused | Refusal::Unreachable => Unreachable::Host,
            Refusal::Prohibited => Unreachable::Prohibited,
            Refusal::TooLarge => Unreachable::TooBig { mtu: MIN_MTU },
        };
        icmp::error((self.source.ip(), self.destination.ip()), &self.quote, reason)
    }
}

/// Datagrams that wait.
#[derive(Debug, Default)]
struct Queue {
    datagrams: VecDeque<Bytes>,
    cost: usize,
}

impl Queue {
    /// Adds a datagram and tells its cost, unless `limit` is 0, or others wait and all together cost more than it.
    fn push(&mut self, len: usize, limit: usize, datagram: impl FnOnce() -> Bytes) -> Option<usize> {
        let cost = len + OVERHEAD;
        if limit == 0 || (!self.datagrams.is_empty() && self.cost + cost > limit) {
            return None;
        }
        self.cost += cost;
        self.datagrams.push_back(datagram());
        Some(cost)
    }

    fn pop(&mut self) -> Option<(Bytes, usize)> {
        let datagram = self.datagrams.pop_front()?;
        let cost = datagram.len() + OVERHEAD;
        self.cost -= cost;
        Some((datagram, cost))
    }
}
