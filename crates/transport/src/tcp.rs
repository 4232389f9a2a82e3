//! TCP as chunks, with resets that are resets.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::buffer::ReadBuffer;
use crate::stream::{Duplex, ReadChunk, StreamError, WriteChunk};

/// The reading half of a TCP connection.
#[derive(Debug)]
pub struct TcpReader {
    stream: Arc<TcpStream>,
    buffer: ReadBuffer,
}

/// The writing half of a TCP connection.
#[derive(Debug)]
pub struct TcpWriter {
    stream: Arc<TcpStream>,
}

/// Splits a connection. Nagle's algorithm is turned off, since chunks are written whole.
pub fn duplex(stream: TcpStream) -> Duplex<TcpReader, TcpWriter> {
    // Without it the connection works as well, only slower: nothing to report to anyone.
    let _ = stream.set_nodelay(true);
    let stream = Arc::new(stream);
    Duplex::new(
        TcpReader { stream: Arc::clone(&stream), buffer: ReadBuffer::default() },
        TcpWriter { stream },
    )
}

/// Makes the kernel probe a silent peer after `idle`, so that a vanished one is noticed.
///
/// # Errors
/// What the socket says.
pub fn keep_alive(stream: &TcpStream, idle: Duration) -> io::Result<()> {
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(idle))
}

impl ReadChunk for TcpReader {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_read_buf(self.buffer.space()) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(self.buffer.take())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn stop(&mut self) {
        // A peer that is already gone has stopped too.
        let _ = SockRef::from(&*self.stream).shutdown(std::net::Shutdown::Read);
    }
}

impl WriteChunk for TcpWriter {
    async fn write_chunk(&mut self, mut chunk: Bytes) -> Result<(), StreamError> {
        while !chunk.is_empty() {
            match self.stream.try_write(&chunk) {
                Ok(written) => chunk.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.writable().await?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        match SockRef::from(&*self.stream).shutdown(std::net::Shutdown::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Err(StreamError::Reset),
            other => Ok(other?),
        }
    }

    fn reset(&mut self) {
        // Closing with a linger of zero sends RST (RFC 9293, 3.10.7; socket(7)). A peer that is gone needs none.
        let _ = SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO));
    }
}
