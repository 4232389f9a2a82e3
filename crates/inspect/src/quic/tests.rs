use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use proptest::prelude::*;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::quic::Keys;
use tokio::net::UdpSocket;

use super::*;

/// The datagrams of a real client that asks for this host, which nobody answers.
async fn first_flight(name: &str) -> Vec<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let _connecting = endpoint.connect_with(config, socket.local_addr().unwrap(), name).unwrap();
    let mut datagrams = Vec::new();
    let mut buffer = vec![0; 2048];
    let mut reader = Reader::default();
    loop {
        let length = socket.recv(&mut buffer).await.unwrap();
        datagrams.push(buffer[..length].to_vec());
        if reader.read(&buffer[..length]) != Seen::More {
            return datagrams;
        }
    }
}

fn read_all(datagrams: &[Vec<u8>]) -> Seen<FirstBytes> {
    let mut reader = Reader::default();
    let mut seen = Seen::More;
    for datagram in datagrams {
        seen = reader.read(datagram);
    }
    seen
}

fn named(name: &str) -> Seen<FirstBytes> {
    Seen::Yes(FirstBytes {
        server_name: Some(name.to_owned()),
        protocol: Some(QUIC),
        application_protocols: vec!["h3".into()],
    })
}

#[tokio::test]
async fn a_real_clients_first_flight_names_its_server() {
    let datagrams = first_flight("API.example.com").await;
    assert_eq!(read_all(&datagrams), named("api.example.com"));
    assert!(
        datagrams.len() > 1,
        "a hello with a key that is safe from quantum computers needs two datagrams"
    );
    let mut turned = datagrams.clone();
    turned.reverse();
    assert_eq!(read_all(&turned), named("api.example.com"), "the network may turn them round");
}

#[test]
fn other_datagrams_are_not_quic_and_other_versions_are_known_as_nothing_else() {
    let quic = Seen::Yes(FirstBytes { protocol: Some(QUIC), ..FirstBytes::default() });
    let long = |version: u32| {
        let mut datagram = vec![0xc0];
        datagram.extend(version.to_be_bytes());
        datagram.resize(MIN_DATAGRAM, 0);
        datagram
    };
    assert_eq!(Reader::default().read(&long(0x0a1a_2a3a)), quic);
    assert_eq!(Reader::default().read(&long(0)), Seen::No, "a version is negotiated by servers");
    assert_eq!(Reader::default().read(&long(1)[..1000]), Seen::No, "a client's first datagram is padded");
    assert_eq!(Reader::default().read(b"\x12\x34\x01\x00\x00\x01"), Seen::No, "a query of DNS");
    assert_eq!(Reader::default().read(b""), Seen::No);
}

/// A hello for `a.example` that offers `h3`.
fn hello() -> Vec<u8> {
    let name = b"a.example";
    let mut extensions = vec![0, 0, 0, 14, 0, 12, 0, 0, 9];
    extensions.extend(name);
    extensions.extend([0, 16, 0, 5, 0, 3, 2, b'h', b'3']);
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0, 0, u8::try_from(body.len()).unwrap()];
    message.extend(body);
    message
}

/// An Initial packet with these frames, as a client protects it.
fn initial(version: u32, number: u8, frames: &[u8]) -> Vec<u8> {
    let id = [9; 8];
    let suite = TLS13_AES_128_GCM_SHA256.tls13().unwrap().quic_suite().unwrap();
    let of = if version == VERSION_2 { Version::V2 } else { Version::V1 };
    let Keys { local, .. } = suite.keys(&id, Side::Client, of);
    let mut payload = frames.to_vec();
    payload.resize(payload.len().max(1180), 0);
    let mut packet = vec![if version == VERSION_2 { 0xd0 } else { 0xc0 }];
    packet.extend(version.to_be_bytes());
    packet.push(8);
    packet.extend(id);
    packet.extend([0, 0]);
    packet.extend((0x4000 | u16::try_from(payload.len() + 16 + 1).unwrap()).to_be_bytes());
    let number_at = packet.len();
    packet.push(number);
    let tag = local.packet.encrypt_in_place(number.into(), &packet, &mut payload).unwrap();
    packet.extend(payload);
    packet.extend(tag.as_ref());
    let sample = packet[number_at + 4..number_at + 20].to_vec();
    let (head, tail) = packet.split_at_mut(number_at);
    local.header.encrypt_in_place(&sample, &mut head[0], &mut tail[..1]).unwrap();
    packet
}

fn piece(at: usize, bytes: &[u8]) -> Vec<u8> {
    let number = |number: usize| (0x4000 | u16::try_from(number).unwrap()).to_be_bytes();
    [&[6][..], &number(at), &number(bytes.len()), bytes].concat()
}

proptest! {
    #[test]
    fn a_hello_is_read_however_it_is_cut_turned_round_and_sent_twice(
        version in prop::sample::select(vec![VERSION_1, VERSION_2]),
        cuts in prop::collection::vec(1usize..200, 0..6),
        order in Just((0..14usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let hello = hello();
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < hello.len()).collect();
        cuts.extend([0, hello.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let pieces: Vec<Vec<u8>> =
            cuts.windows(2).map(|ends| piece(ends[0], &hello[ends[0]..ends[1]])).collect();
        let mut frames: Vec<Vec<u8>> = order.iter().filter_map(|at| pieces.get(at % 7).cloned()).collect();
        frames.insert(frames.len() / 2, vec![0, 1, 2, 0, 0, 0, 0]);
        let half = frames.len() / 2;
        let datagrams = [initial(version, 0, &frames[..half].concat()), initial(version, 1, &frames[half..].concat())];
        prop_assert_eq!(read_all(&datagrams), named("a.example"));
    }

    #[test]
    fn any_datagrams_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
        fuzz_quic(&bytes);
    }

    #[test]
    fn any_frames_are_read_to_an_end(frames in prop::collection::vec(any::<u8>(), 0..1000), flip in 0usize..1200) {
        let mut datagram = initial(VERSION_1, 0, &frames);
        let _ = Reader::default().read(&datagram);
        datagram[flip] ^= 1;
        let _ = Reader::default().read(&datagram);
    }
}
