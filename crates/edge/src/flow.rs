//! The life of one flow, in the design's order and words: decide, route, dial, splice, record.
//!
//! Every way in ends here with the same value, a [`Flow`]: facts, a stream not yet accepted, and a way to refuse it.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use adit_model::{ConnectionId, FlowEnd, FlowFacts, FlowId, FlowRecord, Refusal};
use adit_policy::{Decision, Permit};
use adit_transport::splice::{Passed, SpliceEnd, splice};
use adit_transport::{Duplex, ReadChunk, WriteChunk};
use uuid::Uuid;

use crate::Shared;
use crate::dial::{Dialled, NotDialled, dial};
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
    fn accept(self) -> Option<Duplex<Self::Reader, Self::Writer>>;

    /// Tells it why there is no flow.
    fn refuse(self, refusal: Refusal, detail: &str);
}

/// What became of a flow, for its record.
#[derive(Default)]
struct Outcome {
    permit: Option<Permit>,
    connection: Option<ConnectionId>,
    passed: Passed,
}

/// Carries one flow from its request to its record.
pub(crate) async fn carry<A: Asked>(shared: Arc<Shared>, flow: Flow<A>) {
    let id = FlowId::from_uuid(Uuid::new_v4());
    let (began, clock) = (SystemTime::now(), Instant::now());
    shared.metrics.flow_began();
    let Flow { facts, user, session, asked } = flow;
    // Step 4, decide, and step 6, route.
    let snapshot = shared.snapshots.current();
    let decision = snapshot.decide(&facts);
    let number = snapshot.number();
    drop(snapshot);
    let mut outcome = Outcome::default();
    let (end, rule) = match decision {
        Decision::Refused { refusal, rule } => {
            asked.refuse(refusal, "");
            (FlowEnd::Refused(refusal), rule)
        }
        Decision::Permitted(permit) => {
            outcome.permit = Some(permit);
            (permitted(&shared, &facts, id, &session, permit, asked, &mut outcome).await, permit.rule)
        }
    };
    // Step 8, record.
    let recorded = shared.records.flow(FlowRecord {
        flow: id,
        account: facts.account,
        registration: facts.registration,
        device: facts.device,
        user: user.to_string(),
        protocol: facts.protocol,
        destination: facts.destination,
        snapshot: number,
        rule,
        route: outcome.permit.map(|permit| permit.route),
        tunnel: outcome.permit.map(|permit| permit.tunnel),
        connection: outcome.connection,
        bytes_up: outcome.passed.up,
        bytes_down: outcome.passed.down,
        began,
        lasted: clock.elapsed(),
        end,
    });
    shared.metrics.flow_ended(end, outcome.passed.up, outcome.passed.down, recorded);
}

async fn permitted<A: Asked>(
    shared: &Shared,
    facts: &FlowFacts,
    id: FlowId,
    session: &Session,
    permit: Permit,
    asked: A,
    outcome: &mut Outcome,
) -> FlowEnd {
    let ended = session.flow_token();
    // Step 7, dial.
    let dialling = dial(shared, permit.tunnel, id, facts.destination);
    let Some(dialled) = ended.run_until_cancelled(dialling).await else {
        asked.refuse(Refusal::Revoked, "");
        return end_of(session.why());
    };
    let Dialled { connection, stream: mut far, guard } = match dialled {
        Ok(dialled) => dialled,
        Err(NotDialled { refusal, connection, detail }) => {
            outcome.connection = connection;
            tracing::info!(flow = %id, refusal = refusal.as_str(), detail, "dial failed");
            asked.refuse(refusal, &detail);
            return FlowEnd::Refused(refusal);
        }
    };
    outcome.connection = Some(connection.id);
    let Some(mut near) = asked.accept() else {
        far.reset();
        return FlowEnd::ResetByDevice;
    };
    let spliced = splice(&mut near, &mut far, connection.half_close, &mut outcome.passed);
    let end = match ended.run_until_cancelled(spliced).await {
        Some(SpliceEnd::Finished) => FlowEnd::Finished,
        Some(SpliceEnd::NearFailed(_)) => FlowEnd::ResetByDevice,
        Some(SpliceEnd::FarFailed(_)) => FlowEnd::ResetByDestination,
        None => {
            near.reset();
            far.reset();
            end_of(session.why())
        }
    };
    drop(guard);
    end
}

fn end_of(cut: Cut) -> FlowEnd {
    match cut {
        Cut::Revoked => FlowEnd::Revoked,
        Cut::Superseded => FlowEnd::ResetByDevice,
        Cut::EdgeStopping => FlowEnd::EdgeStopping,
    }
}
