//! What the agent says of itself.

use adit_wire::device::Block;
use serde::{Deserialize, Serialize};

/// Where the agent stands. New states may come: read unknown ones as "not connected".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// There is no registration: `adit agent enroll` makes one.
    #[default]
    NotEnrolled,
    /// No connection to the edge yet, or not any more; it is being tried.
    Connecting,
    /// Flows are carried.
    Connected,
    /// Turned off, by `adit agent disconnect` or because another process uses this device's key.
    Disconnected,
    /// The edge does not know this device any more: enrol again.
    ReauthRequired,
}

/// How flows are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// HTTP/2 over TLS on TCP.
    H2,
    /// QUIC on UDP.
    Quic,
}

/// The answer of `adit agent status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Where the agent stands.
    pub state: ConnectionState,
    /// The device's id, once it is enrolled.
    pub device_id: Option<String>,
    /// Whom the device stands for.
    pub user: Option<String>,
    /// The edge, as `https://HOST`.
    pub edge: Option<String>,
    /// How flows are carried, while connected.
    pub transport: Option<Transport>,
    /// The networks routed to the agent, edge addresses taken out. With a proxy: those that programs reach through it.
    pub routes: Vec<String>,
    /// The TUN interface, while it exists.
    pub interface: Option<String>,
    /// Where the proxy listens, if there is one instead of an interface.
    pub proxy: Option<String>,
    /// What rules have blocked lately and said that it is to be shown, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<Block>,
    /// What went wrong last, in words; empty while connected.
    pub last_error: Option<String>,
}

impl Status {
    /// No carrier, but one is looked for.
    pub(crate) fn set_connecting(&mut self) {
        self.state = ConnectionState::Connecting;
        self.transport = None;
    }

    /// A status without anything of a connection.
    pub(crate) fn clear_connection(&mut self) {
        self.transport = None;
        self.routes.clear();
        self.interface = None;
    }
}
