//! Why a flow of a device is, or would be, allowed, blocked or unroutable: answered by what decides and dials flows.
//!
//! What holds: the decision is [`adit_policy::Snapshot::decide`], the verdict on inspection its `treatment`, and the dial the one of
//! [`crate::dial`], so that an answer and a flow cannot differ, but in what the client says first, which nobody knows before.
//! What was dialled to see what the destination says is closed at once and carries nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use adit_inspect::quic::QUIC;
use adit_model::{
    AccountId, CERTIFICATE_HINT, ExplainFor, ExplainQuestion, ExplainStep, Explained, Filter, FirstBytes,
    FlowFacts, FlowId, NOT_DIALLED, Protocol, Refusal,
};
use adit_policy::{Asked, Decision, Known, PassReason, Permit, Snapshot, Treatment};
use adit_wire::peer::RelayedFlow;
use uuid::Uuid;

use crate::Shared;
use crate::dial::{NotDialled, Order, Reach, Via, dial, dial_datagrams};
use crate::named::destination_of;

/// Destinations that asked for a client certificate lately.
#[derive(Debug, Default)]
pub(crate) struct CertificateRequests(Mutex<HashMap<(AccountId, SocketAddr), Instant>>);

/// For how long it is remembered, and of how many.
const REMEMBERED: Duration = Duration::from_hours(1);
const MAX_REMEMBERED: usize = 1024;

impl CertificateRequests {
    /// Notes that it did.
    pub(crate) fn note(&self, account: AccountId, destination: SocketAddr) {
        let mut requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.len() >= MAX_REMEMBERED {
            requests.retain(|_, at| at.elapsed() < REMEMBERED);
        }
        if requests.len() < MAX_REMEMBERED || requests.contains_key(&(account, destination)) {
            requests.insert((account, destination), Instant::now());
        }
    }

    fn seen(&self, account: AccountId, destination: SocketAddr) -> bool {
        let requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        requests.get(&(account, destination)).is_some_and(|at| at.elapsed() < REMEMBERED)
    }
}

/// The answer for a device that nobody asks from.
pub(crate) async fn explain_for(
    shared: &Arc<Shared>,
    account: AccountId,
    whose: &ExplainFor,
    question: &ExplainQuestion,
) -> Option<Explained> {
    let snapshot = shared.snapshots.current();
    let registration = snapshot.registration_of_device(account, whose.device)?;
    let virtual_network = snapshot.default_network(account)?;
    let unknown = std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
    let address = whose.source.unwrap_or(unknown).to_canonical();
    let (destination, named) =
        destination_of(shared, registration, (address, 0).into(), question.destination).await;
    let facts = FlowFacts {
        account,
        registration: registration.id,
        device: registration.device,
        virtual_network,
        protocol: question.protocol,
        source: address,
        destination,
        named,
    };
    let source = whose.source.is_some();
    Some(explain(shared, facts, question, if source { Source::Known } else { Source::Unknown }).await)
}

/// Whether it is known where the device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Known,
    Unknown,
}

/// The answer for a device.
pub(crate) async fn explain(
    shared: &Arc<Shared>,
    facts: FlowFacts,
    question: &ExplainQuestion,
    source: Source,
) -> Explained {
    let snapshot = shared.snapshots.current();
    let mut steps = vec![device(&snapshot, &facts, source), route(&snapshot, &facts)];
    let decided = if shared.freshness.is_stale() {
        Err(Refusal::Stale)
    } else {
        decide(&snapshot, &facts, question, &mut steps)
    };
    let outcome = match decided {
        Ok(permit) => permitted(shared, &snapshot, &facts, question, permit, &mut steps).await,
        Err(refusal) => Err(refusal),
    };
    Explained {
        allowed: outcome.is_ok(),
        refusal: outcome.err().map(|refusal| refusal.as_str().to_owned()),
        generation: snapshot.number(),
        steps,
    }
}

fn device(snapshot: &Snapshot, facts: &FlowFacts, source: Source) -> ExplainStep {
    let registration = snapshot.registration(facts.registration);
    ExplainStep::Device {
        device: facts.device,
        name: registration.map(|known| known.device_name.clone()).unwrap_or_default(),
        user: registration.map(|known| known.user.clone()).unwrap_or_default(),
        source: (source == Source::Known).then_some(facts.source),
    }
}

fn route(snapshot: &Snapshot, facts: &FlowFacts) -> ExplainStep {
    let by_name = facts.named.as_ref().map(|named| snapshot.hostname_route(facts.account, &named.name));
    let by_address = || {
        let route = snapshot.route(facts.virtual_network, facts.destination.ip().to_canonical());
        route.filter(|route| route.account == facts.account).map(|route| (route.network, route.tunnel))
    };
    let (network, tunnel) = match by_name {
        Some(route) => (None, route.map(|route| route.tunnel)),
        None => by_address().unzip(),
    };
    ExplainStep::Route {
        virtual_network: facts.virtual_network,
        network,
        named: facts.named.as_ref().map(|named| (named.name.clone(), named.synthetic)),
        tunnel,
        tunnel_name: tunnel.and_then(|tunnel| snapshot.tunnel(tunnel)).map(|tunnel| tunnel.name.clone()),
    }
}

/// How a client that names a server speaks.
fn named_by(protocol: Protocol) -> Option<&'static str> {
    match protocol {
        Protocol::Tcp => Some("tls"),
        Protocol::Udp => Some(QUIC),
        Protocol::Icmp => None,
    }
}

/// What the client would say first, as far as whoever asks says it.
fn first_bytes(question: &ExplainQuestion) -> FirstBytes {
    match (&question.server_name, named_by(question.protocol)) {
        (Some(name), Some(protocol)) => FirstBytes {
            server_name: Some(name.trim_end_matches('.').to_ascii_lowercase()),
            protocol: Some(protocol),
            application_protocols: Vec::new(),
        },
        (Some(_) | None, _) => FirstBytes::default(),
    }
}

/// What it would be called to people.
fn spoken(protocol: Protocol) -> &'static str {
    if protocol == Protocol::Udp { "QUIC" } else { "TLS" }
}

/// Step 4 of a flow, and step 6.
fn decide(
    snapshot: &Snapshot,
    facts: &FlowFacts,
    question: &ExplainQuestion,
    steps: &mut Vec<ExplainStep>,
) -> Result<Permit, Refusal> {
    let first = first_bytes(question);
    let (mut known, mut assumed) = (Known::Opening, None);
    let mut decision = snapshot.decide(facts, known);
    if decision == Decision::AwaitsFirstBytes {
        known = Known::FirstBytes(&first);
        decision = snapshot.decide(facts, known);
        assumed = Some(match (&first.server_name, facts.protocol) {
            (Some(name), protocol) => format!("if the client speaks {} and names {name}", spoken(protocol)),
            (None, Protocol::Tcp | Protocol::Udp) => {
                "if the client says nothing by which a rule could know it: --server-name says what it names"
                    .to_owned()
            }
            (None, Protocol::Icmp) => "nothing is recognised in an echo".to_owned(),
        });
    }
    let never = Decision::Refused { refusal: Refusal::NeverDialled, rule: None };
    if decision != never {
        tell(snapshot.explain_network(facts, known), steps);
    }
    let (told, rule, overridden_by, outcome) = match decision {
        Decision::Permitted(permit) => {
            let instead = Some(permit.destination).filter(|dialled| *dialled != facts.destination);
            let action = permit.rule.and_then(|rule| snapshot.rule_name(facts.account, Filter::L4, rule));
            let told = action.map_or("allow", |rule| rule.action.as_str());
            (told, permit.rule, instead, Ok(permit))
        }
        Decision::Refused { refusal: Refusal::Blocked, rule } => ("block", rule, None, Err(Refusal::Blocked)),
        Decision::Refused { refusal, rule } => (refusal.as_str(), rule, None, Err(refusal)),
        // Only `Known::Opening` is answered so; a flow would be refused as blocked.
        Decision::AwaitsFirstBytes => ("block", None, None, Err(Refusal::Blocked)),
    };
    steps.push(ExplainStep::Decision { decision: told.to_owned(), rule, overridden_by, assumed });
    outcome
}

fn tell(asked: Asked, steps: &mut Vec<ExplainStep>) {
    let Asked { mut rules, omitted } = asked;
    // Those that are not told of stood before the last.
    let last = if omitted > 0 { rules.pop() } else { None };
    steps.extend(rules.into_iter().map(|rule| ExplainStep::Rule(Box::new(rule))));
    if omitted > 0 {
        steps.push(ExplainStep::Omitted { rules: omitted });
    }
    steps.extend(last.map(|rule| ExplainStep::Rule(Box::new(rule))));
}

/// Steps 5 and 7 of a flow.
async fn permitted(
    shared: &Arc<Shared>,
    snapshot: &Snapshot,
    facts: &FlowFacts,
    question: &ExplainQuestion,
    permit: Permit,
    steps: &mut Vec<ExplainStep>,
) -> Result<(), Refusal> {
    let judged = match named_by(facts.protocol) {
        Some(protocol) => inspection(shared, snapshot, facts, (question, protocol), permit, steps),
        None => Ok(()),
    };
    if !question.dial {
        let chosen = shared.connections.choose(permit.tunnel, facts.protocol, &[]).ok();
        let connection = chosen.map(|connection| connection.id);
        let relayed_to = match connection {
            Some(_) => None,
            None => {
                snapshot.holders(permit.tunnel).iter().copied().find(|holder| !shared.peers.is_own(*holder))
            }
        };
        steps.push(ExplainStep::Connection { connection, relayed_to });
        steps.push(ExplainStep::Dial {
            destination: permit.destination,
            outcome: NOT_DIALLED.to_owned(),
            milliseconds: 0,
            detail: String::new(),
        });
        let carried = connection.is_some() || relayed_to.is_some();
        return judged.and(if carried { Ok(()) } else { Err(Refusal::NoConnection) });
    }
    let clock = Instant::now();
    let dialled = dialled(shared, snapshot.number(), facts, permit).await;
    let milliseconds = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (connection, relayed_to, outcome, detail) = match &dialled {
        Ok(via) => (via.connection(), via.relayed_to(), "connected", String::new()),
        Err(not) => (not.connection, not.relayed_to, not.refusal.as_str(), not.detail.clone()),
    };
    steps.push(ExplainStep::Connection { connection, relayed_to });
    steps.push(ExplainStep::Dial {
        destination: permit.destination,
        outcome: outcome.to_owned(),
        milliseconds,
        detail,
    });
    judged.and(dialled.map(drop).map_err(|not| not.refusal))
}

async fn dialled(
    shared: &Arc<Shared>,
    number: u64,
    facts: &FlowFacts,
    permit: Permit,
) -> Result<Via, NotDialled> {
    let flow = RelayedFlow {
        flow: FlowId::from_uuid(Uuid::new_v4()),
        account: facts.account,
        tunnel: permit.tunnel,
        protocol: facts.protocol,
        rule: permit.rule,
        snapshot: number,
        source: Some(facts.source),
    };
    let order = Order { flow, reach: Reach::AnyNode };
    match facts.protocol {
        Protocol::Tcp => {
            let mut dialled = dial(shared, order, permit.destination).await?;
            dialled.stream.reset();
            Ok(dialled.via)
        }
        Protocol::Udp | Protocol::Icmp => {
            let mut dialled = dial_datagrams(shared, order, permit.destination).await?;
            dialled.far.reset();
            Ok(dialled.via)
        }
    }
}

fn inspection(
    shared: &Arc<Shared>,
    snapshot: &Snapshot,
    facts: &FlowFacts,
    (question, protocol): (&ExplainQuestion, &'static str),
    permit: Permit,
    steps: &mut Vec<ExplainStep>,
) -> Result<(), Refusal> {
    let as_tls = FirstBytes { protocol: Some(protocol), ..first_bytes(question) };
    let treatment = snapshot.treatment(facts, &as_tls);
    let speaks = spoken(facts.protocol);
    if snapshot.gateway_settings(facts.account).tls_decrypt {
        tell(snapshot.explain_opening(facts, &as_tls), steps);
    }
    let asks = shared.certificate_requests.seen(facts.account, permit.destination).then_some(true);
    let (verdict, rule, text) = match treatment {
        Treatment::Pass(PassReason::Rule(rule)) => {
            ("bypassed", Some(rule), format!("{speaks} passes unopened by the rule {rule}"))
        }
        Treatment::Pass(PassReason::NotAsked) => {
            ("off", None, format!("{speaks} is not looked into: tls_decrypt is off"))
        }
        Treatment::Pass(PassReason::NotHttp | PassReason::NotRecognised) => {
            ("not_tls", None, format!("{speaks} is not looked for on this port"))
        }
        Treatment::OpenTls | Treatment::ReadHttp => {
            let hint = if asks == Some(true) { format!("; {CERTIFICATE_HINT}") } else { String::new() };
            (
                "inspected",
                None,
                format!("if the client speaks TLS, it is opened and its requests are judged{hint}"),
            )
        }
        Treatment::Refuse => (
            "refused",
            None,
            format!("if the client speaks {speaks}, the flow is refused: it cannot be opened"),
        ),
    };
    steps.push(ExplainStep::Inspection {
        verdict: verdict.to_owned(),
        rule,
        asks_for_certificate: asks,
        text,
    });
    // A flow of datagrams is refused only if it is QUIC's, which is known of one whose client names a server.
    let is_known = facts.protocol == Protocol::Tcp || question.server_name.is_some();
    if treatment == Treatment::Refuse && is_known { Err(Refusal::Blocked) } else { Ok(()) }
}
