//! The facts of a flow, as rules of the `l4` filter ask them (policy language, 7.2).
//!
//! What is known at the first packet comes from [`FlowFacts`]; what the client's first bytes say, from [`FirstBytes`]. A
//! field that nothing fills in here is missing for every flow: [`never_supplied`] says of which fields of an
//! expression that is true, so that whoever writes a rule can be told. No bytes are read here.

use adit_expr::{Fact, Facts, Slot, Texts};
use adit_model::{FirstBytes, FlowFacts, VirtualNetworkId};

use crate::scheme::{SLOTS, field, flow_phase, slot};

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

/// Texts that the facts of a flow point to.
pub(crate) struct Room<'a> {
    network: [u8; 36],
    domains: Vec<&'a str>,
}

impl<'a> Room<'a> {
    pub(crate) fn new(network: VirtualNetworkId, known: Known<'a>) -> Self {
        let mut text = [0; 36];
        network.uuid().hyphenated().encode_lower(&mut text);
        let name = match known {
            Known::Opening => None,
            Known::FirstBytes(first) => first.server_name.as_deref(),
        };
        Self { network: text, domains: name.map(|name| and_parents(name).collect()).unwrap_or_default() }
    }
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
        if let Some(name) = &first.server_name {
            facts.set(SNI_HOST, Fact::Bytes(name.as_bytes()));
            facts.set(SNI_DOMAINS, Fact::Texts(Texts::Strs(&room.domains)));
        }
        if let Some(protocol) = first.protocol {
            facts.set(DETECTION, Fact::Bytes(protocol.as_bytes()));
        }
    }
    facts
}

/// The fields that an expression of the `l4` filter asks and that no flow has a value for, each once. A text that is no
/// expression asks nothing.
pub fn never_supplied(expression: &str) -> Vec<&'static str> {
    let Ok(ast) = adit_expr::parse(expression) else { return Vec::new() };
    let mut fields = Vec::new();
    for (slot, name) in ast.field_names().into_iter().filter_map(field) {
        if !SUPPLIED.contains(&slot) && !fields.contains(&name) {
            fields.push(name);
        }
    }
    fields
}

/// A name, and every name above it.
fn and_parents(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| name.split_once('.').map(|(_, parent)| parent))
}

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

const SUPPLIED: [Slot; 10] =
    [DST_IP, DST_PORT, SRC_IP, PROTOCOL, VNET, ONRAMP, IS_ISOLATED, SNI_HOST, SNI_DOMAINS, DETECTION];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_without_a_value_are_named() {
        let text = "net.dst.port == 22 and (net.dst.geo.country == \"DE\" or any(lower(identity.groups.name[*])[*] == \"a\")) \
                    and net.detected_protocol == \"net.src.geo.country\" and not net.dst.geo.country == \"FR\"";
        assert_eq!(never_supplied(text), ["net.dst.geo.country", "identity.groups.name"]);
        assert!(never_supplied("").is_empty() && never_supplied("a ==").is_empty());
    }

    #[test]
    fn a_name_stands_with_every_name_above_it() {
        let names: Vec<_> = and_parents("a.b.example.com").collect();
        assert_eq!(names, ["a.b.example.com", "b.example.com", "example.com", "com"]);
        assert_eq!(and_parents("localhost").collect::<Vec<_>>(), ["localhost"]);
    }
}
