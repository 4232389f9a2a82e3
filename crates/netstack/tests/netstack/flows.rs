//! Bytes, half-closes and resets of accepted flows.

use std::task::Poll;
use std::time::Duration;

use adit_netstack::{Config, FlowCounts, FlowId, ReadError, WriteError};
use proptest::prelude::*;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::pair::{Pair, SERVER_V4, SERVER_V6};

/// Bytes that differ along their way, so that a lost, doubled or moved piece shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).unwrap()).collect()
}

/// Sends `data` from the client and the same from the flow, at once, and checks that both arrive unchanged.
#[track_caller]
fn exchange(pair: &mut Pair, client: SocketHandle, flow: FlowId, data: &[u8]) {
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let (mut up_sent, mut down_sent) = (0, 0);
    pair.run_until("both directions are through", |pair| {
        if pair.client(client).can_send() && up_sent < data.len() {
            up_sent += pair.client(client).send_slice(&data[up_sent..]).unwrap();
        }
        if down_sent < data.len()
            && let Poll::Ready(written) = pair.write(flow, &data[down_sent..])
        {
            down_sent += written.unwrap();
        }
        while let Poll::Ready(read) = pair.read(flow, 100_000) {
            up.extend_from_slice(&read.unwrap());
        }
        let mut chunk = vec![0; 100_000];
        while pair.client(client).can_recv() {
            let read = pair.client(client).recv_slice(&mut chunk).unwrap();
            down.extend_from_slice(&chunk[..read]);
        }
        up.len() == data.len() && down.len() == data.len()
    });
    assert!(up == data, "upward bytes differ");
    assert!(down == data, "downward bytes differ");
}

#[test]
fn ten_megabytes_each_way_arrive_unchanged() {
    let data = pattern(10_000_000);
    for (server, mtu) in [(SERVER_V4, 65520), (SERVER_V6, 65520), (SERVER_V4, 1500), (SERVER_V6, 1500)] {
        let mut pair = Pair::with_mtu(Config::default(), mtu);
        let (client, flow) = pair.open(server);
        exchange(&mut pair, client, flow, &data);
    }
}

#[test]
fn super_segments_are_multiples_of_the_clients_segment() {
    let mut pair = Pair::with_mtu(Config::default(), 1500);
    let (_, flow) = pair.open(SERVER_V6);
    assert!(matches!(pair.write(flow, &vec![7; 200_000]), Poll::Ready(Ok(200_000))));
    let mut buffer = vec![0; adit_netstack::MAX_PACKET];
    let transmit = pair.stack.poll_transmit(&mut buffer, pair.now).unwrap();
    let tcp = transmit.offload.unwrap();
    assert_eq!((tcp.checksum_start, tcp.checksum_offset, tcp.header_len), (40, 16, 60));
    assert_eq!(tcp.segment_size, Some(1440));
    assert_eq!(transmit.len, 60 + 65475 / 1440 * 1440);
}

#[test]
fn the_checksum_field_holds_the_sum_of_the_pseudo_header() {
    let mut pair = Pair::new(Config::default());
    let (_, flow) = pair.open(SERVER_V4);
    assert!(pair.write(flow, b"hello").is_ready());
    let mut buffer = vec![0; adit_netstack::MAX_PACKET];
    let transmit = pair.stack.poll_transmit(&mut buffer, pair.now).unwrap();
    // 198.51.100.101 + 100.96.0.2 + protocol 6 + 25 bytes of TCP.
    let sum: u32 = 0xc633 + 0x6465 + 0x6460 + 0x0002 + 6 + 25;
    let folded = (sum & 0xffff) + (sum >> 16);
    assert_eq!(u32::from(u16::from_be_bytes([buffer[36], buffer[37]])), folded);
    assert_eq!(transmit.offload.unwrap().segment_size, None);
}

#[test]
fn each_side_may_close_while_the_other_goes_on() {
    for server in [SERVER_V4, SERVER_V6] {
        // The client finishes first.
        let mut pair = Pair::new(Config::default());
        let (client, flow) = pair.open(server);
        pair.client(client).send_slice(b"request").unwrap();
        pair.client(client).close();
        pair.settle();
        assert_eq!(pair.read(flow, 100).map(|read| read.unwrap().to_vec()), Poll::Ready(b"request".to_vec()));
        assert!(matches!(pair.read(flow, 100), Poll::Ready(Ok(end)) if end.is_empty()));
        assert!(matches!(pair.write(flow, b"answer"), Poll::Ready(Ok(6))));
        pair.settle();
        let mut answer = [0; 6];
        assert_eq!(pair.client(client).recv_slice(&mut answer), Ok(6));
        pair.stack.finish(flow);
        pair.stack.release(flow, pair.now);
        pair.run_until("the flow is gone", |pair| pair.stack.flow_counts().open == 0);
        assert_eq!(pair.client(client).state(), State::Closed);

        // The flow finishes first.
        let (client, flow) = pair.open(server);
        assert!(pair.write(flow, b"banner").is_ready());
        pair.stack.finish(flow);
        assert_eq!(pair.write(flow, b"more"), Poll::Ready(Err(WriteError::Finished)));
        pair.settle();
        assert_eq!(pair.client(client).state(), State::CloseWait);
        pair.client(client).send_slice(b"still here").unwrap();
        pair.settle();
        assert_eq!(
            pair.read(flow, 100).map(|read| read.unwrap().to_vec()),
            Poll::Ready(b"still here".to_vec())
        );
        assert!(pair.read(flow, 100).is_pending());
        pair.client(client).close();
        pair.settle();
        assert!(matches!(pair.read(flow, 100), Poll::Ready(Ok(end)) if end.is_empty()));
        pair.stack.release(flow, pair.now);
        pair.run_until("the flow is gone", |pair| pair.stack.flow_counts().open == 0);
        assert_eq!(pair.client(client).state(), State::Closed);
    }
}

/// The flags of the TCP packets that the stack has for the device.
fn flags_sent(pair: &mut Pair) -> Vec<u8> {
    let mut buffer = vec![0; adit_netstack::MAX_PACKET];
    let mut flags = Vec::new();
    while pair.stack.poll_transmit(&mut buffer, pair.now).is_some() {
        flags.push(buffer[20 + 13]);
    }
    flags
}

#[test]
fn a_client_that_closed_first_is_not_left_in_time_wait() {
    const RST: u8 = 4;
    let mut pair = Pair::new(Config::default());
    let (client, flow) = pair.open(SERVER_V4);
    pair.client(client).close();
    pair.settle();
    assert!(matches!(pair.read(flow, 100), Poll::Ready(Ok(end)) if end.is_empty()));
    pair.stack.finish(flow);
    pair.stack.release(flow, pair.now);
    pair.only_to_client();
    assert_eq!(pair.client(client).state(), State::TimeWait);
    pair.only_to_stack();
    assert_eq!(flags_sent(&mut pair), [RST]);
    assert_eq!(pair.stack.flow_counts(), FlowCounts::default());
}

#[test]
fn bytes_before_the_end_can_be_read_long_after_it() {
    let mut pair = Pair::new(Config::default());
    let (client, flow) = pair.open(SERVER_V4);
    pair.stack.finish(flow);
    pair.settle();
    pair.client(client).send_slice(b"last words").unwrap();
    pair.client(client).close();
    for _ in 0..400 {
        pair.step(Duration::from_millis(100));
    }
    assert_eq!(pair.read(flow, 4).map(|read| read.unwrap().to_vec()), Poll::Ready(b"last".to_vec()));
    pair.settle();
    assert_eq!(pair.read(flow, 100).map(|read| read.unwrap().to_vec()), Poll::Ready(b" words".to_vec()));
    assert!(matches!(pair.read(flow, 100), Poll::Ready(Ok(end)) if end.is_empty()));
}

#[test]
fn a_flow_finished_before_the_handshake_ends_still_opens_and_closes() {
    let mut pair = Pair::new(Config::default());
    let client = pair.connect(SERVER_V4);
    let flow = pair.requested();
    pair.stack.accept(flow, pair.now).unwrap();
    pair.stack.finish(flow);
    assert!(pair.read(flow, 1).is_pending(), "no end of the client's bytes yet");
    pair.settle();
    assert_eq!(pair.client(client).state(), State::CloseWait);
}

#[test]
fn a_reset_is_seen_by_the_other_side() {
    for server in [SERVER_V4, SERVER_V6] {
        let mut pair = Pair::new(Config::default());
        let (client, flow) = pair.open(server);
        pair.client(client).abort();
        pair.settle();
        assert_eq!(pair.read(flow, 1), Poll::Ready(Err(ReadError::Reset)));
        assert_eq!(pair.write(flow, b"x"), Poll::Ready(Err(WriteError::Reset)));
        pair.stack.release(flow, pair.now);
        assert_eq!(pair.stack.flow_counts().open, 0);
        assert_eq!(pair.read(flow, 1), Poll::Ready(Err(ReadError::UnknownFlow)));

        let (client, flow) = pair.open(server);
        pair.stack.abort(flow);
        pair.settle();
        assert_eq!(pair.client(client).state(), State::Closed);
        assert_eq!(pair.read(flow, 1), Poll::Ready(Err(ReadError::Reset)));
    }
}

#[test]
fn a_flow_released_unfinished_is_reset() {
    let mut pair = Pair::new(Config::default());
    let (client, flow) = pair.open(SERVER_V4);
    pair.stack.release(flow, pair.now);
    pair.settle();
    assert_eq!(pair.client(client).state(), State::Closed);
    assert_eq!(pair.stack.flow_counts().open, 0);
}

#[test]
fn everything_ends_at_once() {
    let mut pair = Pair::new(Config::default());
    let (open, _) = pair.open(SERVER_V4);
    pair.connect(SERVER_V6);
    pair.requested();
    pair.stack.abort_all(pair.now);
    pair.settle();
    assert_eq!(pair.client(open).state(), State::Closed);
    assert_eq!(pair.not_tcp.len(), 1, "the request is told by ICMP");
}

#[test]
fn a_client_that_went_silent_is_given_up() {
    let mut pair = Pair::new(Config::default());
    let (_, flow) = pair.open(SERVER_V4);
    assert!(pair.write(flow, b"anybody there?").is_ready());
    let mut buffer = vec![0; adit_netstack::MAX_PACKET];
    for _ in 0..300 {
        while pair.stack.poll_transmit(&mut buffer, pair.now).is_some() {}
        pair.now += Duration::from_secs(1);
        pair.stack.handle_timeout(pair.now);
    }
    while pair.stack.poll_transmit(&mut buffer, pair.now).is_some() {}
    assert_eq!(pair.write(flow, b"x"), Poll::Ready(Err(WriteError::Reset)));
}

#[test]
fn five_hundred_flows_at_once_keep_their_bytes_apart() {
    let mut pair = Pair::new(Config { receive_buffer: 1 << 16, send_buffer: 1 << 16, ..Config::default() });
    let flows: Vec<_> =
        (0..500).map(|at| pair.open(if at % 2 == 0 { SERVER_V4 } else { SERVER_V6 })).collect();
    assert_eq!(pair.stack.flow_counts().open, 500);
    for (at, (client, flow)) in flows.iter().enumerate() {
        let at = u16::try_from(at).unwrap();
        pair.client(*client).send_slice(&at.to_be_bytes()).unwrap();
        assert!(pair.write(*flow, &(at + 1000).to_be_bytes()).is_ready());
    }
    pair.settle();
    for (at, (client, flow)) in flows.iter().enumerate() {
        let at = u16::try_from(at).unwrap();
        assert_eq!(
            pair.read(*flow, 9).map(|read| read.unwrap().to_vec()),
            Poll::Ready(at.to_be_bytes().to_vec())
        );
        let mut answer = [0; 2];
        assert_eq!(pair.client(*client).recv_slice(&mut answer), Ok(2));
        assert_eq!(u16::from_be_bytes(answer), at + 1000);
    }
    for (_, flow) in &flows {
        pair.stack.release(*flow, pair.now);
    }
    pair.settle();
    assert_eq!(pair.stack.flow_counts(), FlowCounts::default());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// A link that loses up to one packet in ten and moves others up to three places back.
    #[test]
    fn bytes_survive_loss_and_reordering(seed in any::<u64>(), lost in 0_u64..10, moved in 0_u64..10, v6 in any::<bool>()) {
        let mut random = seed;
        let link = move || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let dice = (random >> 33) % 100;
            if dice < lost {
                None
            } else if dice < lost + moved {
                Some(usize::try_from(random >> 60).unwrap() % 3 + 1)
            } else {
                Some(0)
            }
        };
        let mut pair = Pair::with_mtu(Config::default(), 1500).with_link(link);
        let (client, flow) = pair.open(if v6 { SERVER_V6 } else { SERVER_V4 });
        exchange(&mut pair, client, flow, &pattern(50_000));
    }

    #[test]
    fn packets_from_anywhere_do_no_harm(data in proptest::collection::vec(any::<u8>(), 0..2000)) {
        #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
        adit_netstack::fuzz_packets(&data, std::time::Instant::now());
    }
}
