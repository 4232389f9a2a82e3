//! The life of one flow, in the design's order and words: decide, route, dial, carry, record.
//!
//! Every way in ends here with the same value, a [`Flow`]: facts, a stream not yet accepted, and a way to refuse it. A TCP
//! flow is spliced; a flow of datagrams, UDP or ICMP, is exchanged packet by packet, and ends when it is idle.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use adit_model::{
    Blocks, ClosedBy, ConnectionId, DecisionPhase, DecisionRecord, FirstBytes, FlowEnd, FlowFacts, FlowId,
    FlowRecord, InspectionRecord, Logging, NodeId, Party, Protocol, Record, Refusal, RuleId, RuleName,
};
use adit_policy::{Decision, Known, Permit, Snapshot, Treatment};
use adit_transport::datagram::{DatagramFlow, ExchangeEnd, Exchanged, exchange};
use adit_transport::splice::{Passed, Side, SpliceEnd, splice};
use adit_transport::{Duplex, ReadChunk, WriteChunk};
use adit_wire::peer::RelayedFlow;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Shared;
use crate::datagram::FarDatagrams;
use crate::dial::{Dialled, DialledDatagrams, NotDialled, Order, Reach, dial, dial_datagrams};
use crate::first_bytes::hold;
use crate::first_datagrams::{hold_datagrams, look_ahead, turn_away};
use crate::inspection::{self, Inspected, Looked};
use crate::limits::DATAGRAM_IDLE;
use crate::notices;
use crate::sessions::{Cut, Session};

/// A flow that asks to be carried.
pub(crate) struct Flow<A> {
    pub(crate) facts: FlowFacts,
    pub(crate) user: Arc<str>,
    pub(crate) session: Arc<Session>,
    /// The device's side, not yet told anything.
    pub(crate) asked: A,
}

/// The device's side of a flow while it waits for an answer.
pub(crate) trait Asked {
    type Reader: ReadChunk;
    type Writer: WriteChunk;

    /// Tells it that the destination has been dialled. `None` if it has gone meanwhile.
    async fn accept(self) -> Option<Duplex<Self::Reader, Self::Writer>>;

    /// The same, for a flow of datagrams.
    async fn accept_datagrams(self) -> Option<DatagramFlow<Self::Reader, Self::Writer>>;

    /// Tells it why there is no flow.
    async fn refuse(self, refusal: Refusal, detail: &str);
}

/// What became of a flow, for its record.
#[derive(Default)]
pub(crate) struct Outcome {
    permit: Option<Permit>,
    rule: Option<RuleName>,
    phase: Option<DecisionPhase>,
    evaluated_for: Duration,
    first: FirstBytes,
    /// The record of a decision that counts only once it has been carried out.
    pending: Option<Box<DecisionRecord>>,
    connection: Option<ConnectionId>,
    relayed_to: Option<NodeId>,
    pub(crate) carried: Exchanged,
    inspection: Option<InspectionRecord>,
    closed_by: Option<ClosedBy>,
}

/// Carries one flow from its request to its record.
pub(crate) async fn carry<A: Asked>(shared: Arc<Shared>, flow: Flow<A>) {
    let id = FlowId::from_uuid(Uuid::new_v4());
    let (began, clock) = (SystemTime::now(), Instant::now());
    shared.metrics.flow_began();
    let Flow { facts, user, session, asked } = flow;
    let mut outcome = Outcome::default();
    let snapshot = shared.snapshots.current();
    let number = snapshot.number();
    let logging = snapshot.gateway_settings(facts.account).logging;
    let party = party(&snapshot, &facts, id, &user, logging);
    let way = Way {
        shared: &shared,
        facts: &facts,
        session: &session,
        party: &party,
        logging,
        snapshot: number,
        looks: snapshot.looks_into_flows(facts.account),
    };
    let end = decided(way, snapshot, asked, &mut outcome).await;
    // Step 8, record.
    let dialled = outcome.permit.map(|permit| permit.destination);
    let record = FlowRecord {
        overridden_by: dialled.filter(|dialled| *dialled != facts.destination),
        party,
        snapshot: number,
        rule: outcome.rule,
        phase: outcome.phase,
        evaluated_for: outcome.evaluated_for,
        first: outcome.first,
        route: outcome.permit.map(|permit| permit.route),
        tunnel: outcome.permit.map(|permit| permit.tunnel),
        connection: outcome.connection,
        relayed_to: outcome.relayed_to,
        bytes_up: outcome.carried.bytes_up,
        bytes_down: outcome.carried.bytes_down,
        datagrams_up: outcome.carried.datagrams_up,
        datagrams_down: outcome.carried.datagrams_down,
        began,
        lasted: clock.elapsed(),
        inspection: outcome.inspection,
        end,
        closed_by: outcome.closed_by,
    };
    let recorded = !logging.enabled || shared.records.flow(record);
    shared.metrics.flow_ended(end, outcome.carried.bytes_up, outcome.carried.bytes_down, recorded);
}

/// A flow and its way.
#[derive(Clone, Copy)]
struct Way<'a> {
    shared: &'a Arc<Shared>,
    facts: &'a FlowFacts,
    session: &'a Session,
    party: &'a Arc<Party>,
    logging: Logging,
    /// The number of the snapshot that decides.
    snapshot: u64,
    /// Whether its bytes are looked into.
    looks: bool,
}

/// Whose flow it is, for its records.
fn party(snapshot: &Snapshot, facts: &FlowFacts, flow: FlowId, user: &str, logging: Logging) -> Arc<Party> {
    let device_name =
        snapshot.registration(facts.registration).map(|registration| registration.device_name.clone());
    Arc::new(Party {
        flow,
        account: facts.account,
        registration: facts.registration,
        device: facts.device,
        device_name: device_name.unwrap_or_default(),
        user: user.to_owned(),
        source: facts.source,
        virtual_network: facts.virtual_network,
        protocol: facts.protocol,
        destination: facts.destination,
        named: facts.named.clone(),
        redact: logging.redact_pii,
    })
}

/// Step 4, decide, and step 6, route: by one snapshot, whatever changes meanwhile. How the flow ended.
async fn decided<A: Asked>(
    way: Way<'_>,
    snapshot: Arc<Snapshot>,
    asked: A,
    outcome: &mut Outcome,
) -> FlowEnd {
    if way.shared.freshness.is_stale() {
        asked.refuse(Refusal::Stale, "").await;
        return FlowEnd::Refused(Refusal::Stale);
    }
    let clock = Instant::now();
    let decision = snapshot.decide(way.facts, Known::Opening);
    outcome.evaluated_for = clock.elapsed();
    if decision != Decision::AwaitsFirstBytes {
        note(way, &snapshot, decision, outcome);
        drop(snapshot);
        return carried_out(way, decision, asked, outcome).await;
    }
    let cut = way.session.flow_token();
    match way.facts.protocol {
        Protocol::Tcp => {
            let held = cut.run_until_cancelled(hold(asked)).await.ok_or_else(|| end_of(way.session.why()));
            held_on(way, snapshot, held, outcome).await
        }
        Protocol::Udp => {
            let held = cut.run_until_cancelled(hold_datagrams(asked)).await;
            let held = held.ok_or_else(|| end_of(way.session.why()));
            held_on(way, snapshot, held, outcome).await
        }
        Protocol::Icmp => {
            // Nothing is recognised in an echo.
            let decision = decide_later(way, &snapshot, FirstBytes::default(), outcome);
            drop(snapshot);
            carried_out(way, decision, asked, outcome).await
        }
    }
}

/// Goes on with a flow that was held, unless its device has gone, or it was cut, and ended so.
async fn held_on<H: Asked>(
    way: Way<'_>,
    snapshot: Arc<Snapshot>,
    held: Result<Option<(FirstBytes, H)>, FlowEnd>,
    outcome: &mut Outcome,
) -> FlowEnd {
    match held {
        Ok(Some((first, held))) => {
            let decision = decide_later(way, &snapshot, first, outcome);
            drop(snapshot);
            // Boxed: a flow that is held is rare, and its future would make every flow's as large.
            Box::pin(carried_out(way, decision, held, outcome)).await
        }
        Ok(None) => FlowEnd::ResetByDevice,
        Err(end) => end,
    }
}

/// Decides what had to wait for the client's first bytes.
fn decide_later(way: Way<'_>, snapshot: &Snapshot, first: FirstBytes, outcome: &mut Outcome) -> Decision {
    let clock = Instant::now();
    let decision = snapshot.decide(way.facts, Known::FirstBytes(&first));
    outcome.evaluated_for += clock.elapsed();
    outcome.first = first;
    outcome.phase = Some(DecisionPhase::FirstBytes);
    note(way, snapshot, decision, outcome);
    decision
}

/// Records what the rules decided. What they were not asked about, and what no route carries, has the record of its flow
/// alone; an override counts when it has been dialled (Gateway semantics, 5).
fn note(way: Way<'_>, snapshot: &Snapshot, decision: Decision, outcome: &mut Outcome) {
    let (rule, blocks, overridden_by) = match decision {
        Decision::Permitted(permit) => {
            let dialled = Some(permit.destination).filter(|dialled| *dialled != way.facts.destination);
            (permit.rule, Some(Blocks::No), dialled)
        }
        Decision::Refused { refusal: Refusal::Blocked, rule } => (rule, Some(Blocks::Yes), None),
        Decision::Refused { rule, .. } => (rule, None, None),
        Decision::AwaitsFirstBytes => (None, None, None),
    };
    outcome.rule = rule.and_then(|rule| snapshot.rule_name(way.facts.account, adit_model::Filter::L4, rule));
    if let (Some(Blocks::Yes), Some(rule)) = (blocks, rule) {
        tell(way, snapshot, rule);
    }
    let Some(blocks) = blocks else { return };
    let phase = *outcome.phase.get_or_insert(DecisionPhase::Opening);
    if !way.logging.enabled || !way.logging.l4.wants(blocks) {
        return;
    }
    let record = Box::new(DecisionRecord {
        party: Arc::clone(way.party),
        at: SystemTime::now(),
        blocks,
        rule: outcome.rule.clone(),
        overridden_by,
        phase,
        snapshot: way.snapshot,
        first: outcome.first.clone(),
    });
    match overridden_by {
        None => way.shared.record(Record::Decision(record)),
        Some(_) => outcome.pending = Some(record),
    }
}

/// Has the device told that a rule blocked its flow, if the rule says so.
fn tell(way: Way<'_>, snapshot: &Snapshot, rule: RuleId) {
    let whose = (way.facts.account, way.facts.registration);
    let destination = match &way.facts.named {
        Some(named) => format!("{}:{}", named.name, way.facts.destination.port()),
        None => way.facts.destination.to_string(),
    };
    notices::flow_blocked(way.shared, snapshot, whose, rule, &destination);
}

async fn carried_out<A: Asked>(way: Way<'_>, decision: Decision, asked: A, outcome: &mut Outcome) -> FlowEnd {
    match decision {
        Decision::Permitted(permit) => {
            outcome.permit = Some(permit);
            permitted(way, permit, asked, outcome).await
        }
        Decision::Refused { refusal, .. } => {
            asked.refuse(refusal, "").await;
            FlowEnd::Refused(refusal)
        }
        Decision::AwaitsFirstBytes => {
            asked.refuse(Refusal::Blocked, "").await;
            FlowEnd::Refused(Refusal::Blocked)
        }
    }
}

/// Steps 5 and 7, until the flow ends or is cut.
async fn permitted<A: Asked>(way: Way<'_>, permit: Permit, asked: A, outcome: &mut Outcome) -> FlowEnd {
    let ended = way.session.flow_token();
    let first = (outcome.phase == Some(DecisionPhase::FirstBytes)).then(|| outcome.first.clone());
    let open = way.shared.open_flows.begin(way.party.flow, way.facts, first, ended.clone());
    match dialled_and_carried(way, permit, &ended, asked, outcome).await {
        Some(end) => end,
        None => match open.flow.cut_by() {
            Some(rule) => {
                let now = way.shared.snapshots.current();
                outcome.rule = now.rule_name(way.facts.account, adit_model::Filter::L4, rule);
                tell(way, &now, rule);
                FlowEnd::CutByRule
            }
            None => end_of(way.session.why()),
        },
    }
}

/// Step 7, and what follows it. `None` if the flow was cut.
async fn dialled_and_carried<A: Asked>(
    way: Way<'_>,
    permit: Permit,
    ended: &CancellationToken,
    asked: A,
    outcome: &mut Outcome,
) -> Option<FlowEnd> {
    let flow = RelayedFlow {
        flow: way.party.flow,
        account: way.facts.account,
        tunnel: permit.tunnel,
        protocol: way.facts.protocol,
        rule: permit.rule,
        snapshot: way.snapshot,
        source: Some(way.facts.source),
    };
    let order = Order { flow, reach: Reach::AnyNode };
    match way.facts.protocol {
        Protocol::Tcp => {
            let dialling = dial(way.shared, order, permit.destination);
            match dialled(dialling, &way, ended, asked, outcome).await {
                // Boxed: most flows are not looked into, and are not to be as large as those that are.
                Ok((dialled, asked)) if way.looks => {
                    Box::pin(looked_into(way, permit, dialled, asked, ended, outcome)).await
                }
                Ok((dialled, asked)) => stream(dialled, asked, ended, outcome).await,
                Err(end) => end,
            }
        }
        Protocol::Udp | Protocol::Icmp => {
            let dialling = dial_datagrams(way.shared, order, permit.destination);
            match dialled(dialling, &way, ended, asked, outcome).await {
                Ok((dialled, asked)) if way.looks && way.facts.protocol == Protocol::Udp => {
                    Box::pin(looked_at(way, dialled, asked, ended, outcome)).await
                }
                Ok((dialled, asked)) => datagrams(dialled, asked, ended, outcome).await,
                Err(end) => end,
            }
        }
    }
}

/// Step 7, dial: waits for it, unless the flow is cut meanwhile, and refuses the flow if it fails. `None`: it was cut.
async fn dialled<A: Asked, D>(
    dialling: impl Future<Output = Result<D, NotDialled>>,
    way: &Way<'_>,
    ended: &CancellationToken,
    asked: A,
    outcome: &mut Outcome,
) -> Result<(D, A), Option<FlowEnd>> {
    match ended.run_until_cancelled(dialling).await {
        Some(Ok(dialled)) => {
            if let Some(decision) = outcome.pending.take() {
                way.shared.record(Record::Decision(decision));
            }
            Ok((dialled, asked))
        }
        Some(Err(NotDialled { refusal, connection, relayed_to, detail })) => {
            (outcome.connection, outcome.relayed_to) = (connection, relayed_to);
            tracing::info!(flow = %way.party.flow, refusal = refusal.as_str(), detail, "dial failed");
            asked.refuse(refusal, &detail).await;
            Err(Some(FlowEnd::Refused(refusal)))
        }
        None => {
            asked.refuse(Refusal::Revoked, "").await;
            Err(None)
        }
    }
}

/// Step 5, inspect: carries a TCP flow of an account that looks into its flows. `None` if it was cut.
async fn looked_into<A: Asked>(
    way: Way<'_>,
    permit: Permit,
    dialled: Dialled,
    asked: A,
    ended: &CancellationToken,
    outcome: &mut Outcome,
) -> Option<FlowEnd> {
    (outcome.connection, outcome.relayed_to) = (dialled.via.connection(), dialled.via.relayed_to());
    let Some(near) = asked.accept().await else {
        return Some(FlowEnd::ResetByDevice);
    };
    let looked =
        Looked { shared: way.shared, facts: way.facts, party: way.party, destination: permit.destination };
    let mut inspected = Inspected::default();
    let end = inspection::carry(looked, near, dialled, ended, &mut inspected).await;
    (outcome.carried.bytes_up, outcome.carried.bytes_down) = (inspected.passed.up, inspected.passed.down);
    outcome.closed_by = inspected.passed.ended_first.map(closed_by);
    if inspected.record.as_ref().is_some_and(|found| found.wants_certificate) {
        way.shared.certificate_requests.note(way.facts.account, permit.destination);
    }
    outcome.inspection = inspected.record;
    end
}

/// Carries a TCP flow. `None` if it was cut.
pub(crate) async fn stream<A: Asked>(
    dialled: Dialled,
    asked: A,
    ended: &CancellationToken,
    outcome: &mut Outcome,
) -> Option<FlowEnd> {
    let Dialled { via, stream: mut far } = dialled;
    (outcome.connection, outcome.relayed_to) = (via.connection(), via.relayed_to());
    let Some(mut near) = asked.accept().await else {
        far.reset();
        return Some(FlowEnd::ResetByDevice);
    };
    let mut passed = Passed::default();
    let spliced = splice(&mut near, &mut far, via.half_close(), &mut passed);
    let end = match ended.run_until_cancelled(spliced).await {
        Some(SpliceEnd::Finished) => Some(FlowEnd::Finished),
        Some(SpliceEnd::NearFailed(_)) => Some(FlowEnd::ResetByDevice),
        Some(SpliceEnd::FarFailed(_)) => Some(FlowEnd::ResetByDestination),
        None => {
            near.reset();
            far.reset();
            None
        }
    };
    (outcome.carried.bytes_up, outcome.carried.bytes_down) = (passed.up, passed.down);
    outcome.closed_by = passed.ended_first.map(closed_by);
    drop(via);
    end
}

/// Carries a flow of datagrams. `None` if it was cut.
pub(crate) async fn datagrams<A: Asked>(
    dialled: DialledDatagrams,
    asked: A,
    ended: &CancellationToken,
    outcome: &mut Outcome,
) -> Option<FlowEnd> {
    let DialledDatagrams { via, mut far } = dialled;
    (outcome.connection, outcome.relayed_to) = (via.connection(), via.relayed_to());
    let Some(near) = asked.accept_datagrams().await else {
        far.reset();
        return Some(FlowEnd::ResetByDevice);
    };
    let end = exchanged(near, far, ended, outcome).await;
    drop(via);
    end
}

/// Step 5 for datagrams: QUIC cannot be opened, and does not pass where TLS is, so that its clients take TCP (Gateway semantics,
/// 3.2). `None` if it was cut.
async fn looked_at<A: Asked>(
    way: Way<'_>,
    dialled: DialledDatagrams,
    asked: A,
    ended: &CancellationToken,
    outcome: &mut Outcome,
) -> Option<FlowEnd> {
    let DialledDatagrams { via, mut far } = dialled;
    (outcome.connection, outcome.relayed_to) = (via.connection(), via.relayed_to());
    let Some(mut near) = asked.accept_datagrams().await else {
        far.reset();
        return Some(FlowEnd::ResetByDevice);
    };
    let first = match ended.run_until_cancelled(look_ahead(&mut near.receiver)).await {
        Some(Some(first)) => first,
        gone => {
            near.reset();
            far.reset();
            return gone.map(|_| FlowEnd::ResetByDevice);
        }
    };
    let treatment = way.shared.snapshots.current().treatment(way.facts, &first);
    outcome.inspection = Some(inspection::record(treatment, &first));
    let end = match treatment {
        Treatment::Pass(_) => exchanged(near, far, ended, outcome).await,
        Treatment::Refuse | Treatment::OpenTls | Treatment::ReadHttp => {
            far.reset();
            turn_away(&mut near, Refusal::Blocked).await;
            Some(FlowEnd::Refused(Refusal::Blocked))
        }
    };
    drop(via);
    end
}

/// Passes datagrams both ways. `None` if the flow was cut.
async fn exchanged<R: ReadChunk, W: WriteChunk>(
    mut near: DatagramFlow<R, W>,
    mut far: FarDatagrams,
    ended: &CancellationToken,
    outcome: &mut Outcome,
) -> Option<FlowEnd> {
    let exchanging = exchange(
        (&mut near.receiver, &mut near.sender),
        (&mut far.receiver, &mut far.sender),
        DATAGRAM_IDLE,
        &mut outcome.carried,
    );
    let exchanged = ended.run_until_cancelled(exchanging).await;
    outcome.closed_by = matches!(exchanged, Some(ExchangeEnd::Idle)).then_some(ClosedBy::Idle);
    match exchanged {
        Some(ExchangeEnd::Finished | ExchangeEnd::Idle) => Some(FlowEnd::Finished),
        Some(ExchangeEnd::NearFailed(_)) => Some(FlowEnd::ResetByDevice),
        Some(ExchangeEnd::FarFailed(_)) => Some(FlowEnd::ResetByDestination),
        None => {
            near.reset();
            far.reset();
            None
        }
    }
}

fn closed_by(side: Side) -> ClosedBy {
    match side {
        Side::Near => ClosedBy::Client,
        Side::Far => ClosedBy::Origin,
    }
}

fn end_of(cut: Cut) -> FlowEnd {
    match cut {
        Cut::Revoked => FlowEnd::Revoked,
        Cut::Superseded => FlowEnd::ResetByDevice,
        Cut::EdgeStopping => FlowEnd::EdgeStopping,
    }
}
