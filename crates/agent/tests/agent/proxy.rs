//! An agent without an interface: programs come to its proxy.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use adit_agent::{AgentConfig, ConnectionState, control_socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::datagrams::{echo_server, receive};
use super::edge::{BLOCKED, SERVER_V4, SERVER_V6};
use super::{Laptop, in_own_network, interfaces, server};

struct Proxied {
    laptop: Laptop,
    proxy: SocketAddr,
}

impl Proxied {
    async fn start() -> Self {
        let listen = |config: &mut AgentConfig| config.proxy = Some("127.0.0.1:0".parse().unwrap());
        let laptop = Laptop::with(listen).await.and_enrolled().await;
        let proxy = laptop.status().await.proxy.unwrap().parse().unwrap();
        Self { laptop, proxy }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.proxy).await.unwrap()
    }

    /// A SOCKS5 request, and the stream with the code of the answer.
    async fn socks(&self, command: u8, target: &[u8], port: u16) -> (TcpStream, u8, SocketAddr) {
        let mut stream = self.connect().await;
        stream.write_all(&[5, 1, 0]).await.unwrap();
        let request = [&[5, command, 0], target, &port.to_be_bytes()].concat();
        stream.write_all(&request).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!((answer[..3].to_vec(), answer[4..6].to_vec()), (vec![5, 0, 5], vec![0, 1]));
        let ip = Ipv4Addr::new(answer[6], answer[7], answer[8], answer[9]);
        let bound = SocketAddr::new(ip.into(), u16::from_be_bytes([answer[10], answer[11]]));
        (stream, answer[3], bound)
    }

    async fn socks_connect(&self, address: SocketAddr) -> (TcpStream, u8) {
        let (stream, code, _) = self.socks(1, &socks_address(address.ip()), address.port()).await;
        (stream, code)
    }

    /// What is answered to an HTTP request, up to the end.
    async fn http(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

fn socks_address(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => [&[1][..], &ip.octets()].concat(),
        IpAddr::V6(ip) => [&[4][..], &ip.octets()].concat(),
    }
}

/// Says something through the stream, and ends; the other side answers after that.
async fn check_carries(mut client: TcpStream, listener: &TcpListener, text: &str) {
    let (mut origin, _) = listener.accept().await.unwrap();
    client.write_all(text.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut said = String::new();
    origin.read_to_string(&mut said).await.unwrap();
    origin.write_all(said.to_uppercase().as_bytes()).await.unwrap();
    origin.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!((said.as_str(), answer), (text, text.to_uppercase()));
}

#[test]
fn an_agent_with_a_proxy_makes_no_interface_and_says_where_it_listens() {
    in_own_network(|| async {
        let proxied = Proxied::start().await;
        let status = proxied.laptop.status().await;
        assert_eq!((status.state, status.interface), (ConnectionState::Connected, None));
        assert_eq!(status.routes, ["198.51.100.0/24", "2001:db8::/64"]);
        assert!(proxied.proxy.ip().is_loopback());
        assert!(!interfaces().contains("adit0"));
    });
}

#[test]
fn socks_carries_connections_over_both_families_and_by_name() {
    in_own_network(|| async {
        let proxied = Proxied::start().await;
        for address in [SERVER_V4, SERVER_V6] {
            let (listener, address) = server(address).await;
            let (client, code) = proxied.socks_connect(address).await;
            assert_eq!(code, 0);
            check_carries(client, &listener, "through socks").await;
        }
        // Resolved on the device, to an address that the edge does not route: the answer is the edge's.
        let (_, code, _) = proxied.socks(1, &[&[3, 9][..], b"localhost"].concat(), 443).await;
        assert_eq!(code, 3);
        let (_, code, _) = proxied.socks(1, &[&[3, 12][..], b"nobody.local"].concat(), 443).await;
        assert_eq!(code, 4);
    });
}

#[test]
fn socks_tells_refusals_in_its_own_codes() {
    in_own_network(|| async {
        let proxied = Proxied::start().await;
        let (listener, closed) = server(SERVER_V4).await;
        drop(listener);
        for (address, expected) in [
            (closed, 5),
            (SocketAddr::new(BLOCKED.parse().unwrap(), 443), 2),
            ("203.0.113.1:443".parse().unwrap(), 3),
        ] {
            let (mut stream, code) = proxied.socks_connect(address).await;
            assert_eq!(code, expected, "{address}");
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        }
        let (_, code, _) = proxied.socks(2, &socks_address(closed.ip()), 1).await;
        assert_eq!(code, 7, "BIND is not served");
        let mut stream = proxied.connect().await;
        stream.write_all(&[5, 1, 2]).await.unwrap();
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [5, 0xff], "there are no passwords");
    });
}

#[test]
fn http_connect_carries_what_is_sent_early_too() {
    in_own_network(|| async {
        let proxied = Proxied::start().await;
        for address in [SERVER_V4, SERVER_V6] {
            let (listener, address) = server(address).await;
            let mut client = proxied.connect().await;
            let request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\nearly and ");
            client.write_all(request.as_bytes()).await.unwrap();
            let mut answer = [0; 39];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200 Connection established\r\n\r\n");
            let (mut origin, _) = listener.accept().await.unwrap();
            client.write_all(b"late").await.unwrap();
            client.shutdown().await.unwrap();
            let mut said = String::new();
            origin.read_to_string(&mut said).await.unwrap();
            assert_eq!(said, "early and late");
        }
    });
}

#[test]
fn http_tells_refusals_by_status_and_name() {
    in_own_network(|| async {
        let proxied = Proxied::start().await;
        let (listener, closed) = server(SERVER_V6).await;
        drop(listener);
        for (target, status, name) in [
            (closed.to_string(), "502 Bad Gateway", "refused"),
            (format!("{BLOCKED}:443"), "403 Forbidden", "blocked"),
            ("203.0.113.1:443".to_owned(), "502 Bad Gateway", "unroutable"),
        ] {
            let answer = proxied.http(&format!("CONNECT {target} HTTP/1.1\r\n\r\n")).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}\r\nadit-refusal: {name}\r\n")),
                "{answer}"
            );
        }
        assert!(proxied.http("GET / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405 "));
        assert!(proxied.http("CONNECT nowhere HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
        assert_eq!(proxied.http("\x16\x03\x01 this is TLS").await, "");
    });
}

#[test]
fn socks_carries_datagrams_as_long_as_its_connection_stays() {
    in_own_network(|| async {
        let proxied = Proxied::start().await;
        let port = echo_server().await;
        let (stream, code, relay) = proxied.socks(3, &[1, 0, 0, 0, 0], 0).await;
        assert_eq!((code, relay.ip()), (0, proxied.proxy.ip()));
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(relay).await.unwrap();
        for address in [SERVER_V4, SERVER_V6] {
            let header =
                [&[0, 0, 0], &socks_address(address.parse().unwrap())[..], &port.to_be_bytes()].concat();
            for payload in [&b""[..], b"question", &[7; 9000]] {
                socket.send(&[&header, payload].concat()).await.unwrap();
                let answer = receive(&socket).await.unwrap();
                assert!(answer == [&header, payload].concat(), "{} bytes from {address}", payload.len());
            }
        }
        drop(stream);
        let gone = async {
            // The relay's port is closed: what is sent to it comes back as a refusal.
            while socket.send(b"anybody?").await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(super::PATIENCE, gone).await.expect("the relay ends with its connection");
    });
}

#[test]
fn a_disconnected_device_refuses_at_once_and_keeps_nothing_open() {
    in_own_network(|| async {
        let proxied = Proxied::start().await;
        let (listener, address) = server(SERVER_V4).await;
        let (mut open, code) = proxied.socks_connect(address).await;
        assert_eq!(code, 0);
        let _origin = listener.accept().await.unwrap();
        control_socket::disconnect(proxied.laptop.state.path()).await.unwrap();
        assert!(!matches!(open.read(&mut [0]).await, Ok(1..)));
        let (_, code) = proxied.socks_connect(address).await;
        assert_eq!(code, 1);
        let answer = proxied.http(&format!("CONNECT {address} HTTP/1.1\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        control_socket::connect(proxied.laptop.state.path()).await.unwrap();
        let (client, code) = proxied.socks_connect(address).await;
        assert_eq!(code, 0);
        check_carries(client, &listener, "again").await;
    });
}
