//! The connector's side of a flow, whatever it travels on.

use adit_transport::http2::{Http2Reader, Http2Writer};
use adit_transport::quic::{QuicReader, QuicWriter};
use adit_transport::{ReadChunk, StreamError, WriteChunk};
use bytes::Bytes;

/// From the connector.
#[derive(Debug)]
pub(crate) enum FarReader {
    Quic(QuicReader),
    Http2(Http2Reader),
}

/// To the connector.
#[derive(Debug)]
pub(crate) enum FarWriter {
    Quic(QuicWriter),
    Http2(Http2Writer),
}

impl ReadChunk for FarReader {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        match self {
            Self::Quic(reader) => reader.read_chunk().await,
            Self::Http2(reader) => reader.read_chunk().await,
        }
    }

    fn stop(&mut self) {
        match self {
            Self::Quic(reader) => reader.stop(),
            Self::Http2(reader) => reader.stop(),
        }
    }
}

impl WriteChunk for FarWriter {
    async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), StreamError> {
        match self {
            Self::Quic(writer) => writer.write_chunk(chunk).await,
            Self::Http2(writer) => writer.write_chunk(chunk).await,
        }
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        match self {
            Self::Quic(writer) => writer.finish().await,
            Self::Http2(writer) => writer.finish().await,
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Quic(writer) => writer.reset(),
            Self::Http2(writer) => writer.reset(),
        }
    }
}
