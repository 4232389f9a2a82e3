//! The edge's events, whichever carrier brings them.

use std::time::Duration;

use adit_transport::{ReadChunk, StreamError};
use adit_wire::device;
use bytes::BytesMut;
use tokio::time::timeout;

/// The edge's events.
#[derive(Debug)]
pub(crate) struct Events<R> {
    reader: R,
    buffer: BytesMut,
}

/// The event stream is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EventsError {
    #[error("the edge closed the connection")]
    Closed,
    #[error("the connection to the edge is lost")]
    Lost(#[source] StreamError),
    #[error("the edge was silent for too long")]
    Silent,
    #[error("the edge sent what this version cannot read")]
    Malformed(#[source] device::EventError),
}

impl<R: ReadChunk> Events<R> {
    /// The events on this stream. A reader that holds its connection open does so for as long as events are wanted.
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, buffer: BytesMut::new() }
    }

    /// The same events of a reader that is held in something else.
    pub(crate) fn map<R2>(self, reader: impl FnOnce(R) -> R2) -> Events<R2> {
        Events { reader: reader(self.reader), buffer: self.buffer }
    }

    /// The next event of a kind that this version knows.
    ///
    /// May be cancelled: no event is lost.
    pub(crate) async fn next(&mut self) -> Result<device::Event, EventsError> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                if let Some(event) = device::Event::from_line(&line[..end]).map_err(EventsError::Malformed)? {
                    return Ok(event);
                }
            }
            if self.buffer.len() > device::MAX_EVENT_BYTES {
                return Err(EventsError::Malformed(device::EventError::TooLong));
            }
            let silence = Duration::from_secs(device::SILENCE_SECONDS);
            match timeout(silence, self.reader.read_chunk()).await {
                Err(_) => return Err(EventsError::Silent),
                Ok(Err(error)) => return Err(EventsError::Lost(error)),
                Ok(Ok(None)) => return Err(EventsError::Closed),
                Ok(Ok(Some(chunk))) => self.buffer.extend_from_slice(&chunk),
            }
        }
    }
}
