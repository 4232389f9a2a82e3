//! The records of requests inside of flows, and of flows whose TLS passes unopened: as the account wants them.

use std::sync::Arc;
use std::time::SystemTime;

use adit_inspect::{Action, Exchange};
use adit_model::{Blocks, CERTIFICATE_HINT, Filter, FirstBytes, HttpRecord, Party, Record, RuleId, RuleName};

use super::Looked;
use crate::Shared;

/// Records what became of a request.
pub(super) fn record(shared: &Arc<Shared>, party: &Arc<Party>, exchange: &Exchange<'_>) {
    shared.metrics.inspected_request(exchange.action.as_str());
    let snapshot = shared.snapshots.current();
    let logging = snapshot.gateway_settings(party.account).logging;
    let blocks = if exchange.action == Action::Block { Blocks::Yes } else { Blocks::No };
    if !logging.enabled || !logging.http.wants(blocks) {
        return;
    }
    let rule =
        exchange.rule.map(|rule| RuleName { id: rule.id, name: rule.name.clone(), action: rule.action });
    let redirect = exchange.rule.filter(|_| exchange.action == Action::Redirect);
    let redirected_to = redirect.and_then(|rule| rule.settings.redirect.as_ref());
    let request = exchange.request;
    // What stands behind the `?` may be secret: it is recorded where the account says so.
    let url = if logging.query_strings { request.uri } else { without_query(request.uri) };
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let record = HttpRecord {
        party: Arc::clone(party),
        at: SystemTime::now(),
        action: exchange.action.as_str(),
        rule,
        snapshot: snapshot.number(),
        host: text(request.host),
        method: request.method.to_owned(),
        url: url.chars().take(MAX_URL_CHARS).collect(),
        version: exchange.version,
        status: exchange.status,
        referer: text(
            exchange
                .referer
                .map(|referer| if logging.query_strings { referer } else { without_query(referer) }),
        ),
        user_agent: text(exchange.user_agent),
        redirected_to: redirected_to.map(|redirect| redirect.target_uri.clone()).unwrap_or_default(),
        reason: exchange.reason,
        validation: exchange.validation.map(adit_inspect::Validation::as_str),
        untrusted: exchange.untrusted,
        bypass: None,
        hint: hint(exchange),
    };
    log(&record);
    shared.record(Record::Http(Box::new(record)));
}

/// Records that a rule lets a flow's TLS pass unopened (Gateway semantics, 3).
pub(super) fn record_bypass(looked: Looked<'_>, rule: RuleId, first: &FirstBytes) {
    let (shared, party) = (looked.shared, looked.party);
    let snapshot = shared.snapshots.current();
    let logging = snapshot.gateway_settings(party.account).logging;
    if !logging.enabled || !logging.http.wants(Blocks::No) {
        return;
    }
    shared.record(Record::Http(Box::new(HttpRecord {
        party: Arc::clone(party),
        at: SystemTime::now(),
        action: "bypass",
        rule: snapshot.rule_name(party.account, Filter::Http, rule),
        snapshot: snapshot.number(),
        host: first.server_name.clone().unwrap_or_default(),
        method: String::new(),
        url: String::new(),
        version: "",
        status: 0,
        referer: String::new(),
        user_agent: String::new(),
        redirected_to: String::new(),
        reason: None,
        validation: None,
        untrusted: None,
        bypass: Some("off_rule"),
        hint: None,
    })));
}

fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

fn log(record: &HttpRecord) {
    let party = &record.party;
    let shown = |text: String| (!party.redact).then_some(text);
    tracing::info!(
        target: "adit::http",
        flow = %party.flow,
        action = record.action,
        status = record.status,
        method = record.method,
        url = shown(record.url.clone()),
        version = record.version,
        dst = %party.destination,
        device = shown(party.device.to_string()),
        rule = record.rule.as_ref().map(|rule| tracing::field::display(rule.id)),
        reason = record.reason,
        validation = record.validation,
        hint = record.hint.map(|_| CERTIFICATE_HINT),
        "http"
    );
}

/// The name of what would help a request that was refused because no certificate of the client was shown.
fn hint(exchange: &Exchange<'_>) -> Option<&'static str> {
    let refused = exchange.status == 401 || exchange.status == 403 || exchange.status == 526;
    let asks = exchange.wants_certificate && refused && exchange.rule.is_none();
    asks.then_some(if exchange.status == 526 { "mtls_required" } else { "mtls_requested" })
}

/// Longest URL in a record, in characters.
const MAX_URL_CHARS: usize = 2048;
