//! Messages on a stream, each behind its length in two bytes, as DNS has them (RFC 7766, section 8).
//!
//! [`serve`] answers each as soon as its answer is there, in whatever order that is. What always holds: what is waiting and
//! what is under way is bounded, and a message that is longer than it may be ends the stream.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::stream::{Duplex, ReadChunk, StreamError, WriteChunk};

/// A message with its length before it; `None` if it is longer than two bytes can say.
pub fn frame(message: &[u8]) -> Option<Bytes> {
    let length = u16::try_from(message.len()).ok()?;
    let mut framed = BytesMut::with_capacity(2 + message.len());
    framed.put_u16(length);
    framed.put_slice(message);
    Some(framed.freeze())
}

/// Messages that come one after another.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: BytesMut,
}

/// A message is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {0} bytes")]
pub struct FrameTooLong(pub usize);

impl Frames {
    /// Takes what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message.
    ///
    /// # Errors
    /// It is longer than `limit`: nothing can be found behind it.
    pub fn pop(&mut self, limit: usize) -> Result<Option<Bytes>, FrameTooLong> {
        let Some(length) = self.buffer.get(..2).map(|two| usize::from(u16::from_be_bytes([two[0], two[1]])))
        else {
            return Ok(None);
        };
        if length > limit {
            return Err(FrameTooLong(length));
        }
        if self.buffer.len() < 2 + length {
            return Ok(None);
        }
        self.buffer.advance(2);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

/// How a stream of messages is served.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest message that is read, in bytes.
    pub message_bytes: usize,
    /// Messages that are under way at once: more wait unread.
    pub under_way: usize,
    /// For how long the peer may say nothing while nothing is under way, and take no answer.
    pub idle: Option<Duration>,
}

/// Why a stream of messages ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A message was too long.
    #[error(transparent)]
    TooLong(#[from] FrameTooLong),
    /// The peer takes no answers.
    #[error("the peer takes no answers")]
    Stuck,
    /// It cannot be written any more.
    #[error("an answer cannot be written")]
    Write(#[source] StreamError),
}

/// Answers messages until the peer ends, or says nothing for too long; what is under way then is still answered. A message
/// that gets no answer is passed over.
///
/// May be cancelled: messages that are under way are given up.
///
/// # Errors
/// The peer misbehaves, or is gone.
pub async fn serve<R, W, F>(
    stream: &mut Duplex<R, W>,
    limits: Limits,
    mut answer: impl FnMut(Bytes) -> F,
) -> Result<(), ServeError>
where
    R: ReadChunk,
    W: WriteChunk,
    F: Future<Output = Option<Vec<u8>>>,
{
    let Duplex { reader, writer } = stream;
    let mut frames = Frames::default();
    let mut under_way = FuturesUnordered::new();
    let mut ended = false;
    loop {
        while under_way.len() < limits.under_way
            && let Some(message) = frames.pop(limits.message_bytes)?
        {
            under_way.push(answer(message));
        }
        let (full, quiet) = (under_way.len() >= limits.under_way, under_way.is_empty());
        if ended && quiet {
            break;
        }
        tokio::select! {
            read = next(reader, limits.idle.filter(|_| quiet)), if !ended && !full => match read {
                Ok(Some(chunk)) => frames.push(&chunk),
                Ok(None) | Err(_) => ended = true,
            },
            Some(answer) = under_way.next() => {
                if let Some(answer) = answer.as_deref().and_then(frame) {
                    within(limits.idle, writer.write_chunk(answer)).await?.map_err(ServeError::Write)?;
                }
            }
        }
    }
    within(limits.idle, writer.finish()).await?.map_err(ServeError::Write)
}

async fn within<F: Future>(limit: Option<Duration>, writing: F) -> Result<F::Output, ServeError> {
    match limit {
        None => Ok(writing.await),
        Some(limit) => tokio::time::timeout(limit, writing).await.map_err(|_| ServeError::Stuck),
    }
}

/// The next bytes; an end if there are none for so long.
async fn next<R: ReadChunk>(reader: &mut R, idle: Option<Duration>) -> Result<Option<Bytes>, StreamError> {
    match idle {
        None => reader.read_chunk().await,
        Some(idle) => tokio::time::timeout(idle, reader.read_chunk()).await.unwrap_or(Ok(None)),
    }
}

/// Feeds any bytes to the reader of messages: wherever they are cut, the same come out.
#[doc(hidden)]
pub fn fuzz_messages(data: &[u8]) {
    const LIMIT: usize = 64;
    let (mut whole, mut pieces) = (Frames::default(), Frames::default());
    whole.push(data);
    let mut expected = Vec::new();
    while let Ok(Some(message)) = whole.pop(LIMIT) {
        assert_eq!(frame(&message).expect("its length came in two bytes")[2..], message[..]);
        expected.push(message);
    }
    let mut found = Vec::new();
    for piece in data.chunks(3) {
        pieces.push(piece);
        while let Ok(Some(message)) = pieces.pop(LIMIT) {
            found.push(message);
        }
    }
    assert_eq!(found, expected);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Notify;

    const LIMITS: Limits = Limits { message_bytes: 8, under_way: 2, idle: None };

    #[test]
    fn a_message_that_is_too_long_ends_the_stream() {
        let mut frames = Frames::default();
        frames.push(&[0, 1, 7, 0, 9]);
        assert_eq!(frames.pop(8).unwrap().unwrap(), Bytes::from_static(&[7]));
        assert_eq!(frames.pop(8), Err(FrameTooLong(9)));
    }

    #[tokio::test]
    async fn a_quick_answer_overtakes_a_slow_one_and_all_come_before_the_end() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = crate::io::duplex(near);
        // One chunk, more messages than may be under way at once, then the end.
        far.write_all(b"\0\x04slow\0\x05quick\0\x04more\0\x04none").await.unwrap();
        far.shutdown().await.unwrap();
        let others = Notify::new();
        let served = serve(&mut near, LIMITS, async |message: Bytes| {
            match &message[..] {
                b"slow" => others.notified().await,
                b"more" => others.notify_one(),
                b"none" => return None,
                _ => {}
            }
            Some(message.to_vec())
        });
        served.await.unwrap();
        drop(near);
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "\0\x05quick\0\x04more\0\x04slow");
    }

    #[tokio::test]
    async fn who_says_nothing_is_left() {
        let (near, _far) = tokio::io::duplex(64);
        let limits = Limits { idle: Some(Duration::from_millis(10)), ..LIMITS };
        let mut near = crate::io::duplex(near);
        serve(&mut near, limits, async |message: Bytes| Some(message.to_vec())).await.unwrap();
    }

    #[tokio::test]
    async fn who_takes_no_answers_is_left() {
        let (near, mut far) = tokio::io::duplex(64);
        let limits = Limits { idle: Some(Duration::from_millis(10)), ..LIMITS };
        let mut near = crate::io::duplex(near);
        far.write_all(b"\0\x04much").await.unwrap();
        let served = serve(&mut near, limits, async |_: Bytes| Some(vec![0; 100])).await;
        assert!(matches!(served, Err(ServeError::Stuck)), "{served:?}");
    }

    proptest::proptest! {
        #[test]
        fn messages_do_not_depend_on_how_a_stream_is_cut(data: Vec<u8>, lengths: Vec<u8>) {
            fuzz_messages(&data);
            let framed: Vec<u8> =
                lengths.iter().flat_map(|length| frame(&vec![1; usize::from(*length % 70)]).unwrap().to_vec()).collect();
            fuzz_messages(&framed);
        }
    }
}
