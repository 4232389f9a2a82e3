//! What the judge of a connection asks, answered by the current snapshot: rules on requests take effect at once.

use std::sync::Arc;

use adit_inspect::{Exchange, Gate, PageContext, Verdict};
use adit_model::{FirstBytes, FlowFacts, FlowId, RequestFacts, Rule};
use adit_policy::{HttpVerdict, PassReason, Treatment};
use rustls::sign::CertifiedKey;

use crate::Shared;

/// One flow, for its judge.
pub(super) struct FlowGate {
    shared: Arc<Shared>,
    facts: FlowFacts,
    id: FlowId,
    first: FirstBytes,
}

impl FlowGate {
    pub(super) fn new(shared: Arc<Shared>, facts: FlowFacts, id: FlowId, first: FirstBytes) -> Self {
        Self { shared, facts, id, first }
    }
}

impl Gate for FlowGate {
    fn leaf(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let address = self.facts.destination.ip().to_canonical().to_string();
        self.shared.leaves.leaf(self.facts.account, name.unwrap_or(&address))
    }

    fn verdict(&self, request: &RequestFacts<'_>) -> Verdict {
        let owned = |rule: &Rule| Arc::new(rule.clone());
        match self.shared.snapshots.current().http_verdict(&self.facts, request) {
            HttpVerdict::Allow(rule) => Verdict::Allow(rule.map(owned)),
            HttpVerdict::Block(rule) => Verdict::Block(owned(rule)),
            HttpVerdict::Redirect(rule) => Verdict::Redirect(owned(rule)),
            HttpVerdict::Later => Verdict::Later,
        }
    }

    fn passes_unopened(&self, host: &str) -> bool {
        let named = FirstBytes { server_name: Some(host.to_owned()), ..self.first.clone() };
        let treatment = self.shared.snapshots.current().treatment(&self.facts, &named);
        matches!(treatment, Treatment::Pass(PassReason::Rule(_)))
    }

    fn record(&self, exchange: &Exchange<'_>) {
        let rule = exchange.rule.map(|rule| tracing::field::display(rule.id));
        // What stands behind the `?` may be secret: it is not recorded.
        let url = exchange.request.uri.split('?').next().unwrap_or_default();
        tracing::info!(
            target: "adit::http",
            flow = %self.id,
            action = exchange.action.as_str(),
            status = exchange.status,
            method = exchange.request.method,
            url,
            version = exchange.version,
            dst = %self.facts.destination,
            device = %self.facts.device,
            rule,
            reason = exchange.reason,
            validation = exchange.validation.map(adit_inspect::Validation::as_str),
            hint = hint(exchange),
            "http"
        );
        self.shared.metrics.inspected_request(exchange.action.as_str());
    }

    fn context(&self) -> PageContext {
        PageContext {
            source: self.facts.source.to_string(),
            device: self.facts.device.to_string(),
            destination: self.facts.destination,
        }
    }
}

/// What would help a request that was refused because no certificate of the client was shown.
fn hint(exchange: &Exchange<'_>) -> Option<&'static str> {
    let refused = exchange.status == 401 || exchange.status == 403 || exchange.status == 526;
    (exchange.wants_certificate && refused && exchange.rule.is_none()).then_some(super::CERTIFICATE_HINT)
}
