//! Counters and gauges under the names that existing alerts know (contract, section 7).
//!
//! Written by hand: those names have counters without `_total`, which libraries for OpenMetrics append. Labels come from
//! our own tables, and the edge's location is escaped.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;

/// All that is counted. What is known elsewhere is passed to [`Metrics::render`].
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: AtomicU64,
    request_errors: AtomicU64,
    tcp_active: AtomicUsize,
    tcp_total: AtomicU64,
    udp_active: AtomicUsize,
    udp_total: AtomicU64,
    registered: AtomicU64,
    refused_duplicate: AtomicU64,
    refused: AtomicU64,
    quic_opened: AtomicU64,
    quic_closed: AtomicU64,
    concurrent_most: AtomicUsize,
    /// Answers to HTTP requests by their status, of which there are 900.
    responses: Mutex<BTreeMap<u16, u64>>,
    stream_errors: AtomicU64,
    configuration_version: AtomicI32,
    latency: Histogram,
}

/// A connection as it is shown.
#[derive(Debug)]
pub(crate) struct ConnectionView {
    pub(crate) index: u8,
    pub(crate) location: String,
    pub(crate) stats: Option<quinn::ConnectionStats>,
}

/// How long dials take, in milliseconds.
#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; LATENCY_BOUNDS_MS.len()],
    count: AtomicU64,
    sum_micros: AtomicU64,
}

/// Upper bounds of the latency buckets, in milliseconds.
const LATENCY_BOUNDS_MS: [u64; 8] = [1, 10, 25, 50, 100, 500, 1000, 5000];

impl Metrics {
    pub(crate) fn request(&self, concurrent: usize) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.concurrent_most.fetch_max(concurrent, Ordering::Relaxed);
    }

    pub(crate) fn request_failed(&self) {
        self.request_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// A stream service's destination could not be dialled.
    pub(crate) fn stream_failed(&self) {
        self.stream_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// An HTTP request was answered.
    pub(crate) fn response(&self, status: StatusCode) {
        let mut responses = self.responses.lock().unwrap_or_else(PoisonError::into_inner);
        *responses.entry(status.as_u16()).or_default() += 1;
    }

    /// An edge pushed a configuration that holds now.
    pub(crate) fn configuration_applied(&self, version: i32) {
        self.configuration_version.store(version, Ordering::Relaxed);
    }

    /// A TCP connection was made after this time; it counts as open until the value is dropped.
    pub(crate) fn dialled(&self, after: Duration) -> TcpSession<'_> {
        self.tcp_total.fetch_add(1, Ordering::Relaxed);
        self.tcp_active.fetch_add(1, Ordering::Relaxed);
        self.latency.observe(after);
        TcpSession(self)
    }

    /// Counts a UDP flow in until the value is dropped.
    pub(crate) fn udp_session(&self, after: Duration) -> UdpSession<'_> {
        self.udp_total.fetch_add(1, Ordering::Relaxed);
        self.udp_active.fetch_add(1, Ordering::Relaxed);
        self.latency.observe(after);
        UdpSession(self)
    }

    pub(crate) fn registered(&self) {
        self.registered.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn registration_failed(&self, cause: &str) {
        let counter = if cause == "EDUPCONN" { &self.refused_duplicate } else { &self.refused };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn quic_opened(&self) {
        self.quic_opened.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn quic_closed(&self) {
        self.quic_closed.fetch_add(1, Ordering::Relaxed);
    }

    /// Prometheus text.
    pub(crate) fn render(&self, flows: usize, connections: &[ConnectionView]) -> String {
        let mut page = Page(String::with_capacity(4096));
        page.plain(
            "build_info",
            GAUGE,
            &[("goversion=\"\",revision=\"\",type=\"adit\",version", VERSION, 1)],
        );
        let tunnel = "cloudflared_tunnel";
        page.one(&format!("{tunnel}_ha_connections"), GAUGE, connections.len());
        page.one(&format!("{tunnel}_total_requests"), COUNTER, load(&self.requests));
        page.one(&format!("{tunnel}_request_errors"), COUNTER, load(&self.request_errors));
        page.one(&format!("{tunnel}_concurrent_requests_per_tunnel"), GAUGE, flows);
        let most = self.concurrent_most.load(Ordering::Relaxed);
        page.one(&format!("{tunnel}_max_concurrent_requests_per_tunnel"), GAUGE, most);
        page.responses(&self.responses.lock().unwrap_or_else(PoisonError::into_inner));
        let version = self.configuration_version.load(Ordering::Relaxed);
        page.one("cloudflared_orchestration_config_version", GAUGE, version);
        page.locations(connections);
        page.registrations(load(&self.registered), load(&self.refused_duplicate), load(&self.refused));
        page.one("cloudflared_tcp_active_sessions", GAUGE, self.tcp_active.load(Ordering::Relaxed));
        page.one("cloudflared_tcp_total_sessions", COUNTER, load(&self.tcp_total));
        page.one("cloudflared_udp_active_sessions", GAUGE, self.udp_active.load(Ordering::Relaxed));
        page.one("cloudflared_udp_total_sessions", COUNTER, load(&self.udp_total));
        self.latency.render(&mut page);
        page.one("cloudflared_proxy_connect_streams_errors", COUNTER, load(&self.stream_errors));
        page.one("quic_client_total_connections", COUNTER, load(&self.quic_opened));
        page.one("quic_client_closed_connections", COUNTER, load(&self.quic_closed));
        page.quic(connections);
        page.0
    }
}

/// A TCP connection that is open.
#[derive(Debug)]
pub(crate) struct TcpSession<'a>(&'a Metrics);

/// A UDP flow that is counted.
#[derive(Debug)]
pub(crate) struct UdpSession<'a>(&'a Metrics);

impl Drop for UdpSession<'_> {
    fn drop(&mut self) {
        self.0.udp_active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for TcpSession<'_> {
    fn drop(&mut self) {
        self.0.tcp_active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Histogram {
    fn observe(&self, value: Duration) {
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        for (bound, bucket) in LATENCY_BOUNDS_MS.iter().zip(&self.buckets) {
            if micros <= bound * 1000 {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn render(&self, page: &mut Page) {
        let name = "cloudflared_proxy_connect_latency";
        page.line(format_args!("# TYPE {name} histogram"));
        for (bound, bucket) in LATENCY_BOUNDS_MS.iter().zip(&self.buckets) {
            page.line(format_args!("{name}_bucket{{le=\"{bound}\"}} {}", load(bucket)));
        }
        let (count, micros) = (load(&self.count), load(&self.sum_micros));
        page.line(format_args!("{name}_bucket{{le=\"+Inf\"}} {count}"));
        page.line(format_args!("{name}_sum {}.{:03}", micros / 1000, micros % 1000));
        page.line(format_args!("{name}_count {count}"));
    }
}

struct Page(String);

impl Page {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("a string takes all that is written to it");
    }

    fn one(&mut self, name: &str, kind: &str, value: impl std::fmt::Display) {
        self.line(format_args!("# TYPE {name} {kind}"));
        self.line(format_args!("{name} {value}"));
    }

    fn plain(&mut self, name: &str, kind: &str, series: &[(&str, &str, u64)]) {
        self.line(format_args!("# TYPE {name} {kind}"));
        for (label, text, value) in series {
            self.line(format_args!("{name}{{{label}=\"{text}\"}} {value}"));
        }
    }

    fn responses(&mut self, responses: &BTreeMap<u16, u64>) {
        let name = "cloudflared_tunnel_response_by_code";
        self.line(format_args!("# TYPE {name} counter"));
        for (status, count) in responses {
            self.line(format_args!("{name}{{status_code=\"{status}\"}} {count}"));
        }
    }

    fn locations(&mut self, connections: &[ConnectionView]) {
        let name = "cloudflared_tunnel_server_locations";
        self.line(format_args!("# TYPE {name} gauge"));
        for connection in connections {
            let location = escaped(&connection.location);
            let index = connection.index;
            self.line(format_args!("{name}{{connection_id=\"{index}\",edge_location=\"{location}\"}} 1"));
        }
    }

    fn registrations(&mut self, success: u64, duplicate: u64, error: u64) {
        let label = "rpcName";
        self.plain("cloudflared_tunnel_tunnel_register_success", COUNTER, &[(label, REGISTER, success)]);
        self.plain(
            "cloudflared_tunnel_tunnel_register_fail",
            COUNTER,
            &[
                ("error=\"dup_edge_conn\",rpcName", REGISTER, duplicate),
                ("error=\"server_error\",rpcName", REGISTER, error),
            ],
        );
    }

    fn quic(&mut self, connections: &[ConnectionView]) {
        type Gauge<'a> = dyn Fn(&quinn::ConnectionStats) -> u64 + 'a;
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let series: [(&str, &str, &Gauge<'_>); 7] = [
            ("smoothed_rtt", GAUGE, &|stats| millis(stats.path.rtt)),
            ("min_rtt", GAUGE, &|stats| millis(stats.path.min_rtt)),
            ("mtu", GAUGE, &|stats| stats.path.current_mtu.into()),
            ("congestion_window", GAUGE, &|stats| stats.path.cwnd),
            ("lost_packets", COUNTER, &|stats| stats.path.lost_packets),
            ("sent_bytes", COUNTER, &|stats| stats.udp_tx.bytes),
            ("receive_bytes", COUNTER, &|stats| stats.udp_rx.bytes),
        ];
        for (name, kind, read) in series {
            self.line(format_args!("# TYPE quic_client_{name} {kind}"));
            for connection in connections {
                let Some(stats) = &connection.stats else { continue };
                let value = read(stats);
                self.line(format_args!("quic_client_{name}{{conn_index=\"{}\"}} {value}", connection.index));
            }
        }
    }
}

/// A label's value, without what would end it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";
const REGISTER: &str = "registerConnection";
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_names_that_alerts_know() {
        let metrics = Metrics::default();
        metrics.request(3);
        metrics.request_failed();
        metrics.response(StatusCode::OK);
        metrics.configuration_applied(3);
        metrics.registered();
        metrics.registration_failed("EDUPCONN");
        metrics.registration_failed("Unauthorized: Invalid tunnel secret");
        let session = metrics.dialled(Duration::from_micros(12_345));
        let connection = ConnectionView {
            index: 2,
            location: "a\"b".into(),
            stats: Some(quinn::ConnectionStats::default()),
        };
        insta::assert_snapshot!(metrics.render(1, &[connection]).replace(VERSION, "VERSION"), @r##"
        # TYPE build_info gauge
        build_info{goversion="",revision="",type="adit",version="VERSION"} 1
        # TYPE cloudflared_tunnel_ha_connections gauge
        cloudflared_tunnel_ha_connections 1
        # TYPE cloudflared_tunnel_total_requests counter
        cloudflared_tunnel_total_requests 1
        # TYPE cloudflared_tunnel_request_errors counter
        cloudflared_tunnel_request_errors 1
        # TYPE cloudflared_tunnel_concurrent_requests_per_tunnel gauge
        cloudflared_tunnel_concurrent_requests_per_tunnel 1
        # TYPE cloudflared_tunnel_max_concurrent_requests_per_tunnel gauge
        cloudflared_tunnel_max_concurrent_requests_per_tunnel 3
        # TYPE cloudflared_tunnel_response_by_code counter
        cloudflared_tunnel_response_by_code{status_code="200"} 1
        # TYPE cloudflared_orchestration_config_version gauge
        cloudflared_orchestration_config_version 3
        # TYPE cloudflared_tunnel_server_locations gauge
        cloudflared_tunnel_server_locations{connection_id="2",edge_location="a\"b"} 1
        # TYPE cloudflared_tunnel_tunnel_register_success counter
        cloudflared_tunnel_tunnel_register_success{rpcName="registerConnection"} 1
        # TYPE cloudflared_tunnel_tunnel_register_fail counter
        cloudflared_tunnel_tunnel_register_fail{error="dup_edge_conn",rpcName="registerConnection"} 1
        cloudflared_tunnel_tunnel_register_fail{error="server_error",rpcName="registerConnection"} 1
        # TYPE cloudflared_tcp_active_sessions gauge
        cloudflared_tcp_active_sessions 1
        # TYPE cloudflared_tcp_total_sessions counter
        cloudflared_tcp_total_sessions 1
        # TYPE cloudflared_udp_active_sessions gauge
        cloudflared_udp_active_sessions 0
        # TYPE cloudflared_udp_total_sessions counter
        cloudflared_udp_total_sessions 0
        # TYPE cloudflared_proxy_connect_latency histogram
        cloudflared_proxy_connect_latency_bucket{le="1"} 0
        cloudflared_proxy_connect_latency_bucket{le="10"} 0
        cloudflared_proxy_connect_latency_bucket{le="25"} 1
        cloudflared_proxy_connect_latency_bucket{le="50"} 1
        cloudflared_proxy_connect_latency_bucket{le="100"} 1
        cloudflared_proxy_connect_latency_bucket{le="500"} 1
        cloudflared_proxy_connect_latency_bucket{le="1000"} 1
        cloudflared_proxy_connect_latency_bucket{le="5000"} 1
        cloudflared_proxy_connect_latency_bucket{le="+Inf"} 1
        cloudflared_proxy_connect_latency_sum 12.345
        cloudflared_proxy_connect_latency_count 1
        # TYPE cloudflared_proxy_connect_streams_errors counter
        cloudflared_proxy_connect_streams_errors 0
        # TYPE quic_client_total_connections counter
        quic_client_total_connections 0
        # TYPE quic_client_closed_connections counter
        quic_client_closed_connections 0
        # TYPE quic_client_smoothed_rtt gauge
        quic_client_smoothed_rtt{conn_index="2"} 0
        # TYPE quic_client_min_rtt gauge
        quic_client_min_rtt{conn_index="2"} 0
        # TYPE quic_client_mtu gauge
        quic_client_mtu{conn_index="2"} 0
        # TYPE quic_client_congestion_window gauge
        quic_client_congestion_window{conn_index="2"} 0
        # TYPE quic_client_lost_packets counter
        quic_client_lost_packets{conn_index="2"} 0
        # TYPE quic_client_sent_bytes counter
        quic_client_sent_bytes{conn_index="2"} 0
        # TYPE quic_client_receive_bytes counter
        quic_client_receive_bytes{conn_index="2"} 0
        "##);
        drop(session);
        assert!(metrics.render(0, &[]).contains("\ncloudflared_tcp_active_sessions 0\n"));
    }
}
