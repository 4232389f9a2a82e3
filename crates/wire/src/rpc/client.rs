//! The connector's end of a control stream.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::capnp::{Builder, EncodeError, Message, StructAt};

use super::message::{
    self, Failure, Inbox, Incoming, Outcome, REGISTER_CONNECTION, Target, UNREGISTER_CONNECTION,
    UPDATE_LOCAL_CONFIGURATION,
};
use super::registration::{REGISTER_PARAMS, read_response};
use super::{
    ConnectionDetails, ConnectionError, MAX_RPC_MESSAGE_BYTES, MAX_TRANSMITS, RegisterRequest, RpcError,
    limits,
};

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
    inbox: Inbox,
    transmits: VecDeque<Bytes>,
    events: VecDeque<ClientEvent>,
    questions: BTreeMap<u32, Question>,
    next_question: u32,
    target: Target,
    closed: bool,
}

#[derive(Debug, Clone, Copy)]
enum Question {
    Bootstrap,
    Call(ClientCall),
}

impl Default for RegistrationClient {
    fn default() -> Self {
        Self::new()
    }
}

impl RegistrationClient {
    /// The start of a control stream: asks for the edge's interface, and lets calls follow at once.
    pub fn new() -> Self {
        Self {
            inbox: Inbox::default(),
            transmits: VecDeque::from([message::bootstrap(BOOTSTRAP_QUESTION)]),
            events: VecDeque::new(),
            questions: BTreeMap::from([(BOOTSTRAP_QUESTION, Question::Bootstrap)]),
            next_question: BOOTSTRAP_QUESTION + 1,
            target: Target::Answer(BOOTSTRAP_QUESTION),
            closed: false,
        }
    }

    /// Asks to be registered.
    ///
    /// # Errors
    /// The request is larger than a message may be.
    pub fn register(&mut self, request: &RegisterRequest) -> Result<(), EncodeError> {
        self.call(ClientCall::Register, REGISTER_CONNECTION, REGISTER_PARAMS, |builder, params| {
            request.write(builder, params);
        })
    }

    /// Asks for no new flows.
    pub fn unregister(&mut self) {
        let sent = self.call(ClientCall::Unregister, UNREGISTER_CONNECTION, (0, 0), |_, _| {});
        debug_assert!(sent.is_ok(), "a call without parameters is far below the limit");
    }

    /// Reports the local configuration, JSON.
    ///
    /// # Errors
    /// It is larger than a message may be.
    pub fn update_local_configuration(&mut self, config: &[u8]) -> Result<(), EncodeError> {
        self.call(ClientCall::LocalConfiguration, UPDATE_LOCAL_CONFIGURATION, (0, 1), |builder, params| {
            builder.data(params, 0, config);
        })
    }

    /// Ends the conversation as unmodified connectors do (contract, 2.2).
    pub fn shutdown(&mut self) {
        if !self.closed {
            self.transmits.push_back(message::abort(message::SHUTDOWN));
            self.close();
        }
    }

    /// Takes bytes from the stream, cut anywhere. After the end of the conversation they are dropped.
    ///
    /// # Errors
    /// The peer broke the protocol. An `Abort` that says so waits to be sent; nothing more is taken.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<(), RpcError> {
        if self.closed {
            return Ok(());
        }
        self.inbox.push(input);
        let result = self.handle_messages();
        if let Err(error) = &result {
            self.transmits.push_back(message::abort(&error.to_string()));
            self.close();
        }
        result
    }

    /// Whether the conversation has ended.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Bytes to send now.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.transmits.pop_front()
    }

    /// What the edge answered or said.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    fn call(
        &mut self,
        call: ClientCall,
        method: u16,
        size: (u16, u16),
        fill: impl FnOnce(&mut Builder<'_>, StructAt),
    ) -> Result<(), EncodeError> {
        if self.closed || self.target == Target::Other {
            let reason =
                if self.closed { "the conversation has ended" } else { "the edge offers no interface" };
            self.events.push_back(ClientEvent::CallFailed { call, reason: reason.to_owned() });
            return Ok(());
        }
        let message = message::call(self.next_question, self.target, method, size, fill)?;
        self.questions.insert(self.next_question, Question::Call(call));
        self.next_question = self.next_question.wrapping_add(1);
        self.transmits.push_back(message);
        Ok(())
    }

    fn close(&mut self) {
        self.closed = true;
        self.inbox.clear();
        self.questions.clear();
    }

    fn handle_messages(&mut self) -> Result<(), RpcError> {
        while !self.closed {
            let Some(bytes) = self.inbox.next(MAX_RPC_MESSAGE_BYTES)? else { break };
            let Some(frame) = Message::frame(&bytes, &limits(MAX_RPC_MESSAGE_BYTES))? else { break };
            self.handle_message(&frame.message)?;
            if self.transmits.len() > MAX_TRANSMITS {
                return Err(RpcError::TooManyTransmits);
            }
        }
        Ok(())
    }

    fn handle_message(&mut self, received: &Message<'_>) -> Result<(), RpcError> {
        match Incoming::read(received)? {
            // We export nothing that could be finished or released.
            Incoming::Unimplemented | Incoming::Finish { .. } | Incoming::Release { .. } => {}
            Incoming::Abort { reason } => {
                self.events.push_back(ClientEvent::Aborted { reason });
                self.close();
            }
            Incoming::Bootstrap { question } => self.refuse(question),
            Incoming::Call(call) => self.refuse(call.question),
            Incoming::Return { answer, outcome } => self.handle_return(answer, outcome)?,
            Incoming::Other => self.transmits.push_back(message::unimplemented(received)),
        }
        Ok(())
    }

    fn refuse(&mut self, question: u32) {
        let message = message::return_exception(question, "not implemented", Failure::Unimplemented);
        self.transmits.push_back(message);
    }

    fn handle_return(&mut self, answer: u32, outcome: Outcome<'_, '_>) -> Result<(), RpcError> {
        let question = self.questions.remove(&answer).ok_or(RpcError::UnknownAnswer(answer))?;
        // The capability of the bootstrap is kept; no other answer has any.
        let keep = matches!(question, Question::Bootstrap);
        self.transmits.push_back(message::finish(answer, !keep));
        match question {
            Question::Bootstrap => {
                let capability = match outcome {
                    Outcome::Results(payload) => payload.hosted_capability()?,
                    Outcome::Exception { .. } | Outcome::Canceled | Outcome::Other => None,
                };
                // Without one, calls that are on their way fail one by one, and later ones at once.
                self.target = capability.map_or(Target::Other, Target::Export);
            }
            Question::Call(call) => self.events.push_back(Self::event(call, outcome)),
        }
        Ok(())
    }

    fn event(call: ClientCall, outcome: Outcome<'_, '_>) -> ClientEvent {
        let failed = |reason: String| ClientEvent::CallFailed { call, reason };
        match (outcome, call) {
            (Outcome::Results(payload), ClientCall::Register) => {
                let response = payload
                    .content()
                    .map_err(|error| error.to_string())
                    .and_then(|results| read_response(results).map_err(|error| error.to_string()));
                match response {
                    Ok(Ok(details)) => ClientEvent::Registered(details),
                    Ok(Err(error)) => ClientEvent::Refused(error),
                    Err(reason) => failed(reason),
                }
            }
            (Outcome::Results(_), ClientCall::Unregister) => ClientEvent::Unregistered,
            (Outcome::Results(_), ClientCall::LocalConfiguration) => ClientEvent::LocalConfigurationReceived,
            (Outcome::Exception { reason }, _) => failed(reason),
            (Outcome::Canceled, _) => failed("the edge cancelled the call".to_owned()),
            (Outcome::Other, _) => failed("the edge answered in an unknown way".to_owned()),
        }
    }
}

/// The first question of every conversation.
const BOOTSTRAP_QUESTION: u32 = 0;
