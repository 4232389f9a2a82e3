//! What the control plane tells the edges: objects as an edge needs them, and their changes in order.

use serde::{Deserialize, Serialize};

use crate::address::Cidr;
use crate::fallback::FallbackDomains;
use crate::gateway::{AccountBlockPage, GatewaySettings, OriginRoot};
use crate::hostname::{HostnamePattern, PublicHostname};
use crate::id::{
    AccountId, ConnectorId, DeviceId, ListId, LocationId, NodeId, OriginRootId, RegistrationId, RouteId,
    RuleId, ServiceTokenId, TunnelId, VirtualNetworkId,
};
use crate::list::{List, ListItemsChange};
use crate::location::{Location, ServiceToken};
use crate::rule::Rule;
use crate::secret::{DeviceKey, NodeKey, SecretHash};

/// A tunnel, as an edge needs it to let a connector in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Its id.
    pub id: TunnelId,
    /// Its account; it serves flows of no other.
    pub account: AccountId,
    /// Its name, for logs.
    pub name: String,
    /// What its secret is checked against.
    pub secret: SecretHash,
    /// Whether its configuration is pushed by the control plane.
    pub remotely_managed: bool,
}

/// The configuration of a tunnel that the control plane manages, as it is pushed to connectors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelConfiguration {
    /// The tunnel.
    pub tunnel: TunnelId,
    /// Which of the tunnel's configurations; a later one has a larger number.
    pub version: i32,
    /// The JSON text of the push (tunnel protocol, 4.2).
    pub config: String,
}

/// A public host name that leads to a tunnel's ingress rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hostname {
    /// The name. No two accounts have the same.
    pub hostname: PublicHostname,
    /// Its account.
    pub account: AccountId,
    /// The tunnel, of the same account.
    pub tunnel: TunnelId,
}

/// A network behind a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Its id.
    pub id: RouteId,
    /// Its account.
    pub account: AccountId,
    /// The virtual network in which it stands.
    pub virtual_network: VirtualNetworkId,
    /// The destinations.
    pub network: Cidr,
    /// The tunnel that leads there.
    pub tunnel: TunnelId,
}

/// Names behind a tunnel, for an account's devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostnameRoute {
    /// Its id.
    pub id: RouteId,
    /// Its account. No two of an account's have the same names.
    pub account: AccountId,
    /// The names.
    pub hostname: HostnamePattern,
    /// The tunnel that leads there, and whose connectors know what the names stand for.
    pub tunnel: TunnelId,
}

/// A space of routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualNetwork {
    /// Its id.
    pub id: VirtualNetworkId,
    /// Its account.
    pub account: AccountId,
    /// Whether devices use it that chose none. One of an account's is.
    pub is_default: bool,
}

/// A device key bound to whom it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Its id.
    pub id: RegistrationId,
    /// Its account.
    pub account: AccountId,
    /// The device that holds the key.
    pub device: DeviceId,
    /// The device's name.
    pub device_name: String,
    /// The key that proves it.
    pub key: DeviceKey,
    /// Who: an e-mail address, or `non_identity@` and the account's host for a service token.
    pub user: String,
    /// The service token that enrolled it, if one did.
    pub service_token: Option<ServiceTokenId>,
    /// A revoked registration opens nothing, and what it had open is cut.
    pub revoked: bool,
}

/// An edge node, as the others need it to relay flows to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name, shown as the location of the connections that it holds. No two nodes have the same.
    pub name: String,
    /// The key that proves it to other nodes.
    pub key: NodeKey,
    /// `HOST:PORT` of its tunnel listener, where other nodes find it.
    pub address: String,
    /// `HOST:PORT` of its HTTPS listener, where devices find it. Empty: devices are not told of it.
    pub devices: String,
}

/// A node holds connections of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lease {
    /// The node.
    pub node: NodeId,
    /// The tunnel.
    pub tunnel: TunnelId,
}

/// One change of the state that edges decide by. Changes are absolute: applying one twice is applying it once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// A tunnel is new or has other content.
    TunnelPut(Tunnel),
    /// A tunnel is gone.
    TunnelRemoved {
        /// Which.
        id: TunnelId,
    },
    /// A tunnel has a new configuration. It goes with its tunnel.
    TunnelConfigurationPut(TunnelConfiguration),
    /// A public host name is new or leads elsewhere.
    HostnamePut(Hostname),
    /// A public host name is gone.
    HostnameRemoved {
        /// Which.
        hostname: PublicHostname,
    },
    /// A route is new or has other content.
    RoutePut(Route),
    /// A route is gone.
    RouteRemoved {
        /// Which.
        id: RouteId,
    },
    /// A hostname route is new or has other content.
    HostnameRoutePut(HostnameRoute),
    /// A hostname route is gone.
    HostnameRouteRemoved {
        /// Which.
        id: RouteId,
    },
    /// A virtual network is new or has other content.
    VirtualNetworkPut(VirtualNetwork),
    /// A virtual network is gone.
    VirtualNetworkRemoved {
        /// Which.
        id: VirtualNetworkId,
    },
    /// A registration is new, revoked, or otherwise changed.
    RegistrationPut(Registration),
    /// A registration is gone.
    RegistrationRemoved {
        /// Which.
        id: RegistrationId,
    },
    /// An edge node is new or is found elsewhere.
    NodePut(Node),
    /// An edge node is gone, and its leases with it.
    NodeRemoved {
        /// Which.
        id: NodeId,
    },
    /// A node holds connections of a tunnel.
    LeasePut(Lease),
    /// It holds none any more.
    LeaseRemoved(Lease),
    /// A list is new or has other content, all of which is here.
    ListPut(List),
    /// Some items of a list came or went. What was removed is gone, and what was added is there, whatever was before.
    ListItemsChanged(ListItemsChange),
    /// A list is gone.
    ListRemoved {
        /// Which.
        id: ListId,
    },
    /// A rule is new or has other content.
    RulePut(Box<Rule>),
    /// An account's gateway has other settings.
    GatewaySettingsPut(GatewaySettings),
    /// An account's blocked requests get something else.
    BlockPagePut(Box<AccountBlockPage>),
    /// Authorities of an account's origins are new or have other content.
    OriginRootPut(Box<OriginRoot>),
    /// They are gone.
    OriginRootRemoved {
        /// Which.
        id: OriginRootId,
    },
    /// A rule is gone.
    RuleRemoved {
        /// Which.
        id: RuleId,
    },
    /// An account has other fallback domains, all of which are here.
    FallbackDomainsPut(FallbackDomains),
    /// A DNS location is new or has other content.
    LocationPut(Location),
    /// A DNS location is gone.
    LocationRemoved {
        /// Which.
        id: LocationId,
    },
    /// A service token is new or has other content.
    ServiceTokenPut(ServiceToken),
    /// A service token is gone.
    ServiceTokenRemoved {
        /// Which.
        id: ServiceTokenId,
    },
}

/// Changes that were made together, in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeBatch {
    /// The number of the state after them; the next batch's is larger. 0 for what stands beside the change log, which
    /// leaves the number as it is: which nodes there are, and what they hold.
    pub number: u64,
    /// The changes, in order.
    pub changes: Vec<Change>,
}

/// What the control plane asks of an edge once; not part of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Close a tunnel's connections so that its connectors connect anew (tunnel protocol, 2.6).
    CloseConnections {
        /// The tunnel.
        tunnel: TunnelId,
        /// Only those of this connector, if given.
        connector: Option<ConnectorId>,
    },
}
