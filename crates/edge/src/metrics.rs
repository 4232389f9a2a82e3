//! The edge's counters.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use adit_model::{DnsDecision, DnsProtocol, FlowEnd, Refusal};
use prometheus_client::encoding::{EncodeLabelSet, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::freshness::{Freshness, Shown};

/// How a flow ended, as a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabel {
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct End(&'static str);

impl prometheus_client::encoding::EncodeLabelValue for End {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        prometheus_client::encoding::EncodeLabelValue::encode(&self.0, encoder)
    }
}

/// Direction of bytes, as a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabel {
    direction: End,
}

/// Class of an answer's status, as a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabel {
    class: End,
}

/// What was done with a request, as a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabel {
    action: End,
}

/// What became of a query, as a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabel {
    decision: End,
}

/// How a query came, as a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProtocolLabel {
    protocol: End,
}

/// Counters and gauges of one edge node.
#[derive(Debug, Default)]
pub struct Metrics {
    freshness: Arc<Freshness>,
    flows: Family<EndLabel, Counter>,
    open_flows: Gauge,
    bytes: Family<DirectionLabel, Counter>,
    connections: Gauge,
    devices: Gauge,
    requests: Family<ClassLabel, Counter>,
    open_requests: Gauge,
    pinned: Gauge,
    registrations_refused: Counter,
    handshakes_failed: Counter,
    handshakes_refused: Counter,
    records_dropped: Counter,
    snapshot: Gauge<i64, std::sync::atomic::AtomicI64>,
    retries: Counter<u64, AtomicU64>,
    relayed: Family<DirectionLabel, Counter>,
    peers: Gauge,
    inspected_requests: Family<ActionLabel, Counter>,
    dns_queries: Family<DecisionLabel, Counter>,
    dns_refusals: Family<ProtocolLabel, Counter>,
}

impl Metrics {
    pub(crate) fn new(freshness: Arc<Freshness>) -> Self {
        Self { freshness, ..Self::default() }
    }

    /// Adds them to what a metrics listener shows.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(Shown(Arc::clone(&self.freshness))));
        registry.register("adit_edge_flows", "Flows that ended, by how", self.flows.clone());
        registry.register(
            "adit_edge_inspected_requests",
            "Requests inside of flows that were looked into, by what was done with them",
            self.inspected_requests.clone(),
        );
        registry.register(
            "adit_edge_dns_queries",
            "DNS queries that were answered, by what was decided",
            self.dns_queries.clone(),
        );
        registry.register(
            "adit_edge_dns_location_refusals",
            "Clients that a DNS location does not answer, by how they came",
            self.dns_refusals.clone(),
        );
        registry.register(
            "adit_edge_hosts_that_look_pinned",
            "Hosts whose clients refused the certificate of inspection in the last day: rules with the action off let them pass",
            self.pinned.clone(),
        );
        registry.register("adit_edge_open_flows", "Flows open now", self.open_flows.clone());
        registry.register(
            "adit_edge_flow_bytes",
            "Bytes of flows that ended, by direction",
            self.bytes.clone(),
        );
        registry.register(
            "adit_edge_connections",
            "Connections of connectors, now",
            self.connections.clone(),
        );
        registry.register(
            "adit_edge_device_connections",
            "Connections of devices, now",
            self.devices.clone(),
        );
        registry.register(
            "adit_edge_requests",
            "Requests to public host names that ended, by class of status",
            self.requests.clone(),
        );
        registry.register(
            "adit_edge_open_requests",
            "Requests to public host names open now",
            self.open_requests.clone(),
        );
        registry.register(
            "adit_edge_registrations_refused",
            "Connections that were refused registration",
            self.registrations_refused.clone(),
        );
        registry.register(
            "adit_edge_handshakes_failed",
            "TLS and QUIC handshakes that failed",
            self.handshakes_failed.clone(),
        );
        registry.register(
            "adit_edge_handshakes_refused",
            "Handshakes of connectors that were refused: too many at once, or too often from one source",
            self.handshakes_refused.clone(),
        );
        registry.register(
            "adit_edge_records_dropped",
            "Records for which there was no room on their way out of the edge",
            self.records_dropped.clone(),
        );
        registry.register(
            "adit_edge_snapshot_number",
            "Number of the snapshot that decides",
            self.snapshot.clone(),
        );
        registry.register(
            "adit_edge_dial_retries",
            "Flows tried on another connection because the first was lost",
            self.retries.clone(),
        );
        registry.register(
            "adit_edge_relayed_flows",
            "Flows and requests that another edge node was asked to dial, or asked this one to",
            self.relayed.clone(),
        );
        registry.register(
            "adit_edge_peers",
            "Other edge nodes that this one is connected to",
            self.peers.clone(),
        );
    }

    pub(crate) fn flow_began(&self) {
        self.open_flows.inc();
    }

    pub(crate) fn flow_ended(&self, end: FlowEnd, up: u64, down: u64, recorded: bool) {
        self.open_flows.dec();
        self.flows.get_or_create(&EndLabel { end: End(end.as_str()) }).inc();
        self.bytes.get_or_create(&DirectionLabel { direction: End("up") }).inc_by(up);
        self.bytes.get_or_create(&DirectionLabel { direction: End("down") }).inc_by(down);
        if !recorded {
            self.records_dropped.inc();
        }
    }

    pub(crate) fn record_dropped(&self) {
        self.records_dropped.inc();
    }

    pub(crate) fn inspected_request(&self, action: &'static str) {
        self.inspected_requests.get_or_create(&ActionLabel { action: End(action) }).inc();
    }

    pub(crate) fn dns_answered(&self, decision: DnsDecision, recorded: bool) {
        self.dns_queries.get_or_create(&DecisionLabel { decision: End(decision.as_str()) }).inc();
        if !recorded {
            self.records_dropped.inc();
        }
    }

    pub(crate) fn dns_refused(&self, protocol: DnsProtocol) {
        self.dns_refusals.get_or_create(&ProtocolLabel { protocol: End(protocol.as_str()) }).inc();
    }

    pub(crate) fn hosts_look_pinned(&self, hosts: usize) {
        self.pinned.set(i64::try_from(hosts).unwrap_or(i64::MAX));
    }

    pub(crate) fn request_began(&self) {
        self.open_requests.inc();
    }

    pub(crate) fn request_ended(&self, status: u16, recorded: bool) {
        self.open_requests.dec();
        let class = match status / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            5 => "5xx",
            _ => "none",
        };
        self.requests.get_or_create(&ClassLabel { class: End(class) }).inc();
        if !recorded {
            self.records_dropped.inc();
        }
    }

    pub(crate) fn connections(&self, count: usize) {
        self.connections.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn devices(&self, count: usize) {
        self.devices.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn registration_refused(&self) {
        self.registrations_refused.inc();
    }

    pub(crate) fn handshake_failed(&self) {
        self.handshakes_failed.inc();
    }

    pub(crate) fn handshake_refused(&self) {
        self.handshakes_refused.inc();
    }

    pub(crate) fn dial_retried(&self) {
        self.retries.inc();
    }

    pub(crate) fn relayed_to_peer(&self) {
        self.relayed.get_or_create(&DirectionLabel { direction: End("to_peer") }).inc();
    }

    pub(crate) fn relayed_from_peer(&self) {
        self.relayed.get_or_create(&DirectionLabel { direction: End("from_peer") }).inc();
    }

    pub(crate) fn peers(&self, count: usize) {
        self.peers.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn snapshot(&self, number: u64) {
        self.snapshot.set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// Flows that were refused so, since the start.
    pub fn refused(&self, refusal: Refusal) -> u64 {
        self.flows.get_or_create(&EndLabel { end: End(refusal.as_str()) }).get()
    }
}
