//! UDP and ICMP echo: asked for, accepted or refused, carried, silent.

use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use adit_model::Protocol;
use adit_netstack::{
    AcceptError, Config, Event, FlowCounts, FlowId, MAX_PACKET, Refusal, SendError, Stack, Transmit,
};
use bytes::Bytes;
use proptest::prelude::*;

use crate::pair::{CLIENT_V4, CLIENT_V6};

const RESOLVER_V4: &str = "198.51.100.53:53";
const SERVER_V4: &str = "198.51.100.101:443";
const SERVER_V6: &str = "[2001:db8::101]:443";
const PORT: u16 = 40000;

/// A stack, and what the device says to it.
struct Device {
    stack: Stack,
    now: Instant,
    buffer: Vec<u8>,
}

impl Device {
    fn new(config: Config) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
        let now = Instant::now();
        Self { stack: Stack::new(config, now), now, buffer: vec![0; MAX_PACKET] }
    }

    fn udp(&mut self, port: u16, server: &str, payload: &[u8]) {
        self.stack.handle_packet(&udp(port, server, payload), self.now);
    }

    fn echo(&mut self, identifier: u16, server: IpAddr, rest: &[u8]) {
        self.stack.handle_packet(&echo(identifier, server, rest), self.now);
    }

    #[track_caller]
    fn requested(&mut self) -> FlowId {
        let Some(Event::FlowRequested { flow, .. }) = self.stack.poll_event() else { panic!("no request") };
        flow
    }

    /// Asks for a UDP flow and has it accepted; the first datagram is still to be read.
    #[track_caller]
    fn open(&mut self, server: &str, payload: &[u8]) -> FlowId {
        self.udp(PORT, server, payload);
        let flow = self.requested();
        self.stack.accept(flow, self.now).unwrap();
        flow
    }

    fn receive(&mut self, flow: FlowId) -> Poll<Option<Bytes>> {
        self.stack.poll_receive(&mut Context::from_waker(Waker::noop()), flow)
    }

    #[track_caller]
    fn check_received(&mut self, flow: FlowId, expected: &[u8]) {
        assert_eq!(self.receive(flow), Poll::Ready(Some(Bytes::copy_from_slice(expected))));
    }

    fn send(&mut self, flow: FlowId, payload: &[u8]) -> Result<(), SendError> {
        self.stack.send(flow, Bytes::copy_from_slice(payload), self.now)
    }

    fn transmitted(&mut self) -> Option<(Transmit, Vec<u8>)> {
        let transmit = self.stack.poll_transmit(&mut self.buffer, self.now)?;
        Some((transmit, self.buffer[..transmit.len].to_vec()))
    }

    /// The one packet that the stack has for the device.
    #[track_caller]
    fn only_packet(&mut self) -> Vec<u8> {
        let (_, packet) = self.transmitted().expect("a packet");
        assert_eq!(self.transmitted(), None);
        packet
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.stack.handle_timeout(self.now);
    }
}

fn ip(client: IpAddr, server: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = match (client, server) {
        (IpAddr::V4(client), IpAddr::V4(server)) => {
            let [high, low] = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
            let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0];
            header.extend_from_slice(&client.octets());
            header.extend_from_slice(&server.octets());
            header
        }
        (IpAddr::V6(client), IpAddr::V6(server)) => {
            let [high, low] = u16::try_from(payload.len()).unwrap().to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, high, low, protocol, 64];
            header.extend_from_slice(&client.octets());
            header.extend_from_slice(&server.octets());
            header
        }
        _ => unreachable!("one family"),
    };
    packet.extend_from_slice(payload);
    packet
}

fn client(server: IpAddr) -> IpAddr {
    if server.is_ipv4() { CLIENT_V4 } else { CLIENT_V6 }.parse().unwrap()
}

fn udp(port: u16, server: &str, payload: &[u8]) -> Vec<u8> {
    let server: SocketAddr = server.parse().unwrap();
    let mut datagram = Vec::new();
    for field in [port, server.port(), u16::try_from(8 + payload.len()).unwrap(), 0] {
        datagram.extend_from_slice(&field.to_be_bytes());
    }
    datagram.extend_from_slice(payload);
    ip(client(server.ip()), server.ip(), 17, &datagram)
}

fn echo(identifier: u16, server: IpAddr, rest: &[u8]) -> Vec<u8> {
    let (protocol, kind) = if server.is_ipv4() { (1, 8) } else { (58, 128) };
    let [high, low] = identifier.to_be_bytes();
    let message = [&[kind, 0, 0, 0, high, low], rest].concat();
    ip(client(server), server, protocol, &message)
}

/// What a UDP packet from the stack carries, and its ports.
fn parse_udp(packet: &[u8]) -> (u16, u16, &[u8]) {
    let udp = &packet[if packet[0] >> 4 == 4 { 20 } else { 40 }..];
    let field = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    assert_eq!(usize::from(field(4)), udp.len());
    (field(0), field(2), &udp[8..])
}

#[test]
fn the_first_datagram_asks_and_waits_for_the_decision() {
    for server in [SERVER_V4, SERVER_V6] {
        let mut device = Device::new(Config::default());
        device.udp(PORT, server, b"first");
        let to: SocketAddr = server.parse().unwrap();
        let Some(Event::FlowRequested { flow, protocol, source, destination }) = device.stack.poll_event()
        else {
            panic!("no request")
        };
        assert_eq!((protocol, destination), (Protocol::Udp, to));
        assert_eq!(source, SocketAddr::new(client(to.ip()), PORT));
        device.udp(PORT, server, b"second");
        assert_eq!(device.stack.poll_event(), None, "it is the same flow");
        assert!(device.receive(flow).is_pending());
        assert_eq!(device.send(flow, b"early"), Err(SendError::UnknownFlow));
        device.stack.accept(flow, device.now).unwrap();
        assert_eq!(device.stack.accept(flow, device.now), Err(AcceptError::UnknownFlow));
        device.check_received(flow, b"first");
        device.check_received(flow, b"second");
        assert!(device.receive(flow).is_pending());
        device.send(flow, b"answer").unwrap();
        assert_eq!(parse_udp(&device.only_packet()), (to.port(), PORT, &b"answer"[..]));
        device.stack.release(flow, device.now);
        assert_eq!(device.stack.flow_counts(), FlowCounts::default());
        assert_eq!(device.receive(flow), Poll::Ready(None));
    }
}

#[test]
fn datagrams_of_every_length_go_both_ways() {
    for (server, longest) in [(SERVER_V4, 65507), (SERVER_V6, 65527)] {
        let mut device = Device::new(Config::default());
        for length in [0, 1, 512, 1200, 1400, 1500, 9000, longest] {
            let payload = vec![7; length];
            let flow = device.open(server, &payload);
            device.check_received(flow, &payload);
            device.send(flow, &payload).unwrap();
            assert_eq!(parse_udp(&device.only_packet()).2, payload);
            assert_eq!(device.send(flow, &vec![7; longest + 1]), Err(SendError::TooLong));
            device.stack.release(flow, device.now);
        }
    }
}

#[test]
fn the_checksum_of_udp_is_left_to_the_kernel() {
    let mut device = Device::new(Config::default());
    let flow = device.open(RESOLVER_V4, b"?");
    device.send(flow, b"hello").unwrap();
    let (transmit, packet) = device.transmitted().unwrap();
    let offload = transmit.offload.unwrap();
    assert_eq!((offload.checksum_start, offload.checksum_offset, offload.header_len), (20, 6, 28));
    assert_eq!(offload.segment_size, None);
    // 198.51.100.53 + 100.96.0.2 + protocol 17 + 13 bytes of UDP.
    let sum: u32 = 0xc633 + 0x6435 + 0x6460 + 0x0002 + 17 + 13;
    let folded = (sum & 0xffff) + (sum >> 16);
    assert_eq!(u32::from(u16::from_be_bytes([packet[26], packet[27]])), folded);
}

#[test]
fn flows_are_told_apart_by_both_ends_and_by_the_protocol() {
    let mut device = Device::new(Config::default());
    device.udp(1, SERVER_V4, b"a");
    device.udp(2, SERVER_V4, b"b");
    device.udp(1, RESOLVER_V4, b"c");
    device.echo(1, "198.51.100.101".parse().unwrap(), &[0, 1]);
    let flows: Vec<FlowId> = (0..4).map(|_| device.requested()).collect();
    for flow in &flows {
        device.stack.accept(*flow, device.now).unwrap();
    }
    for (flow, payload) in flows.iter().zip([b"a", b"b", b"c"]) {
        device.check_received(*flow, payload);
    }
    device.check_received(flows[3], &[8, 0, 0, 0, 0, 1, 0, 1]);
    assert_eq!(device.stack.flow_counts().datagram, 4);
}

#[test]
fn a_refusal_is_told_in_the_networks_words_and_forgotten() {
    for (server, refusal, expected) in [
        (SERVER_V4, Refusal::Refused, [3, 3, 0, 0]),
        (SERVER_V4, Refusal::Unreachable, [3, 1, 0, 0]),
        (SERVER_V4, Refusal::Prohibited, [3, 13, 0, 0]),
        (SERVER_V4, Refusal::TooLarge, [3, 4, 5, 0]),
        (SERVER_V6, Refusal::Refused, [1, 4, 0, 0]),
        (SERVER_V6, Refusal::Unreachable, [1, 3, 0, 0]),
        (SERVER_V6, Refusal::Prohibited, [1, 1, 0, 0]),
        (SERVER_V6, Refusal::TooLarge, [2, 0, 5, 0]),
    ] {
        let mut device = Device::new(Config::default());
        device.udp(PORT, server, b"hello?");
        let flow = device.requested();
        device.stack.refuse(flow, refusal, device.now);
        let packet = device.only_packet();
        let message = &packet[if server == SERVER_V4 { 20 } else { 40 }..];
        assert_eq!([message[0], message[1], message[6], message[7]], expected, "{refusal:?}");
        assert_eq!(&message[8..], udp(PORT, server, b"hello?"));
        assert_eq!(device.stack.flow_counts(), FlowCounts::default());
        // The next one asks again.
        device.udp(PORT, server, b"hello?");
        device.requested();
    }
}

#[test]
fn a_datagram_of_an_open_flow_can_be_refused_and_the_flow_goes_on() {
    let mut device = Device::new(Config::default());
    let flow = device.open(SERVER_V4, b"first");
    device.udp(PORT, SERVER_V4, &[7; 3000]);
    device.stack.refuse_datagram(flow, Refusal::TooLarge);
    let packet = device.only_packet();
    assert_eq!(packet[20..22], [3, 4]);
    // It is about the last one, of which it quotes a part.
    assert_eq!(packet[28..], udp(PORT, SERVER_V4, &[7; 3000])[..512]);
    device.check_received(flow, b"first");
}

#[test]
fn a_request_that_nobody_decides_is_withdrawn_as_unreachable() {
    let mut device = Device::new(Config { request_timeout: Duration::from_secs(5), ..Config::default() });
    device.udp(PORT, SERVER_V6, b"hello?");
    let flow = device.requested();
    assert_eq!(device.stack.poll_timeout(), Some(device.now + Duration::from_secs(5)));
    device.pass(Duration::from_secs(5));
    assert_eq!(device.stack.poll_event(), Some(Event::FlowWithdrawn { flow }));
    assert_eq!(device.only_packet()[40..42], [1, 3]);
    assert_eq!(device.stack.accept(flow, device.now), Err(AcceptError::UnknownFlow));
}

/// A flow ends after `silence`, not before, and its addresses make a new one then.
#[track_caller]
fn check_idle(device: &mut Device, flow: FlowId, packet: &[u8], silence: Duration) {
    while device.receive(flow).is_ready() {}
    device.pass(silence.checked_sub(Duration::from_millis(1)).unwrap());
    assert!(device.receive(flow).is_pending());
    device.pass(Duration::from_millis(1));
    assert_eq!(device.receive(flow), Poll::Ready(None));
    assert_eq!(device.send(flow, b"late"), Err(SendError::UnknownFlow));
    device.stack.handle_packet(packet, device.now);
    let next = device.requested();
    device.stack.release(next, device.now);
}

#[test]
fn a_silent_flow_ends_by_itself() {
    let mut device = Device::new(Config::default());
    let flow = device.open(SERVER_V4, b"question");
    device.pass(Duration::from_secs(50));
    device.send(flow, b"answer").unwrap();
    check_idle(&mut device, flow, &udp(PORT, SERVER_V4, b"x"), Duration::from_mins(1));

    let flow = device.open(SERVER_V6, b"question");
    device.send(flow, b"answer").unwrap();
    device.udp(PORT, SERVER_V6, b"question");
    check_idle(&mut device, flow, &udp(PORT, SERVER_V6, b"x"), Duration::from_mins(3));

    let flow = device.open(RESOLVER_V4, b"name?");
    device.send(flow, b"address").unwrap();
    check_idle(&mut device, flow, &udp(PORT, RESOLVER_V4, b"x"), Duration::from_secs(10));

    let server = "2001:db8::101".parse().unwrap();
    device.echo(7, server, &[0, 1]);
    let flow = device.requested();
    device.stack.accept(flow, device.now).unwrap();
    check_idle(&mut device, flow, &echo(7, server, &[0, 2]), Duration::from_secs(10));
}

#[test]
fn what_finds_a_full_queue_is_dropped() {
    let mut device = Device::new(Config { datagram_queue: 10_000, ..Config::default() });
    let flow = device.open(SERVER_V4, &[1; 4000]);
    for number in 2..100 {
        device.udp(PORT, SERVER_V4, &[number; 4000]);
    }
    device.check_received(flow, &[1; 4000]);
    device.check_received(flow, &[2; 4000]);
    assert!(device.receive(flow).is_pending());
    assert_eq!(device.stack.counters().queue_full, 97);
    device.send(flow, &vec![1; 60_000]).expect("one of any length is kept");
    assert_eq!(device.send(flow, &[2; 1]), Err(SendError::QueueFull));
    assert_eq!(parse_udp(&device.only_packet()).2, vec![1; 60_000]);
    device.send(flow, &[3; 1]).unwrap();
}

#[test]
fn all_flows_together_hold_no_more_than_they_may() {
    let mut device = Device::new(Config { datagram_total: 100_000, ..Config::default() });
    for port in 1..100 {
        device.udp(port, SERVER_V4, &[7; 9000]);
        device.udp(port, SERVER_V4, &[7; 9000]);
    }
    let requested: Vec<FlowId> = std::iter::from_fn(|| match device.stack.poll_event()? {
        Event::FlowRequested { flow, .. } | Event::FlowWithdrawn { flow } => Some(flow),
    })
    .collect();
    assert_eq!(requested.len(), 6);
    assert_eq!(device.stack.counters().over_limit, 2 * (99 - 6));
    for flow in requested {
        device.stack.release(flow, device.now);
    }
    device.udp(1, SERVER_V4, b"x");
    device.requested();
}

#[test]
fn flows_beyond_the_limit_are_dropped() {
    let mut device = Device::new(Config { max_datagram_flows: 2, ..Config::default() });
    for port in 1..=3 {
        device.udp(port, SERVER_V4, b"x");
    }
    assert_eq!(device.stack.flow_counts().datagram, 2);
    assert_eq!(device.stack.counters().over_limit, 1);
}

#[test]
fn an_echo_reply_comes_back_with_the_pings_identifier_and_a_right_checksum() {
    for (server, reply_kind, header, pseudo) in [
        ("198.51.100.101", 0, 20, 0),
        // fd00:ad17::2 + 2001:db8::101 + next header 58 + 12 bytes.
        ("2001:db8::101", 129, 40, 0xfd00 + 0xad17 + 2 + 0x2001 + 0xdb8 + 0x101 + 58 + 12),
    ] {
        let server = server.parse().unwrap();
        let mut device = Device::new(Config::default());
        device.echo(0xbeef, server, &[0, 1, b'p', b'i', b'n', b'g']);
        let Some(Event::FlowRequested { flow, protocol, source, destination }) = device.stack.poll_event()
        else {
            panic!("no request")
        };
        assert_eq!((protocol, destination), (Protocol::Icmp, SocketAddr::new(server, 0)));
        assert_eq!(source, SocketAddr::new(client(server), 0xbeef));
        device.stack.accept(flow, device.now).unwrap();
        let Poll::Ready(Some(request)) = device.receive(flow) else { panic!("the request") };
        assert_eq!(request[4..], [0xbe, 0xef, 0, 1, b'p', b'i', b'n', b'g']);
        // The far end has its own identifier, and a checksum of its own addresses.
        device.send(flow, &[reply_kind, 0, 1, 2, 3, 4, 0, 1, b'p', b'i', b'n', b'g']).unwrap();
        let packet = device.only_packet();
        assert_eq!(packet[header..header + 2], [reply_kind, 0]);
        assert_eq!(packet[header + 4..], [0xbe, 0xef, 0, 1, b'p', b'i', b'n', b'g']);
        let words = packet[header..].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let sum: u32 = words.sum::<u32>() + pseudo;
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        // Nothing else goes back on it.
        for message in [&request[..], &[reply_kind, 1, 0, 0, 0, 0, 0, 1], &[reply_kind, 0, 0]] {
            assert_eq!(device.send(flow, message), Err(SendError::NotAReply));
        }
        device.stack.refuse_datagram(flow, Refusal::Refused);
        let packet = device.only_packet();
        assert_eq!(packet[header..header + 2], if server.is_ipv4() { [3, 1] } else { [1, 3] });
    }
}

#[test]
fn other_icmp_is_counted_and_dropped() {
    let mut device = Device::new(Config::default());
    let server = "198.51.100.101".parse().unwrap();
    let mut packet = echo(1, server, &[0, 1]);
    packet[20] = 13;
    device.stack.handle_packet(&packet, device.now);
    assert_eq!(device.stack.poll_event(), None);
    assert_eq!(device.stack.counters().other_protocol, 1);
}

#[test]
fn a_datagram_that_the_kernel_has_cut_is_one_datagram() {
    let payload: Vec<u8> = (0..65507_u32).map(|at| (at % 251).try_into().unwrap()).collect();
    let whole = udp(PORT, SERVER_V4, &payload);
    let mut device = Device::new(Config::default());
    // An MTU of 65520 leaves 65496 bytes in the first piece; then as for a path of 1280 bytes.
    for step in [65496, 1256] {
        for (number, piece) in whole[20..].chunks(step).enumerate() {
            let mut packet = whole[..20].to_vec();
            let offset = number * step;
            let more = offset + piece.len() < whole.len() - 20;
            packet[2..4].copy_from_slice(&u16::try_from(20 + piece.len()).unwrap().to_be_bytes());
            let field = u16::try_from(offset / 8).unwrap() | if more { 0x2000 } else { 0 };
            packet[6..8].copy_from_slice(&field.to_be_bytes());
            packet.extend_from_slice(piece);
            device.stack.handle_packet(&packet, device.now);
        }
        let flow = device.requested();
        device.stack.accept(flow, device.now).unwrap();
        device.check_received(flow, &payload);
        device.stack.release(flow, device.now);
    }
    assert_eq!(device.stack.counters().malformed, 0);
}

#[test]
fn everything_ends_at_once() {
    let mut device = Device::new(Config::default());
    let open = device.open(SERVER_V4, b"x");
    device.check_received(open, b"x");
    device.udp(PORT, SERVER_V6, b"x");
    device.requested();
    device.stack.abort_all(device.now);
    assert_eq!(device.receive(open), Poll::Ready(None));
    assert_eq!(device.only_packet()[40..42], [1, 3]);
    device.stack.release(open, device.now);
    assert_eq!(device.stack.flow_counts(), FlowCounts::default());
}

proptest! {
    /// Whatever is asked, sent, read and let pass: counts come back to nothing.
    #[test]
    fn nothing_is_left_behind(operations in proptest::collection::vec((0_u8..6, 1_u16..6, 0_usize..3000), 0..200)) {
        let config = Config { datagram_queue: 8000, datagram_total: 20_000, max_datagram_flows: 4, ..Config::default() };
        let mut device = Device::new(config);
        let mut flows = Vec::new();
        for (operation, which, length) in operations {
            let payload = vec![7; length];
            let known = flows.get(usize::from(which) % flows.len().max(1)).copied();
            match (operation, known) {
                (0 | 1, _) => device.udp(which, SERVER_V4, &payload),
                (2, Some(flow)) => drop(device.receive(flow)),
                (3, Some(flow)) => drop(device.send(flow, &payload)),
                (4, Some(flow)) => device.stack.refuse(flow, Refusal::Refused, device.now),
                _ => device.pass(Duration::from_secs(u64::from(which) * 13)),
            }
            while let Some(event) = device.stack.poll_event() {
                if let Event::FlowRequested { flow, .. } = event {
                    if length % 2 == 0 {
                        device.stack.accept(flow, device.now).unwrap();
                    }
                    flows.push(flow);
                }
            }
            while device.transmitted().is_some() {}
            prop_assert!(device.stack.flow_counts().datagram <= 4);
        }
        for flow in flows {
            device.stack.release(flow, device.now);
        }
        prop_assert_eq!(device.stack.flow_counts(), FlowCounts::default());
        // Nothing waits any more, so a new flow may hold all that it may.
        device.udp(9, SERVER_V4, &[7; 7000]);
        device.requested();
    }
}
