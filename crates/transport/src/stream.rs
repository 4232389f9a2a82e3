//! The two halves of a byte stream, whatever carries it.

use std::future::Future;
use std::io;

use bytes::Bytes;

/// The reading half.
pub trait ReadChunk {
    /// The next bytes, never empty; `None` when the peer has ended its direction.
    ///
    /// May be cancelled: nothing is lost, the next call gives what this one would have given. The chunk that came
    /// before counts as consumed, and its flow-control credit is returned to the peer.
    fn read_chunk(&mut self) -> impl Future<Output = Result<Option<Bytes>, StreamError>>;

    /// Tells the peer to send no more. What is still on its way is dropped.
    fn stop(&mut self);
}

/// The writing half.
pub trait WriteChunk {
    /// Writes all of it, waiting for room. Not to be cancelled, but before a reset.
    fn write_chunk(&mut self, chunk: Bytes) -> impl Future<Output = Result<(), StreamError>>;

    /// Ends this direction; what was written still arrives.
    fn finish(&mut self) -> impl Future<Output = Result<(), StreamError>>;

    /// Ends this direction at once, without what is still on its way, and tells the peer so.
    fn reset(&mut self);
}

/// A stream's two halves.
#[derive(Debug)]
pub struct Duplex<R, W> {
    /// From the peer.
    pub reader: R,
    /// To the peer.
    pub writer: W,
}

impl<R: ReadChunk, W: WriteChunk> Duplex<R, W> {
    /// The stream with these halves.
    pub fn new(reader: R, writer: W) -> Self {
        Self { reader, writer }
    }

    /// Ends both directions at once.
    pub fn reset(&mut self) {
        self.writer.reset();
        self.reader.stop();
    }
}

/// Why a stream ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The peer reset the stream, or no longer reads what is sent to it.
    #[error("the stream was reset by the peer")]
    Reset,
    /// The connection that carried the stream is gone.
    #[error("the connection is lost")]
    ConnectionLost(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The operating system said so.
    #[error("the socket failed")]
    Io(#[source] io::Error),
}

impl From<io::Error> for StreamError {
    fn from(error: io::Error) -> Self {
        let reset =
            [io::ErrorKind::ConnectionReset, io::ErrorKind::ConnectionAborted, io::ErrorKind::BrokenPipe];
        if reset.contains(&error.kind()) { Self::Reset } else { Self::Io(error) }
    }
}
