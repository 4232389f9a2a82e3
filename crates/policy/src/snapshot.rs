//! All that a decision needs, compiled, immutable and numbered.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use adit_model::{
    AccountId, Cidr, DeviceId, DeviceKey, FallbackDomain, FallbackDomains, Filter, GatewaySettings, Hostname,
    HostnamePattern, HostnameRoute, ListId, Location, LocationId, Node, NodeId, NodeKey, OriginRoot, OwnPage,
    PublicHostname, Registration, RegistrationId, Route, RuleId, RuleName, SecretHash, ServiceToken,
    ServiceTokenId, Tunnel, TunnelConfiguration, TunnelId, VirtualNetworkId, never_dialled,
};
use ipnet::IpNet;

use crate::rule::{CompiledList, CompiledRule};
use crate::shared_map::SharedMap;
use crate::trie::{Prefix, Trie};

/// Compiled policy and routes. See the crate's documentation.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub(crate) number: u64,
    pub(crate) tunnels: SharedMap<TunnelId, Arc<Tunnel>>,
    pub(crate) registrations: SharedMap<RegistrationId, Arc<Registration>>,
    pub(crate) keys: SharedMap<DeviceKey, RegistrationId>,
    pub(crate) routes: SharedMap<VirtualNetworkId, Routes>,
    pub(crate) default_networks: SharedMap<AccountId, VirtualNetworkId>,
    pub(crate) configurations: SharedMap<TunnelId, Arc<TunnelConfiguration>>,
    pub(crate) hostnames: SharedMap<PublicHostname, Arc<Hostname>>,
    /// By the names as they are written.
    pub(crate) hostname_routes: SharedMap<AccountId, Arc<HashMap<String, HostnameRoute>>>,
    pub(crate) nodes: SharedMap<NodeId, Arc<Node>>,
    /// Which nodes hold connections of a tunnel.
    pub(crate) leases: SharedMap<TunnelId, Arc<[NodeId]>>,
    /// By precedence.
    pub(crate) rules: SharedMap<(AccountId, Filter), Arc<Vec<Arc<CompiledRule>>>>,
    pub(crate) lists: SharedMap<adit_expr::ListId, Arc<CompiledList>>,
    pub(crate) gateway_settings: SharedMap<AccountId, GatewaySettings>,
    pub(crate) fallback_domains: SharedMap<AccountId, Arc<FallbackDomains>>,
    pub(crate) locations: SharedMap<LocationId, Arc<Location>>,
    pub(crate) subdomains: SharedMap<String, LocationId>,
    pub(crate) service_tokens: SharedMap<ServiceTokenId, Arc<ServiceToken>>,
    pub(crate) client_ids: SharedMap<String, ServiceTokenId>,
    /// Of the accounts that have their own.
    pub(crate) block_pages: SharedMap<AccountId, Arc<OwnPage>>,
    pub(crate) origin_roots: SharedMap<AccountId, Arc<Vec<Arc<OriginRoot>>>>,
}

/// The routes of one virtual network, by prefix. A copy is two pointers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routes {
    v4: Trie<Route>,
    v6: Trie<Route>,
}

/// Why a connector is not let in. Its text is the cause that the connector is told (tunnel protocol, 2.7): the word
/// `Unauthorized` makes it try again instead of giving up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TunnelRefusal {
    /// No such tunnel, or not of the account that the connector named.
    #[error("Unauthorized: Tunnel not found")]
    NotFound,
    /// The secret is another.
    #[error("Unauthorized: Invalid tunnel secret")]
    WrongSecret,
}

impl Snapshot {
    /// The number of the last batch of changes in it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The registration, revoked or not.
    pub fn registration(&self, id: RegistrationId) -> Option<&Arc<Registration>> {
        self.registrations.get(&id)
    }

    /// The registration of an account's device; a live one, if it has one. For those who ask, not for flows.
    pub fn registration_of_device(&self, account: AccountId, device: DeviceId) -> Option<&Arc<Registration>> {
        let of_device =
            self.registrations.values().filter(|known| known.account == account && known.device == device);
        of_device.min_by_key(|known| (known.revoked, known.id))
    }

    /// The registration that a device with this key has.
    pub fn registration_of(&self, key: DeviceKey) -> Option<&Arc<Registration>> {
        self.keys.get(&key).and_then(|id| self.registrations.get(id))
    }

    /// The virtual network that an account's devices use unless they choose another.
    pub fn default_network(&self, account: AccountId) -> Option<VirtualNetworkId> {
        self.default_networks.get(&account).copied()
    }

    /// The networks that routes of this virtual network hold, sorted, each once.
    pub fn networks(&self, virtual_network: VirtualNetworkId) -> Vec<Cidr> {
        let Some(routes) = self.routes.get(&virtual_network) else { return Vec::new() };
        let mut networks: Vec<Cidr> =
            routes.v4.values().chain(routes.v6.values()).map(|route| route.network).collect();
        networks.sort_unstable();
        networks
    }

    /// The route with the longest prefix that holds `address`.
    pub fn route(&self, virtual_network: VirtualNetworkId, address: IpAddr) -> Option<&Route> {
        let routes = self.routes.get(&virtual_network)?;
        match address {
            IpAddr::V4(_) => routes.v4.longest(key(address)),
            IpAddr::V6(_) => routes.v6.longest(key(address)),
        }
    }

    /// The tunnel by which an account's routes in this virtual network reach an address. Rules are not asked.
    pub fn tunnel_to(
        &self,
        account: AccountId,
        virtual_network: VirtualNetworkId,
        address: IpAddr,
    ) -> Option<TunnelId> {
        let address = address.to_canonical();
        let route = self.route(virtual_network, address).filter(|_| never_dialled(address).is_none())?;
        (route.account == account && self.serves(route.tunnel, account)).then_some(route.tunnel)
    }

    /// Lets a connector in, or says why not (tunnel protocol, section 10, point 9).
    ///
    /// # Errors
    /// Account, tunnel and secret do not belong together.
    pub fn admit_connector(
        &self,
        account: &str,
        tunnel: TunnelId,
        secret: &[u8],
    ) -> Result<&Arc<Tunnel>, TunnelRefusal> {
        let known = self.tunnels.get(&tunnel).filter(|known| account == known.account.to_string());
        // A tunnel that does not exist costs as much time as one that does.
        let matches = known.map_or(NO_SECRET, |known| known.secret).matches(secret);
        match known {
            None => Err(TunnelRefusal::NotFound),
            Some(_) if !matches => Err(TunnelRefusal::WrongSecret),
            Some(known) => Ok(known),
        }
    }

    /// The tunnel.
    pub fn tunnel(&self, id: TunnelId) -> Option<&Arc<Tunnel>> {
        self.tunnels.get(&id)
    }

    /// The configuration that the tunnel's connectors are to have, if the control plane manages it.
    pub fn tunnel_configuration(&self, id: TunnelId) -> Option<(i32, &str)> {
        self.configurations
            .get(&id)
            .map(|configuration| (configuration.version, configuration.config.as_str()))
    }

    /// Where a public host name leads, in any case and with or without a trailing dot. A name whose tunnel is gone, or is
    /// another account's, leads nowhere.
    pub fn hostname(&self, name: &str) -> Option<&Arc<Hostname>> {
        let name: PublicHostname = name.parse().ok()?;
        self.hostnames.get(&name).filter(|hostname| self.serves(hostname.tunnel, hostname.account))
    }

    /// The hostname route of a name in lower case without a trailing dot: its own, or the closest above it. One whose tunnel
    /// is gone leads nowhere, and no other in its place.
    pub fn hostname_route(&self, account: AccountId, name: &str) -> Option<&HostnameRoute> {
        let routes = self.hostname_routes.get(&account)?;
        let found = HostnamePattern::holding(name).find_map(|pattern| routes.get(&pattern))?;
        self.serves(found.tunnel, account).then_some(found)
    }

    /// The names that hostname routes of an account have as they are, without those that stand for others.
    pub fn exact_names(&self, account: AccountId) -> impl Iterator<Item = &str> {
        let routes = self.hostname_routes.get(&account);
        routes.into_iter().flat_map(|routes| routes.values()).filter_map(|route| route.hostname.exact())
    }

    /// Whether an account has any hostname routes.
    pub fn has_hostname_routes(&self, account: AccountId) -> bool {
        self.hostname_routes.get(&account).is_some_and(|routes| !routes.is_empty())
    }

    /// The nodes that hold connections of this tunnel, as far as it is known here.
    pub fn holders(&self, tunnel: TunnelId) -> &[NodeId] {
        self.leases.get(&tunnel).map(|holders| &**holders).unwrap_or_default()
    }

    /// Every edge node.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// The node.
    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&id)
    }

    /// The node that has this key. There are dozens at most, and a connection between two is made seldom.
    pub fn node_of(&self, key: NodeKey) -> Option<&Arc<Node>> {
        self.nodes.values().find(|node| node.key == key)
    }

    /// The rules of an account for one filter, in the order in which they are asked; those that are not enabled, expired
    /// or out of their schedule are among them.
    pub fn rules(&self, account: AccountId, filter: Filter) -> &[Arc<CompiledRule>] {
        self.rules.get(&(account, filter)).map_or(&[], |rules| rules.as_slice())
    }

    /// What a rule is called in records.
    pub fn rule_name(&self, account: AccountId, filter: Filter, id: RuleId) -> Option<RuleName> {
        let rule = self.rules(account, filter).iter().find(|compiled| compiled.rule.id == id)?;
        Some(RuleName { id, name: rule.rule.name.clone(), action: rule.rule.action })
    }

    /// What an account's blocked requests get; none is the page that is built in.
    pub fn block_page(&self, account: AccountId) -> Option<&Arc<OwnPage>> {
        self.block_pages.get(&account)
    }

    /// The list, ready to be asked.
    pub fn list(&self, id: ListId) -> Option<&Arc<CompiledList>> {
        self.lists.get(&crate::rule::list_id(id))
    }

    /// The domains whose names an account's devices ask of somebody else.
    pub fn fallback_domains(&self, account: AccountId) -> &[FallbackDomain] {
        self.fallback_domains.get(&account).map(|all| all.domains.as_slice()).unwrap_or_default()
    }

    /// The DNS location.
    pub fn location(&self, id: LocationId) -> Option<&Arc<Location>> {
        self.locations.get(&id)
    }

    /// The DNS location that is asked for by this label, in lower case.
    pub fn location_of(&self, subdomain: &str) -> Option<&Arc<Location>> {
        self.subdomains.get(subdomain).and_then(|id| self.locations.get(id))
    }

    /// The service token that an account has, and whose id and secret these are at a time in microseconds since 1970.
    pub fn service_token(
        &self,
        account: AccountId,
        (client_id, secret): (&str, &[u8]),
        at_micros: i64,
    ) -> Option<&Arc<ServiceToken>> {
        let token = self.client_ids.get(client_id).and_then(|id| self.service_tokens.get(id));
        let token = token.filter(|token| token.account == account);
        // A token that does not exist costs as much time as one that does.
        let Some(token) = token else {
            let _none = NO_SECRET.matches(secret);
            return None;
        };
        token.is_shown_by(secret, at_micros).then_some(token)
    }

    /// Whether flows of this account may go to this tunnel.
    pub fn serves(&self, tunnel: TunnelId, account: AccountId) -> bool {
        self.tunnels.get(&tunnel).is_some_and(|tunnel| tunnel.account == account)
    }
}

impl adit_expr::Lists for Snapshot {
    fn list(&self, id: adit_expr::ListId) -> Option<&adit_expr::List> {
        self.lists.get(&id).map(|list| list.values())
    }
}

impl Routes {
    pub(crate) fn insert(&mut self, route: &Route) {
        let (family, prefix) = self.place(route);
        family.insert(prefix, route.clone());
    }

    pub(crate) fn remove(&mut self, route: &Route) {
        let (family, prefix) = self.place(route);
        // The network may already be another route's, put before this one was removed.
        if family.get(prefix).is_some_and(|held| held.id == route.id) {
            family.remove(prefix);
        }
    }

    fn place(&mut self, route: &Route) -> (&mut Trie<Route>, Prefix) {
        let network = route.network.net();
        let prefix = Prefix::new(key(network.network()), network.prefix_len());
        match network {
            IpNet::V4(_) => (&mut self.v4, prefix),
            IpNet::V6(_) => (&mut self.v6, prefix),
        }
    }
}

/// An address as a key: its bits first.
fn key(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The hash that no secret has: compared with when there is no tunnel to compare with.
const NO_SECRET: SecretHash = SecretHash::from_bytes([0; 32]);
