use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::ServerName;

use super::*;

fn named(name: &str) -> Vec<u8> {
    let roots = rustls::RootCertStore::empty();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let server = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), server).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// The same hello in records of `length` bytes.
fn in_records(hello: &[u8], length: usize) -> Vec<u8> {
    let records = hello[5..].chunks(length).map(|part| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[22, 3, 1], &length[..], part].concat()
    });
    records.collect::<Vec<_>>().concat()
}

#[expect(clippy::unnecessary_wraps, reason = "it stands beside answers")]
fn tls(server_name: Option<&str>) -> Option<FirstBytes> {
    Some(FirstBytes {
        server_name: server_name.map(str::to_owned),
        protocol: Some("tls"),
        ..FirstBytes::default()
    })
}

#[expect(clippy::unnecessary_wraps, reason = "it stands beside answers")]
fn protocol(name: &'static str) -> Option<FirstBytes> {
    Some(FirstBytes { protocol: Some(name), ..FirstBytes::default() })
}

#[test]
fn the_name_in_a_real_hello_is_read_also_when_it_comes_in_pieces() {
    let hello = named("Api.Example.com");
    assert_eq!(recognise(&hello, false), tls(Some("api.example.com")));
    assert_eq!(recognise(&named("198.51.100.7"), false), tls(None), "an address is no name");
    for length in [1, 7, 100, 16_384] {
        assert_eq!(recognise(&in_records(&hello, length), false), tls(Some("api.example.com")), "{length}");
    }
    for at in 0..hello.len() {
        assert_eq!(recognise(&hello[..at], false), None, "{at} bytes");
    }
    assert_eq!(recognise(&hello[..hello.len() - 1], true), tls(None), "it is TLS, whatever is missing");
}

#[test]
fn a_hello_that_a_server_would_refuse_is_read_all_the_same() {
    // Version, random, no session, one suite, no compression, and the name alone: no signature algorithms.
    let name = b"old.example.com.";
    let length = |extra: usize| u16::try_from(name.len() + extra).unwrap().to_be_bytes();
    let list = [&length(3)[..], &[0], &length(0), name].concat();
    let extensions = [&length(9)[..], &[0, 0], &length(5), &list].concat();
    let body = [&[3, 1], &[7; 32][..], &[0], &[0, 2, 0, 47], &[1, 0], &extensions].concat();
    let message = [&[1, 0, 0, u8::try_from(body.len()).unwrap()], &body[..]].concat();
    let record = [&[22, 3, 1, 0, u8::try_from(message.len()).unwrap()], &message[..]].concat();
    assert_eq!(recognise(&record, false), tls(Some("old.example.com")));
}

#[test]
fn protocols_are_told_apart() {
    let all: [(&[u8], &str); 10] = [
        (b"GET / HTTP/1.1\r\n", "http"),
        (b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\n", "http"),
        (b"OPTIONS * HTTP/1.1\r\n", "http"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", "http2"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "ssh"),
        (b"\x05\x00\x0b\x03\x10\x00\x00\x00", "dcerpc"),
        (b"\x10\x25\x00\x04MQTT\x04", "mqtt"),
        (b"\x10\xff\x01\x00\x06MQIsdp\x03", "mqtt"),
        (b"\x03\x00\x00\x13\x0e\xe0\x00\x00", "tpkt"),
        (b"\x05\x64\x05\xc0", "dnp3"),
    ];
    for (bytes, name) in all {
        assert_eq!(recognise(bytes, false), protocol(name), "{name}");
        fuzz_first_bytes(bytes);
    }
    for bytes in
        [b"EHLO mail.example.com\r\n".as_slice(), b"get / ", b"\0\0\0\x08\x04\xd2\x16\x2f", b"GET \r\n"]
    {
        assert_eq!(recognise(bytes, false), Some(FirstBytes::default()));
    }
    assert_eq!(recognise(b"", false), None);
    assert_eq!(recognise(b"", true), Some(FirstBytes::default()));
    assert_eq!(recognise(b"PRI * HT", true), protocol("http"));
    assert_eq!(recognise(&[b'A'; LIMIT], false), Some(FirstBytes::default()));
}

proptest! {
    #[test]
    fn whatever_comes_is_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzz_first_bytes(&bytes);
    }

    #[test]
    fn a_hello_with_any_byte_changed_is_read_to_an_end(at in 0_usize..400, byte in any::<u8>(), length in 1_usize..500) {
        let mut bytes = in_records(&named("api.example.com"), length);
        let at = at % bytes.len();
        bytes[at] = byte;
        fuzz_first_bytes(&bytes);
    }
}
