//! What happens to a SYN: held, accepted, refused, withdrawn.

use std::time::Duration;

use adit_netstack::{AcceptError, Config, Event, FlowCounts, Refusal};
use smoltcp::socket::tcp::State;

use crate::pair::{Pair, SERVER_V4, SERVER_V6};

#[test]
fn a_syn_is_not_answered_before_it_is_accepted() {
    for server in [SERVER_V4, SERVER_V6] {
        let mut pair = Pair::new(Config::default());
        let client = pair.connect(server);
        pair.settle();
        let Some(Event::FlowRequested { flow, destination, .. }) = pair.stack.poll_event() else {
            panic!("no request")
        };
        assert_eq!(destination, server.parse().unwrap());
        // The client repeats its SYN meanwhile; nothing comes of it.
        for _ in 0..30 {
            pair.step(Duration::from_millis(100));
        }
        assert!(pair.packets > 1, "the SYN was repeated");
        assert_eq!(pair.stack.poll_event(), None);
        assert_eq!(pair.client(client).state(), State::SynSent);
        pair.stack.accept(flow, pair.now).unwrap();
        pair.settle();
        assert_eq!(pair.client(client).state(), State::Established);
        assert_eq!(pair.stack.accept(flow, pair.now), Err(AcceptError::UnknownFlow));
    }
}

#[test]
fn a_refused_flow_is_reset() {
    for server in [SERVER_V4, SERVER_V6] {
        let mut pair = Pair::new(Config::default());
        let client = pair.connect(server);
        let flow = pair.requested();
        pair.stack.refuse(flow, Refusal::Refused, pair.now);
        pair.settle();
        assert_eq!(pair.client(client).state(), State::Closed);
        assert_eq!(pair.stack.flow_counts(), FlowCounts::default());
    }
}

#[test]
fn an_unreachable_flow_is_told_by_icmp() {
    for (server, refusal, kind, code, header) in [
        (SERVER_V4, Refusal::Unreachable, 3, 1, 20),
        (SERVER_V4, Refusal::Prohibited, 3, 13, 20),
        (SERVER_V6, Refusal::Unreachable, 1, 3, 40),
        (SERVER_V6, Refusal::Prohibited, 1, 1, 40),
    ] {
        let mut pair = Pair::new(Config::default());
        pair.connect(server);
        let flow = pair.requested();
        pair.stack.refuse(flow, refusal, pair.now);
        pair.settle();
        let [icmp] = &pair.not_tcp[..] else { panic!("one ICMP message, not {:?}", pair.not_tcp) };
        assert_eq!(icmp[header..header + 2], [kind, code]);
        // The client may have missed it; once more, and it is forgotten.
        pair.run_until("it is said again", |pair| pair.not_tcp.len() == 2);
        assert_eq!(pair.not_tcp[0], pair.not_tcp[1]);
        assert_eq!(pair.stack.flow_counts(), FlowCounts::default());
        assert_eq!(pair.stack.poll_event(), None);
    }
}

#[test]
fn a_request_that_nobody_decides_is_withdrawn_as_unreachable() {
    let mut pair = Pair::new(Config { request_timeout: Duration::from_secs(5), ..Config::default() });
    let begin = pair.now;
    pair.connect(SERVER_V4);
    let flow = pair.requested();
    pair.run_until("an ICMP message", |pair| !pair.not_tcp.is_empty());
    assert!(pair.now - begin >= Duration::from_secs(5));
    assert_eq!(pair.stack.poll_event(), Some(Event::FlowWithdrawn { flow }));
    assert_eq!(pair.stack.accept(flow, pair.now), Err(AcceptError::UnknownFlow));
}

#[test]
fn a_request_that_the_client_resets_is_withdrawn() {
    let mut pair = Pair::new(Config::default());
    let client = pair.connect(SERVER_V4);
    let flow = pair.requested();
    pair.client(client).abort();
    pair.settle();
    assert_eq!(pair.stack.poll_event(), Some(Event::FlowWithdrawn { flow }));
    assert!(pair.not_tcp.is_empty());
}

#[test]
fn requests_beyond_the_limit_are_dropped_and_come_again() {
    let mut pair = Pair::new(Config { max_requests: 1, ..Config::default() });
    pair.connect(SERVER_V4);
    let second = pair.connect(SERVER_V6);
    let flow = pair.requested();
    pair.settle();
    assert_eq!(pair.stack.poll_event(), None);
    assert_eq!(pair.stack.counters().over_limit, 1);
    pair.stack.accept(flow, pair.now).unwrap();
    let flow = pair.requested();
    pair.stack.accept(flow, pair.now).unwrap();
    pair.run_until("the second is connected", |pair| pair.client(second).may_send());
}

#[test]
fn a_segment_of_no_flow_is_reset() {
    let mut pair = Pair::new(Config::default());
    let (client, flow) = pair.open(SERVER_V4);
    pair.stack.abort(flow);
    pair.stack.release(flow, pair.now);
    // The client learns nothing of the reset, and sends.
    let mut buffer = vec![0; adit_netstack::MAX_PACKET];
    while pair.stack.poll_transmit(&mut buffer, pair.now).is_some() {}
    pair.client(client).send_slice(b"hello").unwrap();
    pair.settle();
    assert_eq!(pair.client(client).state(), State::Closed);
}

#[test]
fn other_protocols_are_counted_and_dropped() {
    let mut pair = Pair::new(Config::default());
    let mut sctp = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 132, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    sctp.extend_from_slice(&[0; 8]);
    pair.stack.handle_packet(&sctp, pair.now);
    pair.stack.handle_packet(&sctp[..27], pair.now);
    let counters = pair.stack.counters();
    assert_eq!((counters.received, counters.other_protocol, counters.malformed), (2, 1, 1));
}
