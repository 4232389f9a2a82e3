//! UDP and ping through the whole chain.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_testbed::chain::Chain;
use adit_testbed::net::{API_V4, API_V6, api_address};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;

const PORT: u16 = 9000;
const CLOSED_PORT: u16 = 9001;
const LIMIT: Duration = Duration::from_secs(10);

/// Sends every datagram back, on both of the private addresses.
fn start_echo(chain: &Chain, port: u16) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for address in api_address(port) {
        let socket = chain.world.cluster.udp(address).unwrap();
        tasks.spawn(async move {
            let mut buffer = vec![0; 65536];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                socket.send_to(&buffer[..length], from).await.unwrap();
            }
        });
    }
    tasks
}

async fn client(chain: &Chain, address: SocketAddr) -> UdpSocket {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = chain.world.laptop.udp(any.parse().unwrap()).unwrap();
    socket.connect(address).await.unwrap();
    socket
}

async fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 65536];
    let length = timeout(LIMIT, socket.recv(&mut buffer)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    buffer.truncate(length);
    Ok(buffer)
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_of_every_length_come_back_unchanged() {
    let chain = Chain::start().await.unwrap();
    let _echo = start_echo(&chain, PORT);
    for address in api_address(PORT) {
        let socket = client(&chain, address).await;
        for length in [0, 1, 512, 1200, 1400, 1500, 9000, 65_487, 65_507] {
            let sent: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            socket.send(&sent).await.unwrap();
            let answer =
                receive(&socket).await.unwrap_or_else(|error| panic!("{length} to {address}: {error}"));
            assert!(answer == sent, "{length} bytes to {address} come back as {}", answer.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn short_questions_get_their_answers_and_cost_no_more_than_a_flow() {
    const QUESTIONS: u32 = 100;
    const DNS: u16 = 53;
    let chain = Chain::start().await.unwrap();
    let _echo = start_echo(&chain, DNS);
    let mut longest = Duration::ZERO;
    let begin = Instant::now();
    for number in 0..QUESTIONS {
        // A resolver takes a new port for each.
        let socket = client(&chain, api_address(DNS)[number as usize % 2]).await;
        let asked = Instant::now();
        socket.send(&number.to_be_bytes()).await.unwrap();
        assert_eq!(receive(&socket).await.unwrap(), number.to_be_bytes());
        longest = longest.max(asked.elapsed());
    }
    let mean = begin.elapsed() / QUESTIONS;
    eprintln!("a question and its answer: {mean:?} in the mean, {longest:?} at most");
    assert!(mean < Duration::from_millis(50), "{mean:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_delivered_is_told_as_by_the_network() {
    let chain = Chain::start().await.unwrap();
    for address in api_address(CLOSED_PORT) {
        let socket = client(&chain, address).await;
        socket.send(b"anybody?").await.unwrap();
        let error = receive(&socket).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{address}");
    }
}

/// What the real `ping` on the laptop prints for one echo request.
fn ping(chain: &Chain, address: &str, length: usize) -> String {
    let mut command = chain.world.laptop.command("ping");
    command.args(["-n", "-c", "1", "-w", "10", "-s", &length.to_string(), address]);
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_address_answers_ping_at_every_length() {
    let chain = Chain::start().await.unwrap();
    for address in [API_V4.to_string(), API_V6.to_string()] {
        for length in [0, 8, 56, 1400, 1500, 9000, 65_507] {
            let printed = ping(&chain, &address, length);
            assert!(printed.contains(" 1 received, 0% packet loss"), "{length} bytes: {printed}");
        }
    }
}
