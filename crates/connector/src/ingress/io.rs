//! A stream of the asynchronous runtime as chunks.

use std::io;

use adit_transport::stream::{Duplex, ReadChunk, StreamError, WriteChunk};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

/// What a connection to an origin is made of: TCP or a Unix socket, perhaps with TLS on it.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Read at once, in bytes.
const CHUNK_BYTES: usize = 32 << 10;

/// The reading half of any stream.
#[derive(Debug)]
pub(super) struct IoReader<T> {
    half: ReadHalf<T>,
    buffer: BytesMut,
    stopped: bool,
}

/// The writing half of any stream.
#[derive(Debug)]
pub(super) struct IoWriter<T> {
    half: Option<WriteHalf<T>>,
}

/// Splits a stream.
pub(super) fn duplex<T: AsyncRead + AsyncWrite + Send>(stream: T) -> Duplex<IoReader<T>, IoWriter<T>> {
    let (reader, writer) = tokio::io::split(stream);
    Duplex::new(
        IoReader { half: reader, buffer: BytesMut::new(), stopped: false },
        IoWriter { half: Some(writer) },
    )
}

impl<T: AsyncRead + Send> ReadChunk for IoReader<T> {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        if self.stopped {
            return Ok(None);
        }
        self.buffer.reserve(CHUNK_BYTES);
        match self.half.read_buf(&mut self.buffer).await {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(self.buffer.split().freeze())),
            // An end without TLS's farewell is an end: most servers close so.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
    }
}

impl<T: AsyncWrite + Send> WriteChunk for IoWriter<T> {
    async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), StreamError> {
        let half = self.half.as_mut().ok_or(StreamError::Reset)?;
        half.write_all(&chunk).await?;
        // A TLS stream holds back what is not flushed.
        Ok(half.flush().await?)
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        let half = self.half.as_mut().ok_or(StreamError::Reset)?;
        Ok(half.shutdown().await?)
    }

    fn reset(&mut self) {
        // Closed with the other half; there is no way to say more through what may be TLS.
        self.half = None;
    }
}
