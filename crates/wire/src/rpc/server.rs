//! The edge's end of a control stream.

use bytes::Bytes;

use super::host::{CallToken, Host, NotServed, Service};
use super::message::{
    self, Call, Failure, REGISTER_CONNECTION, UNREGISTER_CONNECTION, UPDATE_LOCAL_CONFIGURATION,
};
use super::registration::{REGISTER_RESULTS, write_response};
use super::{
    ConnectionDetails, ConnectionError, MAX_RPC_MESSAGE_BYTES, MAX_UNREGISTERED_MESSAGE_BYTES,
    RegisterRequest, RpcError,
};

/// What the connector asks or says.
#[derive(Debug)]
pub enum ServerEvent {
    /// It wants to be registered: answer with [`RegistrationServer::answer_register`].
    Register {
        /// For the answer.
        token: CallToken,
        /// What it sent.
        request: Box<RegisterRequest>,
    },
    /// It takes no new flows from now on: answer with [`RegistrationServer::answer_unregister`].
    Unregister {
        /// For the answer.
        token: CallToken,
    },
    /// It reports its local configuration, for display: answer with
    /// [`RegistrationServer::answer_local_configuration`].
    LocalConfiguration {
        /// For the answer.
        token: CallToken,
        /// JSON, not checked.
        config: Bytes,
    },
    /// It ended the conversation; at a shutdown this is normal.
    Aborted {
        /// Its words.
        reason: String,
    },
}

/// The state of one control stream, at the edge.
#[derive(Debug)]
pub struct RegistrationServer {
    host: Host<Registration>,
}

impl Default for RegistrationServer {
    fn default() -> Self {
        Self::new()
    }
}

impl RegistrationServer {
    /// The start of a control stream.
    pub fn new() -> Self {
        Self { host: Host::new(Registration, MAX_UNREGISTERED_MESSAGE_BYTES) }
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

    /// What the connector asked or said.
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        self.host.poll_event()
    }

    /// Accepts or refuses a registration. A call that was cancelled meanwhile is left alone.
    #[expect(clippy::needless_pass_by_value, reason = "an answer is given once")]
    pub fn answer_register(
        &mut self,
        token: CallToken,
        response: Result<ConnectionDetails, ConnectionError>,
    ) {
        let answered = self.host.answer(token, |question| {
            message::return_results(question, REGISTER_RESULTS, |builder, results| {
                write_response(&response, builder, results);
            })
            .unwrap_or_else(|_| message::return_exception(question, "response too large", Failure::Failed))
        });
        if answered && response.is_ok() {
            self.host.take_messages_of(MAX_RPC_MESSAGE_BYTES);
        }
    }

    /// Confirms that no new flow will be sent.
    pub fn answer_unregister(&mut self, token: CallToken) {
        self.host.answer(token, message::return_nothing);
    }

    /// Confirms that a local configuration arrived.
    pub fn answer_local_configuration(&mut self, token: CallToken) {
        self.host.answer(token, message::return_nothing);
    }
}

/// The methods of `RegistrationServer`.
#[derive(Debug)]
struct Registration;

impl Service for Registration {
    type Event = ServerEvent;

    fn called(&self, token: CallToken, call: &Call<'_, '_>) -> Result<ServerEvent, NotServed> {
        match call.method {
            REGISTER_CONNECTION => {
                let request = RegisterRequest::read(call.params).map_err(NotServed::params)?;
                Ok(ServerEvent::Register { token, request: Box::new(request) })
            }
            UNREGISTER_CONNECTION => Ok(ServerEvent::Unregister { token }),
            UPDATE_LOCAL_CONFIGURATION => {
                let config = call.params.data(0).map_err(NotServed::params)?;
                Ok(ServerEvent::LocalConfiguration { token, config: Bytes::copy_from_slice(config) })
            }
            _ => Err(NotServed::unimplemented()),
        }
    }

    fn aborted(&self, reason: String) -> ServerEvent {
        ServerEvent::Aborted { reason }
    }
}
