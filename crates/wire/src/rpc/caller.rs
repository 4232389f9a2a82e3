//! The end that calls: questions and what became of them, whatever the methods are.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::capnp::{Builder, EncodeError, Message, StructAt};

use super::message::{self, Failure, Inbox, Incoming, Method, Outcome, Payload, Target};
use super::{MAX_RPC_MESSAGE_BYTES, MAX_TRANSMITS, RpcError, limits};

/// What a [`Caller`] makes of answers.
pub(super) trait Calls {
    /// Which call it was.
    type Call: Copy;
    /// What whoever drives the machine hears.
    type Event;

    /// A call has its answer.
    fn answered(call: Self::Call, results: Payload<'_, '_>) -> Self::Event;

    /// A call has no answer, or could not be made.
    fn failed(call: Self::Call, reason: String) -> Self::Event;

    /// The peer ended the conversation, in its words.
    fn aborted(reason: String) -> Self::Event;
}

/// The state of a conversation, at the end that calls.
#[derive(Debug)]
pub(super) struct Caller<C: Calls> {
    inbox: Inbox,
    transmits: VecDeque<Bytes>,
    events: VecDeque<C::Event>,
    questions: BTreeMap<u32, Question<C::Call>>,
    next_question: u32,
    target: Target,
    closed: bool,
}

#[derive(Debug, Clone, Copy)]
enum Question<Call> {
    Bootstrap,
    Call(Call),
}

impl<C: Calls> Caller<C> {
    /// Asks for the peer's interface, and lets calls follow at once.
    pub(super) fn new() -> Self {
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

    /// Calls a method whose parameters have the size `(data words, pointers)`.
    pub(super) fn call(
        &mut self,
        call: C::Call,
        method: Method,
        size: (u16, u16),
        fill: impl FnOnce(&mut Builder<'_>, StructAt),
    ) -> Result<(), EncodeError> {
        if self.closed || self.target == Target::Other {
            let reason =
                if self.closed { "the conversation has ended" } else { "the peer offers no interface" };
            self.events.push_back(C::failed(call, reason.to_owned()));
            return Ok(());
        }
        let message = message::call(self.next_question, self.target, method, size, fill)?;
        self.questions.insert(self.next_question, Question::Call(call));
        self.next_question = self.next_question.wrapping_add(1);
        self.transmits.push_back(message);
        Ok(())
    }

    pub(super) fn shutdown(&mut self) {
        if !self.closed {
            self.transmits.push_back(message::abort(message::SHUTDOWN));
            self.close();
        }
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

    pub(super) fn poll_event(&mut self) -> Option<C::Event> {
        self.events.pop_front()
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
                self.events.push_back(C::aborted(reason));
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
            Question::Call(call) => {
                let event = match outcome {
                    Outcome::Results(payload) => C::answered(call, payload),
                    Outcome::Exception { reason } => C::failed(call, reason),
                    Outcome::Canceled => C::failed(call, "the peer cancelled the call".to_owned()),
                    Outcome::Other => C::failed(call, "the peer answered in an unknown way".to_owned()),
                };
                self.events.push_back(event);
            }
        }
        Ok(())
    }
}

/// The first question of every conversation.
const BOOTSTRAP_QUESTION: u32 = 0;
