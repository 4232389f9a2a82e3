//! What carries flows to an edge, whichever protocol it is.

use std::net::SocketAddr;

use adit_model::{Protocol, Refusal};
use adit_transport::datagram::DatagramFlow;
use adit_transport::{Duplex, ReadChunk, WriteChunk};

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
