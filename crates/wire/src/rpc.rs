//! Registration and calls over Cap'n Proto RPC, as state machines without I/O (contract, 2.2, 2.3 and 4.1).
//!
//! [`RegistrationServer`] is the edge's end of a control stream, [`RegistrationClient`] the connector's. Calls on streams
//! of their own have [`ServiceClient`] at the end that calls and [`ServiceServer`] at the other. Bytes go in by
//! `handle_input`, bytes to send come out of `poll_transmit`, and what happened out of `poll_event`; whoever drives a
//! machine drains both after every input. What always holds: a peer can make a machine neither panic nor hold more than
//! named limits, and after a violation the machine says `Abort`, once, and takes nothing more.
//!
//! The subset of RPC level 1 (<https://capnproto.org/rpc.html>): `Bootstrap`, `Call` on the promise of the bootstrap or on
//! the capability that it resolved to, `Return`, `Finish`, `Release`, `Abort`. Nobody passes capabilities as arguments;
//! `Resolve`, `Disembargo` and what else there is are answered with `Unimplemented`.

mod caller;
mod client;
mod host;
mod message;
mod registration;
mod server;
mod service;

pub use client::{ClientCall, ClientEvent, RegistrationClient};
pub use host::CallToken;
pub use registration::{
    ClientInfo, ConnectionDetails, ConnectionError, ConnectionOptions, RegisterRequest, TunnelAuth,
    TunnelSecret,
};
pub use server::{RegistrationServer, ServerEvent};
pub use service::{
    RegisterUdpSession, ServiceAnswer, ServiceClient, ServiceEvent, ServiceServer, UnregisterUdpSession,
};

use crate::capnp::{Limits, ReadError};

/// Largest RPC message once a registration was accepted, in bytes. A report of a local configuration with thousands of
/// ingress rules fits.
pub const MAX_RPC_MESSAGE_BYTES: usize = 4 << 20;

/// Largest RPC message from a peer that has not registered yet, in bytes: a registration is a few hundred.
pub const MAX_UNREGISTERED_MESSAGE_BYTES: usize = 64 << 10;

/// Most questions that a peer may have open at once, finished ones not counted. Known ends have three.
const MAX_QUESTIONS: usize = 32;

/// Messages waiting in `poll_transmit` beyond which a peer is cut off: an end that asks and never reads.
const MAX_TRANSMITS: usize = 1024;

/// Why a peer was cut off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// It sent a message that cannot be read.
    #[error("an RPC message cannot be read")]
    Message(#[from] ReadError),
    /// It used a question id that was not finished.
    #[error("question {0} is still in use")]
    QuestionReused(u32),
    /// It opened too many questions.
    #[error("too many open questions")]
    TooManyQuestions,
    /// It asks and does not read the answers.
    #[error("too many answers are waiting to be sent")]
    TooManyTransmits,
    /// It answered a question that was not asked.
    #[error("an answer to question {0}, which was not asked")]
    UnknownAnswer(u32),
}

const fn limits(message_bytes: usize) -> Limits {
    Limits {
        message_bytes,
        // Go's writer doubles its segments.
        segments: 64,
        // Message, call, payload, parameters, options, client, list of features, feature; and the pointer to each.
        depth: 24,
        traversal_words: 2 * MAX_RPC_MESSAGE_BYTES as u64 / 8,
        // Features of a client.
        list_elements: 256,
    }
}

pub use self::fuzz::{
    fuzz_registration_client, fuzz_registration_server, fuzz_service_client, fuzz_service_server,
};

mod fuzz {
    use super::{
        RegistrationClient, RegistrationServer, ServerEvent, ServiceClient, ServiceEvent, ServiceServer,
    };

    /// Fuzz body: any input leaves the server's end answering, or closed with an `Abort`.
    #[doc(hidden)]
    pub fn fuzz_registration_server(input: &[u8]) {
        let mut server = RegistrationServer::new();
        for part in input.chunks(input.len().div_ceil(3).max(1)) {
            let result = server.handle_input(part);
            while let Some(event) = server.poll_event() {
                match event {
                    ServerEvent::Unregister { token } => server.answer_unregister(token),
                    ServerEvent::LocalConfiguration { token, .. } => server.answer_local_configuration(token),
                    ServerEvent::Register { .. } | ServerEvent::Aborted { .. } => {}
                }
            }
            let sent = std::iter::from_fn(|| server.poll_transmit()).count();
            assert!(result.is_ok() || sent > 0, "a violation is answered");
        }
    }

    /// Fuzz body: any input leaves the connector's end waiting, or closed with an `Abort`.
    #[doc(hidden)]
    pub fn fuzz_registration_client(input: &[u8]) {
        let mut client = RegistrationClient::new();
        client.unregister();
        for part in input.chunks(input.len().div_ceil(3).max(1)) {
            let result = client.handle_input(part);
            while client.poll_event().is_some() {}
            let sent = std::iter::from_fn(|| client.poll_transmit()).count();
            assert!(result.is_ok() || sent > 0, "a violation is answered");
        }
    }

    /// Fuzz body: any input leaves the end that is called answering, or closed with an `Abort`.
    #[doc(hidden)]
    pub fn fuzz_service_server(input: &[u8]) {
        for mut server in [ServiceServer::edge(), ServiceServer::connector()] {
            for part in input.chunks(input.len().div_ceil(3).max(1)) {
                let result = server.handle_input(part);
                while let Some(event) = server.poll_event() {
                    match event {
                        ServiceEvent::RegisterUdpSession { token, request } => {
                            server.answer_register_udp_session(token, Err(&request.trace_context));
                        }
                        ServiceEvent::UnregisterUdpSession { token, .. } => {
                            server.answer_unregister_udp_session(token);
                        }
                        ServiceEvent::UpdateConfiguration { token, version, .. } => {
                            server.answer_update_configuration(token, version, Some("no"));
                        }
                        ServiceEvent::Aborted { .. } => {}
                    }
                }
                let sent = std::iter::from_fn(|| server.poll_transmit()).count();
                assert!(result.is_ok() || sent > 0, "a violation is answered");
            }
        }
    }

    /// Fuzz body: any input leaves the end that calls waiting, or closed with an `Abort`.
    #[doc(hidden)]
    pub fn fuzz_service_client(input: &[u8]) {
        let Ok(mut client) = ServiceClient::update_configuration(1, b"{}") else { return };
        for part in input.chunks(input.len().div_ceil(3).max(1)) {
            let result = client.handle_input(part);
            while client.poll_answer().is_some() {}
            let sent = std::iter::from_fn(|| client.poll_transmit()).count();
            assert!(result.is_ok() || sent > 0, "a violation is answered");
        }
    }
}
