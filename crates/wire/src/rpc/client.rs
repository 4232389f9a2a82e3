//! The connector's end of a control stream.

use bytes::Bytes;

use crate::capnp::EncodeError;

use super::caller::{Caller, Calls};
use super::message::{Payload, REGISTER_CONNECTION, UNREGISTER_CONNECTION, UPDATE_LOCAL_CONFIGURATION};
use super::registration::{REGISTER_PARAMS, read_response};
use super::{ConnectionDetails, ConnectionError, RegisterRequest, RpcError};

/// A call of the connector's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCall {
    /// `registerConnection`.
    Register,
    /// `unregisterConnection`.
    Unregister,
    /// `updateLocalConfiguration`.
    LocalConfiguration,
}

/// What the edge answered or said.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// The connection is registered.
    Registered(ConnectionDetails),
    /// The registration was refused.
    Refused(ConnectionError),
    /// The edge sends no new flows.
    Unregistered,
    /// The edge has the local configuration.
    LocalConfigurationReceived,
    /// A call has no answer, or none that can be understood.
    CallFailed {
        /// Which.
        call: ClientCall,
        /// Why, in the edge's words or ours.
        reason: String,
    },
    /// The edge ended the conversation.
    Aborted {
        /// Its words.
        reason: String,
    },
}

/// The state of one control stream, at the connector.
#[derive(Debug)]
pub struct RegistrationClient {
    caller: Caller<Registration>,
}

impl Default for RegistrationClient {
    fn default() -> Self {
        Self::new()
    }
}

impl RegistrationClient {
    /// The start of a control stream: asks for the edge's interface, and lets calls follow at once.
    pub fn new() -> Self {
        Self { caller: Caller::new() }
    }

    /// Asks to be registered.
    ///
    /// # Errors
    /// The request is larger than a message may be.
    pub fn register(&mut self, request: &RegisterRequest) -> Result<(), EncodeError> {
        self.caller.call(ClientCall::Register, REGISTER_CONNECTION, REGISTER_PARAMS, |builder, params| {
            request.write(builder, params);
        })
    }

    /// Asks for no new flows.
    pub fn unregister(&mut self) {
        let sent = self.caller.call(ClientCall::Unregister, UNREGISTER_CONNECTION, (0, 0), |_, _| {});
        debug_assert!(sent.is_ok(), "a call without parameters is far below the limit");
    }

    /// Reports the local configuration, JSON.
    ///
    /// # Errors
    /// It is larger than a message may be.
    pub fn update_local_configuration(&mut self, config: &[u8]) -> Result<(), EncodeError> {
        let call = ClientCall::LocalConfiguration;
        self.caller.call(call, UPDATE_LOCAL_CONFIGURATION, (0, 1), |builder, params| {
            builder.data(params, 0, config);
        })
    }

    /// Ends the conversation as unmodified connectors do (contract, 2.2).
    pub fn shutdown(&mut self) {
        self.caller.shutdown();
    }

    /// Takes bytes from the stream, cut anywhere. After the end of the conversation they are dropped.
    ///
    /// # Errors
    /// The peer broke the protocol. An `Abort` that says so waits to be sent; nothing more is taken.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<(), RpcError> {
        self.caller.handle_input(input)
    }

    /// Whether the conversation has ended.
    pub fn is_closed(&self) -> bool {
        self.caller.is_closed()
    }

    /// Bytes to send now.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.caller.poll_transmit()
    }

    /// What the edge answered or said.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.caller.poll_event()
    }
}

/// The calls of a control stream.
#[derive(Debug)]
struct Registration;

impl Calls for Registration {
    type Call = ClientCall;
    type Event = ClientEvent;

    fn answered(call: ClientCall, results: Payload<'_, '_>) -> ClientEvent {
        match call {
            ClientCall::Register => {
                let response = results
                    .content()
                    .map_err(|error| error.to_string())
                    .and_then(|results| read_response(results).map_err(|error| error.to_string()));
                match response {
                    Ok(Ok(details)) => ClientEvent::Registered(details),
                    Ok(Err(error)) => ClientEvent::Refused(error),
                    Err(reason) => Self::failed(call, reason),
                }
            }
            ClientCall::Unregister => ClientEvent::Unregistered,
            ClientCall::LocalConfiguration => ClientEvent::LocalConfigurationReceived,
        }
    }

    fn failed(call: ClientCall, reason: String) -> ClientEvent {
        ClientEvent::CallFailed { call, reason }
    }

    fn aborted(reason: String) -> ClientEvent {
        ClientEvent::Aborted { reason }
    }
}
