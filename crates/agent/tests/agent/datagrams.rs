//! UDP and ping through a whole agent.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::edge::{BLOCKED, NARROW, NARROW_BYTES, SERVER_V4, SERVER_V6};
use super::{Laptop, PATIENCE, connect, in_own_network, server};

/// Sends every datagram back.
pub(crate) async fn echo_server() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        let mut buffer = vec![0; 65536];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            socket.send_to(&buffer[..length], from).await.unwrap();
        }
    });
    port
}

async fn client(address: &str, port: u16) -> UdpSocket {
    let address: IpAddr = address.parse().unwrap();
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).await.unwrap();
    socket.connect((address, port)).await.unwrap();
    socket
}

pub(crate) async fn receive(socket: &UdpSocket) -> std::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 65536];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("an answer in time")?;
    buffer.truncate(length);
    Ok(buffer)
}

#[test]
fn datagrams_of_every_length_are_carried_over_both_families() {
    in_own_network(|| async {
        let _laptop = Laptop::enrolled().await;
        let port = echo_server().await;
        for address in [SERVER_V4, SERVER_V6] {
            let socket = client(address, port).await;
            // The longest that the small edge's own IPv4 socket takes.
            for length in [0, 1, 512, 1200, 1400, 1500, 9000, 65487, 65507] {
                let sent: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
                socket.send(&sent).await.unwrap();
                assert!(receive(&socket).await.unwrap() == sent, "{length} bytes to {address}");
            }
        }
    });
}

#[test]
fn many_questions_at_once_get_their_own_answers() {
    in_own_network(|| async {
        let _laptop = Laptop::enrolled().await;
        let port = echo_server().await;
        let mut asking = tokio::task::JoinSet::new();
        for number in 0..100_u32 {
            asking.spawn_local(async move {
                let socket = client(if number % 2 == 0 { SERVER_V4 } else { SERVER_V6 }, port).await;
                socket.send(&number.to_be_bytes()).await.unwrap();
                assert_eq!(receive(&socket).await.unwrap(), number.to_be_bytes());
            });
        }
        timeout(PATIENCE, asking.join_all()).await.expect("all answers in time");
    });
}

#[test]
fn a_datagram_that_goes_no_further_is_told_in_the_networks_words() {
    in_own_network(|| async {
        let _laptop = Laptop::enrolled().await;
        for address in [SERVER_V4, SERVER_V6] {
            let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
            let socket = client(address, closed).await;
            socket.send(b"anybody?").await.unwrap();
            assert_eq!(receive(&socket).await.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{address}");
        }
        let socket = client(BLOCKED, 443).await;
        socket.send(b"anybody?").await.unwrap();
        assert_eq!(receive(&socket).await.unwrap_err().raw_os_error(), Some(libc::EHOSTUNREACH));

        let socket = client(NARROW, echo_server().await).await;
        for length in [NARROW_BYTES + 1, NARROW_BYTES] {
            socket.send(&vec![7; length]).await.unwrap();
            let answer = receive(&socket).await;
            if length > NARROW_BYTES {
                assert_eq!(answer.unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
            } else {
                assert_eq!(answer.unwrap().len(), length);
            }
        }
    });
}

/// An echo request of `length` bytes of data, and the data of the reply.
async fn ping(address: &str, length: usize) -> Vec<u8> {
    let address: IpAddr = address.parse().unwrap();
    let (domain, protocol, kind) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = UdpSocket::from_std(socket.into()).unwrap();
    socket.connect(SocketAddr::new(address, 0)).await.unwrap();
    let mut request = vec![kind, 0, 0, 0, 0, 0, 0, 1];
    request.extend((0..length).map(|at| u8::try_from(at % 251).unwrap()));
    socket.send(&request).await.unwrap();
    let reply = receive(&socket).await.unwrap();
    assert!(reply[8..] == request[8..], "the data differ");
    reply[8..].to_vec()
}

#[test]
fn pings_are_answered_over_both_families_at_every_length() {
    in_own_network(|| async {
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
        let _laptop = Laptop::enrolled().await;
        for address in [SERVER_V4, SERVER_V6] {
            for length in [0, 8, 56, 1400, 1500, 9000, 65507] {
                assert_eq!(ping(address, length).await.len(), length, "{address}");
            }
        }
    });
}

#[test]
fn a_flow_that_the_device_ends_first_leaves_its_port_free() {
    in_own_network(|| async {
        let _laptop = Laptop::enrolled().await;
        let (listener, address) = server(SERVER_V4).await;
        let (client, accepted) = tokio::join!(connect(address), listener.accept());
        let (mut client, mut origin) = (client.unwrap(), accepted.unwrap().0);
        client.shutdown().await.unwrap();
        assert_eq!(tokio::io::copy(&mut origin, &mut tokio::io::sink()).await.unwrap(), 0);
        origin.shutdown().await.unwrap();
        assert_eq!(tokio::io::copy(&mut client, &mut tokio::io::sink()).await.unwrap(), 0);
        let local = client.local_addr().unwrap();
        drop(client);
        // The kernel keeps no socket of it, not even in TIME-WAIT.
        let port = format!(":{:04X} ", local.port());
        let sockets = || std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        let free = async {
            while sockets().contains(&port) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(5), free).await.unwrap_or_else(|_| panic!("{}", sockets()));
    });
}
