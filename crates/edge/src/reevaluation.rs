//! Open flows are decided anew when rules change: one that a block rule matches now is cut (Gateway semantics, 2).
//!
//! What holds: only a block rule cuts, and only by what is known of the flow; a rule that asks what a client said first, and
//! that nobody read, cuts nothing. A flow without a rule against it notices nothing. However fast changes come, all open flows
//! are asked at most every [`INTERVAL`], which is soon enough for the five seconds of the contract.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use adit_model::{Action, Filter, FirstBytes, FlowFacts, FlowId, Refusal, RuleId};
use adit_policy::{Decision, Known, Snapshot};
use tokio_util::sync::CancellationToken;

use crate::Shared;

/// After a change, for those that come with it, and between two rounds.
const INTERVAL: Duration = Duration::from_secs(1);
/// Flows asked before others get the thread.
const AT_ONCE: usize = 256;

/// The flows that are carried.
#[derive(Debug, Default)]
pub(crate) struct OpenFlows(Mutex<HashMap<FlowId, Arc<OpenFlow>>>);

/// One of them.
#[derive(Debug)]
pub(crate) struct OpenFlow {
    facts: FlowFacts,
    /// What its client said first, if somebody read it.
    first: Option<FirstBytes>,
    cut: CancellationToken,
    by: OnceLock<RuleId>,
}

impl OpenFlow {
    /// The rule that cut it, if one did.
    pub(crate) fn cut_by(&self) -> Option<RuleId> {
        self.by.get().copied()
    }

    /// Cuts it if a block rule matches.
    fn decide(&self, snapshot: &Snapshot) {
        if !snapshot.gateway_settings(self.facts.account).reevaluate {
            return;
        }
        let known = self.first.as_ref().map_or(Known::Opening, Known::FirstBytes);
        let Decision::Refused { refusal: Refusal::Blocked, rule: Some(rule) } =
            snapshot.decide(&self.facts, known)
        else {
            return;
        };
        let rules = snapshot.rules(self.facts.account, Filter::L4);
        if rules.iter().any(|known| known.rule.id == rule && known.rule.action == Action::Block) {
            // It is set once, and then the flow is cut already.
            let _ = self.by.set(rule);
            self.cut.cancel();
        }
    }
}

/// A flow among the open ones, until it is dropped.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    flows: &'a OpenFlows,
    id: FlowId,
    pub(crate) flow: Arc<OpenFlow>,
}

impl OpenFlows {
    /// A flow begins to be carried. `cut` ends it.
    pub(crate) fn begin(
        &self,
        id: FlowId,
        facts: &FlowFacts,
        first: Option<FirstBytes>,
        cut: CancellationToken,
    ) -> Entry<'_> {
        let flow = Arc::new(OpenFlow { facts: facts.clone(), first, cut, by: OnceLock::new() });
        self.lock().insert(id, Arc::clone(&flow));
        Entry { flows: self, id, flow }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<FlowId, Arc<OpenFlow>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<OpenFlow>> {
        self.lock().values().cloned().collect()
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.flows.lock().remove(&self.id);
    }
}

/// Asks the rules again for every open flow after each change, until the edge stops.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let mut changed = shared.snapshots.watch();
    loop {
        let next = async {
            changed.changed().await.is_ok() && {
                tokio::time::sleep(INTERVAL).await;
                true
            }
        };
        if shared.stopping.run_until_cancelled(next).await != Some(true) {
            return;
        }
        changed.mark_unchanged();
        let snapshot = shared.snapshots.current();
        for flows in shared.open_flows.all().chunks(AT_ONCE) {
            for flow in flows {
                flow.decide(&snapshot);
            }
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use adit_model::{
        AccountId, Change, ChangeBatch, Cidr, DeviceId, DeviceKey, GatewaySettings, Protocol, Registration,
        RegistrationId, Route, RouteId, Rule, RuleSettings, SecretHash, Tunnel, TunnelId, VirtualNetworkId,
    };
    use adit_policy::State;
    use uuid::Uuid;

    use super::*;

    const ACCOUNT: AccountId = AccountId::from_bytes([7; 16]);
    const NETWORK: VirtualNetworkId = VirtualNetworkId::from_uuid(Uuid::from_u128(1));
    const TUNNEL: TunnelId = TunnelId::from_uuid(Uuid::from_u128(2));
    const REGISTRATION: RegistrationId = RegistrationId::from_uuid(Uuid::from_u128(3));
    const RULE: RuleId = RuleId::from_uuid(Uuid::from_u128(4));

    fn rule(action: Action, traffic: &str) -> Change {
        Change::RulePut(Box::new(Rule {
            id: RULE,
            account: ACCOUNT,
            name: "rule".into(),
            version: 1,
            precedence: 1000,
            enabled: true,
            filter: Filter::L4,
            action,
            traffic: traffic.into(),
            identity: String::new(),
            device_posture: String::new(),
            settings: RuleSettings::default(),
            schedule: None,
            expires_at_micros: None,
        }))
    }

    /// What cuts a flow to port 6443 whose client said this, once these changes were made.
    fn cut_by(first: Option<&str>, changes: Vec<Change>) -> Option<RuleId> {
        let network = "10.0.0.0/8".parse::<Cidr>().unwrap();
        let route = Route {
            id: RouteId::from_uuid(Uuid::from_u128(5)),
            account: ACCOUNT,
            virtual_network: NETWORK,
            network,
            tunnel: TUNNEL,
        };
        let tunnel = Tunnel {
            id: TUNNEL,
            account: ACCOUNT,
            name: "tunnel".into(),
            secret: SecretHash::of(b"secret"),
            remotely_managed: false,
        };
        let device = DeviceId::from_uuid(Uuid::from_u128(6));
        let registration = Registration {
            id: REGISTRATION,
            account: ACCOUNT,
            device,
            device_name: "laptop".into(),
            key: DeviceKey::of_public_key(b"key"),
            user: "user".into(),
            service_token: None,
            revoked: false,
        };
        let mut state = State::default();
        let first_of_all =
            [Change::TunnelPut(tunnel), Change::RoutePut(route), Change::RegistrationPut(registration)];
        let changes = first_of_all.into_iter().chain(changes).collect();
        state.apply(ChangeBatch { number: 1, changes });
        let facts = FlowFacts {
            account: ACCOUNT,
            registration: REGISTRATION,
            device,
            virtual_network: NETWORK,
            protocol: Protocol::Tcp,
            source: "198.51.100.7".parse().unwrap(),
            destination: "10.0.0.1:6443".parse().unwrap(),
            named: None,
        };
        let first = first.map(|name| FirstBytes { server_name: Some(name.into()), ..FirstBytes::default() });
        let (flows, cut) = (OpenFlows::default(), CancellationToken::new());
        let entry = flows.begin(FlowId::from_uuid(Uuid::from_u128(8)), &facts, first, cut.clone());
        flows.all().iter().for_each(|flow| flow.decide(&state.snapshot()));
        assert_eq!(cut.is_cancelled(), entry.flow.cut_by().is_some());
        let by = entry.flow.cut_by();
        drop(entry);
        assert!(flows.all().is_empty());
        by
    }

    #[test]
    fn only_a_block_rule_that_matches_by_what_is_known_cuts_a_flow() {
        let port = "net.dst.port == 6443";
        let name = "net.sni.host == \"api.example\"";
        assert_eq!(cut_by(None, vec![]), None);
        assert_eq!(cut_by(None, vec![rule(Action::Block, port)]), Some(RULE));
        assert_eq!(cut_by(None, vec![rule(Action::Allow, port)]), None);
        assert_eq!(cut_by(None, vec![rule(Action::Block, "net.dst.port == 443")]), None);
        assert_eq!(cut_by(None, vec![rule(Action::Block, name)]), None, "nobody read what its client said");
        assert_eq!(cut_by(Some("api.example"), vec![rule(Action::Block, name)]), Some(RULE));
        assert_eq!(cut_by(Some("other.example"), vec![rule(Action::Block, name)]), None);
        let settings = GatewaySettings { reevaluate: false, ..GatewaySettings::of(ACCOUNT) };
        let settings = Change::GatewaySettingsPut(settings);
        assert_eq!(
            cut_by(None, vec![settings, rule(Action::Block, port)]),
            None,
            "the account does not want it"
        );
    }
}
