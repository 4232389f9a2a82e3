//! Any byte stream as chunks: what TLS, an upgraded HTTP connection or a pipe of the process is.
//!
//! Such a stream has no reset of its own: one that is to end at once is closed when its halves are dropped.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::buffer::ReadBuffer;
use crate::stream::{Duplex, ReadChunk, StreamError, WriteChunk};

/// The reading half of a byte stream.
#[derive(Debug)]
pub struct IoReader<R> {
    stream: R,
    buffer: ReadBuffer,
}

/// The writing half of a byte stream.
#[derive(Debug)]
pub struct IoWriter<W> {
    stream: W,
}

/// Splits a byte stream.
pub fn duplex<S>(stream: S) -> Duplex<IoReader<ReadHalf<S>>, IoWriter<WriteHalf<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, writer) = tokio::io::split(stream);
    Duplex::new(IoReader { stream: reader, buffer: ReadBuffer::default() }, IoWriter { stream: writer })
}

impl<R: AsyncRead + Unpin> ReadChunk for IoReader<R> {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        match self.stream.read_buf(self.buffer.space()).await? {
            0 => Ok(None),
            _ => Ok(Some(self.buffer.take())),
        }
    }

    fn stop(&mut self) {}
}

impl<W: AsyncWrite + Unpin> WriteChunk for IoWriter<W> {
    async fn write_chunk(&mut self, mut chunk: Bytes) -> Result<(), StreamError> {
        self.stream.write_all_buf(&mut chunk).await?;
        Ok(self.stream.flush().await?)
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        Ok(self.stream.shutdown().await?)
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_and_ends_pass_both_ways() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = duplex(near);
        near.writer.write_chunk(Bytes::from_static(b"there")).await.unwrap();
        near.writer.finish().await.unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "there");
        far.write_all(b"back").await.unwrap();
        far.shutdown().await.unwrap();
        assert_eq!(near.reader.read_chunk().await.unwrap().unwrap(), "back");
        assert!(near.reader.read_chunk().await.unwrap().is_none());
    }
}
