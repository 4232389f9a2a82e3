//! Calls on streams of their own: both ends in memory, each against `capnp-rpc`, and the bytes between them.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use adit_wire::rpc::{
    RegisterUdpSession, RpcError, ServiceAnswer, ServiceClient, ServiceEvent, ServiceServer,
    UnregisterUdpSession, fuzz_service_client, fuzz_service_server,
};
use capnp::capability::Promise;
use capnp_rpc::{RpcSystem, rpc_twoparty_capnp::Side};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use uuid::Uuid;

use crate::interop::{PIPE_BYTES, network, run};
use crate::tunnelrpc_capnp::{cloudflared_server, configuration_manager, session_manager};

fn session(destination: &str) -> RegisterUdpSession {
    RegisterUdpSession {
        session: Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
        destination: destination.parse().unwrap(),
        close_after_idle: Duration::from_secs(210),
        trace_context: String::new(),
    }
}

fn farewell() -> UnregisterUdpSession {
    UnregisterUdpSession { session: session("192.0.2.1:53").session, message: "session idle for 2s".into() }
}

/// What a connector answers here: the first version, and sessions to port 53.
fn answer(server: &mut ServiceServer, seen: &mut Vec<ServiceEvent>) {
    while let Some(event) = server.poll_event() {
        match &event {
            ServiceEvent::RegisterUdpSession { token, request } => {
                let result =
                    if request.destination.port() == 53 { Ok(()) } else { Err("no such destination") };
                server.answer_register_udp_session(*token, result);
            }
            ServiceEvent::UnregisterUdpSession { token, .. } => server.answer_unregister_udp_session(*token),
            ServiceEvent::UpdateConfiguration { token, version, .. } => {
                let error = (*version != 1).then_some("bad configuration");
                server.answer_update_configuration(*token, 1, error);
            }
            ServiceEvent::Aborted { .. } => {}
        }
        seen.push(event);
    }
}

/// Joins both ends until the call has its answer; gives it, and what the server saw.
fn joined(
    mut client: ServiceClient,
    mut server: ServiceServer,
    piece: usize,
) -> (ServiceAnswer, Vec<ServiceEvent>) {
    let mut seen = Vec::new();
    loop {
        let up: Vec<u8> = std::iter::from_fn(|| client.poll_transmit()).flatten().collect();
        up.chunks(piece).for_each(|piece| server.handle_input(piece).unwrap());
        answer(&mut server, &mut seen);
        let down: Vec<u8> = std::iter::from_fn(|| server.poll_transmit()).flatten().collect();
        down.chunks(piece).for_each(|piece| client.handle_input(piece).unwrap());
        if let Some(answer) = client.poll_answer() {
            return (answer, seen);
        }
        assert!(!up.is_empty() || !down.is_empty(), "the ends wait for each other");
    }
}

#[test]
fn every_call_is_answered_whatever_the_pieces_in_which_bytes_arrive() {
    for piece in (1..=32).chain([usize::MAX]) {
        let at = |destination: &str| ServiceClient::register_udp_session(&session(destination)).unwrap();
        let (answer, seen) = joined(at("[2001:db8::1]:53"), ServiceServer::connector(), piece);
        assert_eq!(answer, ServiceAnswer::UdpSession(Ok(())));
        assert!(matches!(
            &seen[..],
            [ServiceEvent::RegisterUdpSession { request, .. }] if *request == session("[2001:db8::1]:53")
        ));
        let (answer, _) = joined(at("192.0.2.1:54"), ServiceServer::connector(), piece);
        assert_eq!(answer, ServiceAnswer::UdpSession(Err("no such destination".into())));

        for server in [ServiceServer::connector(), ServiceServer::edge()] {
            let call = ServiceClient::unregister_udp_session(&farewell()).unwrap();
            let (answer, seen) = joined(call, server, piece);
            assert_eq!(answer, ServiceAnswer::UdpSessionEnded);
            assert!(matches!(
                &seen[..],
                [ServiceEvent::UnregisterUdpSession { request, .. }] if *request == farewell()
            ));
        }

        let call = |version| ServiceClient::update_configuration(version, b"{}").unwrap();
        let (answer, _) = joined(call(1), ServiceServer::connector(), piece);
        assert_eq!(answer, ServiceAnswer::Configuration { latest_applied_version: 1, error: None });
        let (answer, seen) = joined(call(-1), ServiceServer::connector(), piece);
        let error = Some("bad configuration".into());
        assert_eq!(answer, ServiceAnswer::Configuration { latest_applied_version: 1, error });
        assert!(matches!(
            &seen[..],
            [ServiceEvent::UpdateConfiguration { version: -1, config, .. }] if config == "{}"
        ));
    }
}

#[test]
fn an_edge_takes_neither_sessions_nor_configurations() {
    for call in [
        ServiceClient::register_udp_session(&session("192.0.2.1:53")).unwrap(),
        ServiceClient::update_configuration(1, b"{}").unwrap(),
    ] {
        let (answer, seen) = joined(call, ServiceServer::edge(), usize::MAX);
        assert_eq!(answer, ServiceAnswer::Failed { reason: "not implemented".into() });
        assert!(seen.is_empty());
    }
}

/// A message of one segment, given as words.
fn words(words: &[[u8; 8]]) -> Vec<u8> {
    let size = u32::try_from(words.len()).unwrap().to_le_bytes();
    [&[0; 4], &size[..], &words.concat()].concat()
}

#[test]
fn a_request_for_a_udp_session_is_these_bytes() {
    let mut client = ServiceClient::register_udp_session(&session("192.0.2.1:53")).unwrap();
    let bootstrap = words(&[
        [0, 0, 0, 0, 1, 0, 1, 0],
        [8, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 1, 0],
        [0; 8],
        [0; 8],
    ]);
    assert_eq!(client.poll_transmit().unwrap(), bootstrap);
    let sent = client.poll_transmit().unwrap();
    let head = words(&[
        [0, 0, 0, 0, 1, 0, 1, 0],
        [2, 0, 0, 0, 0, 0, 0, 0],                // call
        [0, 0, 0, 0, 3, 0, 3, 0],                //
        [1, 0, 0, 0, 0, 0, 0, 0],                // question 1, method 0
        0x8394_45a5_9fb0_1686_u64.to_le_bytes(), // SessionManager
        [0; 8],                                  // results to the caller
    ]);
    assert_eq!(sent[8..head.len()], head[8..]);
    let params = words(&[
        [53, 0, 0, 0, 0, 0, 0, 0],         // port
        210_000_000_000_u64.to_le_bytes(), // idle, in nanoseconds
        [9, 0, 0, 0, 0x82, 0, 0, 0],       // session: 16 bytes
        [13, 0, 0, 0, 0x22, 0, 0, 0],      // address: 4 bytes
        [0; 8],                            // no trace
        [1, 2, 3, 4, 5, 6, 7, 8],          //
        [9, 10, 11, 12, 13, 14, 15, 16],   //
        [192, 0, 2, 1, 0, 0, 0, 0],
    ]);
    assert_eq!(sent[sent.len() - 64..], params[8..]);
    assert!(client.poll_transmit().is_none());
}

#[test]
fn an_address_of_no_family_is_refused() {
    let mut client = ServiceClient::register_udp_session(&session("192.0.2.1:53")).unwrap();
    let mut up: Vec<u8> = std::iter::from_fn(|| client.poll_transmit()).flatten().collect();
    let pointer = up.len() - 40;
    assert_eq!(up[pointer], 13, "the pointer to the address");
    up[pointer + 4] = 0x2a;
    let mut server = ServiceServer::connector();
    server.handle_input(&up).unwrap();
    assert!(server.poll_event().is_none());
    let down: Vec<u8> = std::iter::from_fn(|| server.poll_transmit()).flatten().collect();
    client.handle_input(&down).unwrap();
    let reason = "an address has 4 or 16 bytes".into();
    assert_eq!(client.poll_answer(), Some(ServiceAnswer::Failed { reason }));
}

#[test]
fn a_large_message_is_not_taken_by_an_edge() {
    let mut client = ServiceClient::update_configuration(1, &vec![b' '; 100 << 10]).unwrap();
    let up: Vec<u8> = std::iter::from_fn(|| client.poll_transmit()).flatten().collect();
    assert!(matches!(ServiceServer::edge().handle_input(&up), Err(RpcError::Message(_))));
    assert!(ServiceServer::connector().handle_input(&up).is_ok());
}

/// What the calls look like on the wire, each way.
fn conversations() -> Vec<(Vec<u8>, Vec<u8>)> {
    let calls = [
        ServiceClient::register_udp_session(&session("192.0.2.1:53")).unwrap(),
        ServiceClient::unregister_udp_session(&farewell()).unwrap(),
        ServiceClient::update_configuration(2, b"{}").unwrap(),
    ];
    let conversation = |mut client: ServiceClient| {
        let up: Vec<u8> = std::iter::from_fn(|| client.poll_transmit()).flatten().collect();
        let mut server = ServiceServer::connector();
        server.handle_input(&up).unwrap();
        answer(&mut server, &mut Vec::new());
        (up, std::iter::from_fn(|| server.poll_transmit()).flatten().collect())
    };
    calls.map(conversation).into()
}

#[test]
fn a_flipped_bit_breaks_nothing_but_the_call() {
    for (up, down) in conversations() {
        for (original, fuzz) in
            [(up, fuzz_service_server as fn(&[u8])), (down, fuzz_service_client as fn(&[u8]))]
        {
            for bit in 0..original.len() * 8 {
                let mut input = original.clone();
                input[bit / 8] ^= 1 << (bit % 8);
                fuzz(&input);
            }
        }
    }
}

proptest! {
    #[test]
    fn sessions_round_trip(id: u128, address: SocketAddr, idle: u32, trace_context in ".{0,60}") {
        let request = RegisterUdpSession {
            session: Uuid::from_u128(id),
            destination: SocketAddr::new(address.ip().to_canonical(), address.port()),
            close_after_idle: Duration::from_nanos(idle.into()),
            trace_context,
        };
        let client = ServiceClient::register_udp_session(&request).unwrap();
        let (_, seen) = joined(client, ServiceServer::connector(), 7);
        let same = matches!(
            &seen[..],
            [ServiceEvent::RegisterUdpSession { request: actual, .. }] if *actual == request
        );
        prop_assert!(same, "{seen:?} is not {request:?}");
    }

    #[test]
    fn any_message_is_answered_or_ends_the_conversation(
        content in prop::collection::vec(prop_oneof![any::<[u8; 8]>(), prop::array::uniform8(0u8..4)], 0..30),
    ) {
        let input = words(&content);
        fuzz_service_server(&input);
        fuzz_service_client(&input);
    }
}

/// A connector made of `capnp-rpc`.
struct Connector(Rc<RefCell<Vec<String>>>);

impl cloudflared_server::Server for Connector {}

impl session_manager::Server for Connector {
    fn register_udp_session(
        &mut self,
        params: session_manager::RegisterUdpSessionParams,
        mut results: session_manager::RegisterUdpSessionResults,
    ) -> Promise<(), capnp::Error> {
        let params = params.get().unwrap();
        self.0.borrow_mut().push(format!(
            "{:?} {:?} {} {} {:?}",
            params.get_session_id().unwrap(),
            params.get_dst_ip().unwrap(),
            params.get_dst_port(),
            params.get_close_after_idle_hint(),
            params.get_trace_context().unwrap(),
        ));
        let error = if params.get_dst_port() == 53 { "" } else { "no such destination" };
        results.get().init_result().set_err(error);
        Promise::ok(())
    }

    fn unregister_udp_session(
        &mut self,
        params: session_manager::UnregisterUdpSessionParams,
        _: session_manager::UnregisterUdpSessionResults,
    ) -> Promise<(), capnp::Error> {
        let message = params.get().unwrap().get_message().unwrap().to_string().unwrap();
        self.0.borrow_mut().push(message);
        Promise::ok(())
    }
}

impl configuration_manager::Server for Connector {
    fn update_configuration(
        &mut self,
        params: configuration_manager::UpdateConfigurationParams,
        mut results: configuration_manager::UpdateConfigurationResults,
    ) -> Promise<(), capnp::Error> {
        let params = params.get().unwrap();
        self.0.borrow_mut().push(format!("{} {}", params.get_version(), params.get_config().unwrap().len()));
        let mut response = results.get().init_result();
        response.set_latest_applied_version(-1);
        response.set_err("bad configuration");
        Promise::ok(())
    }
}

/// Makes one call over a stream that `capnp-rpc` serves.
async fn call(mut client: ServiceClient, seen: &Rc<RefCell<Vec<String>>>) -> ServiceAnswer {
    let (theirs, mut ours) = tokio::io::duplex(PIPE_BYTES);
    let connector: cloudflared_server::Client = capnp_rpc::new_client(Connector(Rc::clone(seen)));
    let system = RpcSystem::new(Box::new(network(theirs, Side::Server)), Some(connector.client));
    tokio::task::spawn_local(system);
    let mut buffer = [0; 48];
    loop {
        while let Some(bytes) = client.poll_transmit() {
            ours.write_all(&bytes).await.unwrap();
        }
        if let Some(answer) = client.poll_answer() {
            return answer;
        }
        let read = ours.read(&mut buffer).await.unwrap();
        client.handle_input(&buffer[..read]).unwrap();
    }
}

#[test]
fn our_calls_are_served_by_capnp_rpc() {
    run(async {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let client = ServiceClient::register_udp_session(&session("192.0.2.1:53")).unwrap();
        assert_eq!(call(client, &seen).await, ServiceAnswer::UdpSession(Ok(())));
        let client = ServiceClient::register_udp_session(&session("192.0.2.1:54")).unwrap();
        let refused = ServiceAnswer::UdpSession(Err("no such destination".into()));
        assert_eq!(call(client, &seen).await, refused);
        let client = ServiceClient::unregister_udp_session(&farewell()).unwrap();
        assert_eq!(call(client, &seen).await, ServiceAnswer::UdpSessionEnded);
        let client = ServiceClient::update_configuration(7, &vec![b' '; 100_000]).unwrap();
        let error = Some("bad configuration".into());
        let kept = ServiceAnswer::Configuration { latest_applied_version: -1, error };
        assert_eq!(call(client, &seen).await, kept);
        let id = session("192.0.2.1:53").session;
        assert_eq!(seen.borrow()[0], format!("{:?} [192, 0, 2, 1] 53 210000000000 \"\"", id.as_bytes()));
        assert_eq!(seen.borrow()[2..], ["session idle for 2s".to_owned(), "7 100000".to_owned()]);
    });
}

/// Drives our server until the stream ends; gives what it saw.
async fn serve(mut stream: DuplexStream, mut server: ServiceServer) -> Vec<ServiceEvent> {
    let mut seen = Vec::new();
    let mut buffer = [0; 48];
    loop {
        let read = stream.read(&mut buffer).await.unwrap();
        if read == 0 {
            return seen;
        }
        server.handle_input(&buffer[..read]).unwrap();
        answer(&mut server, &mut seen);
        while let Some(bytes) = server.poll_transmit() {
            // The other end may be gone by the time of the last answers.
            if stream.write_all(&bytes).await.is_err() {
                return seen;
            }
        }
    }
}

#[test]
fn our_server_serves_the_calls_of_capnp_rpc() {
    run(async {
        let (theirs, ours) = tokio::io::duplex(PIPE_BYTES);
        let server = tokio::task::spawn_local(serve(ours, ServiceServer::connector()));
        let mut system = RpcSystem::new(Box::new(network(theirs, Side::Client)), None);
        let connector: cloudflared_server::Client = system.bootstrap(Side::Server);
        let disconnector = system.get_disconnector();
        let system = tokio::task::spawn_local(system);
        let sessions = session_manager::Client { client: connector.client.clone() };
        let configurations = configuration_manager::Client { client: connector.client.clone() };

        let mut call = sessions.register_udp_session_request();
        call.get().set_session_id(session("192.0.2.1:53").session.as_bytes());
        call.get().set_dst_ip(&"192.0.2.1".parse::<std::net::Ipv4Addr>().unwrap().to_ipv6_mapped().octets());
        call.get().set_dst_port(53);
        call.get().set_close_after_idle_hint(210_000_000_000);
        let answer = call.send().promise.await.unwrap();
        assert_eq!(answer.get().unwrap().get_result().unwrap().get_err().unwrap(), "");

        let mut call = sessions.unregister_udp_session_request();
        call.get().set_session_id(farewell().session.as_bytes());
        call.get().set_message(farewell().message);
        call.send().promise.await.unwrap();

        let mut call = configurations.update_configuration_request();
        call.get().set_version(9);
        call.get().set_config(b"{}");
        let answer = call.send().promise.await.unwrap();
        let response = answer.get().unwrap().get_result().unwrap();
        assert_eq!(response.get_latest_applied_version(), 1);
        assert_eq!(response.get_err().unwrap(), "bad configuration");

        drop((connector, sessions, configurations));
        disconnector.await.unwrap();
        system.await.unwrap().unwrap();
        let seen = server.await.unwrap();
        assert!(matches!(
            &seen[..3],
            [
                ServiceEvent::RegisterUdpSession { request, .. },
                ServiceEvent::UnregisterUdpSession { request: ended, .. },
                ServiceEvent::UpdateConfiguration { version: 9, .. },
            ] if *request == session("192.0.2.1:53") && *ended == farewell()
        ));
    });
}
