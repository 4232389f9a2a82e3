//! Calls on streams of their own (contract, 4.1 to 4.3): UDP sessions and configurations.
//!
//! Behind [`RPC_SIGNATURE`](crate::tunnel::RPC_SIGNATURE), the end that opened the stream makes one call
//! ([`ServiceClient`]) and closes it; the other end answers ([`ServiceServer`]). The edge calls a connector's
//! `CloudflaredServer`; a connector calls the edge's `SessionManager`, to say that a session has ended.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use crate::capnp::{EncodeError, ReadError, StructReader};

use super::caller::{Caller, Calls};
use super::host::{CallToken, Host, NotServed, Service};
use super::message::{
    self, Call, Failure, Payload, REGISTER_UDP_SESSION, UNREGISTER_UDP_SESSION, UPDATE_CONFIGURATION,
};
use super::registration::ip;
use super::{MAX_RPC_MESSAGE_BYTES, MAX_UNREGISTERED_MESSAGE_BYTES, RpcError};

/// Asks a connector for a UDP session: a socket, connected to `destination`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterUdpSession {
    /// The session's id, made by the edge.
    pub session: Uuid,
    /// Where to.
    pub destination: SocketAddr,
    /// How long it may be idle; zero asks for the connector's default of 210 s.
    pub close_after_idle: Duration,
    /// For tracing; empty as a rule.
    pub trace_context: String,
}

/// Ends a UDP session, or says that it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnregisterUdpSession {
    /// Which.
    pub session: Uuid,
    /// Why, for the log.
    pub message: String,
}

/// What became of a call.
#[derive(Debug, PartialEq, Eq)]
pub enum ServiceAnswer {
    /// To [`RegisterUdpSession`]: the session is there, or why not, in the connector's words.
    UdpSession(Result<(), String>),
    /// To [`UnregisterUdpSession`].
    UdpSessionEnded,
    /// To a configuration.
    Configuration {
        /// The version that is in force now.
        latest_applied_version: i32,
        /// Why the new one is not, in the connector's words.
        error: Option<String>,
    },
    /// There is no answer, or none that can be understood.
    Failed {
        /// Why, in the peer's words or ours.
        reason: String,
    },
}

/// One call on a stream of its own, at the end that makes it.
#[derive(Debug)]
pub struct ServiceClient {
    caller: Caller<Services>,
}

impl ServiceClient {
    /// Asks a connector for a UDP session.
    ///
    /// # Errors
    /// The request is larger than a message may be.
    pub fn register_udp_session(request: &RegisterUdpSession) -> Result<Self, EncodeError> {
        let mut caller = Caller::new();
        caller.call(ServiceCall::RegisterUdp, REGISTER_UDP_SESSION, (2, 3), |builder, params| {
            builder.set(params, 0, request.destination.port().to_le_bytes());
            let idle = i64::try_from(request.close_after_idle.as_nanos()).unwrap_or(i64::MAX);
            builder.set(params, 8, idle.to_le_bytes());
            builder.data(params, 0, request.session.as_bytes());
            match request.destination.ip() {
                IpAddr::V4(ip) => builder.data(params, 1, &ip.octets()),
                IpAddr::V6(ip) => builder.data(params, 1, &ip.octets()),
            }
            if !request.trace_context.is_empty() {
                builder.text(params, 2, &request.trace_context);
            }
        })?;
        Ok(Self { caller })
    }

    /// Ends a UDP session, from either side.
    ///
    /// # Errors
    /// The message is larger than one may be.
    pub fn unregister_udp_session(request: &UnregisterUdpSession) -> Result<Self, EncodeError> {
        let mut caller = Caller::new();
        caller.call(ServiceCall::UnregisterUdp, UNREGISTER_UDP_SESSION, (0, 2), |builder, params| {
            builder.data(params, 0, request.session.as_bytes());
            builder.text(params, 1, &request.message);
        })?;
        Ok(Self { caller })
    }

    /// Gives a connector its configuration, JSON.
    ///
    /// # Errors
    /// The configuration is larger than a message may be.
    pub fn update_configuration(version: i32, config: &[u8]) -> Result<Self, EncodeError> {
        let mut caller = Caller::new();
        caller.call(ServiceCall::Configuration, UPDATE_CONFIGURATION, (1, 1), |builder, params| {
            builder.set(params, 0, version.to_le_bytes());
            builder.data(params, 0, config);
        })?;
        Ok(Self { caller })
    }

    /// Takes bytes from the stream, cut anywhere.
    ///
    /// # Errors
    /// The peer broke the protocol. An `Abort` that says so waits to be sent; nothing more is taken.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<(), RpcError> {
        self.caller.handle_input(input)
    }

    /// Bytes to send now.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.caller.poll_transmit()
    }

    /// The answer, once.
    pub fn poll_answer(&mut self) -> Option<ServiceAnswer> {
        self.caller.poll_event()
    }

    /// Ends the conversation: an `Abort` waits to be sent.
    pub fn shutdown(&mut self) {
        self.caller.shutdown();
    }
}

#[derive(Debug, Clone, Copy)]
enum ServiceCall {
    RegisterUdp,
    UnregisterUdp,
    Configuration,
}

#[derive(Debug)]
struct Services;

impl Calls for Services {
    type Call = ServiceCall;
    type Event = ServiceAnswer;

    fn answered(call: ServiceCall, results: Payload<'_, '_>) -> ServiceAnswer {
        let read = || -> Result<ServiceAnswer, ReadError> {
            let text = |response: StructReader<'_, '_>, pointer| {
                response.text_bytes(pointer).map(|text| String::from_utf8_lossy(text).into_owned())
            };
            Ok(match call {
                ServiceCall::RegisterUdp => {
                    let error = text(results.content()?.structure(0)?, 0)?;
                    ServiceAnswer::UdpSession(if error.is_empty() { Ok(()) } else { Err(error) })
                }
                ServiceCall::UnregisterUdp => ServiceAnswer::UdpSessionEnded,
                ServiceCall::Configuration => {
                    let response = results.content()?.structure(0)?;
                    ServiceAnswer::Configuration {
                        latest_applied_version: response.u32(0).cast_signed(),
                        error: Some(text(response, 0)?).filter(|error| !error.is_empty()),
                    }
                }
            })
        };
        read().unwrap_or_else(|error| ServiceAnswer::Failed { reason: error.to_string() })
    }

    fn failed(_: ServiceCall, reason: String) -> ServiceAnswer {
        ServiceAnswer::Failed { reason }
    }

    fn aborted(reason: String) -> ServiceAnswer {
        ServiceAnswer::Failed { reason }
    }
}

/// What the end that opened the stream asks or says.
#[derive(Debug, PartialEq, Eq)]
pub enum ServiceEvent {
    /// Answer with [`ServiceServer::answer_register_udp_session`].
    RegisterUdpSession {
        /// For the answer.
        token: CallToken,
        /// What is asked for.
        request: RegisterUdpSession,
    },
    /// Answer with [`ServiceServer::answer_unregister_udp_session`].
    UnregisterUdpSession {
        /// For the answer.
        token: CallToken,
        /// Which session, and why.
        request: UnregisterUdpSession,
    },
    /// Answer with [`ServiceServer::answer_update_configuration`].
    UpdateConfiguration {
        /// For the answer.
        token: CallToken,
        /// Its version.
        version: i32,
        /// JSON, not checked.
        config: Bytes,
    },
    /// It ended the conversation, which is normal after an answer.
    Aborted {
        /// Its words.
        reason: String,
    },
}

/// Calls on a stream that the other end opened.
#[derive(Debug)]
pub struct ServiceServer {
    host: Host<Served>,
}

/// Which methods are served.
#[derive(Debug, Clone, Copy)]
enum Served {
    /// `SessionManager.unregisterUdpSession` only.
    Edge,
    /// All of `CloudflaredServer`.
    Connector,
}

impl ServiceServer {
    /// At the edge, for a stream that a connector opened: sessions are ended, and nothing else.
    pub fn edge() -> Self {
        Self { host: Host::new(Served::Edge, MAX_UNREGISTERED_MESSAGE_BYTES) }
    }

    /// At a connector, for a stream that the edge opened.
    pub fn connector() -> Self {
        Self { host: Host::new(Served::Connector, MAX_RPC_MESSAGE_BYTES) }
    }

    /// Takes bytes from the stream, cut anywhere. After the end of the conversation they are dropped.
    ///
    /// # Errors
    /// The peer broke the protocol. An `Abort` that says so waits to be sent; nothing more is taken.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<(), RpcError> {
        self.host.handle_input(input)
    }

    /// Whether the conversation has ended.
    pub fn is_closed(&self) -> bool {
        self.host.is_closed()
    }

    /// Bytes to send now.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.host.poll_transmit()
    }

    /// What was asked or said.
    pub fn poll_event(&mut self) -> Option<ServiceEvent> {
        self.host.poll_event()
    }

    /// Says that the session is there, or why not.
    pub fn answer_register_udp_session(&mut self, token: CallToken, result: Result<(), &str>) {
        self.host.answer(token, |question| {
            message::return_results(question, (0, 1), |builder, results| {
                let response = builder.structure(results, 0, 0, 2);
                builder.text(response, 0, result.err().unwrap_or(""));
            })
            .unwrap_or_else(|_| message::return_exception(question, TOO_LARGE, Failure::Failed))
        });
    }

    /// Says that the session is no more.
    pub fn answer_unregister_udp_session(&mut self, token: CallToken) {
        self.host.answer(token, message::return_nothing);
    }

    /// Says which version is in force, and why the new one is not, if it is not.
    pub fn answer_update_configuration(
        &mut self,
        token: CallToken,
        latest_applied_version: i32,
        error: Option<&str>,
    ) {
        self.host.answer(token, |question| {
            message::return_results(question, (0, 1), |builder, results| {
                let response = builder.structure(results, 0, 1, 1);
                builder.set(response, 0, latest_applied_version.to_le_bytes());
                builder.text(response, 0, error.unwrap_or(""));
            })
            .unwrap_or_else(|_| message::return_exception(question, TOO_LARGE, Failure::Failed))
        });
    }
}

impl Service for Served {
    type Event = ServiceEvent;

    fn called(&self, token: CallToken, call: &Call<'_, '_>) -> Result<ServiceEvent, NotServed> {
        match (call.method, self) {
            (UNREGISTER_UDP_SESSION, _) => {
                let request = read_unregister(call.params).map_err(NotServed::params)?;
                Ok(ServiceEvent::UnregisterUdpSession { token, request })
            }
            (REGISTER_UDP_SESSION, Self::Connector) => {
                let request = read_register(call.params).map_err(NotServed::params)?;
                Ok(ServiceEvent::RegisterUdpSession { token, request })
            }
            (UPDATE_CONFIGURATION, Self::Connector) => {
                let config = call.params.data(0).map_err(NotServed::params)?;
                let version = call.params.u32(0).cast_signed();
                Ok(ServiceEvent::UpdateConfiguration {
                    token,
                    version,
                    config: Bytes::copy_from_slice(config),
                })
            }
            _ => Err(NotServed::unimplemented()),
        }
    }

    fn aborted(&self, reason: String) -> ServiceEvent {
        ServiceEvent::Aborted { reason }
    }
}

/// Parameters of a call are not what the method takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum SessionError {
    #[error("a parameter cannot be read")]
    Read(#[from] ReadError),
    #[error("a session id has 16 bytes")]
    SessionId,
    #[error("an address has 4 or 16 bytes")]
    Address,
}

fn read_register(params: StructReader<'_, '_>) -> Result<RegisterUdpSession, SessionError> {
    let address = ip(params.data(1)?).ok_or(SessionError::Address)?;
    Ok(RegisterUdpSession {
        session: session_id(params)?,
        destination: SocketAddr::new(address, params.u16(0)),
        close_after_idle: Duration::from_nanos(u64::try_from(params.u64(8).cast_signed()).unwrap_or(0)),
        trace_context: params.text(2)?.to_owned(),
    })
}

fn read_unregister(params: StructReader<'_, '_>) -> Result<UnregisterUdpSession, SessionError> {
    let message = String::from_utf8_lossy(params.text_bytes(1)?).into_owned();
    Ok(UnregisterUdpSession { session: session_id(params)?, message })
}

fn session_id(params: StructReader<'_, '_>) -> Result<Uuid, SessionError> {
    Uuid::from_slice(params.data(0)?).map_err(|_| SessionError::SessionId)
}

const TOO_LARGE: &str = "response too large";
