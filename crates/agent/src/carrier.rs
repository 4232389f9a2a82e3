//! What carries flows to an edge, whichever protocol it is.

use std::net::SocketAddr;

use adit_model::{Protocol, Refusal};
use adit_transport::datagram::DatagramFlow;
use adit_transport::{Duplex, ReadChunk, StreamError, WriteChunk};
use bytes::Bytes;

use crate::status::Transport;

/// An open connection to an edge, or a few of them. Ends when it is dropped and its last flow has ended.
pub(crate) trait Carrier: 'static {
    type Reader: ReadChunk;
    type Writer: WriteChunk;

    /// What `adit agent status` calls it.
    fn transport(&self) -> Transport;

    /// Asks the edge for a TCP flow, and returns when the far side has dialled.
    ///
    /// May be cancelled: the edge is told that nobody waits any more.
    async fn open(&self, destination: SocketAddr) -> Result<Duplex<Self::Reader, Self::Writer>, OpenError>;

    /// Asks the edge for a flow of UDP datagrams or ICMP messages, and returns when the far side has a socket for it. An ICMP
    /// flow's destination has port 0.
    ///
    /// May be cancelled: the edge is told that nobody waits any more.
    async fn open_datagrams(
        &self,
        protocol: Protocol,
        destination: SocketAddr,
    ) -> Result<DatagramFlow<Self::Reader, Self::Writer>, OpenError>;
}

/// A flow did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    /// The edge said why.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// There is no connection any more.
    #[error("the connection to the edge is lost")]
    Lost,
}

/// One of two things that carry, or belong to what carries.
#[derive(Debug, Clone)]
pub(crate) enum Either<A, B> {
    /// Of the HTTP/2 carrier.
    Http2(A),
    /// Of the QUIC carrier.
    Quic(B),
}

impl<A: Carrier, B: Carrier> Carrier for Either<A, B> {
    type Reader = Either<A::Reader, B::Reader>;
    type Writer = Either<A::Writer, B::Writer>;

    fn transport(&self) -> Transport {
        match self {
            Self::Http2(carrier) => carrier.transport(),
            Self::Quic(carrier) => carrier.transport(),
        }
    }

    async fn open(&self, destination: SocketAddr) -> Result<Duplex<Self::Reader, Self::Writer>, OpenError> {
        Ok(match self {
            Self::Http2(carrier) => {
                let Duplex { reader, writer } = carrier.open(destination).await?;
                Duplex::new(Either::Http2(reader), Either::Http2(writer))
            }
            Self::Quic(carrier) => {
                let Duplex { reader, writer } = carrier.open(destination).await?;
                Duplex::new(Either::Quic(reader), Either::Quic(writer))
            }
        })
    }

    async fn open_datagrams(
        &self,
        protocol: Protocol,
        destination: SocketAddr,
    ) -> Result<DatagramFlow<Self::Reader, Self::Writer>, OpenError> {
        Ok(match self {
            Self::Http2(carrier) => {
                let flow = carrier.open_datagrams(protocol, destination).await?;
                flow.map(Either::Http2, Either::Http2)
            }
            Self::Quic(carrier) => {
                let flow = carrier.open_datagrams(protocol, destination).await?;
                flow.map(Either::Quic, Either::Quic)
            }
        })
    }
}

impl<A: ReadChunk, B: ReadChunk> ReadChunk for Either<A, B> {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        match self {
            Self::Http2(reader) => reader.read_chunk().await,
            Self::Quic(reader) => reader.read_chunk().await,
        }
    }

    fn stop(&mut self) {
        match self {
            Self::Http2(reader) => reader.stop(),
            Self::Quic(reader) => reader.stop(),
        }
    }
}

impl<A: WriteChunk, B: WriteChunk> WriteChunk for Either<A, B> {
    async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), StreamError> {
        match self {
            Self::Http2(writer) => writer.write_chunk(chunk).await,
            Self::Quic(writer) => writer.write_chunk(chunk).await,
        }
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        match self {
            Self::Http2(writer) => writer.finish().await,
            Self::Quic(writer) => writer.finish().await,
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Http2(writer) => writer.reset(),
            Self::Quic(writer) => writer.reset(),
        }
    }
}
