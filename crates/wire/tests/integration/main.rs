//! The two ends of a control stream, and of a call, against each other, and each against `capnp-rpc` as the other end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod interop;
mod pair;
mod service;
#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]
#[rustfmt::skip]
mod tunnelrpc_capnp;

use std::time::Duration;

use adit_model::{ConnectionId, ConnectorId, TunnelId};
use adit_wire::rpc::{
    ClientInfo, ConnectionDetails, ConnectionError, ConnectionOptions, RegisterRequest, TunnelAuth,
    TunnelSecret,
};

fn request() -> RegisterRequest {
    RegisterRequest {
        auth: TunnelAuth { account_tag: "ab".repeat(16), secret: TunnelSecret::new(vec![7; 32]) },
        tunnel: TunnelId::from_uuid(uuid::Uuid::from_u128(1)),
        connection_index: 3,
        options: ConnectionOptions {
            client: ClientInfo {
                client_id: ConnectorId::from_uuid(uuid::Uuid::from_u128(2)),
                features: vec!["serialized_headers".into(), "adit_half_close".into()],
                version: "1.2.3".into(),
                arch: "linux_amd64".into(),
            },
            origin_local_ip: Some("192.0.2.7".parse().unwrap()),
            replace_existing: true,
            compression_quality: 1,
            num_previous_attempts: 9,
        },
    }
}

#[track_caller]
fn assert_same(request: &RegisterRequest, expected: &RegisterRequest) {
    assert_eq!(request.auth.account_tag, expected.auth.account_tag);
    assert_eq!(request.auth.secret.expose(), expected.auth.secret.expose());
    assert_eq!(request.tunnel, expected.tunnel);
    assert_eq!(request.connection_index, expected.connection_index);
    assert_eq!(request.options, expected.options);
}

fn details() -> ConnectionDetails {
    ConnectionDetails {
        uuid: ConnectionId::from_uuid(uuid::Uuid::from_u128(4)),
        location_name: "edge1".into(),
        tunnel_is_remotely_managed: true,
    }
}

fn refusal() -> ConnectionError {
    ConnectionError {
        cause: "Unauthorized: Invalid tunnel secret".into(),
        retry_after: Duration::from_secs(7),
        should_retry: true,
    }
}
