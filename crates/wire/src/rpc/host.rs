//! The end that is called: questions, answers and our only capability, whatever its methods are.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::capnp::Message;

use super::message::{self, Call, Failure, Inbox, Incoming, Target};
use super::{MAX_QUESTIONS, MAX_TRANSMITS, RpcError, limits};

/// Names a call until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallToken {
    pub(super) question: u32,
    /// Tells a question from a later one with the same id.
    serial: u64,
}

/// What a [`Host`] makes of calls.
pub(super) trait Service {
    /// What whoever drives the machine hears.
    type Event;

    /// A call of a method, or why it is none that is served.
    fn called(&self, token: CallToken, call: &Call<'_, '_>) -> Result<Self::Event, NotServed>;

    /// The peer ended the conversation, in its words.
    fn aborted(&self, reason: String) -> Self::Event;
}

/// Why a call is answered with an exception at once.
#[derive(Debug)]
pub(super) struct NotServed {
    reason: String,
    failure: Failure,
}

impl NotServed {
    /// There is no such method here.
    pub(super) fn unimplemented() -> Self {
        Self { reason: "not implemented".to_owned(), failure: Failure::Unimplemented }
    }

    /// The parameters are not what the method takes.
    pub(super) fn params(error: impl std::fmt::Display) -> Self {
        Self { reason: error.to_string(), failure: Failure::Failed }
    }
}

/// The state of a conversation, at the end that is called.
#[derive(Debug)]
pub(super) struct Host<S: Service> {
    service: S,
    inbox: Inbox,
    transmits: VecDeque<Bytes>,
    events: VecDeque<S::Event>,
    answers: BTreeMap<u32, Answer>,
    next_serial: u64,
    /// How often the peer was given our only capability and has not released it.
    references: u64,
    /// Largest message that is taken now, in bytes.
    message_bytes: usize,
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

impl<S: Service> Host<S> {
    pub(super) fn new(service: S, message_bytes: usize) -> Self {
        Self {
            service,
            inbox: Inbox::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            answers: BTreeMap::new(),
            next_serial: 0,
            references: 0,
            message_bytes,
            closed: false,
        }
    }

    /// Takes messages of up to so many bytes from now on.
    pub(super) fn take_messages_of(&mut self, message_bytes: usize) {
        self.message_bytes = message_bytes;
    }

    pub(super) fn handle_input(&mut self, input: &[u8]) -> Result<(), RpcError> {
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

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Bytes> {
        self.transmits.pop_front()
    }

    pub(super) fn poll_event(&mut self) -> Option<S::Event> {
        self.events.pop_front()
    }

    /// Sends an answer, unless the call was answered or cancelled before; whether it was sent.
    pub(super) fn answer(&mut self, token: CallToken, message: impl FnOnce(u32) -> Bytes) -> bool {
        let pending = self.take_pending(token);
        if pending {
            self.transmits.push_back(message(token.question));
        }
        pending
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
            let Some(bytes) = self.inbox.next(self.message_bytes)? else { break };
            let Some(frame) = Message::frame(&bytes, &limits(self.message_bytes))? else { break };
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
                self.events.push_back(self.service.aborted(reason));
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
            Err(NotServed::params("no such capability"))
        } else if !call.results_to_caller {
            Err(NotServed::unimplemented())
        } else {
            self.service.called(token, call)
        };
        match event {
            Ok(event) => self.events.push_back(event),
            Err(NotServed { reason, failure }) => {
                self.answer(token, |question| message::return_exception(question, &reason, failure));
            }
        }
        Ok(())
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
