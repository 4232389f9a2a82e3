//! How fast the stack is by itself: an endless sender and an endless receiver in one thread, without a device.
//!
//! `cargo run --release -p adit-netstack --example throughput` prints Gbit/s with 64 KiB segments and with segments of an
//! ordinary MTU, upward (device to flow) and downward. The client is a TCP of smoltcp too, so about half of the time
//! is its own.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement that prints"
)]

use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use adit_netstack::{Config, Stack};
use bytes::BytesMut;

#[path = "../tests/netstack/pair.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod pair;

use pair::{Pair, SERVER_V4};

const DURATION: Duration = Duration::from_secs(2);

fn main() {
    idle_flows();
    for mtu in [65520, 1500] {
        println!("MTU {mtu}: up {:.1} Gbit/s, down {:.1} Gbit/s", up(mtu), down(mtu));
    }
}

fn up(mtu: usize) -> f64 {
    let mut pair = Pair::with_mtu(Config::default(), mtu);
    let (client, flow) = pair.open(SERVER_V4);
    let data = vec![7; 1 << 20];
    let mut buffer = BytesMut::with_capacity(1 << 18);
    let mut context = Context::from_waker(Waker::noop());
    let (mut bytes, begin) = (0, Instant::now());
    while begin.elapsed() < DURATION {
        pair.client(client).send_slice(&data).expect("open");
        pair.settle();
        while pair.stack.poll_read(&mut context, flow, &mut buffer, 1 << 18).is_ready() {
            bytes += buffer.len();
            buffer.clear();
        }
    }
    gigabits(bytes, begin.elapsed())
}

fn down(mtu: usize) -> f64 {
    let mut pair = Pair::with_mtu(Config::default(), mtu);
    let (client, flow) = pair.open(SERVER_V4);
    let data = vec![7; 1 << 18];
    let (mut bytes, begin) = (0, Instant::now());
    while begin.elapsed() < DURATION {
        let _ = pair.write(flow, &data);
        pair.settle();
        while pair.client(client).can_recv() {
            bytes += pair.client(client).recv(|received| (received.len(), received.len())).expect("open");
        }
    }
    gigabits(bytes, begin.elapsed())
}

/// What a flow costs that is only there.
fn idle_flows() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").expect("Linux");
        status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number") * 4096
    };
    let mut stack = Stack::new(Config::default(), Instant::now());
    let before = resident();
    let begin = Instant::now();
    for port in 0_u16..1000 {
        let mut syn = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1];
        let sum: u32 = syn.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("folded");
        syn[10..12].copy_from_slice(&checksum.to_be_bytes());
        syn.extend_from_slice(&(port + 1).to_be_bytes());
        syn.extend_from_slice(&[0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 255, 255, 0, 0, 0, 0]);
        stack.handle_packet(&syn, Instant::now());
        let Some(adit_netstack::Event::FlowRequested { flow, .. }) = stack.poll_event() else {
            panic!("no request")
        };
        stack.accept(flow, Instant::now()).expect("accepted");
    }
    let mut buffer = vec![0; adit_netstack::MAX_PACKET];
    while stack.poll_transmit(&mut buffer, Instant::now()).is_some() {}
    println!(
        "1000 flows: {} KiB and {:.1} us each",
        (resident() - before) / 1024 / 1000,
        begin.elapsed().as_secs_f64() * 1e3
    );
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn gigabits(bytes: usize, elapsed: Duration) -> f64 {
    bytes as f64 * 8e-9 / elapsed.as_secs_f64()
}
