//! Each machine against `capnp-rpc` as the other end.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use adit_wire::rpc::{ClientEvent, RegistrationClient, RegistrationServer, ServerEvent};
use capnp::capability::Promise;
use capnp_rpc::{RpcSystem, rpc_twoparty_capnp::Side, twoparty};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

use crate::tunnelrpc_capnp::registration_server;
use crate::{assert_same, details, refusal, request};

/// Small, so that messages arrive in pieces.
pub(crate) const PIPE_BYTES: usize = 64;
/// Longest that a test may take.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let test = async { tokio::time::timeout(DEADLINE, future).await };
    tokio::task::LocalSet::new().block_on(&runtime, test).expect("the ends waited for each other");
}

pub(crate) fn network(
    stream: DuplexStream,
    side: Side,
) -> twoparty::VatNetwork<impl futures_util::AsyncRead + Unpin> {
    let (read, write) = tokio::io::split(stream);
    twoparty::VatNetwork::new(
        read.compat(),
        write.compat_write(),
        side,
        capnp::message::ReaderOptions::default(),
    )
}

/// Drives our server until the stream ends; gives what it saw.
async fn serve(mut stream: DuplexStream) -> Vec<String> {
    let mut server = RegistrationServer::new();
    let mut seen = Vec::new();
    let mut buffer = [0; 48];
    loop {
        let read = stream.read(&mut buffer).await.unwrap();
        if read == 0 {
            return seen;
        }
        server.handle_input(&buffer[..read]).unwrap();
        while let Some(event) = server.poll_event() {
            match event {
                ServerEvent::Register { token, request: actual } => {
                    let mut expected = request();
                    expected.connection_index = actual.connection_index;
                    assert_same(&actual, &expected);
                    seen.push(format!("register {}", actual.connection_index));
                    let answer = if actual.connection_index == 3 { Ok(details()) } else { Err(refusal()) };
                    server.answer_register(token, answer);
                }
                ServerEvent::Unregister { token } => {
                    seen.push("unregister".into());
                    server.answer_unregister(token);
                }
                ServerEvent::LocalConfiguration { token, config } => {
                    seen.push(format!("configuration {}", config.len()));
                    server.answer_local_configuration(token);
                }
                ServerEvent::Aborted { reason } => seen.push(format!("aborted {reason}")),
            }
        }
        while let Some(bytes) = server.poll_transmit() {
            // The other end may be gone by the time of the last answers.
            if stream.write_all(&bytes).await.is_err() {
                return seen;
            }
        }
    }
}

fn fill(mut params: registration_server::register_connection_params::Builder<'_>, index: u8) {
    let request = request();
    params.set_conn_index(index);
    params.set_tunnel_id(request.tunnel.uuid().as_bytes());
    let mut auth = params.reborrow().init_auth();
    auth.set_account_tag(&request.auth.account_tag);
    auth.set_tunnel_secret(request.auth.secret.expose());
    let mut options = params.init_options();
    options.set_origin_local_ip(&[192, 0, 2, 7]);
    options.set_replace_existing(true);
    options.set_compression_quality(1);
    options.set_num_previous_attempts(9);
    let mut client = options.init_client();
    client.set_client_id(request.options.client.client_id.uuid().as_bytes());
    client.set_version("1.2.3");
    client.set_arch("linux_amd64");
    let mut features = client.init_features(2);
    features.set(0, "serialized_headers");
    features.set(1, "adit_half_close");
}

#[test]
fn our_server_serves_a_capnp_rpc_client() {
    run(async {
        let (theirs, ours) = tokio::io::duplex(PIPE_BYTES);
        let server = tokio::task::spawn_local(serve(ours));
        let mut system = RpcSystem::new(Box::new(network(theirs, Side::Client)), None);
        let edge: registration_server::Client = system.bootstrap(Side::Server);
        let disconnector = system.get_disconnector();
        let system = tokio::task::spawn_local(system);

        // Pipelined on the promise of the bootstrap.
        let mut call = edge.register_connection_request();
        fill(call.get(), 3);
        let answer = call.send().promise.await.unwrap();
        let response = answer.get().unwrap().get_result().unwrap().get_result();
        match response.which().unwrap() {
            crate::tunnelrpc_capnp::connection_response::result::ConnectionDetails(actual) => {
                let actual = actual.unwrap();
                assert_eq!(actual.get_uuid().unwrap(), details().uuid.uuid().as_bytes());
                assert_eq!(actual.get_location_name().unwrap(), "edge1");
                assert!(actual.get_tunnel_is_remotely_managed());
            }
            crate::tunnelrpc_capnp::connection_response::result::Error(_) => panic!("refused"),
        }

        // On the capability, once it is known.
        let mut call = edge.register_connection_request();
        fill(call.get(), 2);
        let answer = call.send().promise.await.unwrap();
        let response = answer.get().unwrap().get_result().unwrap().get_result();
        match response.which().unwrap() {
            crate::tunnelrpc_capnp::connection_response::result::Error(error) => {
                let error = error.unwrap();
                assert_eq!(error.get_cause().unwrap(), "Unauthorized: Invalid tunnel secret");
                assert_eq!(error.get_retry_after(), 7_000_000_000);
                assert!(error.get_should_retry());
            }
            crate::tunnelrpc_capnp::connection_response::result::ConnectionDetails(_) => panic!("accepted"),
        }

        let mut call = edge.update_local_configuration_request();
        call.get().set_config(&vec![b' '; 100_000]);
        call.send().promise.await.unwrap();
        edge.unregister_connection_request().send().promise.await.unwrap();

        // A method that is not there.
        let call = edge.client.hook.new_call(0x1234, 9, None);
        let call: capnp::capability::Request<capnp::any_pointer::Owned, capnp::any_pointer::Owned> =
            capnp::capability::Request::new(call.hook);
        let error = call.send().promise.await.err().expect("there is no such method");
        assert_eq!(error.kind, capnp::ErrorKind::Unimplemented);

        drop(edge);
        disconnector.await.unwrap();
        system.await.unwrap().unwrap();
        let seen = server.await.unwrap();
        assert_eq!(&seen[..4], ["register 3", "register 2", "configuration 100000", "unregister"]);
    });
}

struct Edge(Rc<RefCell<Vec<String>>>);

impl Edge {
    fn register(
        &self,
        params: &registration_server::RegisterConnectionParams,
        results: &mut registration_server::RegisterConnectionResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let (auth, options) = (params.get_auth()?, params.get_options()?);
        let client = options.get_client()?;
        let features: Vec<_> =
            client.get_features()?.iter().map(|text| text.unwrap().to_string().unwrap()).collect();
        self.0.borrow_mut().push(format!(
            "{} {:?} {:?} {} {:?} {} {} {} {:?} {features:?} {} {}",
            auth.get_account_tag()?.to_str()?,
            auth.get_tunnel_secret()?,
            params.get_tunnel_id()?,
            params.get_conn_index(),
            options.get_origin_local_ip()?,
            options.get_replace_existing(),
            options.get_compression_quality(),
            options.get_num_previous_attempts(),
            client.get_client_id()?,
            client.get_version()?.to_str()?,
            client.get_arch()?.to_str()?,
        ));
        let response = results.get().init_result().init_result();
        if params.get_conn_index() == 3 {
            let mut place = response.init_connection_details();
            place.set_uuid(details().uuid.uuid().as_bytes());
            place.set_location_name("edge1");
            place.set_tunnel_is_remotely_managed(true);
        } else {
            let mut place = response.init_error();
            place.set_cause("Unauthorized: Invalid tunnel secret");
            place.set_retry_after(7_000_000_000);
            place.set_should_retry(true);
        }
        Ok(())
    }
}

impl registration_server::Server for Edge {
    fn register_connection(
        &mut self,
        params: registration_server::RegisterConnectionParams,
        mut results: registration_server::RegisterConnectionResults,
    ) -> Promise<(), capnp::Error> {
        self.register(&params, &mut results).map_or_else(Promise::err, Promise::ok)
    }

    fn unregister_connection(
        &mut self,
        _: registration_server::UnregisterConnectionParams,
        _: registration_server::UnregisterConnectionResults,
    ) -> Promise<(), capnp::Error> {
        self.0.borrow_mut().push("unregister".into());
        Promise::ok(())
    }

    fn update_local_configuration(
        &mut self,
        params: registration_server::UpdateLocalConfigurationParams,
        _: registration_server::UpdateLocalConfigurationResults,
    ) -> Promise<(), capnp::Error> {
        let config = params.get().and_then(|params| params.get_config().map(<[u8]>::len));
        self.0.borrow_mut().push(format!("configuration {}", config.unwrap()));
        Promise::err(capnp::Error::failed("not today".into()))
    }
}

/// Sends and receives until the client has something to say.
async fn event(client: &mut RegistrationClient, stream: &mut DuplexStream) -> ClientEvent {
    let mut buffer = [0; 48];
    loop {
        while let Some(bytes) = client.poll_transmit() {
            stream.write_all(&bytes).await.unwrap();
        }
        if let Some(event) = client.poll_event() {
            return event;
        }
        let read = stream.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0, "the server ended the stream");
        client.handle_input(&buffer[..read]).unwrap();
    }
}

#[test]
fn our_client_is_served_by_capnp_rpc() {
    run(async {
        let (theirs, mut ours) = tokio::io::duplex(PIPE_BYTES);
        let seen = Rc::new(RefCell::new(Vec::new()));
        let edge: registration_server::Client = capnp_rpc::new_client(Edge(Rc::clone(&seen)));
        let system = RpcSystem::new(Box::new(network(theirs, Side::Server)), Some(edge.client));
        let system = tokio::task::spawn_local(system);

        let mut client = RegistrationClient::new();
        let mut request = request();
        client.register(&request).unwrap();
        assert_eq!(event(&mut client, &mut ours).await, ClientEvent::Registered(details()));
        request.connection_index = 2;
        client.register(&request).unwrap();
        assert_eq!(event(&mut client, &mut ours).await, ClientEvent::Refused(refusal()));
        client.update_local_configuration(&vec![b' '; 100_000]).unwrap();
        let failed = event(&mut client, &mut ours).await;
        assert!(matches!(failed, ClientEvent::CallFailed { reason, .. } if reason.contains("not today")));
        client.unregister();
        assert_eq!(event(&mut client, &mut ours).await, ClientEvent::Unregistered);
        client.shutdown();
        while let Some(bytes) = client.poll_transmit() {
            ours.write_all(&bytes).await.unwrap();
        }
        ours.shutdown().await.unwrap();
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).await.unwrap();
        // An abort is an error to capnp-rpc, and the normal end to the contract (2.2).
        let end = system.await.unwrap().unwrap_err().to_string();
        assert!(end.contains("rpc: shutdown"), "{end}");

        let seen = seen.borrow();
        let ip = std::net::Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped().octets();
        let register = |index: u8| {
            format!(
                "{} {:?} {:?} {index} {ip:?} true 1 9 {:?} {:?} 1.2.3 linux_amd64",
                "ab".repeat(16),
                [7; 32],
                request.tunnel.uuid().as_bytes(),
                request.options.client.client_id.uuid().as_bytes(),
                request.options.client.features,
            )
        };
        assert_eq!(*seen, [register(3), register(2), "configuration 100000".into(), "unregister".into()]);
    });
}
