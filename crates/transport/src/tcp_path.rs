//! What the kernel knows of a TCP connection's path: what the peer has acknowledged, loss and round trip.
//!
//! Linux only, by `TCP_INFO`; elsewhere, and on an older kernel for the fields that it lacks, there is nothing to be known.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// A connection's path, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpPath {
    /// Bytes that the peer has acknowledged: as long as there are more and more, what we send arrives.
    pub acknowledged: u64,
    /// Segments with data that were sent.
    pub sent: u64,
    /// Segments that were sent again.
    pub resent: u64,
    /// Shortest round trip seen; zero if none was yet.
    pub round_trip: Duration,
}

/// Asks the kernel about a connection.
///
/// # Errors
/// It is no TCP connection, or the system has no such answer.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "a socket option that no crate of ours reads")]
pub fn tcp_path(socket: BorrowedFd<'_>) -> io::Result<TcpPath> {
    let mut info = [0_u8; INFO_BYTES];
    let mut length = libc::socklen_t::try_from(INFO_BYTES).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes of plain numbers into `info`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(read(&info)) } else { Err(io::Error::last_os_error()) }
}

/// Asks the kernel about a connection.
///
/// # Errors
/// The system has no such answer.
#[cfg(not(target_os = "linux"))]
pub fn tcp_path(_socket: BorrowedFd<'_>) -> io::Result<TcpPath> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Reads `struct tcp_info` of linux/tcp.h: eight bytes, then words, whose places never change. What a kernel lacks is zero.
fn read(info: &[u8; INFO_BYTES]) -> TcpPath {
    let word = |place: usize| {
        let bytes = info.get(place..place + 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_ne_bytes(bytes.unwrap_or_default())
    };
    let long = |place: usize| {
        let bytes = info.get(place..place + 8).and_then(|bytes| bytes.try_into().ok());
        u64::from_ne_bytes(bytes.unwrap_or_default())
    };
    let (total_resent, shortest, data_segments_out) = (word(100), word(148), word(156));
    TcpPath {
        acknowledged: long(120),
        sent: data_segments_out.into(),
        resent: total_resent.into(),
        // u32::MAX until there is one.
        round_trip: if shortest == u32::MAX {
            Duration::ZERO
        } else {
            Duration::from_micros(shortest.into())
        },
    }
}

/// Up to the last field that we read.
const INFO_BYTES: usize = 160;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn a_connection_that_has_carried_something_has_a_path() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        for _ in 0..5 {
            near.write_all(b"ping").await.unwrap();
            far.read_exact(&mut [0; 4]).await.unwrap();
            far.write_all(b"pong").await.unwrap();
            near.read_exact(&mut [0; 4]).await.unwrap();
        }
        let path = tcp_path(near.as_fd()).unwrap();
        assert!(path.sent >= 5, "{path:?}");
        assert_eq!(path.resent, 0);
        assert!(path.acknowledged >= 20, "{path:?}");
        assert!(path.round_trip > Duration::ZERO && path.round_trip < Duration::from_secs(1), "{path:?}");
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(tcp_path(udp.as_fd()).is_err());
    }
}
