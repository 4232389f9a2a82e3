//! Records leave here: to the control plane, and one log line for each flow.

use adit_model::{CERTIFICATE_HINT, DnsRecord, FlowEnd, FlowRecord, Record, RequestRecord};
use tokio::sync::mpsc;

/// Where records go. A full queue drops flow records, counted, rather than hold up flows; reports of connections wait.
#[derive(Debug)]
pub(crate) struct Recorder {
    records: mpsc::Sender<Record>,
}

impl Recorder {
    pub(crate) fn new(records: mpsc::Sender<Record>) -> Self {
        Self { records }
    }

    /// Reports what the control plane must know.
    pub(crate) async fn report(&self, record: Record) {
        if self.records.send(record).await.is_err() {
            tracing::debug!("nobody takes records any more");
        }
    }

    /// Records what a flow does not wait for; whether there was room.
    pub(crate) fn try_report(&self, record: Record) -> bool {
        self.records.try_send(record).is_ok()
    }

    /// Records a flow that ended; whether there was room.
    pub(crate) fn flow(&self, record: FlowRecord) -> bool {
        log(&record);
        self.records.try_send(Record::Flow(Box::new(record))).is_ok()
    }

    /// Records a request to a public host name that ended; whether there was room.
    pub(crate) fn request(&self, record: RequestRecord) -> bool {
        log_request(&record);
        self.records.try_send(Record::Request(Box::new(record))).is_ok()
    }

    /// Records a DNS query that was answered; whether there was room.
    pub(crate) fn dns(&self, record: DnsRecord) -> bool {
        log_dns(&record);
        self.records.try_send(Record::Dns(Box::new(record))).is_ok()
    }
}

fn log(record: &FlowRecord) {
    let inspection = record.inspection.as_ref();
    let wants =
        record.end == FlowEnd::ClientTlsError && inspection.is_some_and(|found| found.wants_certificate);
    let hint = wants.then_some(CERTIFICATE_HINT);
    let overridden_by = record.overridden_by.map(tracing::field::display);
    let rule = record.rule.as_ref().map(|rule| tracing::field::display(rule.id));
    let party = &record.party;
    let shown = |text: String| (!party.redact).then_some(text);
    let route = record.route.map(tracing::field::display);
    let connection = record.connection.map(tracing::field::display);
    let relayed_to = record.relayed_to.map(tracing::field::display);
    tracing::info!(
        target: "adit::flow",
        id = %party.flow,
        end = record.end.as_str(),
        outcome = if matches!(record.end, FlowEnd::Refused(_)) { "refused" } else { "carried" },
        protocol = party.protocol.as_str(),
        dst = %party.destination,
        overridden_by,
        device = shown(party.device.to_string()),
        user = shown(party.user.clone()),
        rule,
        route,
        connection,
        relayed_to,
        snapshot = record.snapshot,
        bytes_up = record.bytes_up,
        bytes_down = record.bytes_down,
        datagrams_up = record.datagrams_up,
        datagrams_down = record.datagrams_down,
        milliseconds = u64::try_from(record.lasted.as_millis()).unwrap_or(u64::MAX),
        inspection = inspection.map(|found| found.treatment),
        bypassed_by = inspection.and_then(|found| found.rule).map(tracing::field::display),
        server_name = inspection.and_then(|found| found.server_name.as_deref()),
        detected = inspection.and_then(|found| found.protocol),
        validation = inspection.and_then(|found| found.validation),
        tls_error = inspection.and_then(|found| found.error.as_deref()),
        hint,
        "flow"
    );
}

fn log_request(record: &RequestRecord) {
    let connection = record.connection.map(tracing::field::display);
    let relayed_to = record.relayed_to.map(tracing::field::display);
    tracing::info!(
        target: "adit::request",
        id = %record.flow,
        end = record.end.as_str(),
        status = record.status,
        hostname = %record.hostname,
        method = record.method,
        path = record.path,
        src = %record.source,
        tunnel = %record.tunnel,
        connection,
        relayed_to,
        snapshot = record.snapshot,
        bytes_up = record.bytes_up,
        bytes_down = record.bytes_down,
        milliseconds = u64::try_from(record.lasted.as_millis()).unwrap_or(u64::MAX),
        "request"
    );
}

fn log_dns(record: &DnsRecord) {
    let rule = record.rule.as_ref().map(|rule| tracing::field::display(rule.id));
    let resolver_rule = record.resolver_rule.as_ref().map(|rule| tracing::field::display(rule.id));
    let custom_resolver = record.custom_resolver.map(tracing::field::display);
    tracing::info!(
        target: "adit::dns",
        id = %record.id,
        decision = record.decision.as_str(),
        name = record.name,
        record_type = record.record_type_name,
        code = record.response_code,
        protocol = record.protocol.as_str(),
        device = record.device.filter(|_| !record.redact).map(tracing::field::display),
        location = record.location.as_ref().map(|location| tracing::field::display(location.id)),
        user = (!record.redact).then_some(record.user.as_str()),
        rule,
        resolver_rule,
        custom_resolver,
        addresses = record.addresses.len(),
        cached = record.cached,
        extended_error = record.extended_error,
        snapshot = record.snapshot,
        milliseconds = u64::try_from(record.lasted.as_millis()).unwrap_or(u64::MAX),
        "query"
    );
}
