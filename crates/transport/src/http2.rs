//! HTTP/2 (RFC 9113) by h2: connections tuned for bulk flows, and its streams as chunks.

use std::future::poll_fn;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};

use crate::stream::{Duplex, ReadChunk, StreamError, WriteChunk};

/// What a peer may have on its way on one stream, in bytes.
pub const STREAM_WINDOW: u32 = 16 << 20;
/// What a peer may have on its way on one connection, in bytes.
pub const CONNECTION_WINDOW: u32 = 64 << 20;

/// Settings of the side that dials.
pub fn client() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_send_buffer_size(MAX_SEND_BUFFER_BYTES)
        .enable_push(false);
    builder
}

/// Settings of the side that listens.
pub fn server() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_send_buffer_size(MAX_SEND_BUFFER_BYTES)
        .max_concurrent_streams(MAX_STREAMS);
    builder
}

/// The reading half of an HTTP/2 stream.
#[derive(Debug)]
pub struct Http2Reader {
    stream: RecvStream,
    /// Bytes given out whose credit the peer has not got back yet.
    owed: usize,
}

/// The writing half of an HTTP/2 stream.
#[derive(Debug)]
pub struct Http2Writer {
    stream: SendStream<Bytes>,
}

/// An HTTP/2 stream as chunks.
pub fn duplex(send: SendStream<Bytes>, receive: RecvStream) -> Duplex<Http2Reader, Http2Writer> {
    Duplex::new(reader(receive), writer(send))
}

/// The reading half of a stream as chunks.
pub fn reader(receive: RecvStream) -> Http2Reader {
    Http2Reader { stream: receive, owed: 0 }
}

/// The writing half of a stream as chunks.
pub fn writer(send: SendStream<Bytes>) -> Http2Writer {
    Http2Writer { stream: send }
}

impl Http2Writer {
    /// Waits until the peer no longer reads, or the connection is lost. May be cancelled.
    pub async fn abandoned(&mut self) {
        // Either way.
        let _ = poll_fn(|context| self.stream.poll_reset(context)).await;
    }

    /// Ends this direction, with trailers if there are any; what was written still arrives.
    ///
    /// # Errors
    /// The stream has ended already.
    pub fn finish_with(&mut self, trailers: http::HeaderMap) -> Result<(), StreamError> {
        if trailers.is_empty() {
            self.stream.send_data(Bytes::new(), true).map_err(stream_error)
        } else {
            self.stream.send_trailers(trailers).map_err(stream_error)
        }
    }
}

impl ReadChunk for Http2Reader {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        let owed = std::mem::take(&mut self.owed);
        // Fails only for a stream that has ended, whose credit nobody waits for.
        let _ = self.stream.flow_control().release_capacity(owed);
        loop {
            match self.stream.data().await {
                None => return Ok(None),
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => {
                    self.owed = chunk.len();
                    return Ok(Some(chunk));
                }
                // A server that has answered whole, and does not want the rest of the request (RFC 9113, 8.1).
                Some(Err(error)) if error.is_reset() && error.reason() == Some(Reason::NO_ERROR) => {
                    return Ok(None);
                }
                Some(Err(error)) => return Err(stream_error(error)),
            }
        }
    }

    fn stop(&mut self) {
        // HTTP/2 has no way to refuse one direction only: the reset of the writing half says it.
    }
}

impl WriteChunk for Http2Writer {
    async fn write_chunk(&mut self, mut chunk: Bytes) -> Result<(), StreamError> {
        while !chunk.is_empty() {
            self.stream.reserve_capacity(chunk.len());
            let room = match poll_fn(|context| self.stream.poll_capacity(context)).await {
                Some(Ok(room)) => room.min(chunk.len()),
                Some(Err(error)) => return Err(stream_error(error)),
                None => return Err(StreamError::Reset),
            };
            self.stream.send_data(chunk.split_to(room), false).map_err(stream_error)?;
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        self.stream.send_data(Bytes::new(), true).map_err(stream_error)
    }

    fn reset(&mut self) {
        self.stream.send_reset(Reason::CANCEL);
    }
}

fn stream_error(error: h2::Error) -> StreamError {
    if error.is_reset() { StreamError::Reset } else { StreamError::ConnectionLost(Box::new(error)) }
}

/// Largest DATA frame that we take, in bytes.
const MAX_FRAME_BYTES: u32 = 1 << 20;
/// Largest header list that we take, in bytes.
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// What one stream may have waiting to be sent, in bytes.
const MAX_SEND_BUFFER_BYTES: usize = 1 << 20;
/// Streams of one peer at once.
const MAX_STREAMS: u32 = 10_000;
