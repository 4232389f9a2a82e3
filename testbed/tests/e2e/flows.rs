//! What a TCP flow carries, and how it ends.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use adit_testbed::chain::Chain;
use adit_testbed::net::api_address;
use adit_testbed::origin::{self, Command, Ended, Origin};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const PORT: u16 = 9000;
const LIMIT: Duration = Duration::from_secs(20);

async fn start() -> (Chain, Origin) {
    let chain = Chain::start().await.unwrap();
    let origin = Origin::start(&chain.world.cluster, &api_address(PORT)).unwrap();
    (chain, origin)
}

async fn open(chain: &Chain, address: SocketAddr) -> TcpStream {
    chain
        .world
        .laptop
        .connect_within(address, LIMIT)
        .await
        .unwrap_or_else(|error| panic!("{address}: {error}"))
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what} takes longer than {LIMIT:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_arrive_unchanged_in_both_directions() {
    let (chain, _origin) = start().await;
    for address in api_address(PORT) {
        for length in [1, 1000, 65_537, 1 << 20, 100_000_000] {
            let (up, down) = (open(&chain, address).await, open(&chain, address).await);
            within(&format!("{length} bytes up to {address}"), origin::check_upload(up, length))
                .await
                .unwrap();
            within(&format!("{length} bytes down from {address}"), origin::check_download(down, length))
                .await
                .unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_direction_ends_by_itself() {
    let (chain, mut origin) = start().await;
    for address in api_address(PORT) {
        // The client ends first: check_upload's answer comes after its end of file.
        origin::check_upload(open(&chain, address).await, 10).await.unwrap();
        let ended = within("the service's end", origin.ended.recv()).await;
        assert_eq!(ended, Some(Ended { command: Command::Upload, received: 10, error: None }));

        // The service ends first, and what the client then sends still arrives.
        let mut stream = open(&chain, address).await;
        stream.write_u8(Command::FarewellFirst.byte()).await.unwrap();
        let mut farewell = Vec::new();
        within("the service's end of file", stream.read_to_end(&mut farewell)).await.unwrap();
        assert_eq!(farewell, b"bye");
        stream.write_all(&[7; 3000]).await.unwrap();
        stream.shutdown().await.unwrap();
        let ended = within("the service's end", origin.ended.recv()).await;
        assert_eq!(ended, Some(Ended { command: Command::FarewellFirst, received: 3000, error: None }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_at_one_end_is_a_reset_at_the_other() {
    let (chain, mut origin) = start().await;
    for address in api_address(PORT) {
        let stream = origin::open_echo(open(&chain, address).await).await.unwrap();
        stream.set_zero_linger().unwrap();
        drop(stream);
        let ended = within("the reset at the service", origin.ended.recv()).await.unwrap();
        assert_eq!(ended.error, Some(io::ErrorKind::ConnectionReset), "{address}");

        let mut stream = open(&chain, address).await;
        stream.write_u8(Command::Reset.byte()).await.unwrap();
        let error = within("the reset at the client", stream.read_u8()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{address}");
        assert_eq!(origin.ended.recv().await.unwrap().command, Command::Reset);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_flows_at_once() {
    const FLOWS: usize = 500;
    let (chain, _origin) = start().await;
    let mut opening = JoinSet::new();
    for n in 0..FLOWS {
        let address = api_address(PORT)[n % 2];
        let connecting = chain.world.laptop.within(|| socket(address)).unwrap().connect(address);
        opening.spawn(async move { origin::open_echo(connecting.await?).await });
    }
    let streams = within("opening the flows", opening.join_all()).await;
    let mut streams: Vec<TcpStream> = streams.into_iter().collect::<Result<_, _>>().unwrap();
    assert_eq!(streams.len(), FLOWS);
    // All are open: each still carries its own.
    for (n, stream) in streams.iter_mut().enumerate() {
        let line = format!("flow {n} of {FLOWS}");
        within(&line, origin::check_echo(stream, line.as_bytes())).await.unwrap();
    }
}

fn socket(address: SocketAddr) -> io::Result<tokio::net::TcpSocket> {
    if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }
}
