//! A device's kernel (a second TCP, smoltcp used from the client's side) against a [`Stack`], in memory, on a virtual
//! clock, over a link that may lose and reorder packets.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use adit_netstack::{Config, Event, FlowId, MAX_PACKET, ReadError, Stack, WriteError};
use bytes::BytesMut;
use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as SmoltcpInstant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

pub(crate) const CLIENT_V4: &str = "100.96.0.2";
pub(crate) const CLIENT_V6: &str = "fd00:ad17::2";
pub(crate) const SERVER_V4: &str = "198.51.100.101:6443";
pub(crate) const SERVER_V6: &str = "[2001:db8::101]:6443";

/// Decides what happens to a packet on the link: `None` loses it, else it is moved that many places back in the queue.
type Link = Box<dyn FnMut() -> Option<usize>>;

pub(crate) struct Pair {
    pub(crate) stack: Stack,
    pub(crate) now: Instant,
    start: Instant,
    interface: Interface,
    sockets: SocketSet<'static>,
    card: Card,
    link: Link,
    buffer: Vec<u8>,
    next_port: u16,
    /// Everything that the stack sent, since it was last looked at, other than TCP.
    pub(crate) not_tcp: Vec<Vec<u8>>,
    /// Packets that went over the link, each way.
    pub(crate) packets: usize,
}

impl Pair {
    pub(crate) fn new(config: Config) -> Self {
        Self::with_mtu(config, 65520)
    }

    pub(crate) fn with_mtu(config: Config, mtu: usize) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
        let start = Instant::now();
        let mut card = Card { mtu, inbox: VecDeque::new(), outbox: VecDeque::new() };
        let mut client = InterfaceConfig::new(HardwareAddress::Ip);
        client.random_seed = 7;
        let mut interface = Interface::new(client, &mut card, SmoltcpInstant::ZERO);
        interface.update_ip_addrs(|addresses| {
            for (address, prefix) in [(CLIENT_V4, 32), (CLIENT_V6, 128)] {
                let address: IpAddr = address.parse().unwrap();
                addresses.push(IpCidr::new(address.into(), prefix)).unwrap();
            }
        });
        interface.routes_mut().add_default_ipv4_route("100.96.0.1".parse().unwrap()).unwrap();
        interface.routes_mut().add_default_ipv6_route("fd00:ad17::1".parse().unwrap()).unwrap();
        Self {
            stack: Stack::new(config, start),
            now: start,
            start,
            interface,
            sockets: SocketSet::new(Vec::new()),
            card,
            link: Box::new(|| Some(0)),
            buffer: vec![0; MAX_PACKET],
            next_port: 40000,
            not_tcp: Vec::new(),
            packets: 0,
        }
    }

    pub(crate) fn with_link(mut self, link: impl FnMut() -> Option<usize> + 'static) -> Self {
        self.link = Box::new(link);
        self
    }

    fn at(&self) -> SmoltcpInstant {
        SmoltcpInstant::from_micros(i64::try_from((self.now - self.start).as_micros()).unwrap())
    }

    /// Starts to connect.
    pub(crate) fn connect(&mut self, server: &str) -> SocketHandle {
        let server: SocketAddr = server.parse().unwrap();
        let mut socket = tcp::Socket::new(
            tcp::SocketBuffer::new(vec![0; 1 << 18]),
            tcp::SocketBuffer::new(vec![0; 1 << 18]),
        );
        socket.set_ack_delay(None);
        let local: IpAddr = if server.is_ipv4() { CLIENT_V4 } else { CLIENT_V6 }.parse().unwrap();
        let local = (IpAddress::from(local), self.next_port);
        self.next_port += 1;
        socket
            .connect(self.interface.context(), (IpAddress::from(server.ip()), server.port()), local)
            .unwrap();
        self.sockets.add(socket)
    }

    /// Lets both sides exchange packets until neither has one, without time passing.
    pub(crate) fn settle(&mut self) {
        loop {
            let at = self.at();
            self.interface.poll(at, &mut self.card, &mut self.sockets);
            let mut moved = false;
            while let Some(packet) = self.card.outbox.pop_front() {
                moved = true;
                self.packets += 1;
                match (self.link)() {
                    None => {}
                    Some(back) if back == 0 || self.card.outbox.is_empty() => {
                        self.stack.handle_packet(&packet, self.now);
                    }
                    Some(back) => {
                        let place = back.min(self.card.outbox.len());
                        self.card.outbox.insert(place, packet);
                    }
                }
            }
            let mut arriving = VecDeque::new();
            while let Some(transmit) = self.stack.poll_transmit(&mut self.buffer, self.now) {
                moved = true;
                self.packets += 1;
                let packet = self.buffer[..transmit.len].to_vec();
                if transmit.offload.is_none() {
                    self.not_tcp.push(packet.clone());
                }
                match (self.link)() {
                    None => {}
                    Some(back) => {
                        let place = arriving.len() - back.min(arriving.len());
                        arriving.insert(place, packet);
                    }
                }
            }
            self.card.inbox.extend(arriving);
            if !moved && self.card.inbox.is_empty() {
                return;
            }
        }
    }

    /// Hands the client what the stack has for it, and lets it think, but not what it answers to the stack.
    pub(crate) fn only_to_client(&mut self) {
        while let Some(transmit) = self.stack.poll_transmit(&mut self.buffer, self.now) {
            self.card.inbox.push_back(self.buffer[..transmit.len].to_vec());
        }
        let at = self.at();
        self.interface.poll(at, &mut self.card, &mut self.sockets);
    }

    /// Hands the stack what the client has for it.
    pub(crate) fn only_to_stack(&mut self) {
        while let Some(packet) = self.card.outbox.pop_front() {
            self.stack.handle_packet(&packet, self.now);
        }
    }

    /// Lets packets flow, then time pass to the next deadline of either side, at most `limit` ahead.
    pub(crate) fn step(&mut self, limit: Duration) {
        self.settle();
        let at = self.at();
        let client = self
            .interface
            .poll_at(at, &self.sockets)
            .map(|at| self.start + Duration::from_micros(u64::try_from(at.total_micros()).unwrap()));
        let next = [client, self.stack.poll_timeout()].into_iter().flatten().min();
        self.now =
            next.unwrap_or(self.now + limit).clamp(self.now + Duration::from_micros(1), self.now + limit);
        self.stack.handle_timeout(self.now);
    }

    /// Steps until `done`, or fails after a minute of virtual time.
    #[track_caller]
    pub(crate) fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = self.now + Duration::from_mins(10);
        while !done(self) {
            assert!(self.now < deadline, "never happened: {what}");
            self.step(Duration::from_millis(100));
        }
    }

    /// The next flow that the device asks for.
    #[track_caller]
    pub(crate) fn requested(&mut self) -> FlowId {
        let mut requested = None;
        self.run_until("a flow is requested", |pair| {
            match pair.stack.poll_event() {
                Some(Event::FlowRequested { flow, .. }) => requested = Some(flow),
                Some(Event::FlowWithdrawn { .. }) | None => {}
            }
            requested.is_some()
        });
        requested.unwrap()
    }

    /// Connects and accepts.
    #[track_caller]
    pub(crate) fn open(&mut self, server: &str) -> (SocketHandle, FlowId) {
        let client = self.connect(server);
        let flow = self.requested();
        self.stack.accept(flow, self.now).unwrap();
        self.run_until("the client is connected", |pair| pair.client(client).may_send());
        (client, flow)
    }

    pub(crate) fn client(&mut self, client: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(client)
    }

    pub(crate) fn read(&mut self, flow: FlowId, limit: usize) -> Poll<Result<BytesMut, ReadError>> {
        let mut buffer = BytesMut::new();
        let mut context = Context::from_waker(Waker::noop());
        self.stack.poll_read(&mut context, flow, &mut buffer, limit).map_ok(|read| {
            assert_eq!(read, buffer.len());
            buffer
        })
    }

    pub(crate) fn write(&mut self, flow: FlowId, data: &[u8]) -> Poll<Result<usize, WriteError>> {
        self.stack.poll_write(&mut Context::from_waker(Waker::noop()), flow, data)
    }
}

/// The client's network card.
struct Card {
    mtu: usize,
    inbox: VecDeque<Vec<u8>>,
    outbox: VecDeque<Vec<u8>>,
}

struct Input(Vec<u8>);
struct Output<'a>(&'a mut VecDeque<Vec<u8>>);

impl Device for Card {
    type RxToken<'a> = Input;
    type TxToken<'a> = Output<'a>;

    fn receive(&mut self, _: SmoltcpInstant) -> Option<(Input, Output<'_>)> {
        Some((Input(self.inbox.pop_front()?), Output(&mut self.outbox)))
    }

    fn transmit(&mut self, _: SmoltcpInstant) -> Option<Output<'_>> {
        Some(Output(&mut self.outbox))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities.checksum.tcp = Checksum::None;
        capabilities
    }
}

impl RxToken for Input {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Output<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}
