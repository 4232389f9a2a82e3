//! The life of one flow, in the design's order and words: decide, route, dial, carry, record.
//!
//! Every way in ends here with the same value, a [`Flow`]: facts, a stream not yet accepted, and a way to refuse it. A TCP
//! flow is spliced; a flow of datagrams, UDP or ICMP, is exchanged packet by packet, and ends when it is idle.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use adit_model::{
    ConnectionId, FirstBytes, FlowEnd, FlowFacts, FlowId, FlowRecord, InspectionRecord, NodeId, Protocol,
    Refusal, RuleId,
};
use adit_policy::{Decision, Known, Permit, Snapshot, Treatment};
use adit_transport::datagram::{DatagramFlow, ExchangeEnd, Exchanged, exchange};
use adit_transport::splice::{Passed, SpliceEnd, splice};
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
    connection: Option<ConnectionId>,
    relayed_to: Option<NodeId>,
    pub(crate) carried: Exchanged,
    inspection: Option<InspectionRecord>,
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
    let way = Way {
        shared: &shared,
        facts: &facts,
        session: &session,
        id,
        snapshot: number,
        looks: snapshot.looks_into_flows(facts.account),
    };
    let (end, rule) = decided(way, snapshot, asked, &mut outcome).await;
    // Step 8, record.
    let dialled = outcome.permit.map(|permit| permit.destination);
    let recorded = shared.records.flow(FlowRecord {
        flow: id,
        account: facts.account,
        registration: facts.registration,
        device: facts.device,
        user: user.to_string(),
        protocol: facts.protocol,
        destination: facts.destination,
        overridden_by: dialled.filter(|dialled| *dialled != facts.destination),
        snapshot: number,
        rule,
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
    });
    shared.metrics.flow_ended(end, outcome.carried.bytes_up, outcome.carried.bytes_down, recorded);
}

/// A flow and its way.
#[derive(Clone, Copy)]
struct Way<'a> {
    shared: &'a Arc<Shared>,
    facts: &'a FlowFacts,
    session: &'a Session,
    id: FlowId,
    /// The number of the snapshot that decides.
    snapshot: u64,
    /// Whether its bytes are looked into.
    looks: bool,
}

/// Step 4, decide, and step 6, route: by one snapshot, whatever changes meanwhile. How the flow ended, and by which rule.
async fn decided<A: Asked>(
    way: Way<'_>,
    snapshot: Arc<Snapshot>,
    asked: A,
    outcome: &mut Outcome,
) -> (FlowEnd, Option<RuleId>) {
    if way.shared.freshness.is_stale() {
        asked.refuse(Refusal::Stale, "").await;
        return (FlowEnd::Refused(Refusal::Stale), None);
    }
    let decision = snapshot.decide(way.facts, Known::Opening);
    if decision != Decision::AwaitsFirstBytes {
        drop(snapshot);
        return carried_out(way, decision, None, asked, outcome).await;
    }
    let cut = way.session.flow_token();
    // Boxed: a flow that is held is rare, and its future would make every flow's as large.
    match way.facts.protocol {
        Protocol::Tcp => match cut.run_until_cancelled(hold(asked)).await {
            Some(Some((first, held))) => {
                let decision = snapshot.decide(way.facts, Known::FirstBytes(&first));
                drop(snapshot);
                Box::pin(carried_out(way, decision, Some(first), held, outcome)).await
            }
            Some(None) => (FlowEnd::ResetByDevice, None),
            None => (end_of(way.session.why()), None),
        },
        Protocol::Udp => match cut.run_until_cancelled(hold_datagrams(asked)).await {
            Some(Some((first, held))) => {
                let decision = snapshot.decide(way.facts, Known::FirstBytes(&first));
                drop(snapshot);
                Box::pin(carried_out(way, decision, Some(first), held, outcome)).await
            }
            Some(None) => (FlowEnd::ResetByDevice, None),
            None => (end_of(way.session.why()), None),
        },
        Protocol::Icmp => {
            // Nothing is recognised in an echo.
            let decision = snapshot.decide(way.facts, Known::FirstBytes(&FirstBytes::default()));
            drop(snapshot);
            carried_out(way, decision, None, asked, outcome).await
        }
    }
}

async fn carried_out<A: Asked>(
    way: Way<'_>,
    decision: Decision,
    first: Option<FirstBytes>,
    asked: A,
    outcome: &mut Outcome,
) -> (FlowEnd, Option<RuleId>) {
    match decision {
        Decision::Permitted(permit) => {
            outcome.permit = Some(permit);
            permitted(way, permit, first, asked, outcome).await
        }
        Decision::Refused { refusal, rule } => {
            asked.refuse(refusal, "").await;
            (FlowEnd::Refused(refusal), rule)
        }
        Decision::AwaitsFirstBytes => {
            asked.refuse(Refusal::Blocked, "").await;
            (FlowEnd::Refused(Refusal::Blocked), None)
        }
    }
}

/// Steps 5 and 7, until the flow ends or is cut: how, and by which rule.
async fn permitted<A: Asked>(
    way: Way<'_>,
    permit: Permit,
    first: Option<FirstBytes>,
    asked: A,
    outcome: &mut Outcome,
) -> (FlowEnd, Option<RuleId>) {
    let ended = way.session.flow_token();
    let open = way.shared.open_flows.begin(way.id, way.facts, first, ended.clone());
    match dialled_and_carried(way, permit, &ended, asked, outcome).await {
        Some(end) => (end, permit.rule),
        None => match open.flow.cut_by() {
            Some(rule) => (FlowEnd::CutByRule, Some(rule)),
            None => (end_of(way.session.why()), permit.rule),
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
        flow: way.id,
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
        Some(Ok(dialled)) => Ok((dialled, asked)),
        Some(Err(NotDialled { refusal, connection, relayed_to, detail })) => {
            (outcome.connection, outcome.relayed_to) = (connection, relayed_to);
            tracing::info!(flow = %way.id, refusal = refusal.as_str(), detail, "dial failed");
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
    let looked = Looked { shared: way.shared, facts: way.facts, id: way.id, destination: permit.destination };
    let mut inspected = Inspected::default();
    let end = inspection::carry(looked, near, dialled, ended, &mut inspected).await;
    (outcome.carried.bytes_up, outcome.carried.bytes_down) = (inspected.passed.up, inspected.passed.down);
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
    let end = exchanged(near, far, ended, &mut outcome.carried).await;
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
    outcome.inspection = first.protocol.map(|_| inspection::record(treatment, &first));
    let end = match treatment {
        Treatment::Pass(_) => exchanged(near, far, ended, &mut outcome.carried).await,
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
    carried: &mut Exchanged,
) -> Option<FlowEnd> {
    let exchanging = exchange(
        (&mut near.receiver, &mut near.sender),
        (&mut far.receiver, &mut far.sender),
        DATAGRAM_IDLE,
        carried,
    );
    match ended.run_until_cancelled(exchanging).await {
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

fn end_of(cut: Cut) -> FlowEnd {
    match cut {
        Cut::Revoked => FlowEnd::Revoked,
        Cut::Superseded => FlowEnd::ResetByDevice,
        Cut::EdgeStopping => FlowEnd::EdgeStopping,
    }
}
