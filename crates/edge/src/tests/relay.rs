//! A way from a connector to an edge that can be cut, so that one hears nothing more of the other: no reset, no close.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// One way, for UDP and TCP.
pub(super) struct Relay {
    pub(super) udp: SocketAddr,
    pub(super) tcp: SocketAddr,
    cut: Arc<AtomicBool>,
}

impl Relay {
    pub(super) async fn to(edge: SocketAddr) -> Self {
        let cut = Arc::new(AtomicBool::new(false));
        let near = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let udp = near.local_addr().unwrap();
        tokio::spawn(pass_datagrams(near, edge, Arc::clone(&cut)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = listener.local_addr().unwrap();
        tokio::spawn(pass_streams(listener, edge, Arc::clone(&cut)));
        Self { udp, tcp, cut }
    }

    /// Nothing passes any more.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }
}

/// For one connector.
async fn pass_datagrams(near: Arc<UdpSocket>, edge: SocketAddr, cut: Arc<AtomicBool>) {
    let far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    far.connect(edge).await.unwrap();
    let mut client = None;
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            Ok((length, peer)) = near.recv_from(&mut up) => {
                client = Some(peer);
                if !cut.load(Ordering::Relaxed) {
                    let _ = far.send(&up[..length]).await;
                }
            }
            Ok(length) = far.recv(&mut down) => {
                if let Some(client) = client && !cut.load(Ordering::Relaxed) {
                    let _ = near.send_to(&down[..length], client).await;
                }
            }
        }
    }
}

async fn pass_streams(listener: TcpListener, edge: SocketAddr, cut: Arc<AtomicBool>) {
    while let Ok((near, _)) = listener.accept().await {
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = TcpStream::connect(edge).await.unwrap().into_split();
        tokio::spawn(pass_bytes(near_read, far_write, Arc::clone(&cut)));
        tokio::spawn(pass_bytes(far_read, near_write, Arc::clone(&cut)));
    }
}

async fn pass_bytes(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    cut: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok(length) = from.read(&mut buffer).await else { return };
        if cut.load(Ordering::Relaxed) {
            // The ends stay as they are.
            std::future::pending::<()>().await;
        }
        if length == 0 || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
