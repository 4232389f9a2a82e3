//! A flow that is held until its client's first bytes came, because a rule asks what they say (Gateway semantics, 1.1).
//!
//! The client is told that it is connected, since it sends nothing before; so a flow that is refused then is reset. What
//! was read is passed on first. A client that waits for the server is held for [`FIRST_BYTES_DEADLINE`], and then what its
//! first bytes say is known to be nothing. What is read is bounded: after some 16 KiB everything is recognised.

use adit_inspect::first_bytes::recognise;
use adit_model::{FirstBytes, Refusal};
use adit_transport::datagram::DatagramFlow;
use adit_transport::{Duplex, ReadChunk, StreamError, WriteChunk};
use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};

use crate::flow::Asked;
use crate::limits::FIRST_BYTES_DEADLINE;

/// The device's side of a flow that was told that it is connected.
pub(crate) struct Held<R, W> {
    near: Duplex<Ahead<R>, W>,
}

/// A reading half of which something was read ahead.
pub(crate) struct Ahead<R> {
    read: Option<Bytes>,
    ended: bool,
    reader: R,
}

/// Accepts a flow and reads what its client says first. `None` if the device has gone.
pub(crate) async fn hold<A: Asked>(asked: A) -> Option<(FirstBytes, Held<A::Reader, A::Writer>)> {
    let (first, near) = read_ahead(asked.accept().await?).await?;
    Some((first, Held { near }))
}

/// Reads what a client says first. `None` if it has gone.
pub(crate) async fn read_ahead<R: ReadChunk, W>(
    near: Duplex<R, W>,
) -> Option<(FirstBytes, Duplex<Ahead<R>, W>)> {
    let Duplex { mut reader, writer } = near;
    let deadline = Instant::now() + FIRST_BYTES_DEADLINE;
    let (first, read, ended) = read(&mut reader, deadline).await.ok()?;
    let read = (!read.is_empty()).then_some(read);
    Some((first, Duplex { reader: Ahead { read, ended, reader }, writer }))
}

/// Reads until it is known what the client speaks. Also says whether the client has ended its direction.
async fn read<R: ReadChunk>(
    reader: &mut R,
    deadline: Instant,
) -> Result<(FirstBytes, Bytes, bool), StreamError> {
    let mut bytes = BytesMut::new();
    loop {
        let ended = match timeout_at(deadline, reader.read_chunk()).await {
            Ok(Ok(Some(chunk))) => {
                match recognise(&chunk, false) {
                    // What most clients send first comes whole.
                    Some(first) if bytes.is_empty() => return Ok((first, chunk, false)),
                    Some(_) | None => bytes.extend_from_slice(&chunk),
                }
                false
            }
            Ok(Ok(None)) => true,
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok((recognise(&bytes, true).unwrap_or_default(), bytes.freeze(), false)),
        };
        if let Some(first) = recognise(&bytes, ended) {
            return Ok((first, bytes.freeze(), ended));
        }
    }
}

impl<R: ReadChunk, W: WriteChunk> Asked for Held<R, W> {
    type Reader = Ahead<R>;
    type Writer = W;

    async fn accept(self) -> Option<Duplex<Ahead<R>, W>> {
        Some(self.near)
    }

    /// Datagrams are not held: there is no stream to read ahead of.
    async fn accept_datagrams(mut self) -> Option<DatagramFlow<Ahead<R>, W>> {
        self.near.reset();
        None
    }

    async fn refuse(mut self, _refusal: Refusal, _detail: &str) {
        self.near.reset();
    }
}

impl<R: ReadChunk> ReadChunk for Ahead<R> {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        match self.read.take() {
            Some(chunk) => Ok(Some(chunk)),
            None if self.ended => Ok(None),
            None => self.reader.read_chunk().await,
        }
    }

    fn stop(&mut self) {
        self.reader.stop();
    }
}
