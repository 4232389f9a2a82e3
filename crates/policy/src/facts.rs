//! The facts of a flow and of a request, as rules of the filters `l4` and `http` ask them (policy language, 7.2 and 7.3).
//!
//! What is known at the first packet comes from [`FlowFacts`]; what the client's first bytes say, from [`FirstBytes`]. A
//! field that nothing fills in here is missing for every flow: [`never_supplied`] says of which fields of an
//! expression that is true, so that whoever writes a rule can be told. No bytes are read here.

use std::net::IpAddr;

use adit_expr::{Fact, Facts, Slot, Texts};
use adit_model::{FirstBytes, FlowFacts, InspectionMode, RequestFacts};

use crate::dns_facts;
use crate::scheme::{Filter, SLOTS, field, flow_phase, http_phase, slot};

/// How much is known of a flow.
#[derive(Debug, Clone, Copy)]
pub enum Known<'a> {
    /// Its first packet came, and more may come.
    Opening,
    /// Its client's first bytes came, or there will be none to wait for.
    FirstBytes(&'a FirstBytes),
}

impl Known<'_> {
    pub(crate) fn phase(self) -> adit_expr::Phase {
        match self {
            Self::Opening => flow_phase::OPENING,
            Self::FirstBytes(_) => flow_phase::FIRST_BYTES,
        }
    }
}

/// When what is known of a request is known. Nothing is learnt from bodies, so that what they would say is known with the
/// heads: nothing.
pub(crate) fn phase_of(request: &RequestFacts<'_>) -> adit_expr::Phase {
    if request.response.is_some() { http_phase::RESPONSE_BODY } else { http_phase::REQUEST_BODY }
}

/// Values that the facts of a flow point to.
pub(crate) struct Room<'a> {
    network: [u8; 36],
    destination: [IpAddr; 1],
    source: [IpAddr; 1],
    name: Option<&'a str>,
    domains: Vec<&'a str>,
}

impl<'a> Room<'a> {
    /// Room for what is known of a flow. Where not every port is inspected, names are seen on that of HTTPS alone (Gateway
    /// semantics, 5).
    pub(crate) fn new(flow: &FlowFacts, known: Known<'a>, mode: InspectionMode) -> Self {
        let sees_names = mode == InspectionMode::Dynamic || flow.destination.port() == HTTPS;
        let name = match known {
            Known::FirstBytes(first) if sees_names => first.server_name.as_deref(),
            Known::Opening | Known::FirstBytes(_) => None,
        };
        Self::with_name(flow, name)
    }

    /// Room for what is known with a host's name.
    pub(crate) fn with_name(flow: &FlowFacts, name: Option<&'a str>) -> Self {
        let mut network = [0; 36];
        flow.virtual_network.uuid().hyphenated().encode_lower(&mut network);
        Self {
            network,
            destination: [flow.destination.ip().to_canonical()],
            source: [flow.source.to_canonical()],
            name,
            domains: name.map(|name| and_parents(name).collect()).unwrap_or_default(),
        }
    }
}

/// The facts of an HTTP connection, and of a request on it. Without a request its names are the ClientHello's.
pub(crate) fn of_http<'a>(room: &'a Room<'a>, request: Option<&RequestFacts<'a>>) -> Facts<'a> {
    let mut facts = Facts::with_slots(SLOTS);
    facts.set(HTTP_DST_IP, Fact::Ips(&room.destination));
    facts.set(HTTP_SRC_IP, Fact::Ips(&room.source));
    facts.set(HTTP_VNET, Fact::Bytes(&room.network));
    facts.set(ONRAMP, Fact::Bytes(DEVICE_CLIENT));
    facts.set(IS_ISOLATED, Fact::Bool(false));
    if let Some(name) = room.name {
        for (host, domains) in [(HTTP_CONN_HOST, HTTP_CONN_DOMAINS), (HTTP_HOST, HTTP_DOMAINS)] {
            facts.set(host, Fact::Bytes(name.as_bytes()));
            facts.set(domains, Fact::Texts(Texts::Strs(&room.domains)));
        }
    }
    if let Some(request) = request {
        let mut text = |slot, value: Option<&'a str>| {
            if let Some(value) = value {
                facts.set(slot, Fact::Bytes(value.as_bytes()));
            }
        };
        text(HTTP_METHOD, Some(request.method));
        text(HTTP_URI, Some(request.uri));
        text(HTTP_PATH, Some(request.path));
        text(HTTP_PATH_AND_QUERY, Some(request.path_and_query));
        text(HTTP_QUERY, request.query);
        text(HTTP_UPLOAD_MIME, request.upload_mime);
        if let Some(response) = request.response {
            text(HTTP_DOWNLOAD_MIME, response.download_mime);
            facts.set(HTTP_STATUS, Fact::Int(response.status.into()));
        }
    }
    facts
}

/// The facts of a flow.
pub(crate) fn of_flow<'a>(flow: &FlowFacts, known: Known<'a>, room: &'a Room<'a>) -> Facts<'a> {
    let mut facts = Facts::with_slots(SLOTS);
    facts.set(DST_IP, Fact::Ip(flow.destination.ip().to_canonical()));
    if flow.protocol.has_ports() {
        facts.set(DST_PORT, Fact::Int(flow.destination.port().into()));
    }
    facts.set(SRC_IP, Fact::Ip(flow.source.to_canonical()));
    facts.set(PROTOCOL, Fact::Bytes(flow.protocol.as_str().as_bytes()));
    facts.set(VNET, Fact::Bytes(&room.network));
    facts.set(ONRAMP, Fact::Bytes(DEVICE_CLIENT));
    facts.set(IS_ISOLATED, Fact::Bool(false));
    if let Known::FirstBytes(first) = known {
        if let Some(name) = room.name {
            facts.set(SNI_HOST, Fact::Bytes(name.as_bytes()));
            facts.set(SNI_DOMAINS, Fact::Texts(Texts::Strs(&room.domains)));
        }
        if let Some(protocol) = first.protocol {
            facts.set(DETECTION, Fact::Bytes(protocol.as_bytes()));
        }
    }
    facts
}

/// The fields that an expression asks and that nothing in this filter has a value for, each once. A text that is no
/// expression asks nothing.
pub fn never_supplied(filter: Filter, expression: &str) -> Vec<&'static str> {
    let supplied: &[Slot] = match filter {
        Filter::L4 => &SUPPLIED,
        Filter::Http => &HTTP_SUPPLIED,
        Filter::Dns | Filter::DnsResolver => &dns_facts::SUPPLIED,
        Filter::Egress => &[],
    };
    let Ok(ast) = adit_expr::parse(expression) else { return Vec::new() };
    let mut fields = Vec::new();
    for (slot, name) in ast.field_names().into_iter().filter_map(field) {
        if !supplied.contains(&slot) && !fields.contains(&name) {
            fields.push(name);
        }
    }
    fields
}

/// A name, and every name above it.
pub(crate) fn and_parents(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| name.split_once('.').map(|(_, parent)| parent))
}

/// The port on which names are always seen.
const HTTPS: u16 = 443;
/// Every flow that is decided here comes from a device with the agent.
const DEVICE_CLIENT: &[u8] = b"device_client";

const DST_IP: Slot = slot("net.dst.ip").unwrap();
const DST_PORT: Slot = slot("net.dst.port").unwrap();
const SRC_IP: Slot = slot("net.src.ip").unwrap();
const PROTOCOL: Slot = slot("net.protocol").unwrap();
const VNET: Slot = slot("net.vnet_id").unwrap();
const ONRAMP: Slot = slot("net.onramp.type").unwrap();
const IS_ISOLATED: Slot = slot("net.is_isolated").unwrap();
const SNI_HOST: Slot = slot("net.sni.host").unwrap();
const SNI_DOMAINS: Slot = slot("net.sni.domains").unwrap();
const DETECTION: Slot = slot("net.protocol.detection").unwrap();

const HTTP_DST_IP: Slot = slot("http.conn.dst_ip").unwrap();
const HTTP_SRC_IP: Slot = slot("http.conn.src_ip").unwrap();
const HTTP_VNET: Slot = slot("http.conn.vnet_id").unwrap();
const HTTP_CONN_HOST: Slot = slot("http.conn.hostname").unwrap();
const HTTP_CONN_DOMAINS: Slot = slot("http.conn.domains").unwrap();
const HTTP_HOST: Slot = slot("http.request.host").unwrap();
const HTTP_DOMAINS: Slot = slot("http.request.domains").unwrap();
const HTTP_METHOD: Slot = slot("http.request.method").unwrap();
const HTTP_URI: Slot = slot("http.request.uri").unwrap();
const HTTP_PATH: Slot = slot("http.request.uri.path").unwrap();
const HTTP_PATH_AND_QUERY: Slot = slot("http.request.uri.path_and_query").unwrap();
const HTTP_QUERY: Slot = slot("http.request.uri.query").unwrap();
const HTTP_UPLOAD_MIME: Slot = slot("http.upload.mime").unwrap();
const HTTP_STATUS: Slot = slot("http.response.status_code").unwrap();
const HTTP_DOWNLOAD_MIME: Slot = slot("http.download.mime").unwrap();

const SUPPLIED: [Slot; 10] =
    [DST_IP, DST_PORT, SRC_IP, PROTOCOL, VNET, ONRAMP, IS_ISOLATED, SNI_HOST, SNI_DOMAINS, DETECTION];

const HTTP_SUPPLIED: [Slot; 17] = [
    ONRAMP,
    IS_ISOLATED,
    HTTP_DST_IP,
    HTTP_SRC_IP,
    HTTP_VNET,
    HTTP_CONN_HOST,
    HTTP_CONN_DOMAINS,
    HTTP_HOST,
    HTTP_DOMAINS,
    HTTP_METHOD,
    HTTP_URI,
    HTTP_PATH,
    HTTP_PATH_AND_QUERY,
    HTTP_QUERY,
    HTTP_UPLOAD_MIME,
    HTTP_STATUS,
    HTTP_DOWNLOAD_MIME,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_without_a_value_are_named() {
        let text = "net.dst.port == 22 and (net.dst.geo.country == \"DE\" or any(lower(identity.groups.name[*])[*] == \"a\")) \
                    and net.detected_protocol == \"net.src.geo.country\" and not net.dst.geo.country == \"FR\"";
        assert_eq!(never_supplied(Filter::L4, text), ["net.dst.geo.country", "identity.groups.name"]);
        assert!(never_supplied(Filter::L4, "").is_empty() && never_supplied(Filter::L4, "a ==").is_empty());
    }

    #[test]
    fn a_name_stands_with_every_name_above_it() {
        let names: Vec<_> = and_parents("a.b.example.com").collect();
        assert_eq!(names, ["a.b.example.com", "b.example.com", "example.com", "com"]);
        assert_eq!(and_parents("localhost").collect::<Vec<_>>(), ["localhost"]);
    }
}
