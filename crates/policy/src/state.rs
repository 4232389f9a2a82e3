//! The objects that changes make, and the snapshot of them.

mod gateway;

use std::collections::HashMap;
use std::sync::Arc;

use adit_model::{
    AccountBlockPage, AccountId, Change, ChangeBatch, FallbackDomains, Hostname, HostnameRoute, Lease,
    Location, LocationId, NodeId, OriginRoot, OriginRootId, OwnPage, Registration, RegistrationId, Route,
    RouteId, ServiceToken, ServiceTokenId, Tunnel, TunnelConfiguration, TunnelId, VirtualNetwork,
    VirtualNetworkId,
};

use self::gateway::Gateway;
use crate::snapshot::Snapshot;

/// The state that changes have made so far.
///
/// It is kept compiled: a batch touches what it changes and no more, and [`snapshot`](Self::snapshot) copies a few pointers.
/// Routes are shared with the snapshot before, but for the way to what changed; of other kinds the pointers of those kinds
/// that changed are copied, and no object. A rule is compiled when it is put and never for another's sake, a list when a
/// snapshot is made after its items changed.
#[derive(Debug, Default)]
pub struct State {
    compiled: Snapshot,
    routes: HashMap<RouteId, Route>,
    /// Where hostname routes stand.
    hostname_routes: HashMap<RouteId, (AccountId, String)>,
    virtual_networks: HashMap<VirtualNetworkId, VirtualNetwork>,
    gateway: Gateway,
    /// Whose each is.
    origin_roots: HashMap<OriginRootId, AccountId>,
}

impl State {
    /// Applies a batch. One that is not newer than what was applied is passed over: changes are absolute.
    pub fn apply(&mut self, batch: ChangeBatch) {
        // Nodes and their leases come beside the log.
        if batch.number != 0 {
            if batch.number <= self.compiled.number && self.compiled.number != 0 {
                return;
            }
            self.compiled.number = batch.number;
        }
        for change in batch.changes {
            self.apply_one(change);
        }
    }

    /// The state as it is now, to decide by.
    pub fn snapshot(&mut self) -> Arc<Snapshot> {
        self.gateway.compile_lists(&mut self.compiled);
        Arc::new(self.compiled.clone())
    }

    /// The state as a batch that makes it of an empty one, to be kept: all that the change log tells. Nodes and leases are not
    /// in it, since they stand beside the log and end by themselves.
    pub fn to_batch(&self) -> ChangeBatch {
        let compiled = &self.compiled;
        let mut changes = Vec::with_capacity(self.routes.len() + compiled.registrations.len());
        changes.extend(self.virtual_networks.values().cloned().map(Change::VirtualNetworkPut));
        changes.extend(compiled.tunnels.values().map(|tunnel| Change::TunnelPut(Tunnel::clone(tunnel))));
        let configurations = compiled.configurations.values();
        changes
            .extend(configurations.map(|of| Change::TunnelConfigurationPut(TunnelConfiguration::clone(of))));
        changes.extend(compiled.hostnames.values().map(|name| Change::HostnamePut(Hostname::clone(name))));
        changes.extend(self.routes.values().cloned().map(Change::RoutePut));
        let named = compiled.hostname_routes.values().flat_map(|routes| routes.values());
        changes.extend(named.cloned().map(Change::HostnameRoutePut));
        let registrations = compiled.registrations.values();
        changes.extend(registrations.map(|one| Change::RegistrationPut(Registration::clone(one))));
        // A rule is compiled with the kinds of the lists that are there.
        changes.extend(self.gateway.list_changes());
        let rules = compiled.rules.values().flat_map(|rules| rules.iter());
        changes.extend(rules.map(|rule| Change::RulePut(Box::new(rule.rule.clone()))));
        changes.extend(compiled.gateway_settings.values().copied().map(Change::GatewaySettingsPut));
        let fallbacks = compiled.fallback_domains.values();
        changes.extend(fallbacks.map(|all| Change::FallbackDomainsPut(FallbackDomains::clone(all))));
        changes.extend(compiled.locations.values().map(|one| Change::LocationPut(Location::clone(one))));
        let tokens = compiled.service_tokens.values();
        changes.extend(tokens.map(|token| Change::ServiceTokenPut(ServiceToken::clone(token))));
        let pages = compiled.block_pages.iter();
        changes.extend(pages.map(|(account, page)| {
            let page = Some(OwnPage::clone(page));
            Change::BlockPagePut(Box::new(AccountBlockPage { account: *account, page }))
        }));
        let roots = compiled.origin_roots.values().flat_map(|roots| roots.iter());
        changes.extend(roots.map(|root| Change::OriginRootPut(Box::new(OriginRoot::clone(root)))));
        ChangeBatch { number: compiled.number, changes }
    }

    fn apply_one(&mut self, change: Change) {
        match change {
            Change::TunnelPut(tunnel) => drop(self.compiled.tunnels.insert(tunnel.id, Arc::new(tunnel))),
            Change::TunnelRemoved { id } => self.remove_tunnel(id),
            Change::TunnelConfigurationPut(configuration) => {
                self.compiled.configurations.insert(configuration.tunnel, Arc::new(configuration));
            }
            Change::HostnamePut(hostname) => {
                self.compiled.hostnames.insert(hostname.hostname.clone(), Arc::new(hostname));
            }
            Change::HostnameRemoved { hostname } => drop(self.compiled.hostnames.remove(&hostname)),
            Change::RoutePut(route) => self.put_route(route),
            Change::RouteRemoved { id } => self.remove_route(id),
            Change::HostnameRoutePut(route) => self.put_hostname_route(route),
            Change::HostnameRouteRemoved { id } => self.remove_hostname_route(id),
            Change::VirtualNetworkPut(network) => self.put_virtual_network(network),
            Change::VirtualNetworkRemoved { id } => self.remove_virtual_network(id),
            Change::RegistrationPut(registration) => self.put_registration(registration),
            Change::RegistrationRemoved { id } => self.remove_registration(id),
            Change::NodePut(node) => drop(self.compiled.nodes.insert(node.id, Arc::new(node))),
            Change::NodeRemoved { id } => self.remove_node(id),
            Change::LeasePut(lease) => self.put_lease(lease),
            Change::LeaseRemoved(lease) => self.remove_lease(lease),
            Change::ListPut(list) => self.gateway.put_list(list),
            Change::ListItemsChanged(change) => self.gateway.change_items(change),
            Change::ListRemoved { id } => self.gateway.remove_list(id),
            Change::RulePut(rule) => self.gateway.put_rule(&mut self.compiled, *rule),
            Change::RuleRemoved { id } => self.gateway.remove_rule(&mut self.compiled, id),
            Change::FallbackDomainsPut(all) if all.domains.is_empty() => {
                self.compiled.fallback_domains.remove(&all.account);
            }
            Change::FallbackDomainsPut(all) => {
                self.compiled.fallback_domains.insert(all.account, Arc::new(all));
            }
            Change::LocationPut(location) => self.put_location(location),
            Change::LocationRemoved { id } => self.remove_location(id),
            Change::ServiceTokenPut(token) => self.put_service_token(token),
            Change::ServiceTokenRemoved { id } => self.remove_service_token(id),
            Change::GatewaySettingsPut(settings) => {
                self.compiled.gateway_settings.insert(settings.account, settings);
            }
            Change::BlockPagePut(put) => match put.page {
                Some(page) => drop(self.compiled.block_pages.insert(put.account, Arc::new(page))),
                None => drop(self.compiled.block_pages.remove(&put.account)),
            },
            Change::OriginRootPut(root) => self.put_origin_root(*root),
            Change::OriginRootRemoved { id } => self.remove_origin_root(id),
        }
    }

    fn remove_tunnel(&mut self, id: TunnelId) {
        self.compiled.tunnels.remove(&id);
        self.compiled.leases.remove(&id);
        self.compiled.configurations.remove(&id);
    }

    fn put_origin_root(&mut self, root: OriginRoot) {
        self.remove_origin_root(root.id);
        self.origin_roots.insert(root.id, root.account);
        let of_account = self.compiled.origin_roots.entry(root.account).or_default();
        Arc::make_mut(of_account).push(Arc::new(root));
    }

    fn remove_origin_root(&mut self, id: OriginRootId) {
        let Some(account) = self.origin_roots.remove(&id) else { return };
        let Some(of_account) = self.compiled.origin_roots.get_mut(&account) else { return };
        Arc::make_mut(of_account).retain(|root| root.id != id);
        if of_account.is_empty() {
            self.compiled.origin_roots.remove(&account);
        }
    }

    fn put_route(&mut self, route: Route) {
        self.remove_route(route.id);
        self.compiled.routes.entry(route.virtual_network).or_default().insert(&route);
        self.routes.insert(route.id, route);
    }

    fn remove_route(&mut self, id: RouteId) {
        let Some(route) = self.routes.remove(&id) else { return };
        if let Some(routes) = self.compiled.routes.get_mut(&route.virtual_network) {
            routes.remove(&route);
        }
    }

    fn put_hostname_route(&mut self, route: HostnameRoute) {
        self.remove_hostname_route(route.id);
        let name = route.hostname.as_str().to_owned();
        self.hostname_routes.insert(route.id, (route.account, name.clone()));
        let routes = self.compiled.hostname_routes.entry(route.account).or_default();
        Arc::make_mut(routes).insert(name, route);
    }

    fn remove_hostname_route(&mut self, id: RouteId) {
        let Some((account, name)) = self.hostname_routes.remove(&id) else { return };
        let Some(routes) = self.compiled.hostname_routes.get_mut(&account) else { return };
        // The names may already be another route's, put before this one was removed.
        if routes.get(&name).is_some_and(|held| held.id == id) {
            Arc::make_mut(routes).remove(&name);
        }
        if routes.is_empty() {
            self.compiled.hostname_routes.remove(&account);
        }
    }

    fn put_virtual_network(&mut self, network: VirtualNetwork) {
        if network.is_default {
            self.compiled.default_networks.insert(network.account, network.id);
        } else {
            self.compiled.default_networks.retain(|_, default| *default != network.id);
        }
        self.virtual_networks.insert(network.id, network);
    }

    fn remove_virtual_network(&mut self, id: VirtualNetworkId) {
        self.virtual_networks.remove(&id);
        self.compiled.routes.remove(&id);
        self.compiled.default_networks.retain(|_, default| *default != id);
        self.routes.retain(|_, route| route.virtual_network != id);
    }

    fn put_registration(&mut self, registration: Registration) {
        self.remove_registration(registration.id);
        self.compiled.keys.insert(registration.key, registration.id);
        self.compiled.registrations.insert(registration.id, Arc::new(registration));
    }

    fn remove_registration(&mut self, id: RegistrationId) {
        if let Some(registration) = self.compiled.registrations.remove(&id)
            && self.compiled.keys.get(&registration.key) == Some(&id)
        {
            self.compiled.keys.remove(&registration.key);
        }
    }

    fn put_location(&mut self, location: Location) {
        self.remove_location(location.id);
        self.compiled.subdomains.insert(location.subdomain.clone(), location.id);
        self.compiled.locations.insert(location.id, Arc::new(location));
    }

    fn remove_location(&mut self, id: LocationId) {
        if let Some(location) = self.compiled.locations.remove(&id)
            && self.compiled.subdomains.get(&location.subdomain) == Some(&id)
        {
            self.compiled.subdomains.remove(&location.subdomain);
        }
    }

    fn put_service_token(&mut self, token: ServiceToken) {
        self.remove_service_token(token.id);
        self.compiled.client_ids.insert(token.client_id.clone(), token.id);
        self.compiled.service_tokens.insert(token.id, Arc::new(token));
    }

    fn remove_service_token(&mut self, id: ServiceTokenId) {
        if let Some(token) = self.compiled.service_tokens.remove(&id)
            && self.compiled.client_ids.get(&token.client_id) == Some(&id)
        {
            self.compiled.client_ids.remove(&token.client_id);
        }
    }

    fn remove_node(&mut self, id: NodeId) {
        self.compiled.nodes.remove(&id);
        self.compiled.leases.retain(|_, holders| {
            if holders.contains(&id) {
                *holders = holders.iter().copied().filter(|holder| *holder != id).collect();
            }
            !holders.is_empty()
        });
    }

    fn put_lease(&mut self, Lease { node, tunnel }: Lease) {
        let holders = self.compiled.leases.entry(tunnel).or_default();
        if !holders.contains(&node) {
            *holders = holders.iter().copied().chain([node]).collect();
        }
    }

    fn remove_lease(&mut self, Lease { node, tunnel }: Lease) {
        let Some(holders) = self.compiled.leases.get_mut(&tunnel) else { return };
        *holders = holders.iter().copied().filter(|holder| *holder != node).collect();
        if holders.is_empty() {
            self.compiled.leases.remove(&tunnel);
        }
    }
}
