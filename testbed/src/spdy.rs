//! SPDY/3.1, the server's side: what Kubernetes still speaks for port-forward (inside a WebSocket) and between an API
//! server and its kubelets (after an `Upgrade`).
//!
//! Each stream that the peer opens arrives as its headers and a byte pipe. Flow control is not used, as the clients in
//! question do neither: a stream whose reader stalls stalls the connection. Nothing here opens a stream.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf,
};
use tokio::sync::mpsc;

pub mod frame;

use frame::{Decoder, Encoder, Frame, Headers};

/// Bytes in flight per stream and direction.
const PIPE_BYTES: usize = 64 << 10;
/// Frames that wait to be written; writers wait when it is full.
const OUTGOING_FRAMES: usize = 64;
/// Streams that were opened and not yet taken.
const INCOMING_STREAMS: usize = 64;
/// Most streams open at once.
const MAX_STREAMS: usize = 1024;

/// A stream that the peer opened.
#[derive(Debug)]
pub struct Stream {
    /// The headers of its SYN_STREAM, names in lower case.
    pub headers: Headers,
    /// Its bytes. End of file is the peer's FIN; shutting it down sends ours; dropping it does too.
    pub io: DuplexStream,
}

impl Stream {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Serves one connection. The receiver yields its streams and ends with the connection.
pub fn serve(io: impl AsyncRead + AsyncWrite + Send + 'static) -> mpsc::Receiver<Stream> {
    let (streams, incoming) = mpsc::channel(INCOMING_STREAMS);
    let (frames, outgoing) = mpsc::channel(OUTGOING_FRAMES);
    let (read, write) = tokio::io::split(io);
    tokio::spawn(async move {
        // Either end going away ends both; the peer sees the connection close.
        tokio::select! {
            result = read_frames(read, streams, frames) => {
                if let Err(error) = result {
                    tracing::warn!(error = format!("{error:#}"), "SPDY connection ended");
                }
            }
            () = write_frames(write, outgoing) => {}
        }
    });
    incoming
}

async fn write_frames(mut io: WriteHalf<impl AsyncRead + AsyncWrite>, mut frames: mpsc::Receiver<Frame>) {
    let mut encoder = Encoder::default();
    let mut buffer = BytesMut::new();
    while let Some(frame) = frames.recv().await {
        encoder.encode(&frame, &mut buffer);
        if io.write_all_buf(&mut buffer).await.is_err() || io.flush().await.is_err() {
            return;
        }
    }
}

async fn read_frames(
    mut io: ReadHalf<impl AsyncRead + AsyncWrite>,
    streams: mpsc::Sender<Stream>,
    frames: mpsc::Sender<Frame>,
) -> Result<()> {
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::new();
    let mut writers: HashMap<u32, WriteHalf<DuplexStream>> = HashMap::new();
    loop {
        while let Some(frame) = decoder.decode(&mut buffer)? {
            match frame {
                Frame::SynStream { id, fin, headers } => {
                    if writers.len() >= MAX_STREAMS {
                        frames.send(Frame::RstStream { id, status: frame::REFUSED_STREAM }).await?;
                        continue;
                    }
                    frames.send(Frame::SynReply { id, headers: Vec::new() }).await?;
                    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
                    let (read, mut write) = tokio::io::split(ours);
                    tokio::spawn(send_stream(id, read, frames.clone()));
                    if fin {
                        write.shutdown().await?;
                    } else {
                        writers.insert(id, write);
                    }
                    streams
                        .send(Stream { headers, io: theirs })
                        .await
                        .context("nobody takes streams any more")?;
                }
                Frame::Data { id, fin, data } => {
                    let Some(writer) = writers.get_mut(&id) else { continue };
                    // A reader that has gone away does not matter to the peer.
                    let gone = writer.write_all(&data).await.is_err();
                    if fin || gone {
                        let _ = writer.shutdown().await;
                        writers.remove(&id);
                    }
                }
                Frame::RstStream { id, .. } => {
                    if let Some(mut writer) = writers.remove(&id) {
                        let _ = writer.shutdown().await;
                    }
                }
                // Odd ids are pings of the client, to be sent back.
                Frame::Ping { id } if id % 2 == 1 => frames.send(Frame::Ping { id }).await?,
                Frame::GoAway => return Ok(()),
                Frame::Ping { .. } | Frame::SynReply { .. } | Frame::Other { .. } => {}
            }
        }
        if io.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// Sends what is written to a stream's pipe, then FIN.
async fn send_stream(id: u32, mut read: ReadHalf<DuplexStream>, frames: mpsc::Sender<Frame>) {
    let mut buffer = BytesMut::with_capacity(PIPE_BYTES);
    loop {
        let fin = !matches!(read.read_buf(&mut buffer).await, Ok(n) if n > 0);
        let data: Bytes = buffer.split().freeze();
        if frames.send(Frame::Data { id, fin, data }).await.is_err() || fin {
            return;
        }
        buffer.reserve(PIPE_BYTES);
    }
}
