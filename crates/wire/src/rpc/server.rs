//! The edge's end of a control stream.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::capnp::Message;

use super::message::{
    self, Call, Failure, Inbox, Incoming, REGISTER_CONNECTION, REGISTRATION_SERVER, Target,
    UNREGISTER_CONNECTION, UPDATE_LOCAL_CONFIGURATION,
};
use super::registration::{REGISTER_RESULTS, write_response};
use super::{
    ConnectionDetails, ConnectionError, MAX_QUESTIONS, MAX_RPC_MESSAGE_BYTES, MAX_TRANSMITS,
    MAX_UNREGISTERED_MESSAGE_BYTES, RegisterRequest, RpcError, limits,
};

/// Names a call until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallToken {
    question: u32,
    /// Tells a question from a later one with the same id.
    serial: u64,
}

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
    inbox: Inbox,
    transmits: VecDeque<Bytes>,
    events: VecDeque<ServerEvent>,
    answers: BTreeMap<u32, Answer>,
    next_serial: u64,
    /// How often the peer was given our only capability and has not released it.
    references: u64,
    registered: bool,
    closed: bool,
}

#[derive(Debug, Clone, Copy)]
enum Answer {
    /// To `Bootstrap`: our only capability. Calls may be made on it until it is finished.
    Capability,
    /// To a call that waits for its answer.
    Pending { serial: u64 },
    /// To a call that has its answer, not finished yet.
    Returned,
}

impl Default for RegistrationServer {
    fn default() -> Self {
        Self::new()
    }
}

impl RegistrationServer {
    /// The start of a control stream.
    pub fn new() -> Self {
        Self {
            inbox: Inbox::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            answers: BTreeMap::new(),
            next_serial: 0,
            references: 0,
            registered: false,
            closed: false,
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

    /// What the connector asked or said.
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        self.events.pop_front()
    }

    /// Accepts or refuses a registration. A call that was cancelled meanwhile is left alone.
    #[expect(clippy::needless_pass_by_value, reason = "an answer is given once")]
    pub fn answer_register(
        &mut self,
        token: CallToken,
        response: Result<ConnectionDetails, ConnectionError>,
    ) {
        if !self.take_pending(token) {
            return;
        }
        self.registered |= response.is_ok();
        let message = message::return_results(token.question, REGISTER_RESULTS, |builder, results| {
            write_response(&response, builder, results);
        })
        .unwrap_or_else(|_| message::return_exception(token.question, "response too large", Failure::Failed));
        self.transmits.push_back(message);
    }

    /// Confirms that no new flow will be sent.
    pub fn answer_unregister(&mut self, token: CallToken) {
        if self.take_pending(token) {
            self.transmits.push_back(message::return_nothing(token.question));
        }
    }

    /// Confirms that a local configuration arrived.
    pub fn answer_local_configuration(&mut self, token: CallToken) {
        if self.take_pending(token) {
            self.transmits.push_back(message::return_nothing(token.question));
        }
    }

    fn take_pending(&mut self, token: CallToken) -> bool {
        match self.answers.get_mut(&token.question) {
            Some(answer @ Answer::Pending { .. }) => {
                let current = matches!(answer, Answer::Pending { serial } if *serial == token.serial);
                if current {
                    *answer = Answer::Returned;
                }
                current
            }
            Some(Answer::Capability | Answer::Returned) | None => false,
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.inbox.clear();
        self.answers.clear();
    }

    fn handle_messages(&mut self) -> Result<(), RpcError> {
        while !self.closed {
            let limit = if self.registered { MAX_RPC_MESSAGE_BYTES } else { MAX_UNREGISTERED_MESSAGE_BYTES };
            let Some(bytes) = self.inbox.next(limit)? else { break };
            let Some(frame) = Message::frame(&bytes, &limits(limit))? else { break };
            self.handle_message(&frame.message)?;
            if self.transmits.len() > MAX_TRANSMITS {
                return Err(RpcError::TooManyTransmits);
            }
        }
        Ok(())
    }

    fn handle_message(&mut self, received: &Message<'_>) -> Result<(), RpcError> {
        match Incoming::read(received)? {
            Incoming::Abort { reason } => {
                self.events.push_back(ServerEvent::Aborted { reason });
                self.close();
            }
            Incoming::Bootstrap { question } => {
                self.open(question, Answer::Capability)?;
                self.references += 1;
                self.transmits.push_back(message::return_capability(question, EXPORT));
            }
            Incoming::Call(call) => self.handle_call(&call)?,
            // We ask nothing.
            Incoming::Return { answer, .. } => return Err(RpcError::UnknownAnswer(answer)),
            Incoming::Finish { question, release_result_caps } => {
                self.handle_finish(question, release_result_caps);
            }
            Incoming::Release { id: EXPORT, count } => {
                self.references = self.references.saturating_sub(count.into());
            }
            Incoming::Unimplemented | Incoming::Release { .. } => {}
            Incoming::Other => self.transmits.push_back(message::unimplemented(received)),
        }
        Ok(())
    }

    fn open(&mut self, question: u32, answer: Answer) -> Result<(), RpcError> {
        if self.answers.contains_key(&question) {
            return Err(RpcError::QuestionReused(question));
        }
        if self.answers.len() >= MAX_QUESTIONS {
            return Err(RpcError::TooManyQuestions);
        }
        self.answers.insert(question, answer);
        Ok(())
    }

    fn handle_call(&mut self, call: &Call<'_, '_>) -> Result<(), RpcError> {
        let serial = self.next_serial;
        self.next_serial += 1;
        let hosted = match call.target {
            Target::Export(id) => id == EXPORT && self.references > 0,
            Target::Answer(id) => matches!(self.answers.get(&id), Some(Answer::Capability)),
            Target::Other => false,
        };
        self.open(call.question, Answer::Pending { serial })?;
        let token = CallToken { question: call.question, serial };
        let event = if !hosted {
            Err(("no such capability".to_owned(), Failure::Failed))
        } else if !call.results_to_caller || call.interface != REGISTRATION_SERVER {
            Err(("not implemented".to_owned(), Failure::Unimplemented))
        } else {
            Self::event(token, call)
        };
        match event {
            Ok(event) => self.events.push_back(event),
            Err((reason, failure)) => {
                self.take_pending(token);
                self.transmits.push_back(message::return_exception(call.question, &reason, failure));
            }
        }
        Ok(())
    }

    fn event(token: CallToken, call: &Call<'_, '_>) -> Result<ServerEvent, (String, Failure)> {
        let failed = |error: &dyn std::fmt::Display| (error.to_string(), Failure::Failed);
        match call.method {
            REGISTER_CONNECTION => RegisterRequest::read(call.params)
                .map(|request| ServerEvent::Register { token, request: Box::new(request) })
                .map_err(|error| failed(&error)),
            UNREGISTER_CONNECTION => Ok(ServerEvent::Unregister { token }),
            UPDATE_LOCAL_CONFIGURATION => call
                .params
                .data(0)
                .map(|config| ServerEvent::LocalConfiguration {
                    token,
                    config: Bytes::copy_from_slice(config),
                })
                .map_err(|error| failed(&error)),
            _ => Err(("not implemented".to_owned(), Failure::Unimplemented)),
        }
    }

    fn handle_finish(&mut self, question: u32, release_result_caps: bool) {
        match self.answers.remove(&question) {
            Some(Answer::Capability) if release_result_caps => {
                self.references = self.references.saturating_sub(1);
            }
            // Finished before it was answered: cancelled. A `Return` is owed all the same.
            Some(Answer::Pending { .. }) => self.transmits.push_back(message::return_canceled(question)),
            Some(Answer::Capability | Answer::Returned) | None => {}
        }
    }
}

/// The id of our only capability.
const EXPORT: u32 = 0;
