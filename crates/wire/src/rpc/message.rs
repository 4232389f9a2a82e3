//! The messages of `rpc.capnp` that are used, in and out.

use bytes::{Buf, Bytes, BytesMut};

use crate::capnp::{Builder, EncodeError, Frame, Message, ReadError, StructAt, StructReader};

use super::{MAX_RPC_MESSAGE_BYTES, limits};

/// A method and the interface that declares it (contract, 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Method {
    pub(super) interface: u64,
    pub(super) ordinal: u16,
}

/// Methods of the control stream.
pub(super) const REGISTER_CONNECTION: Method = Method { interface: REGISTRATION_SERVER, ordinal: 0 };
pub(super) const UNREGISTER_CONNECTION: Method = Method { interface: REGISTRATION_SERVER, ordinal: 1 };
pub(super) const UPDATE_LOCAL_CONFIGURATION: Method = Method { interface: REGISTRATION_SERVER, ordinal: 2 };
/// Methods of the other streams.
pub(super) const REGISTER_UDP_SESSION: Method = Method { interface: SESSION_MANAGER, ordinal: 0 };
pub(super) const UNREGISTER_UDP_SESSION: Method = Method { interface: SESSION_MANAGER, ordinal: 1 };
pub(super) const UPDATE_CONFIGURATION: Method = Method { interface: CONFIGURATION_MANAGER, ordinal: 0 };

const REGISTRATION_SERVER: u64 = 0xf716_95ec_7fe8_5497;
const SESSION_MANAGER: u64 = 0x8394_45a5_9fb0_1686;
const CONFIGURATION_MANAGER: u64 = 0xb48e_dfbd_aa25_db04;

/// Reason of the `Abort` with which unmodified connectors end a control stream (contract, 2.2).
pub(super) const SHUTDOWN: &str = "rpc: shutdown";

/// One message as it is read. What borrows is looked at before the next one.
#[derive(Debug)]
pub(super) enum Incoming<'a, 'm> {
    /// The peer does not know something that we sent. All that we send can be done without.
    Unimplemented,
    Abort {
        reason: String,
    },
    Bootstrap {
        question: u32,
    },
    Call(Call<'a, 'm>),
    Return {
        answer: u32,
        outcome: Outcome<'a, 'm>,
    },
    Finish {
        question: u32,
        release_result_caps: bool,
    },
    Release {
        id: u32,
        count: u32,
    },
    /// `Resolve`, `Disembargo`, and what is newer than this.
    Other,
}

#[derive(Debug)]
pub(super) struct Call<'a, 'm> {
    pub(super) question: u32,
    pub(super) target: Target,
    pub(super) method: Method,
    pub(super) results_to_caller: bool,
    pub(super) params: StructReader<'a, 'm>,
}

/// On what a method is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// A capability that its receiver exported.
    Export(u32),
    /// The capability that the answer to this question will be.
    Answer(u32),
    /// Something inside an answer, or what is newer than this.
    Other,
}

#[derive(Debug)]
pub(super) enum Outcome<'a, 'm> {
    Results(Payload<'a, 'm>),
    Exception { reason: String },
    Canceled,
    Other,
}

/// Content and its table of capabilities.
#[derive(Debug, Clone, Copy)]
pub(super) struct Payload<'a, 'm>(StructReader<'a, 'm>);

impl<'a, 'm> Payload<'a, 'm> {
    /// The content, if it is a struct.
    pub(super) fn content(self) -> Result<StructReader<'a, 'm>, ReadError> {
        self.0.structure(0)
    }

    /// The sender's export that the content is, if it is one.
    pub(super) fn hosted_capability(self) -> Result<Option<u32>, ReadError> {
        let Some(index) = self.0.capability(0)? else { return Ok(None) };
        let Ok(index) = usize::try_from(index) else { return Ok(None) };
        let Some(descriptor) = self.0.structs(1)?.iter().nth(index) else { return Ok(None) };
        let descriptor = descriptor?;
        let hosted = matches!(descriptor.u16(0), SENDER_HOSTED | SENDER_PROMISE);
        Ok(hosted.then(|| descriptor.u32(4)))
    }
}

impl<'a, 'm> Incoming<'a, 'm> {
    pub(super) fn read(message: &'m Message<'a>) -> Result<Self, ReadError> {
        let root = message.root()?;
        let body = |root: StructReader<'a, 'm>| root.structure(0);
        Ok(match root.u16(0) {
            UNIMPLEMENTED => Self::Unimplemented,
            ABORT => Self::Abort { reason: reason(body(root)?)? },
            CALL => Self::Call(Call::read(body(root)?)?),
            RETURN => {
                let body = body(root)?;
                let outcome = match body.u16(6) {
                    RESULTS => Outcome::Results(Payload(body.structure(0)?)),
                    EXCEPTION => Outcome::Exception { reason: reason(body.structure(0)?)? },
                    CANCELED => Outcome::Canceled,
                    _ => Outcome::Other,
                };
                Self::Return { answer: body.u32(0), outcome }
            }
            FINISH => {
                let body = body(root)?;
                // Its default is true, so the bit says the opposite.
                Self::Finish { question: body.u32(0), release_result_caps: !body.bool(32) }
            }
            RELEASE => {
                let body = body(root)?;
                Self::Release { id: body.u32(0), count: body.u32(4) }
            }
            BOOTSTRAP => Self::Bootstrap { question: body(root)?.u32(0) },
            _ => Self::Other,
        })
    }
}

impl<'a, 'm> Call<'a, 'm> {
    fn read(call: StructReader<'a, 'm>) -> Result<Self, ReadError> {
        let target = call.structure(0)?;
        let target = match target.u16(4) {
            IMPORTED_CAP => Target::Export(target.u32(0)),
            PROMISED_ANSWER => {
                let promised = target.structure(0)?;
                let mut plain = true;
                for step in promised.structs(0)?.iter() {
                    plain &= step?.u16(0) == NOOP;
                }
                if plain { Target::Answer(promised.u32(0)) } else { Target::Other }
            }
            _ => Target::Other,
        };
        Ok(Self {
            question: call.u32(0),
            target,
            method: Method { interface: call.u64(8), ordinal: call.u16(4) },
            results_to_caller: call.u16(6) == CALLER,
            params: Payload(call.structure(1)?).content()?,
        })
    }
}

/// An exception's words. Go puts into them what its callers passed, which need not be UTF-8.
fn reason(exception: StructReader<'_, '_>) -> Result<String, ReadError> {
    Ok(String::from_utf8_lossy(exception.text_bytes(0)?).into_owned())
}

/// Why a call failed: `Exception.type`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Failure {
    Failed = 0,
    Unimplemented = 3,
}

pub(super) fn abort(reason: &str) -> Bytes {
    short(ABORT, |builder, root| write_exception(builder, root, reason, Failure::Failed))
}

pub(super) fn bootstrap(question: u32) -> Bytes {
    short(BOOTSTRAP, |builder, root| {
        let body = builder.structure(root, 0, 1, 1);
        builder.set(body, 0, question.to_le_bytes());
    })
}

pub(super) fn finish(question: u32, release_result_caps: bool) -> Bytes {
    short(FINISH, |builder, root| {
        let body = builder.structure(root, 0, 1, 0);
        builder.set(body, 0, question.to_le_bytes());
        builder.set_bool(body, 32, !release_result_caps);
    })
}

/// A call whose parameters have the size `(data words, pointers)`.
pub(super) fn call(
    question: u32,
    target: Target,
    method: Method,
    size: (u16, u16),
    fill: impl FnOnce(&mut Builder<'_>, StructAt),
) -> Result<Bytes, EncodeError> {
    message(CALL, |builder, root| {
        let body = builder.structure(root, 0, 3, 3);
        builder.set(body, 0, question.to_le_bytes());
        builder.set(body, 4, method.ordinal.to_le_bytes());
        builder.set(body, 8, method.interface.to_le_bytes());
        let place = builder.structure(body, 0, 1, 1);
        match target {
            Target::Export(id) => builder.set(place, 0, id.to_le_bytes()),
            Target::Answer(id) => {
                builder.set(place, 4, PROMISED_ANSWER.to_le_bytes());
                let promised = builder.structure(place, 0, 1, 1);
                builder.set(promised, 0, id.to_le_bytes());
            }
            Target::Other => debug_assert!(false, "only what was read can be of another kind"),
        }
        let payload = builder.structure(body, 1, 0, 2);
        let params = builder.structure(payload, 0, size.0, size.1);
        fill(builder, params);
    })
}

/// The answer to `Bootstrap`: our export `export`.
pub(super) fn return_capability(answer: u32, export: u32) -> Bytes {
    short(RETURN, |builder, root| {
        let payload = write_results(builder, root, answer);
        builder.capability(payload, 0, 0);
        for descriptor in builder.structs(payload, 1, 1, 1, 1).iter() {
            builder.set(descriptor, 0, SENDER_HOSTED.to_le_bytes());
            // attachedFd, with its default of 0xff for none, stays zero bits.
            builder.set(descriptor, 4, export.to_le_bytes());
        }
    })
}

/// An answer whose results have the size `(data words, pointers)`.
pub(super) fn return_results(
    answer: u32,
    size: (u16, u16),
    fill: impl FnOnce(&mut Builder<'_>, StructAt),
) -> Result<Bytes, EncodeError> {
    message(RETURN, |builder, root| {
        let payload = write_results(builder, root, answer);
        let results = builder.structure(payload, 0, size.0, size.1);
        fill(builder, results);
    })
}

/// An answer without results.
pub(super) fn return_nothing(answer: u32) -> Bytes {
    short(RETURN, |builder, root| {
        write_results(builder, root, answer);
    })
}

pub(super) fn return_exception(answer: u32, reason: &str, failure: Failure) -> Bytes {
    short(RETURN, |builder, root| {
        let body = builder.structure(root, 0, 2, 1);
        builder.set(body, 0, answer.to_le_bytes());
        builder.set(body, 6, EXCEPTION.to_le_bytes());
        write_exception(builder, body, reason, failure);
    })
}

pub(super) fn return_canceled(answer: u32) -> Bytes {
    short(RETURN, |builder, root| {
        let body = builder.structure(root, 0, 2, 1);
        builder.set(body, 0, answer.to_le_bytes());
        builder.set(body, 6, CANCELED.to_le_bytes());
    })
}

/// Gives back a message that is not known, whole if it is in one segment.
pub(super) fn unimplemented(received: &Message<'_>) -> Bytes {
    message(UNIMPLEMENTED, |builder, root| {
        if let Some(segment) = received.single_segment() {
            builder.embed(root, 0, segment);
        }
    })
    .unwrap_or_else(|_| short(UNIMPLEMENTED, |_, _| {}))
}

fn write_results(builder: &mut Builder<'_>, root: StructAt, answer: u32) -> StructAt {
    let body = builder.structure(root, 0, 2, 1);
    builder.set(body, 0, answer.to_le_bytes());
    builder.set(body, 6, RESULTS.to_le_bytes());
    builder.structure(body, 0, 0, 2)
}

fn write_exception(builder: &mut Builder<'_>, of: StructAt, reason: &str, failure: Failure) {
    let exception = builder.structure(of, 0, 1, 2);
    builder.text(exception, 0, reason);
    builder.set(exception, 4, (failure as u16).to_le_bytes());
}

fn message(kind: u16, fill: impl FnOnce(&mut Builder<'_>, StructAt)) -> Result<Bytes, EncodeError> {
    let mut out = BytesMut::new();
    let (mut builder, root) = Builder::new(&mut out, MAX_RPC_MESSAGE_BYTES, 1, 1);
    builder.set(root, 0, kind.to_le_bytes());
    fill(&mut builder, root);
    builder.finish()?;
    Ok(out.freeze())
}

/// A message whose size does not depend on anybody's input.
fn short(kind: u16, fill: impl FnOnce(&mut Builder<'_>, StructAt)) -> Bytes {
    message(kind, fill).expect("a few fields and a reason of ours are far below the limit")
}

/// Bytes that arrived, until they are messages.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    buffer: BytesMut,
}

impl Inbox {
    pub(super) fn push(&mut self, input: &[u8]) {
        self.buffer.extend_from_slice(input);
    }

    /// Takes the bytes of the next message, if it is there whole.
    pub(super) fn next(&mut self, message_bytes: usize) -> Result<Option<Bytes>, ReadError> {
        let consumed = match Message::frame(&self.buffer, &limits(message_bytes))? {
            None => return Ok(None),
            Some(Frame { consumed, .. }) => consumed,
        };
        let taken = self.buffer.copy_to_bytes(consumed);
        Ok(Some(taken))
    }

    pub(super) fn clear(&mut self) {
        self.buffer = BytesMut::new();
    }
}

/// Members of the union `Message`.
const UNIMPLEMENTED: u16 = 0;
const ABORT: u16 = 1;
const CALL: u16 = 2;
const RETURN: u16 = 3;
const FINISH: u16 = 4;
const RELEASE: u16 = 6;
const BOOTSTRAP: u16 = 8;

/// Members of the union in `Return`.
const RESULTS: u16 = 0;
const EXCEPTION: u16 = 1;
const CANCELED: u16 = 2;

/// Members of `MessageTarget`, `CapDescriptor`, `PromisedAnswer.Op` and `Call.sendResultsTo`.
const IMPORTED_CAP: u16 = 0;
const PROMISED_ANSWER: u16 = 1;
const SENDER_HOSTED: u16 = 1;
const SENDER_PROMISE: u16 = 2;
const NOOP: u16 = 0;
const CALLER: u16 = 0;
