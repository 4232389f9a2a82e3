//! From what an edge reports to the rows of the datasets.

use std::time::Duration;

use super::{Dataset, LogRecord};
use crate::dns::{DnsDecision, DnsProtocol, DnsRecord};
use crate::flow::{FirstBytes, Refusal};
use crate::gateway::Blocks;
use crate::record::{
    CERTIFICATE_HINT, ClosedBy, DecisionRecord, FlowEnd, FlowRecord, HttpRecord, InspectionRecord, Party,
    Record, RuleName,
};
use crate::rule::{Action, UntrustedAction};
use uuid::Uuid;

/// The row of a report, if it is one of a dataset; `id` is to be the row's own.
pub fn log_record(record: &Record, id: Uuid) -> Option<LogRecord> {
    let (redact, row) = match record {
        Record::Decision(decision) => (decision.party.redact, network(decision, id)),
        Record::Http(http) => (http.party.redact, self::http(http, id)),
        Record::Flow(flow) => (flow.party.redact, session(flow, id)),
        Record::Dns(query) => (query.redact, dns(query, id)),
        Record::ConnectionOpened(_)
        | Record::ConnectionClosed(_)
        | Record::LocalConfiguration(_)
        | Record::RegistrationSeen(_)
        | Record::Request(_) => return None,
    };
    Some(if redact { row.redacted() } else { row })
}

fn network(decision: &DecisionRecord, id: Uuid) -> LogRecord {
    let party = &decision.party;
    let mut row = LogRecord::new(Dataset::Network, party.account, decision.at, id);
    row.set("Datetime", decision.at);
    row.set("Action", action(decision.rule.as_ref(), decision.blocks));
    set_party(&mut row, party);
    row.set("Transport", party.protocol.as_str());
    set_rule(&mut row, decision.rule.as_ref());
    row.set("OverrideIP", decision.overridden_by.map(|address| address.ip()));
    row.set("OverridePort", decision.overridden_by.map_or(0, |address| address.port()));
    set_first(&mut row, &decision.first);
    row.set("PolicyGeneration", decision.snapshot);
    row.set("DecisionPhase", decision.phase.as_str());
    row
}

fn dns(query: &DnsRecord, id: Uuid) -> LogRecord {
    let mut row = LogRecord::new(Dataset::Dns, query.account, query.began, id);
    row.set("Datetime", query.began);
    row.set("QueryID", query.id.to_string());
    row.set("QueryName", query.name.as_str());
    row.set("QueryNameReversed", query.name.split('.').rev().collect::<Vec<_>>().join("."));
    row.set("QueryType", query.record_type);
    row.set("QueryTypeName", query.record_type_name.as_str());
    row.set("QuerySize", u64::try_from(query.query_bytes).unwrap_or(u64::MAX));
    row.set("Protocol", query.protocol.as_str());
    row.set("SrcIP", query.source.ip());
    row.set("SrcPort", query.source.port());
    if let Some(location) = &query.location {
        row.set("LocationID", location.id.to_string());
        row.set("Location", location.name.as_str());
        let subdomain = match query.protocol {
            DnsProtocol::Https => Some("DoHSubdomain"),
            DnsProtocol::Tls => Some("DoTSubdomain"),
            DnsProtocol::Device => None,
        };
        if let Some(field) = subdomain {
            row.set(field, location.subdomain.as_str());
        }
    }
    row.set("DeviceID", query.device.map(|device| device.to_string()));
    row.set("DeviceName", query.device_name.as_str());
    row.set("RegistrationID", query.registration.map(|registration| registration.to_string()));
    row.set("Email", query.user.as_str());
    row.set("RCode", query.response_code);
    row.set("ResolverDecision", query.decision.published());
    for (rule, id, name) in [
        (&query.rule, "PolicyID", "PolicyName"),
        (&query.resolver_rule, "ResolverPolicyID", "ResolverPolicyName"),
    ] {
        row.set(id, rule.as_ref().map(|rule| rule.id.to_string()));
        row.set(name, rule.as_ref().map(|rule| rule.name.as_str()));
    }
    row.set("ResolvedIPs", texts(&query.addresses));
    row.set("InitialResolvedIPs", texts(&query.synthetic));
    row.set("CNAMEs", query.cnames.clone());
    row.set("CustomResolverAddress", query.custom_resolver.map(|resolver| resolver.to_string()));
    row.set("CustomResolveDurationMs", query.custom_resolver_took.map_or(0, millis));
    row.set("EDEErrors", texts(query.extended_error.as_slice()));
    row.set("IsResponseCached", query.cached);
    row.set("UpstreamRecordTTLs", texts(&query.upstream_ttls));
    row.set("AppliedMaxTTL", u64::from(query.max_ttl.unwrap_or(0)));
    row.set("ResponseTimeMs", millis(query.lasted));
    row.set("PolicyGeneration", query.snapshot);
    row.set("DecisionPhase", if query.decision == DnsDecision::BlockedByAnswer { "D2" } else { "D0" });
    row
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn http(http: &HttpRecord, id: Uuid) -> LogRecord {
    let party = &http.party;
    let mut row = LogRecord::new(Dataset::Http, party.account, http.at, id);
    row.set("Datetime", http.at);
    row.set("RequestID", id.to_string());
    row.set("Action", http.action);
    set_party(&mut row, party);
    set_rule(&mut row, http.rule.as_ref());
    row.set("HTTPHost", http.host.as_str());
    row.set("HTTPMethod", http.method.as_str());
    row.set("HTTPVersion", http.version);
    row.set("HTTPStatusCode", http.status);
    row.set("URL", http.url.as_str());
    row.set("Referer", http.referer.as_str());
    row.set("UserAgent", http.user_agent.as_str());
    row.set("RedirectTargetURI", http.redirected_to.as_str());
    row.set("UntrustedCertificateAction", untrusted(http.untrusted));
    row.set("OriginTLSCertificateValidationResult", http.validation);
    row.set("Reason", http.reason);
    row.set("InspectionBypassReason", http.bypass);
    row.set("PolicyGeneration", http.snapshot);
    row.set("DecisionPhase", if http.bypass.is_some() { "H0" } else { "H1" });
    set_hint(&mut row, http.hint);
    row
}

fn session(flow: &FlowRecord, id: Uuid) -> LogRecord {
    let party = &flow.party;
    // By its end: whoever reads on from a cursor misses none that lasted.
    let mut row = LogRecord::new(Dataset::Sessions, party.account, flow.began + flow.lasted, id);
    row.set("SessionStartTime", flow.began);
    row.set("SessionEndTime", flow.began + flow.lasted);
    set_party(&mut row, party);
    row.set("Protocol", party.protocol.as_str());
    let origin = flow.overridden_by.unwrap_or(party.destination);
    row.set("OriginIP", origin.ip());
    row.set("OriginPort", origin.port());
    if let Some(named) = &party.named {
        row.set("InitialOriginIP", named.synthetic);
        row.set("ResolvedFQDN", named.name.as_str());
    } else if flow.overridden_by.is_some() {
        row.set("InitialOriginIP", party.destination.ip());
    }
    set_first(&mut row, &flow.first);
    row.set("BytesSent", flow.bytes_up);
    row.set("BytesReceived", flow.bytes_down);
    row.set("DatagramsSent", flow.datagrams_up);
    row.set("DatagramsReceived", flow.datagrams_down);
    row.set("ConnectionCloseReason", close_reason(flow));
    row.set("EndReason", flow.end.as_str());
    row.set("Offramp", flow.tunnel.map(|_| "CFD_TUNNEL"));
    row.set("DestinationTunnelID", flow.tunnel.map(|id| id.to_string()));
    row.set("RouteID", flow.route.map(|id| id.to_string()));
    row.set("ConnectionID", flow.connection.map(|id| id.to_string()));
    row.set("RelayedToNode", flow.relayed_to.map(|id| id.to_string()));
    row.set("RuleEvaluationDurationMs", millis(flow.evaluated_for));
    row.set("DurationMs", millis(flow.lasted));
    if let Some(phase) = flow.phase {
        let blocked = matches!(flow.end, FlowEnd::Refused(Refusal::Blocked) | FlowEnd::CutByRule);
        let blocks = if blocked { Blocks::Yes } else { Blocks::No };
        row.set("Action", action(flow.rule.as_ref(), blocks));
        row.set("DecisionPhase", phase.as_str());
    }
    set_rule(&mut row, flow.rule.as_ref());
    row.set("PolicyGeneration", flow.snapshot);
    if let Some(found) = &flow.inspection {
        set_inspection(&mut row, flow, found);
    }
    row
}

fn set_inspection(row: &mut LogRecord, flow: &FlowRecord, found: &InspectionRecord) {
    if flow.first == FirstBytes::default() {
        row.set("SNI", found.server_name.clone());
        row.set("DetectedProtocol", found.protocol);
    }
    for (handshake, version, cipher, took) in [
        (&found.client, "ClientTLSVersion", "ClientTLSCipher", "ClientTLSHandshakeDurationMs"),
        (&found.origin, "OriginTLSVersion", "OriginTLSCipher", "OriginTLSHandshakeDurationMs"),
    ] {
        if let Some(handshake) = handshake {
            row.set(version, handshake.version);
            row.set(cipher, handshake.cipher);
            row.set(took, millis(handshake.took));
        }
    }
    row.set("Inspection", found.treatment);
    row.set("InspectionError", found.error.clone());
    row.set("OriginTLSCertificateValidationResult", found.validation);
    let bypass = match found.treatment {
        "bypassed" => Some("off_rule"),
        "not-http" => Some("non_http_alpn"),
        "not-http-before" => Some("non_http_before"),
        _ => None,
    };
    row.set("InspectionBypassReason", bypass);
    let asks = flow.end == FlowEnd::ClientTlsError && found.wants_certificate;
    set_hint(row, asks.then_some("mtls_requested"));
}

fn set_party(row: &mut LogRecord, party: &Party) {
    row.set("SessionID", party.flow.to_string());
    row.set("SourceIP", party.source);
    row.set("DestinationIP", party.destination.ip());
    row.set("DestinationPort", party.destination.port());
    row.set("DeviceID", party.device.to_string());
    row.set("DeviceName", party.device_name.as_str());
    row.set("RegistrationID", party.registration.to_string());
    row.set("Email", party.user.as_str());
    row.set("VirtualNetworkID", party.virtual_network.to_string());
}

fn set_rule(row: &mut LogRecord, rule: Option<&RuleName>) {
    row.set("PolicyID", rule.map(|rule| rule.id.to_string()));
    row.set("PolicyName", rule.map(|rule| rule.name.as_str()));
}

fn set_first(row: &mut LogRecord, first: &FirstBytes) {
    row.set("SNI", first.server_name.clone());
    row.set("DetectedProtocol", first.protocol);
}

fn set_hint(row: &mut LogRecord, hint: Option<&'static str>) {
    row.set("Hint", hint);
    row.set("HintText", hint.map(|_| CERTIFICATE_HINT));
}

/// What the rules did: a rule that allows and yet refuses (no session, no route) is not written as one that allows.
fn action(rule: Option<&RuleName>, blocks: Blocks) -> &'static str {
    match (rule.map(|rule| rule.action), blocks) {
        (_, Blocks::Yes) => Action::Block.as_str(),
        (Some(Action::L4Override), Blocks::No) => Action::L4Override.as_str(),
        (_, Blocks::No) => Action::Allow.as_str(),
    }
}

fn untrusted(action: Option<UntrustedAction>) -> &'static str {
    match action {
        None => "none",
        Some(UntrustedAction::PassThrough) => "passThrough",
        Some(UntrustedAction::Block) => "block",
        Some(UntrustedAction::Error) => "error",
    }
}

fn close_reason(flow: &FlowRecord) -> &'static str {
    let origin_failed = flow.inspection.as_ref().is_some_and(|found| found.error.is_some());
    match flow.end {
        FlowEnd::ClientTlsError => "CLIENT_TLS_ERROR",
        _ if origin_failed => "ORIGIN_TLS_ERROR",
        FlowEnd::Finished => match flow.closed_by {
            Some(ClosedBy::Client) => "CLIENT_CLOSED",
            Some(ClosedBy::Origin) => "ORIGIN_CLOSED",
            Some(ClosedBy::Idle) => "CLIENT_IDLE_TIMEOUT",
            None => "UNKNOWN",
        },
        FlowEnd::Idle => "CLIENT_IDLE_TIMEOUT",
        FlowEnd::ResetByDevice => "CLIENT_ERROR",
        FlowEnd::ResetByDestination => "ORIGIN_ERROR",
        FlowEnd::CutByRule => "PROXY_CONN_REFUSED",
        FlowEnd::Revoked | FlowEnd::EdgeStopping => "UNKNOWN",
        FlowEnd::Refused(refusal) => match refusal {
            Refusal::Unroutable => "ORIGIN_UNROUTABLE",
            Refusal::NoConnection
            | Refusal::Refused
            | Refusal::HostUnreachable
            | Refusal::NetworkUnreachable
            | Refusal::TimedOut
            | Refusal::ConnectorError => "ORIGIN_UNREACHABLE",
            Refusal::NeverDialled | Refusal::Blocked | Refusal::Revoked | Refusal::Stale => {
                "PROXY_CONN_REFUSED"
            }
            Refusal::TooManyFlows => "TOO_MANY_ACTIVE_SESSIONS_FOR_USER",
            Refusal::TooLarge => "UNKNOWN",
        },
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::flow::Protocol;
    use crate::id::{AccountId, DeviceId, FlowId, RegistrationId, RuleId, VirtualNetworkId};
    use crate::record::DecisionPhase;
    use crate::record::TlsHandshake;

    fn party(redact: bool) -> Arc<Party> {
        let id = Uuid::from_u128;
        Arc::new(Party {
            flow: FlowId::from_uuid(id(1)),
            account: AccountId::from_bytes([2; 16]),
            registration: RegistrationId::from_uuid(id(3)),
            device: DeviceId::from_uuid(id(4)),
            device_name: "ada's laptop".into(),
            user: "ada@example.com".into(),
            source: "192.0.2.7".parse().unwrap(),
            virtual_network: VirtualNetworkId::from_uuid(id(5)),
            protocol: Protocol::Tcp,
            destination: "198.51.100.101:443".parse().unwrap(),
            named: None,
            redact,
        })
    }

    fn rule() -> RuleName {
        RuleName {
            id: RuleId::from_uuid(Uuid::from_u128(6)),
            name: "no clusters".into(),
            action: Action::Block,
        }
    }

    fn records(redact: bool) -> [Record; 3] {
        let (party, at) =
            (party(redact), SystemTime::UNIX_EPOCH + Duration::from_micros(1_750_000_000_123_456));
        let first = FirstBytes {
            server_name: Some("a.example".into()),
            protocol: Some("tls"),
            ..FirstBytes::default()
        };
        let decision = DecisionRecord {
            party: Arc::clone(&party),
            at,
            blocks: Blocks::Yes,
            rule: Some(rule()),
            overridden_by: Some("[2001:db8::1]:8443".parse().unwrap()),
            phase: DecisionPhase::FirstBytes,
            snapshot: 42,
            first: first.clone(),
        };
        let http = HttpRecord {
            party: Arc::clone(&party),
            at,
            action: "error",
            rule: None,
            snapshot: 42,
            host: "a.example".into(),
            method: "GET".into(),
            url: "https://a.example/api".into(),
            version: "HTTP/2",
            status: 526,
            referer: "https://b.example/".into(),
            user_agent: "kubectl".into(),
            redirected_to: String::new(),
            reason: Some("mtls_required"),
            validation: Some("VALID"),
            untrusted: None,
            bypass: None,
            hint: Some("mtls_required"),
        };
        let flow = FlowRecord {
            party,
            overridden_by: None,
            snapshot: 42,
            rule: None,
            phase: Some(DecisionPhase::Opening),
            evaluated_for: Duration::from_micros(20),
            first: FirstBytes::default(),
            route: None,
            tunnel: None,
            connection: None,
            relayed_to: None,
            bytes_up: 517,
            bytes_down: 1200,
            datagrams_up: 0,
            datagrams_down: 0,
            began: at,
            lasted: Duration::from_millis(30),
            inspection: Some(InspectionRecord {
                treatment: "opened",
                rule: None,
                server_name: first.server_name,
                protocol: Some("tls"),
                validation: Some("VALID"),
                wants_certificate: true,
                error: Some("unknown authority".into()),
                client: None,
                origin: Some(TlsHandshake {
                    version: "TLSv1.3",
                    cipher: "TLS_AES_128_GCM_SHA256",
                    took: Duration::from_millis(7),
                }),
            }),
            end: FlowEnd::ClientTlsError,
            closed_by: None,
        };
        [Record::Decision(Box::new(decision)), Record::Http(Box::new(http)), Record::Flow(Box::new(flow))]
    }

    fn rows(redact: bool) -> Vec<LogRecord> {
        records(redact).iter().filter_map(|record| log_record(record, Uuid::from_u128(9))).collect()
    }

    #[test]
    fn a_row_has_every_field_of_its_dataset_and_a_stored_one_those_that_say_something() {
        for row in rows(false) {
            let whole = serde_json::to_value(&row).unwrap();
            let whole = whole.as_object().unwrap();
            assert_eq!(whole.len(), row.dataset().fields().len() + 1);
            let stored = serde_json::to_value(row.stored()).unwrap();
            for (name, value) in stored.as_object().unwrap() {
                assert_eq!(whole[name], *value);
            }
            assert!(stored.as_object().unwrap().len() < 40);
        }
    }

    #[test]
    fn what_was_found_is_found_in_the_row() {
        let rows = rows(false);
        let text = |row: &LogRecord, name| row.get(name).cloned();
        assert_eq!(text(&rows[0], "Action"), Some("block".into()));
        assert_eq!(text(&rows[0], "PolicyName"), Some("no clusters".into()));
        assert_eq!(text(&rows[0], "Datetime"), Some("2025-06-15T15:06:40.123456Z".into()));
        assert_eq!(text(&rows[0], "OverrideIP"), Some("2001:db8::1".into()));
        assert_eq!(text(&rows[1], "Hint"), Some("mtls_required".into()));
        assert_eq!(text(&rows[2], "ConnectionCloseReason"), Some("CLIENT_TLS_ERROR".into()));
        assert_eq!(text(&rows[2], "EndReason"), Some("client-tls-error".into()));
        assert_eq!(text(&rows[2], "Hint"), Some("mtls_requested".into()));
        assert_eq!(text(&rows[2], "SNI"), Some("a.example".into()));
        assert_eq!(text(&rows[2], "BytesReceived"), Some(1200_i64.into()));
        let keys = rows[0].keys();
        assert_eq!(keys.destination, Some("198.51.100.101".parse().unwrap()));
        assert_eq!(keys.policy, Some(rule().id.to_string()));
    }

    #[test]
    fn a_redacted_row_does_not_say_who_or_what_was_looked_at() {
        for row in rows(true) {
            let text = serde_json::to_string(&row).unwrap();
            let device = DeviceId::from_uuid(Uuid::from_u128(4)).to_string();
            for personal in ["ada", "192.0.2.7", "https://a.example/api", "b.example", "kubectl", &device] {
                assert!(!text.contains(personal), "{personal} in {text}");
            }
            assert!(text.contains("198.51.100.101"), "where it went stays: {text}");
            assert_eq!(row.keys().device, None);
        }
    }
}
