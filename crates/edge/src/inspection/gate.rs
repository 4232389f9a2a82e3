//! What the judge of a connection asks, answered by the current snapshot: rules on requests take effect at once.

use std::sync::Arc;

use adit_inspect::{Action, Exchange, Gate, PageContext, Verdict};
use adit_model::{FirstBytes, FlowFacts, Party, RequestFacts, Rule};
use adit_policy::{HttpVerdict, PassReason, Treatment};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::Shared;
use crate::notices;

/// One flow, for its judge.
pub(super) struct FlowGate {
    shared: Arc<Shared>,
    facts: FlowFacts,
    party: Arc<Party>,
    first: FirstBytes,
}

impl FlowGate {
    pub(super) fn new(shared: Arc<Shared>, facts: FlowFacts, party: Arc<Party>, first: FirstBytes) -> Self {
        Self { shared, facts, party, first }
    }
}

impl Gate for FlowGate {
    fn leaf(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let address = self.facts.destination.ip().to_canonical().to_string();
        let account = self.facts.account;
        let authority = self.shared.snapshots.current().gateway_settings(account).certificate;
        self.shared.leaves.leaf(account, authority, name.unwrap_or(&address))
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
        if let (Action::Block, Some(rule)) = (exchange.action, exchange.rule) {
            notices::blocked(
                &self.shared,
                self.facts.registration,
                rule,
                exchange.request.host.unwrap_or_default(),
            );
        }
        super::requests::record(&self.shared, &self.party, exchange);
    }

    fn context(&self) -> PageContext {
        let account = self.facts.account;
        PageContext {
            account: account.to_string(),
            source: self.facts.source.to_string(),
            device: self.facts.device.to_string(),
            user: self.party.user.clone(),
            time: OffsetDateTime::now_utc().format(TIME).unwrap_or_default(),
            destination: self.facts.destination,
            page: self.shared.snapshots.current().block_page(account).cloned(),
        }
    }
}

/// As people read it, to the second.
const TIME: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
