//! An edge between a device and a connector that are made here, over loopback: what it carries, refuses and cuts.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod peers;

use std::time::Duration;

use adit_model::{Action, Change, FlowEnd, Record, Refusal};
use adit_wire::device::Event;
use bytes::Bytes;
use peers::{Answer, Chain, ELSEWHERE, TARGET, registration, tunnel};

#[tokio::test]
async fn bytes_pass_both_ways_and_each_direction_ends_by_itself() {
    let mut chain = Chain::start().await;
    let _connector = chain.connector(Answer::EchoAfterEnd).await;
    let device = chain.device().await;
    let (mut send, response) = device.connect(TARGET).await;
    send.send_data(Bytes::from_static(b"request"), true).unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(peers::read_all(response.into_body()).await.unwrap(), b"request");
    let record = chain.flow_record().await;
    assert_eq!((record.end, record.bytes_up, record.bytes_down), (FlowEnd::Finished, 7, 7));
    assert_eq!(record.party.destination.to_string(), TARGET);
    assert!(record.route.is_some() && record.connection.is_some());
}

#[tokio::test]
async fn every_refusal_is_told_at_once_with_its_name() {
    let mut chain = Chain::start().await;
    let device = chain.device().await;
    assert_eq!(device.refusal(TARGET).await, Some(Refusal::NoConnection));
    assert_eq!(device.refusal(ELSEWHERE).await, Some(Refusal::Unroutable));
    assert_eq!(device.refusal("127.0.0.1:80").await, Some(Refusal::NeverDialled));
    let _connector = chain.connector(Answer::Refuse("connect: connection refused")).await;
    assert_eq!(device.refusal(TARGET).await, Some(Refusal::Refused));
    assert_eq!(chain.flow_record().await.end, FlowEnd::Refused(Refusal::NoConnection));
}

#[tokio::test]
async fn a_rule_blocks_what_matches_and_is_recorded_with_the_flow() {
    let mut chain = Chain::start().await;
    let _connector = chain.connector(Answer::EchoAfterEnd).await;
    let device = chain.device().await;
    chain.change(peers::rule(Action::Block, "net.dst.port == 6443")).await;
    assert_eq!(device.refusal(TARGET).await, Some(Refusal::Blocked));
    let record = chain.flow_record().await;
    assert_eq!(
        (record.end, record.rule.map(|rule| rule.id)),
        (FlowEnd::Refused(Refusal::Blocked), Some(peers::RULE))
    );
    assert!(record.route.is_none() && record.connection.is_none(), "nothing was dialled");
    chain.change(Change::RuleRemoved { id: peers::RULE }).await;
    assert_eq!(device.connect(TARGET).await.1.status(), 200);
}

#[tokio::test]
async fn an_override_dials_elsewhere_and_the_record_says_where() {
    let mut chain = Chain::start().await;
    let _connector = chain.connector(Answer::EchoAfterEnd).await;
    let device = chain.device().await;
    chain.change(peers::rule(Action::L4Override, "net.dst.port == 443")).await;
    // The connector of these tests insists on the target.
    let (mut send, response) = device.connect("198.51.100.101:443").await;
    send.send_data(Bytes::from_static(b"moved"), true).unwrap();
    assert_eq!(peers::read_all(response.into_body()).await.unwrap(), b"moved");
    let record = chain.flow_record().await;
    assert_eq!(record.party.destination.to_string(), "198.51.100.101:443");
    assert_eq!(
        (record.overridden_by, record.rule.map(|rule| rule.id)),
        (Some(TARGET.parse().unwrap()), Some(peers::RULE))
    );
}

#[tokio::test]
async fn a_flow_is_held_for_what_its_client_says_first_if_a_rule_asks() {
    let mut chain = Chain::start().await;
    let _connector = chain.connector(Answer::EchoAfterEnd).await;
    let device = chain.device().await;
    chain.change(peers::rule(Action::Block, "net.protocol.detection == \"ssh\"")).await;
    let (mut send, response) = device.connect(TARGET).await;
    send.send_data(Bytes::from_static(b"SSH-2.0-test\r\n"), false).unwrap();
    assert!(
        peers::read_all(response.into_body()).await.is_err(),
        "it was told that it is connected, so it is reset"
    );
    let record = chain.flow_record().await;
    assert_eq!(
        (record.end, record.rule.map(|rule| rule.id)),
        (FlowEnd::Refused(Refusal::Blocked), Some(peers::RULE))
    );
    let (mut send, response) = device.connect(TARGET).await;
    for piece in ["GE", "T / HTTP/1.1\r\n", "\r\n"] {
        send.send_data(Bytes::from_static(piece.as_bytes()), false).unwrap();
    }
    send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(
        peers::read_all(response.into_body()).await.unwrap(),
        b"GET / HTTP/1.1\r\n\r\n",
        "every byte passes"
    );
    let record = chain.flow_record().await;
    assert_eq!((record.end, record.bytes_up, record.rule.map(|rule| rule.id)), (FlowEnd::Finished, 18, None));
    // An end without a word.
    let (mut send, response) = device.connect(TARGET).await;
    send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(peers::read_all(response.into_body()).await.unwrap(), b"");
    assert_eq!(device.refusal(ELSEWHERE).await, Some(Refusal::Unroutable), "what has no route is not held");
}

#[tokio::test]
async fn a_held_flow_whose_dial_fails_is_reset() {
    let mut chain = Chain::start().await;
    let _connector = chain.connector(Answer::Refuse("connect: connection refused")).await;
    let device = chain.device().await;
    chain.change(peers::rule(Action::Block, "net.sni.host == \"example.com\"")).await;
    // It says nothing: after a while it is decided without.
    let (_send, response) = device.connect(TARGET).await;
    assert!(peers::read_all(response.into_body()).await.is_err());
    assert_eq!(chain.flow_record().await.end, FlowEnd::Refused(Refusal::Refused));
}

#[tokio::test]
async fn a_reset_of_the_destination_resets_the_device() {
    let mut chain = Chain::start().await;
    let _connector = chain.connector(Answer::Reset).await;
    let device = chain.device().await;
    let (mut send, response) = device.connect(TARGET).await;
    send.send_data(Bytes::from_static(b"x"), false).unwrap();
    assert!(peers::read_all(response.into_body()).await.is_err());
    assert_eq!(chain.flow_record().await.end, FlowEnd::ResetByDestination);
}

#[tokio::test]
async fn a_block_rule_cuts_the_open_flows_that_it_matches() {
    let mut chain = Chain::start().await;
    let _connector = chain.connector(Answer::EchoAfterEnd).await;
    let device = chain.device().await;
    chain.change(peers::rule(Action::Block, "net.dst.port == 1")).await;
    let (_send, response) = device.connect(TARGET).await;
    chain.change(peers::rule(Action::Block, "net.dst.port == 6443")).await;
    assert!(peers::read_all(response.into_body()).await.is_err());
    let record = chain.flow_record().await;
    assert_eq!((record.end, record.rule.map(|rule| rule.id)), (FlowEnd::CutByRule, Some(peers::RULE)));
}

#[tokio::test]
async fn a_revoked_device_is_cut_and_told() {
    let mut chain = Chain::start().await;
    let _connector = chain.connector(Answer::EchoAfterEnd).await;
    let device = chain.device().await;
    let mut events = device.events().await;
    assert!(matches!(events.next().await, Some(Event::State(_))));
    let (_send, response) = device.connect(TARGET).await;
    chain.change(Change::RegistrationPut(registration(true))).await;
    assert!(peers::read_all(response.into_body()).await.is_err());
    assert_eq!(events.next().await, Some(Event::Revoked));
    assert_eq!(chain.flow_record().await.end, FlowEnd::Revoked);
    let device = chain.device().await;
    assert_eq!(device.refusal(TARGET).await, Some(Refusal::Revoked));
}

#[tokio::test]
async fn a_second_process_with_the_same_key_ends_the_first() {
    let chain = Chain::start().await;
    let first = chain.device().await;
    let mut first_events = first.events().await;
    assert!(matches!(first_events.next().await, Some(Event::State(_))));
    let second = chain.device().await;
    let mut second_events = second.events().await;
    assert!(matches!(second_events.next().await, Some(Event::State(_))));
    assert_eq!(first_events.next().await, Some(Event::Superseded));
}

#[tokio::test]
async fn a_connection_that_says_farewell_gets_no_new_flows_and_keeps_its_old_ones() {
    let mut chain = Chain::start().await;
    let mut leaving = chain.connector(Answer::EchoAfterEnd).await;
    let device = chain.device().await;
    let (mut send, response) = device.connect(TARGET).await;
    leaving.unregister().await;
    chain.connection_closed().await;
    assert_eq!(device.refusal(TARGET).await, Some(Refusal::NoConnection));
    send.send_data(Bytes::from_static(b"still here"), true).unwrap();
    assert_eq!(peers::read_all(response.into_body()).await.unwrap(), b"still here");
}

#[tokio::test]
async fn a_flow_whose_connection_is_lost_while_dialling_is_tried_on_another() {
    let chain = Chain::start().await;
    let _lost = chain.connector(Answer::CloseConnection).await;
    let device = chain.device().await;
    assert_eq!(device.refusal(TARGET).await, Some(Refusal::NoConnection));
    let _lost = chain.connector(Answer::CloseConnection).await;
    let _good = chain.connector(Answer::EchoAfterEnd).await;
    for _ in 0..2 {
        let (mut send, response) = device.connect(TARGET).await;
        assert_eq!(response.status(), 200);
        send.send_data(Bytes::new(), true).unwrap();
    }
}

#[tokio::test]
async fn a_connector_with_a_wrong_secret_or_tunnel_is_not_let_in() {
    let mut chain = Chain::start().await;
    assert_eq!(chain.try_connector(b"guess").await.unwrap_err(), "Unauthorized: Invalid tunnel secret");
    chain.change(Change::TunnelRemoved { id: tunnel().id }).await;
    assert_eq!(chain.try_connector(peers::SECRET).await.unwrap_err(), "Unauthorized: Tunnel not found");
}

#[tokio::test]
async fn deleting_a_tunnel_closes_its_connections() {
    let mut chain = Chain::start().await;
    let connector = chain.connector(Answer::EchoAfterEnd).await;
    chain.change(Change::TunnelRemoved { id: tunnel().id }).await;
    tokio::time::timeout(Duration::from_secs(5), connector.quic.closed()).await.unwrap();
    assert!(matches!(chain.next_record().await, Record::ConnectionClosed(_)));
}

#[tokio::test]
async fn a_device_hears_of_new_networks() {
    let mut chain = Chain::start().await;
    let device = chain.device().await;
    let mut events = device.events().await;
    let Some(Event::State(state)) = events.next().await else { panic!("a state comes first") };
    assert_eq!(state.networks, ["198.51.100.101".parse().unwrap(), "2001:db8::101".parse().unwrap()]);
    chain.change(Change::RoutePut(peers::route(3, "203.0.113.0/24"))).await;
    let Some(Event::Networks { networks }) = events.next().await else { panic!("then the networks") };
    assert!(networks.contains(&"203.0.113.0/24".parse().unwrap()));
}

#[tokio::test]
async fn a_name_that_is_not_served_gets_nothing() {
    let chain = Chain::start().await;
    assert!(chain.handshake("edge.test").await.is_ok());
    assert!(chain.handshake("elsewhere.test").await.is_err());
}

#[tokio::test]
async fn a_device_on_quic_has_its_flows_carried_and_refused_alike() {
    let mut chain = Chain::start().await;
    let device = chain.quic_device().await;
    assert_eq!(device.connect(TARGET).await.err(), Some(Some(Refusal::NoConnection)));
    assert_eq!(device.connect(ELSEWHERE).await.err(), Some(Some(Refusal::Unroutable)));
    assert_eq!(device.connect("127.0.0.1:80").await.err(), Some(Some(Refusal::NeverDialled)));
    assert_eq!(device.connect("localhost:80").await.err(), Some(Some(Refusal::Unroutable)));
    let _connector = chain.connector(Answer::EchoAfterEnd).await;
    let mut flow = device.connect(TARGET).await.unwrap();
    assert_eq!(peers::quic::request(&mut flow, b"request").await.unwrap(), b"request");
    while chain.flow_record().await.end != FlowEnd::Finished {}
}

#[tokio::test]
async fn a_device_on_quic_notices_the_reset_of_its_destination() {
    let chain = Chain::start().await;
    let _connector = chain.connector(Answer::Reset).await;
    let device = chain.quic_device().await;
    let mut flow = device.connect(TARGET).await.unwrap();
    assert_eq!(peers::quic::request(&mut flow, b"x").await, None);
}

#[tokio::test]
async fn a_revoked_device_on_quic_is_cut_and_told() {
    let mut chain = Chain::start().await;
    let _connector = chain.connector(Answer::EchoAfterEnd).await;
    let device = chain.quic_device().await;
    let mut events = device.events().await;
    assert!(matches!(events.next().await, Some(Event::State(_))));
    let mut flow = device.connect(TARGET).await.unwrap();
    let revoked = std::time::Instant::now();
    chain.change(Change::RegistrationPut(registration(true))).await;
    assert_eq!(peers::quic::read_all(&mut flow).await, None);
    assert_eq!(events.next().await, Some(Event::Revoked));
    device.quic.closed().await;
    assert!(revoked.elapsed() < Duration::from_secs(1), "{:?}", revoked.elapsed());
    assert_eq!(chain.flow_record().await.end, FlowEnd::Revoked);
    let device = chain.quic_device().await;
    let quinn::ConnectionError::ApplicationClosed(close) = device.quic.closed().await else {
        panic!("the edge says why")
    };
    assert_eq!(close.error_code, adit_wire::device::CLOSE_UNKNOWN.into());
}

#[tokio::test]
async fn one_process_may_have_both_carriers_and_a_second_one_ends_them() {
    let chain = Chain::start().await;
    let first = chain.device().await;
    let mut first_events = first.events().await;
    assert!(matches!(first_events.next().await, Some(Event::State(_))));
    let beside = chain.quic_device_of(first.instance).await;
    let mut beside_events = beside.events().await;
    assert!(matches!(beside_events.next().await, Some(Event::State(_))));
    let second = chain.quic_device().await;
    let mut second_events = second.events().await;
    assert!(matches!(second_events.next().await, Some(Event::State(_))));
    assert_eq!(first_events.next().await, Some(Event::Superseded));
    assert_eq!(beside_events.next().await, Some(Event::Superseded));
}

#[tokio::test]
async fn a_stopping_edge_tells_its_devices_first() {
    let chain = Chain::start().await;
    let http2 = chain.device().await;
    let quic = chain.quic_device_of(http2.instance).await;
    let (mut http2, mut quic) = (http2.events().await, quic.events().await);
    assert!(matches!(http2.next().await, Some(Event::State(_))));
    assert!(matches!(quic.next().await, Some(Event::State(_))));
    chain.stop().await;
    assert_eq!(http2.next().await, Some(Event::Draining));
    assert_eq!(quic.next().await, Some(Event::Draining));
}

#[tokio::test]
async fn a_device_on_quic_may_have_more_flows_than_it_may_open_at_first() {
    let chain = Chain::start().await;
    let _connector = chain.connector(Answer::EchoAfterEnd).await;
    let device = chain.quic_device().await;
    let mut flows = Vec::new();
    for _ in 0..600 {
        flows.push(device.connect(TARGET).await.unwrap());
    }
    for flow in &mut flows {
        assert_eq!(peers::quic::request(flow, b"x").await.unwrap(), b"x");
    }
}

#[tokio::test]
async fn a_name_that_is_not_served_gets_nothing_on_quic_either() {
    let chain = Chain::start().await;
    let device = chain.try_quic_device("quic.cftunnel.com").await.unwrap();
    let quinn::ConnectionError::ApplicationClosed(close) = device.quic.closed().await else {
        panic!("the edge says why")
    };
    assert_eq!(&close.reason[..], b"this name is not served here");
}
