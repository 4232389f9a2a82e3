//! The peer protocol: how one edge node relays a flow to another, on QUIC with ALPN `adit-peer/1`.
//!
//! Both nodes prove their keys in the handshake (design, section 4). A stream is one flow, opened as the tunnel protocol
//! opens one, with a [`ConnectRequest`] and a [`ConnectResponse`]; [`RelayedFlow`] is what the request's metadata says
//! beside that: whose flow it is, where it goes, and by what it was decided. What always holds: a request that does not say
//! all of it is none; a node that dials for another never relays again. UDP and ICMP flows carry capsules and DATAGRAM
//! frames, as a device's do.

use adit_model::{AccountId, ConnectionId, FlowId, Protocol, RuleId, TunnelId};

use crate::device::{self, PROTOCOL_HEADER};
use crate::tunnel::{ConnectRequest, ConnectResponse, METADATA_FLOW_ID, Metadata};

/// The protocol's name in TLS (RFC 7301).
pub const ALPN: &[u8] = b"adit-peer/1";
/// Code with which a node closes the connection of a peer whose key it does not know.
pub const CLOSE_UNKNOWN: u32 = 1;

const TUNNEL: &str = "adit-tunnel";
const ACCOUNT: &str = "adit-account";
const RULE: &str = "adit-rule";
const SNAPSHOT: &str = "adit-snapshot";
const SOURCE: &str = "adit-source";
const CONNECTION: &str = "adit-connection";

/// What the node that decided says of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayedFlow {
    /// The flow, under the id of its record.
    pub flow: FlowId,
    /// Whose it is.
    pub account: AccountId,
    /// Through which tunnel.
    pub tunnel: TunnelId,
    /// Its protocol; TCP also for requests to public host names.
    pub protocol: Protocol,
    /// The rule that decided, if one did.
    pub rule: Option<RuleId>,
    /// The number of the snapshot that decided.
    pub snapshot: u64,
    /// Where the device is, by which connectors that are not ours tell those apart who ask for echoes.
    pub source: Option<std::net::IpAddr>,
}

/// Why a request is not to be relayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// Something that has to be said is not.
    #[error("the request has no {0}")]
    Missing(&'static str),
    /// Something cannot be read.
    #[error("the request's {0} cannot be read")]
    Malformed(&'static str),
}

impl RelayedFlow {
    /// Adds to a request what the peer has to know.
    pub fn write(&self, request: &mut ConnectRequest) {
        // What a client's headers became cannot be taken for ours: their keys have a prefix.
        request.metadata.retain(|entry| entry.key != METADATA_FLOW_ID && entry.key != PROTOCOL_HEADER);
        let mut say = |key: &str, value: String| request.metadata.push(Metadata::new(key, value));
        say(METADATA_FLOW_ID, self.flow.to_string());
        say(ACCOUNT, self.account.to_string());
        say(TUNNEL, self.tunnel.to_string());
        say(PROTOCOL_HEADER, self.protocol.as_str().to_owned());
        say(SNAPSHOT, self.snapshot.to_string());
        if let Some(rule) = self.rule {
            say(RULE, rule.to_string());
        }
        if let Some(source) = self.source {
            say(SOURCE, source.to_string());
        }
    }

    /// Reads what a request says.
    ///
    /// # Errors
    /// It does not say all that it has to.
    pub fn read(request: &ConnectRequest) -> Result<Self, RelayError> {
        let protocol = request.metadata(PROTOCOL_HEADER).ok_or(RelayError::Missing(PROTOCOL_HEADER))?;
        Ok(Self {
            flow: needed(request, METADATA_FLOW_ID)?,
            account: needed(request, ACCOUNT)?,
            tunnel: needed(request, TUNNEL)?,
            protocol: device::protocol(Some(protocol)).ok_or(RelayError::Malformed(PROTOCOL_HEADER))?,
            rule: optional(request, RULE)?,
            snapshot: needed(request, SNAPSHOT)?,
            source: optional(request, SOURCE)?,
        })
    }
}

fn optional<T: std::str::FromStr>(
    request: &ConnectRequest,
    key: &'static str,
) -> Result<Option<T>, RelayError> {
    let value = request.metadata(key);
    value.map(|value| value.parse().map_err(|_| RelayError::Malformed(key))).transpose()
}

fn needed<T: std::str::FromStr>(request: &ConnectRequest, key: &'static str) -> Result<T, RelayError> {
    optional(request, key)?.ok_or(RelayError::Missing(key))
}

/// What the answer to a relayed flow says of the connection that carries it.
pub fn carried_by(connection: ConnectionId) -> Metadata {
    Metadata::new(CONNECTION, connection.to_string())
}

/// The connection that carries a relayed flow, if the answer tells.
pub fn connection_of(response: &ConnectResponse) -> Option<ConnectionId> {
    response.metadata(CONNECTION)?.parse().ok()
}

/// Fuzz body: what is read from any request says the same when it is written again.
#[doc(hidden)]
pub fn fuzz_relayed_flow(input: &[u8]) {
    let Ok(Some((request, _))) = ConnectRequest::decode(input) else { return };
    if let Ok(flow) = RelayedFlow::read(&request) {
        let mut again = ConnectRequest { metadata: Vec::new(), ..request };
        flow.write(&mut again);
        assert_eq!(RelayedFlow::read(&again), Ok(flow));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::ConnectionType;
    use bytes::BytesMut;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn request() -> ConnectRequest {
        ConnectRequest { dest: "192.0.2.1:80".into(), kind: ConnectionType::Tcp, metadata: Vec::new() }
    }

    fn flow() -> RelayedFlow {
        RelayedFlow {
            flow: FlowId::from_uuid(Uuid::from_u128(1)),
            account: AccountId::from_bytes([2; 16]),
            tunnel: TunnelId::from_uuid(Uuid::from_u128(3)),
            protocol: Protocol::Udp,
            rule: Some(RuleId::from_uuid(Uuid::from_u128(4))),
            snapshot: 5,
            source: Some("2001:db8::6".parse().unwrap()),
        }
    }

    #[test]
    fn a_flow_is_read_as_it_was_written() {
        let mut request = request();
        flow().write(&mut request);
        let texts = request.metadata.iter().map(|entry| format!("{}={:?}", entry.key, entry.val));
        let expected = [
            r#"FlowID=b"00000000-0000-0000-0000-000000000001""#,
            r#"adit-account=b"02020202020202020202020202020202""#,
            r#"adit-tunnel=b"00000000-0000-0000-0000-000000000003""#,
            r#"adit-protocol=b"udp""#,
            r#"adit-snapshot=b"5""#,
            r#"adit-rule=b"00000000-0000-0000-0000-000000000004""#,
            r#"adit-source=b"2001:db8::6""#,
        ];
        assert_eq!(texts.collect::<Vec<_>>(), expected);
        assert_eq!(RelayedFlow::read(&request), Ok(flow()));
    }

    #[test]
    fn what_has_to_be_said_is_missed_by_its_name() {
        let mut whole = request();
        flow().write(&mut whole);
        for left_out in [METADATA_FLOW_ID, ACCOUNT, TUNNEL, PROTOCOL_HEADER, SNAPSHOT] {
            let mut part = whole.clone();
            part.metadata.retain(|entry| entry.key != left_out);
            assert_eq!(RelayedFlow::read(&part), Err(RelayError::Missing(left_out)));
            part.metadata.push(Metadata::new(left_out, "?"));
            assert_eq!(RelayedFlow::read(&part), Err(RelayError::Malformed(left_out)));
        }
    }

    proptest! {
        #[test]
        fn any_values_make_an_error_or_a_flow(values in proptest::collection::vec("[0-9a-f:.-]{0,40}", 7), cut in 0_usize..600) {
            let keys = [METADATA_FLOW_ID, ACCOUNT, TUNNEL, PROTOCOL_HEADER, SNAPSHOT, RULE, SOURCE];
            let mut any = request();
            flow().write(&mut any);
            any.metadata.extend(keys.iter().zip(values).map(|(key, value)| Metadata::new(*key, value)));
            let turn = cut % any.metadata.len();
            any.metadata.rotate_left(turn);
            let mut bytes = BytesMut::new();
            any.encode(&mut bytes).unwrap();
            fuzz_relayed_flow(&bytes);
            fuzz_relayed_flow(&bytes[..cut.min(bytes.len())]);
        }

        #[test]
        fn any_bytes_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut start = crate::tunnel::DATA_SIGNATURE.to_vec();
            start.extend(bytes);
            fuzz_relayed_flow(&start);
        }
    }
}
