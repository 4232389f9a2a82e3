//! Body of the fuzz target of [`Stack::handle_packet`].

use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::{Config, Event, MAX_PACKET, Stack};

/// Feeds `data` as packets, each behind a length of one byte times four and an action, and checks what comes out.
#[doc(hidden)]
pub fn fuzz_packets(mut data: &[u8], start: Instant) {
    let config = Config {
        receive_buffer: 4096,
        send_buffer: 4096,
        max_flows: 8,
        max_requests: 8,
        datagram_queue: 4096,
        datagram_total: 1 << 17,
        max_datagram_flows: 8,
        ..Config::default()
    };
    let mut stack = Stack::new(config, start);
    let mut context = Context::from_waker(Waker::noop());
    let mut buffer = vec![0; MAX_PACKET];
    let mut now = start;
    let mut open = Vec::new();
    while let [len, action, rest @ ..] = data {
        let (packet, rest) = rest.split_at((usize::from(*len) * 4).min(rest.len()));
        data = rest;
        stack.handle_packet(packet, now);
        while let Some(event) = stack.poll_event() {
            if let Event::FlowRequested { flow, .. } = event {
                if action & 1 == 0 && stack.accept(flow, now).is_ok() {
                    open.push(flow);
                } else {
                    stack.refuse(flow, crate::Refusal::Unreachable, now);
                }
            }
        }
        if let Some(&flow) = open.get(usize::from(action >> 4)) {
            let mut read = BytesMut::new();
            match action >> 1 & 7 {
                0 | 1 => drop(stack.poll_read(&mut context, flow, &mut read, 1000)),
                2 | 3 => drop(stack.poll_write(&mut context, flow, packet)),
                4 if action & 1 == 0 => stack.finish(flow),
                4 => {
                    let _ = stack.send(flow, Bytes::copy_from_slice(packet), now);
                    while let Poll::Ready(Some(_)) = stack.poll_receive(&mut context, flow) {}
                    stack.refuse_datagram(flow, crate::Refusal::TooLarge);
                }
                5 => stack.release(flow, now),
                6 => now += Duration::from_millis(700),
                _ => now += Duration::from_secs(70),
            }
        }
        stack.handle_timeout(now);
        while let Some(transmit) = stack.poll_transmit(&mut buffer, now) {
            assert!(transmit.len <= MAX_PACKET);
            assert!(matches!(buffer[0] >> 4, 4 | 6));
        }
        let counts = stack.flow_counts();
        assert!(counts.open <= 8 && counts.requested <= 8 && counts.datagram <= 8);
    }
}
