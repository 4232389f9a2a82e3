//! From a request's destination to a TCP connection, or to the words that say why there is none (contract, 3.4).

use std::io;
use std::net::{IpAddr, SocketAddr};

use adit_model::{Protocol, Refusal};
use tokio::net::TcpStream;

use crate::config::WarpRouting;
use crate::process::Process;
use crate::resolver;

/// Why nothing was dialled, or not successfully.
#[derive(Debug)]
pub(crate) struct NotDialled {
    /// For an edge that knows the word.
    pub(crate) refusal: Refusal,
    /// For one that does not: the contract's text, ending as Go's net package would have said it.
    pub(crate) text: String,
}

/// Dials `destination`, an address with a port. Names are not resolved: what a name means is the edge's to decide.
pub(crate) async fn dial(process: &Process, destination: &str) -> Result<TcpStream, NotDialled> {
    let address = resolver::dialled(process, Protocol::Tcp, parse(destination)?)?;
    let failed = |refusal, why: &str| NotDialled {
        refusal,
        text: format!("unable to dial tcp to origin {address}: {why}"),
    };
    let WarpRouting { connect_timeout, tcp_keep_alive, .. } = process.configuration().warp_routing;
    let dialled = tokio::time::timeout(connect_timeout, TcpStream::connect(address)).await;
    let stream = match dialled {
        Err(_) => return Err(failed(Refusal::TimedOut, &format!("dial tcp {address}: i/o timeout"))),
        Ok(Err(error)) => {
            let (refusal, words) = reason(&error);
            return Err(failed(refusal, &format!("dial tcp {address}: {words}")));
        }
        Ok(Ok(stream)) => stream,
    };
    // A connection that cannot be probed still works.
    if let Err(error) = adit_transport::tcp::keep_alive(&stream, tcp_keep_alive) {
        tracing::debug!(error = %error, "keep-alive cannot be set");
    }
    Ok(stream)
}

/// An IPv4 address in IPv6 spelling is dialled as IPv4.
pub(crate) fn parse(destination: &str) -> Result<SocketAddr, NotDialled> {
    let wrong = |text: String| NotDialled { refusal: Refusal::ConnectorError, text };
    let (host, port) = destination
        .rsplit_once(':')
        .ok_or_else(|| wrong(format!("address {}: missing port in address", shortened(destination))))?;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let ip: IpAddr =
        bare.parse().map_err(|_| wrong(format!("ParseAddr({:?}): unable to parse IP", shortened(bare))))?;
    let port = port.parse().map_err(|_| wrong(format!("invalid port {:?}", shortened(port))))?;
    Ok(SocketAddr::new(ip.to_canonical(), port))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the system has far more errors than are told apart")]
pub(crate) fn reason(error: &io::Error) -> (Refusal, String) {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
            (Refusal::Refused, "connect: connection refused".into())
        }
        io::ErrorKind::HostUnreachable => (Refusal::HostUnreachable, "connect: no route to host".into()),
        io::ErrorKind::NetworkUnreachable => {
            (Refusal::NetworkUnreachable, "connect: network is unreachable".into())
        }
        io::ErrorKind::TimedOut => (Refusal::TimedOut, "connect: i/o timeout".into()),
        _ => (Refusal::ConnectorError, format!("connect: {error}")),
    }
}

/// As much of a wrong destination as an answer repeats.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_addresses_with_a_port() {
        for (destination, expected) in [
            ("198.51.100.101:6443", Ok("198.51.100.101:6443")),
            ("[2001:db8::101]:6443", Ok("[2001:db8::101]:6443")),
            ("[::ffff:10.0.0.1]:1", Ok("10.0.0.1:1")),
            ("localhost:80", Err("ParseAddr(\"localhost\"): unable to parse IP")),
            ("10.0.0.1", Err("address 10.0.0.1: missing port in address")),
            ("10.0.0.1:http", Err("invalid port \"http\"")),
            ("", Err("address : missing port in address")),
        ] {
            let actual = parse(destination).map(|address| address.to_string()).map_err(|error| error.text);
            assert_eq!(actual, expected.map(str::to_owned).map_err(str::to_owned), "{destination}");
        }
    }
}
