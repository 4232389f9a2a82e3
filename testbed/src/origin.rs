//! A TCP service in the private network whose every byte can be accounted for, and its client.
//!
//! The first byte of a connection says what shall happen; see [`Command`]. What the service saw of a connection's end is
//! told to the test, so that half-closes and resets are checked at both ends.

use std::io;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::net::Host;

/// Bytes per read and write.
const CHUNK_BYTES: usize = 64 << 10;

/// What a client asks for with the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Bytes until end of file; then their SHA-256 comes back. The answer needs a half-closed connection to work.
    Upload,
    /// A length and a seed (u64 each, big endian); then that many bytes of [`fill`] come back.
    Download,
    /// Everything comes back.
    Echo,
    /// The service sends `bye` and ends its side; then bytes until end of file.
    FarewellFirst,
    /// The service resets the connection.
    Reset,
}

const COMMANDS: [(Command, u8); 5] = [
    (Command::Upload, b'U'),
    (Command::Download, b'D'),
    (Command::Echo, b'E'),
    (Command::FarewellFirst, b'F'),
    (Command::Reset, b'R'),
];

impl Command {
    /// The byte that asks for it.
    pub fn byte(self) -> u8 {
        COMMANDS.iter().find(|(command, _)| *command == self).map_or(0, |(_, byte)| *byte)
    }
}

/// How a connection ended, as the service saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What was asked for.
    pub command: Command,
    /// Bytes received after the command.
    pub received: u64,
    /// `None` when it ended in order.
    pub error: Option<io::ErrorKind>,
}

/// The running service; dropping the receiver does not end it, dropping the runtime does.
#[derive(Debug)]
pub struct Origin {
    /// Every connection that ended.
    pub ended: mpsc::UnboundedReceiver<Ended>,
}

impl Origin {
    /// Serves each of `addresses` on `host`.
    pub fn start(host: &Host, addresses: &[SocketAddr]) -> Result<Self> {
        let (sender, ended) = mpsc::unbounded_channel();
        for address in addresses {
            tokio::spawn(accept(host.listen(*address)?, sender.clone()));
        }
        Ok(Self { ended })
    }
}

async fn accept(listener: TcpListener, ended: mpsc::UnboundedSender<Ended>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let ended = ended.clone();
        tokio::spawn(async move {
            let Ok(byte) = stream.read_u8().await else { return };
            let Some((command, _)) = COMMANDS.iter().find(|(_, of)| *of == byte) else { return };
            let mut received = 0;
            let result = serve(*command, stream, &mut received).await;
            let error = result.err().map(|error| error.kind());
            // The test may not look.
            let _ = ended.send(Ended { command: *command, received, error });
        });
    }
}

async fn serve(command: Command, mut stream: TcpStream, received: &mut u64) -> io::Result<()> {
    match command {
        Command::Upload => {
            let digest = digest(&mut stream, received).await?;
            stream.write_all(&digest).await?;
            stream.shutdown().await
        }
        Command::Download => {
            let (length, seed) = (stream.read_u64().await?, stream.read_u64().await?);
            send(&mut stream, length, seed).await?;
            stream.shutdown().await
        }
        Command::Echo => {
            let mut buffer = vec![0; CHUNK_BYTES];
            loop {
                let n = stream.read(&mut buffer).await?;
                if n == 0 {
                    return stream.shutdown().await;
                }
                *received += n as u64;
                stream.write_all(&buffer[..n]).await?;
            }
        }
        Command::FarewellFirst => {
            stream.write_all(b"bye").await?;
            stream.shutdown().await?;
            digest(&mut stream, received).await.map(drop)
        }
        Command::Reset => {
            // A zero linger makes the close a reset.
            stream.set_zero_linger()
        }
    }
}

/// SHA-256 of everything until end of file.
async fn digest(reader: &mut (impl AsyncRead + Unpin), received: &mut u64) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let n = reader.read(&mut buffer).await?;
        if n == 0 {
            return Ok(hash.finalize().into());
        }
        *received += n as u64;
        hash.update(&buffer[..n]);
    }
}

/// Sends `length` bytes that follow from `seed`.
async fn send(writer: &mut (impl AsyncWrite + Unpin), length: u64, seed: u64) -> io::Result<[u8; 32]> {
    let mut state = seed;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut left = length;
    while left > 0 {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        fill(&mut buffer[..n], &mut state);
        hash.update(&buffer[..n]);
        writer.write_all(&buffer[..n]).await?;
        left -= n as u64;
    }
    Ok(hash.finalize().into())
}

/// Bytes without a pattern that a shift or a swap would leave the same (splitmix64).
pub fn fill(buffer: &mut [u8], state: &mut u64) {
    for chunk in buffer.chunks_mut(8) {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        chunk.copy_from_slice(&(z ^ (z >> 31)).to_be_bytes()[..chunk.len()]);
    }
}

/// Sends `length` bytes and compares the hash that comes back.
pub async fn check_upload(mut stream: TcpStream, length: u64) -> Result<()> {
    stream.write_u8(Command::Upload.byte()).await?;
    let (mut read, mut write) = stream.split();
    let sent = send(&mut write, length, length).await?;
    write.shutdown().await?;
    let mut got = Vec::new();
    read.read_to_end(&mut got).await?;
    ensure!(got == sent, "{length} bytes up: the hash that came back is another ({} bytes of it)", got.len());
    Ok(())
}

/// Asks for `length` bytes and compares their hash.
pub async fn check_download(mut stream: TcpStream, length: u64) -> Result<()> {
    let mut request = vec![Command::Download.byte()];
    request.extend_from_slice(&length.to_be_bytes());
    request.extend_from_slice(&length.to_be_bytes());
    stream.write_all(&request).await?;
    let mut received = 0;
    let got = digest(&mut stream, &mut received).await?;
    ensure!(received == length, "{length} bytes down: {received} came");
    let want = send(&mut tokio::io::sink(), length, length).await?;
    ensure!(got == want, "{length} bytes down: other bytes came");
    Ok(())
}

/// Sends `data` and expects it back, on a connection that asked for [`Command::Echo`] already.
pub async fn check_echo(stream: &mut TcpStream, data: &[u8]) -> Result<()> {
    stream.write_all(data).await?;
    let mut got = vec![0; data.len()];
    stream.read_exact(&mut got).await?;
    ensure!(got == data, "the echo of {data:?} is {got:?}");
    Ok(())
}

/// Asks for [`Command::Echo`] on a new connection, and proves that it works.
pub async fn open_echo(mut stream: TcpStream) -> Result<TcpStream> {
    stream.write_u8(Command::Echo.byte()).await?;
    check_echo(&mut stream, b"?").await?;
    Ok(stream)
}
