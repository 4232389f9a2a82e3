//! The host's addresses and routes that bring packets to the TUN interface, over rtnetlink.
//!
//! Everything hangs on the interface and disappears with it; nothing of the host's own is changed or replaced. A network
//! that the host already reaches by a route of the same prefix and metric is left to it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use adit_model::Cidr;
use futures_util::StreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope, RouteType};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio::task::JoinHandle;

use crate::exclude::exclude;

/// The device's addresses unless the edge gives others. Only the host itself ever sees them.
pub(crate) const DEFAULT_V4: Ipv4Addr = Ipv4Addr::new(100, 96, 0, 2);
pub(crate) const DEFAULT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xad17, 0, 0, 0, 0, 0, 2);
/// Metric of our routes: before what other programs usually set.
const METRIC: u32 = 1;
/// How often, and how long, an address is looked at until the kernel takes it for its own: usually some milliseconds. There
/// is no event for it: the address is announced before its route is there.
const LOCAL_POLL: Duration = Duration::from_millis(1);
const LOCAL_LIMIT: Duration = Duration::from_secs(1);

/// The host's network could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoutesError {
    #[error("cannot talk to the kernel's routing (rtnetlink)")]
    Socket(#[source] std::io::Error),
    #[error("the interface {name} is gone")]
    NoInterface { name: String },
    #[error("cannot bring the interface up")]
    Link(#[source] rtnetlink::Error),
    #[error("cannot give the interface the address {address}")]
    Address {
        address: IpAddr,
        #[source]
        source: rtnetlink::Error,
    },
}

/// The routes into one interface.
#[derive(Debug)]
pub(crate) struct Routes {
    handle: Handle,
    connection: JoinHandle<()>,
    index: u32,
    /// At most one of a family.
    addresses: Vec<IpAddr>,
    /// Networks with a route of ours.
    installed: BTreeSet<IpNet>,
    /// Networks that could not be routed, so that each is reported once.
    failed: BTreeSet<IpNet>,
}

impl Routes {
    /// Gives the interface its addresses and brings it up. Families that `addresses` lacks get the defaults.
    pub(crate) async fn new(interface: &str, mtu: u32, addresses: &[IpAddr]) -> Result<Self, RoutesError> {
        let index = nix::net::if_::if_nametoindex(interface)
            .map_err(|_| RoutesError::NoInterface { name: interface.to_owned() })?;
        let (connection, handle, _) = rtnetlink::new_connection().map_err(RoutesError::Socket)?;
        let connection = tokio::spawn(connection);
        let mut routes = Self {
            handle,
            connection,
            index,
            addresses: Vec::new(),
            installed: BTreeSet::new(),
            failed: BTreeSet::new(),
        };
        let link = LinkUnspec::new_with_index(index).mtu(mtu).up().build();
        routes.handle.link().set(link).execute().await.map_err(RoutesError::Link)?;
        for address in with_defaults(addresses) {
            let mut request = routes.handle.address().add(index, address, host_prefix(address));
            // Nobody else is on this link; and an address under test cannot be a route's source yet.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            match request.execute().await {
                Ok(()) => {
                    routes.wait_until_local(address).await;
                    routes.addresses.push(address);
                }
                // A host without IPv6 still has its IPv4 networks.
                Err(error) if address.is_ipv6() => {
                    tracing::warn!(%error, "IPv6 networks are not captured: the interface takes no IPv6 address");
                }
                Err(source) => return Err(RoutesError::Address { address, source }),
            }
        }
        Ok(routes)
    }

    /// Waits until the kernel takes packets to `address` for its own. It does so for an IPv6 address only a moment after it
    /// was given, and what comes before is lost.
    async fn wait_until_local(&self, address: IpAddr) {
        let is_local = async {
            loop {
                let route =
                    RouteMessageBuilder::<IpAddr>::new().destination_prefix(address, host_prefix(address));
                let Ok(route) = route else { return };
                let mut found = std::pin::pin!(self.handle.route().get(route.build()).execute());
                if let Some(Ok(route)) = found.next().await
                    && route.header.kind == RouteType::Local
                {
                    return;
                }
                tokio::time::sleep(LOCAL_POLL).await;
            }
        };
        if tokio::time::timeout(LOCAL_LIMIT, is_local).await.is_err() {
            tracing::warn!(%address, "the kernel does not take the interface's address for its own yet");
        }
    }

    /// Routes exactly `networks` without `excluded` into the interface, and tells what is routed now.
    pub(crate) async fn set(&mut self, networks: &[Cidr], excluded: &[IpAddr]) -> &BTreeSet<IpNet> {
        let wanted: BTreeSet<IpNet> =
            networks.iter().flat_map(|network| exclude(network.net(), excluded)).collect();
        // New ones first, so that a network that is only split differently stays captured.
        for network in wanted.difference(&self.installed.clone()) {
            self.add(*network).await;
        }
        for network in self.installed.clone().difference(&wanted) {
            let Some(message) = self.message(*network) else { continue };
            if let Err(error) = self.handle.route().del(message).execute().await {
                tracing::debug!(%network, %error, "a route was gone already");
            }
            self.installed.remove(network);
        }
        self.failed.retain(|network| wanted.contains(network));
        &self.installed
    }

    async fn add(&mut self, network: IpNet) {
        let Some(message) = self.message(network) else { return };
        match self.handle.route().add(message).execute().await {
            Ok(()) => {
                self.failed.remove(&network);
                self.installed.insert(network);
            }
            Err(error) => {
                if self.failed.insert(network) {
                    tracing::warn!(%network, %error, "a network is not captured: the host has no place for its route");
                }
            }
        }
    }

    /// The route of a network, if the interface has an address of its family.
    fn message(&self, network: IpNet) -> Option<RouteMessage> {
        let source = self.addresses.iter().find(|address| address.is_ipv4() == network.addr().is_ipv4())?;
        let mut route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(network.network(), network.prefix_len())
            .and_then(|route| route.pref_source(*source))
            .expect("both addresses are of the network's family, and its length is valid")
            .output_interface(self.index)
            .priority(METRIC);
        if network.addr().is_ipv4() {
            route = route.scope(RouteScope::Link);
        }
        Some(route.build())
    }
}

impl Drop for Routes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The length of a prefix that holds this address alone.
fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn with_defaults(addresses: &[IpAddr]) -> [IpAddr; 2] {
    let of = |v4: bool| addresses.iter().copied().find(|address| address.is_ipv4() == v4);
    [of(true).unwrap_or(DEFAULT_V4.into()), of(false).unwrap_or(DEFAULT_V6.into())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_without_an_address_gets_the_default() {
        let given: IpAddr = "100.96.7.9".parse().unwrap();
        assert_eq!(with_defaults(&[given]), [given, DEFAULT_V6.into()]);
        let given: IpAddr = "fd00::1".parse().unwrap();
        assert_eq!(with_defaults(&[given]), [DEFAULT_V4.into(), given]);
    }
}
