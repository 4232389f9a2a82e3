//! Packets of the TUN interface become flows on a carrier.
//!
//! TCP becomes streams, UDP and ICMP echo become flows of [`datagrams`]; what goes to the resolver is answered here ([`names`]).
//!
//! One task, [`Capture::drive`], moves packets between the interface and `adit-netstack`; one task per flow asks the
//! carrier, answers accordingly and splices. They share the stack by `Rc<RefCell<…>>`: all run on one thread,
//! and none holds it across an await.
//!
//! The driver works in bounded rounds and lets the flows run between them; as long as a round has moved anything it
//! does not go to sleep, since every packet written makes the kernel answer at once (device path, 7.2).

mod datagrams;
mod names;

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use adit_model::{Protocol, Refusal};
use adit_netstack::{Config, Event, FlowId, ReadError, Stack, WriteError};
use adit_transport::buffer::ReadBuffer;
use adit_transport::datagram::DatagramFlow;
use adit_transport::splice::{HalfClose, Passed, splice};
use adit_transport::{Duplex, ReadChunk, StreamError, WriteChunk};
use bytes::{Buf, Bytes};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::carrier::{Carrier, OpenError};
use crate::names::{Names, is_resolver};
use crate::slot;
use crate::tun::Tun;

/// Packets read, and packets written, before the flows get their turn.
const PACKETS_PER_ROUND: usize = 32;
/// How often the interface is emptied before it goes: what is answered may make the kernel send again.
const CLOSING_ROUNDS: usize = 16;
/// The flows of one TUN interface.
pub(crate) struct Capture<C> {
    tun: Tun,
    stack: Rc<RefCell<Stack>>,
    carrier: watch::Receiver<Option<C>>,
    /// The device's resolver.
    names: Rc<Names<C>>,
    tasks: JoinSet<FlowId>,
    /// Flows whose task has not ended.
    flows: HashMap<FlowId, AbortHandle>,
}

impl<C: Carrier + Clone> Capture<C> {
    pub(crate) fn new(tun: Tun, carrier: watch::Receiver<Option<C>>, names: Rc<Names<C>>, seed: u64) -> Self {
        let config = Config { seed, ..Config::default() };
        Self {
            tun,
            stack: Rc::new(RefCell::new(Stack::new(config, Instant::now()))),
            carrier,
            names,
            tasks: JoinSet::new(),
            flows: HashMap::new(),
        }
    }

    /// Moves packets until the interface fails.
    ///
    /// May be cancelled; [`Self::turn_down`] is the orderly end after that.
    pub(crate) async fn drive(&mut self) -> io::Error {
        loop {
            match self.round() {
                Ok(true) => tokio::task::yield_now().await,
                Ok(false) => {
                    if let Err(error) = self.wait().await {
                        return error;
                    }
                }
                Err(error) => return error,
            }
        }
    }

    /// Resets every flow and turns down what is asked for, also what the interface holds unread: a SYN that went with
    /// the interface unanswered would leave its program waiting for minutes.
    pub(crate) fn turn_down(&mut self) {
        self.tasks.abort_all();
        for _ in 0..CLOSING_ROUNDS {
            let now = Instant::now();
            let mut unread = false;
            while let Ok(Some(packet)) = self.tun.try_read() {
                self.stack.borrow_mut().handle_packet(packet, now);
                unread = true;
            }
            self.stack.borrow_mut().abort_all(now);
            // What the kernel does not take any more, it does not need either: the interface goes away.
            while let Ok(true) = self.transmit(now) {}
            if !unread {
                return;
            }
        }
    }

    /// Reads, lets time pass, starts what is new, writes. True if anything moved.
    fn round(&mut self) -> io::Result<bool> {
        let now = Instant::now();
        let mut moved = false;
        {
            let mut stack = self.stack.borrow_mut();
            for _ in 0..PACKETS_PER_ROUND {
                let Some(packet) = self.tun.try_read()? else { break };
                stack.handle_packet(packet, now);
                moved = true;
            }
            stack.handle_timeout(now);
        }
        self.handle_events();
        Ok(self.transmit(now)? || moved)
    }

    /// Writes a round's worth of packets. True if there was one.
    fn transmit(&mut self, now: Instant) -> io::Result<bool> {
        let mut stack = self.stack.borrow_mut();
        for sent in 0..PACKETS_PER_ROUND {
            let Some(transmit) = stack.poll_transmit(self.tun.packet(), now) else { return Ok(sent > 0) };
            if !self.tun.write(&transmit)? {
                tracing::trace!(len = transmit.len, "the kernel did not take a packet");
            }
        }
        Ok(true)
    }

    /// Sleeps until there is something to do.
    async fn wait(&mut self) -> io::Result<()> {
        let deadline = self.stack.borrow().poll_timeout();
        let stack = &self.stack;
        let tasks = &mut self.tasks;
        tokio::select! {
            biased;
            () = poll_fn(|context| stack.borrow_mut().poll_transmit_ready(context)) => {}
            read = self.tun.read(|packet| stack.borrow_mut().handle_packet(packet, Instant::now())) => read?,
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                if let Ok(flow) = ended {
                    self.flows.remove(&flow);
                }
            }
            () = async { tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now).into()).await },
                if deadline.is_some() => {}
        }
        Ok(())
    }

    fn handle_events(&mut self) {
        // Finished tasks, so that a busy driver does not collect them.
        while let Some(ended) = self.tasks.try_join_next() {
            if let Ok(flow) = ended {
                self.flows.remove(&flow);
            }
        }
        loop {
            let event = self.stack.borrow_mut().poll_event();
            match event {
                Some(Event::FlowRequested { flow, protocol, source, destination }) => {
                    let request = Request {
                        stack: Rc::clone(&self.stack),
                        flow,
                        protocol,
                        source,
                        destination,
                        carrier: self.carrier.clone(),
                        names: is_resolver(destination).then(|| Rc::clone(&self.names)),
                    };
                    let task = self.tasks.spawn_local(request.serve());
                    self.flows.insert(flow, task);
                }
                Some(Event::FlowWithdrawn { flow }) => {
                    if let Some(task) = self.flows.remove(&flow) {
                        task.abort();
                    }
                }
                None => return,
            }
        }
    }
}

/// What the carrier has opened.
enum Opened<R, W> {
    Stream(Duplex<R, W>),
    Datagrams(DatagramFlow<R, W>),
}

/// A flow that the device asks for.
struct Request<C> {
    stack: Rc<RefCell<Stack>>,
    flow: FlowId,
    protocol: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
    carrier: watch::Receiver<Option<C>>,
    /// Who answers it, if it goes to the resolver.
    names: Option<Rc<Names<C>>>,
}

impl<C: Carrier + Clone> Request<C> {
    async fn serve(mut self) -> FlowId {
        let (flow, destination) = (self.flow, self.destination);
        match (self.names.take(), self.protocol) {
            (Some(names), Protocol::Udp) => {
                self.resolve_datagrams(names).await;
                return flow;
            }
            (Some(names), Protocol::Tcp) => {
                self.resolve_stream(names).await;
                return flow;
            }
            (Some(_), Protocol::Icmp) | (None, _) => {}
        }
        let open = match self.protocol {
            Protocol::Tcp => self.open().await.map(Opened::Stream),
            Protocol::Udp | Protocol::Icmp => self.open_datagrams().await.map(Opened::Datagrams),
        };
        match open {
            Ok(Opened::Stream(far)) => self.carry(far).await,
            Ok(Opened::Datagrams(far)) => self.carry_datagrams(far).await,
            Err(error) => {
                tracing::debug!(%flow, %destination, %error, "flow refused");
                self.stack.borrow_mut().refuse(flow, refusal_in(self.protocol, error), Instant::now());
            }
        }
        flow
    }

    async fn open(&mut self) -> Result<Duplex<C::Reader, C::Writer>, OpenError> {
        let destination = self.destination;
        slot::present(&mut self.carrier).await?.open(destination).await
    }

    async fn open_datagrams(&mut self) -> Result<DatagramFlow<C::Reader, C::Writer>, OpenError> {
        let (protocol, destination) = (self.protocol, self.destination);
        slot::present(&mut self.carrier).await?.open_datagrams(protocol, destination).await
    }

    async fn carry(self, mut far: Duplex<C::Reader, C::Writer>) {
        if let Err(error) = self.stack.borrow_mut().accept(self.flow, Instant::now()) {
            tracing::debug!(flow = %self.flow, %error, "flow not accepted");
            far.reset();
            return;
        }
        let held = Rc::new(Held { stack: self.stack, flow: self.flow });
        let mut near = Duplex::new(
            FlowReader { held: Rc::clone(&held), buffer: ReadBuffer::default() },
            FlowWriter { held },
        );
        let mut passed = Passed::default();
        let end = splice(&mut near, &mut far, HalfClose::Kept, &mut passed).await;
        tracing::debug!(
            flow = %self.flow, source = %self.source, destination = %self.destination,
            up = passed.up, down = passed.down, ?end, "flow ended"
        );
    }
}

/// The same for a protocol: a blocked connection is reset, as if nobody listened (Gateway semantics, 1.1).
fn refusal_in(protocol: Protocol, error: OpenError) -> adit_netstack::Refusal {
    match (protocol, refusal(error)) {
        (Protocol::Tcp, adit_netstack::Refusal::Prohibited) => adit_netstack::Refusal::Refused,
        (_, refusal) => refusal,
    }
}

/// How the application learns why its connection was not made, or its datagram not delivered.
fn refusal(error: OpenError) -> adit_netstack::Refusal {
    match error {
        OpenError::Refused(Refusal::Refused) => adit_netstack::Refusal::Refused,
        OpenError::Refused(Refusal::Blocked | Refusal::Revoked) => adit_netstack::Refusal::Prohibited,
        OpenError::Refused(Refusal::TooLarge) => adit_netstack::Refusal::TooLarge,
        OpenError::Lost
        | OpenError::Refused(
            Refusal::Unroutable
            | Refusal::NoConnection
            | Refusal::NeverDialled
            | Refusal::HostUnreachable
            | Refusal::NetworkUnreachable
            | Refusal::TimedOut
            | Refusal::TooManyFlows
            | Refusal::Stale
            | Refusal::ConnectorError,
        ) => adit_netstack::Refusal::Unreachable,
    }
}

/// An accepted flow; given back to the stack when both halves are gone.
struct Held {
    stack: Rc<RefCell<Stack>>,
    flow: FlowId,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stack.borrow_mut().release(self.flow, Instant::now());
    }
}

/// The reading half of a captured flow.
struct FlowReader {
    held: Rc<Held>,
    buffer: ReadBuffer,
}

/// The writing half of a captured flow.
struct FlowWriter {
    held: Rc<Held>,
}

impl ReadChunk for FlowReader {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        let read = poll_fn(|context| {
            let space = self.buffer.space();
            let room = space.capacity() - space.len();
            self.held.stack.borrow_mut().poll_read(context, self.held.flow, space, room)
        });
        match read.await {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(self.buffer.take())),
            Err(ReadError::Reset | ReadError::UnknownFlow) => Err(StreamError::Reset),
        }
    }

    fn stop(&mut self) {
        // TCP cannot refuse one direction only: what still comes is answered with a reset once the flow is released.
    }
}

impl WriteChunk for FlowWriter {
    async fn write_chunk(&mut self, mut chunk: Bytes) -> Result<(), StreamError> {
        while !chunk.is_empty() {
            let written =
                poll_fn(|context| self.held.stack.borrow_mut().poll_write(context, self.held.flow, &chunk));
            match written.await {
                Ok(written) => chunk.advance(written),
                Err(WriteError::Reset | WriteError::Finished | WriteError::UnknownFlow) => {
                    return Err(StreamError::Reset);
                }
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        self.held.stack.borrow_mut().finish(self.held.flow);
        Ok(())
    }

    fn reset(&mut self) {
        self.held.stack.borrow_mut().abort(self.held.flow);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applications_are_told_as_a_real_network_would() {
        #[track_caller]
        fn check(refused: Refusal, expected: adit_netstack::Refusal) {
            assert_eq!(refusal(OpenError::Refused(refused)), expected);
        }
        check(Refusal::Refused, adit_netstack::Refusal::Refused);
        check(Refusal::TooLarge, adit_netstack::Refusal::TooLarge);
        check(Refusal::Blocked, adit_netstack::Refusal::Prohibited);
        let blocked = |protocol| refusal_in(protocol, OpenError::Refused(Refusal::Blocked));
        assert_eq!(blocked(Protocol::Tcp), adit_netstack::Refusal::Refused);
        assert_eq!(blocked(Protocol::Udp), adit_netstack::Refusal::Prohibited);
        assert_eq!(blocked(Protocol::Icmp), adit_netstack::Refusal::Prohibited);
        check(Refusal::Unroutable, adit_netstack::Refusal::Unreachable);
        check(Refusal::NoConnection, adit_netstack::Refusal::Unreachable);
        assert_eq!(refusal(OpenError::Lost), adit_netstack::Refusal::Unreachable);
    }
}
