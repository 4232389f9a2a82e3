//! What is said in registering a connection (contract, 2.3).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use adit_model::{ConnectionId, ConnectorId, TunnelId};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::capnp::{Builder, ReadError, StructAt, StructReader};

/// A tunnel's secret, as a connector proves it. `Debug` shows nothing, and memory is cleared when it is dropped.
#[derive(Clone)]
pub struct TunnelSecret(Zeroizing<Vec<u8>>);

impl TunnelSecret {
    /// A secret of these bytes, 32 of them as a rule.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, to compare or to send; never to print.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for TunnelSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TunnelSecret(..)")
    }
}

/// Who registers: the account and the tunnel's secret.
#[derive(Debug, Clone)]
pub struct TunnelAuth {
    /// The account's tag.
    pub account_tag: String,
    /// The secret.
    pub secret: TunnelSecret,
}

/// The program that registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientInfo {
    /// The connector: a UUID made when the process started.
    pub client_id: ConnectorId,
    /// What it can do.
    pub features: Vec<String>,
    /// Its version.
    pub version: String,
    /// Its system and processor, such as `linux_amd64`.
    pub arch: String,
}

/// Beside the proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// The program.
    pub client: ClientInfo,
    /// The connector's own address, as it sees it; for display only.
    pub origin_local_ip: Option<IpAddr>,
    /// Whether a connection of the same index is to be replaced; it is anyway.
    pub replace_existing: bool,
    /// Not used any more.
    pub compression_quality: u8,
    /// Attempts before this one.
    pub num_previous_attempts: u8,
}

/// One `registerConnection`.
#[derive(Debug, Clone)]
pub struct RegisterRequest {
    /// The proof.
    pub auth: TunnelAuth,
    /// The tunnel.
    pub tunnel: TunnelId,
    /// Which of the connector's connections this is.
    pub connection_index: u8,
    /// The rest.
    pub options: ConnectionOptions,
}

/// A registration was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionDetails {
    /// The connection's id.
    pub uuid: ConnectionId,
    /// Where the edge is; short.
    pub location_name: String,
    /// Whether the tunnel's configuration is pushed by the edge.
    pub tunnel_is_remotely_managed: bool,
}

/// A registration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct ConnectionError {
    /// Why. Connectors interpret `EDUPCONN` and anything with `Unauthorized` in it (contract, 2.7).
    pub cause: String,
    /// How long to wait before trying again; unmodified connectors ignore it.
    pub retry_after: Duration,
    /// Whether trying again may help.
    pub should_retry: bool,
}

/// Parameters of a call are not what the method takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ParamsError {
    #[error("the parameters cannot be read: {0}")]
    Read(#[from] ReadError),
    #[error("tunnelId is not 16 bytes")]
    TunnelId,
    #[error("clientId is not 16 bytes")]
    ClientId,
    #[error("the connection's uuid is not 16 bytes")]
    ConnectionId,
    #[error("the response is neither an error nor details")]
    UnknownResponse,
}

/// Words of data and pointers of `registerConnection`'s parameters.
pub(super) const REGISTER_PARAMS: (u16, u16) = (1, 3);
/// The same of its results.
pub(super) const REGISTER_RESULTS: (u16, u16) = (0, 1);

impl RegisterRequest {
    pub(super) fn write(&self, builder: &mut Builder<'_>, params: StructAt) {
        builder.set(params, 0, [self.connection_index]);
        let auth = builder.structure(params, 0, 0, 2);
        builder.text(auth, 0, &self.auth.account_tag);
        builder.data(auth, 1, self.auth.secret.expose());
        builder.data(params, 1, self.tunnel.uuid().as_bytes());
        let options = builder.structure(params, 2, 1, 2);
        builder.set_bool(options, 0, self.options.replace_existing);
        builder.set(options, 1, [self.options.compression_quality]);
        builder.set(options, 2, [self.options.num_previous_attempts]);
        let client = builder.structure(options, 0, 0, 4);
        builder.data(client, 0, self.options.client.client_id.uuid().as_bytes());
        builder.texts(client, 1, &self.options.client.features);
        builder.text(client, 2, &self.options.client.version);
        builder.text(client, 3, &self.options.client.arch);
        match self.options.origin_local_ip {
            // Sixteen bytes always, as Go's net.IP has them.
            Some(IpAddr::V4(ip)) => builder.data(options, 1, &ip.to_ipv6_mapped().octets()),
            Some(IpAddr::V6(ip)) => builder.data(options, 1, &ip.octets()),
            None => {}
        }
    }

    pub(super) fn read(params: StructReader<'_, '_>) -> Result<Self, ParamsError> {
        let auth = params.structure(0)?;
        let options = params.structure(2)?;
        let client = options.structure(0)?;
        let client_id = Uuid::from_slice(client.data(0)?).map_err(|_| ParamsError::ClientId)?;
        let features =
            client.texts(1)?.iter().map(|text| text.map(str::to_owned)).collect::<Result<_, _>>()?;
        Ok(Self {
            auth: TunnelAuth {
                account_tag: auth.text(0)?.to_owned(),
                secret: TunnelSecret::new(auth.data(1)?.to_vec()),
            },
            tunnel: Uuid::from_slice(params.data(1)?)
                .map(TunnelId::from_uuid)
                .map_err(|_| ParamsError::TunnelId)?,
            connection_index: params.u8(0),
            options: ConnectionOptions {
                client: ClientInfo {
                    client_id: ConnectorId::from_uuid(client_id),
                    features,
                    version: client.text(2)?.to_owned(),
                    arch: client.text(3)?.to_owned(),
                },
                origin_local_ip: ip(options.data(1)?),
                replace_existing: options.bool(0),
                compression_quality: options.u8(1),
                num_previous_attempts: options.u8(2),
            },
        })
    }
}

/// The answer to `registerConnection`: `ConnectionResponse`.
pub(super) fn write_response(
    response: &Result<ConnectionDetails, ConnectionError>,
    builder: &mut Builder<'_>,
    results: StructAt,
) {
    let place = builder.structure(results, 0, 1, 1);
    match response {
        Err(error) => {
            builder.set(place, 0, ERROR.to_le_bytes());
            let place = builder.structure(place, 0, 2, 1);
            builder.text(place, 0, &error.cause);
            let nanos = i64::try_from(error.retry_after.as_nanos()).unwrap_or(i64::MAX);
            builder.set(place, 0, nanos.to_le_bytes());
            builder.set_bool(place, 64, error.should_retry);
        }
        Ok(details) => {
            builder.set(place, 0, DETAILS.to_le_bytes());
            let place = builder.structure(place, 0, 1, 2);
            builder.data(place, 0, details.uuid.uuid().as_bytes());
            builder.text(place, 1, &details.location_name);
            builder.set_bool(place, 0, details.tunnel_is_remotely_managed);
        }
    }
}

pub(super) fn read_response(
    results: StructReader<'_, '_>,
) -> Result<Result<ConnectionDetails, ConnectionError>, ParamsError> {
    let response = results.structure(0)?;
    let body = response.structure(0)?;
    match response.u16(0) {
        ERROR => Ok(Err(ConnectionError {
            cause: String::from_utf8_lossy(body.text_bytes(0)?).into_owned(),
            retry_after: Duration::from_nanos(u64::try_from(body.u64(0).cast_signed()).unwrap_or(0)),
            should_retry: body.bool(64),
        })),
        DETAILS => Ok(Ok(ConnectionDetails {
            uuid: Uuid::from_slice(body.data(0)?)
                .map(ConnectionId::from_uuid)
                .map_err(|_| ParamsError::ConnectionId)?,
            location_name: body.text(1)?.to_owned(),
            tunnel_is_remotely_managed: body.bool(0),
        })),
        _ => Err(ParamsError::UnknownResponse),
    }
}

/// Members of the union `ConnectionResponse.result`.
const ERROR: u16 = 0;
const DETAILS: u16 = 1;

/// An address of 4 or 16 bytes; an IPv4 address in 16 is one.
pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|octets| Ipv4Addr::from(octets).into()),
        16 => {
            <[u8; 16]>::try_from(bytes).ok().map(|octets| IpAddr::from(Ipv6Addr::from(octets)).to_canonical())
        }
        _ => None,
    }
}
