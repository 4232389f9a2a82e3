//! Which recorded flows a change of rules and lists would decide otherwise: `A/x/policy/plan`.
//!
//! The change is what a batch would do (`A/x/batch`), of rules and lists only. It is carried out in a transaction, by the
//! handlers and checks of single operations, looked at, and undone. Recorded flows are then decided twice, by the code
//! that edges decide by: as things are, and as they would be. What holds: nothing is changed; what a record does not say
//! is told and never guessed; the work is bounded, and a part is said to be one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit_model::{AccountId, ChangeBatch, Dataset, Filter, FirstBytes, FlowFacts, Named, Protocol, Refusal};
use adit_policy::{Decision, Known, PassReason, Snapshot, State, Treatment};
use adit_store::{Direction, RecordRow, RecordWindow};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::answer::{Kind, object};
use super::batch;
use super::body::Family;
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::Operation;
use super::{Call, shape};
use crate::permission::{Area, Level};

/// Records that are looked at, the newest first.
const MAX_RECORDS: usize = 50_000;
/// Records that are read at a time.
const AT_ONCE: u32 = 1000;
/// Groups that are told of, those with the most flows first.
const MAX_GROUPS: usize = 200;
/// Groups that are kept while counting.
const MAX_COUNTED: usize = 20_000;
/// Flows of a group that are named.
const EXAMPLES: usize = 3;
/// How far back records are looked at, if nothing is said.
const DEFAULT_SINCE: Duration = Duration::from_hours(7 * 24);

pub(super) const OPERATIONS: &[Operation] = &[Operation::post(
    "/accounts/{account}/x/policy/plan",
    "Tell which recorded flows a change of rules and lists would decide otherwise",
    |call| Box::pin(plan(call)),
)
.needs(Area::ZeroTrust, Level::Write)
.body(
    Family::Network,
    &[
        Field::required(
            "operations",
            "an array of {method, path, body}",
            Shape::Told(batch::operations_schema),
        ),
        Field::optional("since", Shape::Time),
    ],
)
.answers(PLAN)];

const PLAN: Kind = Kind::Object("PolicyPlan", PLAN_FIELDS, &[]);
const GROUP: Kind = Kind::Object("PolicyPlanGroup", GROUP_FIELDS, &[]);
const OUTCOME: Kind = Kind::Object("PolicyPlanOutcome", OUTCOME_FIELDS, &[]);
const MAYBE: Kind = Kind::Maybe(&Kind::Text);

object! {
    PLAN_FIELDS = plan_object(since: OffsetDateTime, counted: &Counted, groups: Vec<Value>) [
        "since": Kind::Time => shape::time(since),
        "looked_at": Kind::Number => counted.looked_at,
        "different": Kind::Number => counted.different,
        "unknown": Kind::Map(&Kind::Number) => counted.unknown,
        "complete": Kind::Flag => counted.complete,
        "messages": Kind::Many(&Kind::Text) => counted.messages(groups.len()),
        "groups": Kind::Many(&GROUP) => groups,
    ]
}

object! {
    GROUP_FIELDS = group_object(group: &Group, counted: &Tally) [
        "before": OUTCOME => outcome_object(&group.before),
        "after": OUTCOME => outcome_object(&group.after),
        "device_id": MAYBE => group.device,
        "device_name": MAYBE => counted.device_name,
        "destination_ip": Kind::Text => group.destination.ip().to_string(),
        "destination_port": Kind::Number => group.destination.port(),
        "protocol": Kind::Text => group.protocol,
        "count": Kind::Number => counted.count,
        "examples": Kind::Many(&Kind::Map(&Kind::Text)) => counted.examples,
    ]
}

object! {
    OUTCOME_FIELDS = outcome_object(outcome: &Outcome) [
        "effect": Kind::Text => outcome.effect,
        "rule_id": MAYBE => outcome.rule.as_ref().map(|(id, _)| id),
        "rule_name": MAYBE => outcome.rule.as_ref().map(|(_, name)| name),
    ]
}

/// What becomes of a flow, and by which rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Outcome {
    effect: String,
    rule: Option<(String, String)>,
}

/// Flows that are decided otherwise in the same way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    before: Outcome,
    after: Outcome,
    device: Option<String>,
    destination: SocketAddr,
    protocol: &'static str,
}

#[derive(Debug, Default)]
struct Tally {
    count: u64,
    device_name: Option<String>,
    examples: Vec<Value>,
}

#[derive(Debug, Default)]
struct Counted {
    looked_at: u64,
    different: u64,
    unknown: BTreeMap<&'static str, u64>,
    complete: bool,
    omitted: u64,
    groups: BTreeMap<Group, Tally>,
}

impl Counted {
    fn messages(&self, told: usize) -> Vec<String> {
        let mut messages = Vec::new();
        if !self.complete {
            messages.push(format!(
                "only the newest {} records were looked at: a later since looks at fewer days",
                self.looked_at
            ));
        }
        let more = self.groups.len().saturating_sub(told);
        if more > 0 || self.omitted > 0 {
            messages.push(format!(
                "{more} groups with fewer flows, and {} flows of others, are not told of",
                self.omitted
            ));
        }
        messages.push(
            "requests inside of TLS that is opened are not compared: only flows and whether they are opened"
                .into(),
        );
        messages
    }

    fn add(&mut self, group: Group, record: &RecordRow, name: Option<String>) {
        self.different += 1;
        if self.groups.len() >= MAX_COUNTED && !self.groups.contains_key(&group) {
            self.omitted += 1;
            return;
        }
        let tally = self.groups.entry(group).or_default();
        tally.count += 1;
        tally.device_name = tally.device_name.take().or(name);
        if tally.examples.len() < EXAMPLES {
            let text =
                |name: &str| record.fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            tally.examples.push(json!({ "session_id": text("SessionID"), "at": text("SessionStartTime") }));
        }
    }
}

async fn plan(call: &Call<'_>) -> Result<Reply, ApiError> {
    call.need(Area::AuditLogs, Level::Read)?;
    let fields = call.fields(Family::Network)?;
    let operations = batch::read(call, &fields)?;
    for (index, operation) in operations.iter().enumerate() {
        let about = ["/gateway/rules", "/gateway/lists"].iter().any(|path| operation.path.contains(path));
        if !about {
            let message = format!("operation {index}: path: expected a rule or a list");
            return Err(Family::Network.invalid(&message).at(format!("/operations/{index}/path")));
        }
    }
    let since = fields.time("since")?.unwrap_or_else(|| OffsetDateTime::now_utc() - DEFAULT_SINCE);
    let (before, after) = states(call, operations).await?;
    let snapshots = tokio::task::spawn_blocking(move || [before, after].map(snapshot)).await;
    let [before, after] = snapshots.map_err(|error| ApiError::internal(&error))?;
    let counted = count(call, since, &before, &after).await?;
    let mut groups: Vec<(&Group, &Tally)> = counted.groups.iter().collect();
    let other_effect = |group: &Group| group.before.effect != group.after.effect;
    groups.sort_by_key(|(group, tally)| (!other_effect(group), std::cmp::Reverse(tally.count)));
    groups.truncate(MAX_GROUPS);
    let groups = groups.into_iter().map(|(group, tally)| group_object(group, tally)).collect();
    Ok(Reply::One(plan_object(since, &counted, groups)))
}

/// The state as it is, and as it would be.
async fn states(
    call: &Call<'_>,
    operations: Vec<batch::Operation>,
) -> Result<(ChangeBatch, ChangeBatch), ApiError> {
    let batch = call.control.0.store.begin().await?;
    let before = batch.store().state().await?;
    batch::carry_out(call, &batch, operations).await?;
    let after = batch.store().state().await?;
    // Not committed: nothing of it has happened.
    drop(batch);
    Ok((before, after))
}

fn snapshot(batch: ChangeBatch) -> Arc<Snapshot> {
    let mut state = State::default();
    state.apply(batch);
    state.snapshot()
}

async fn count(
    call: &Call<'_>,
    since: OffsetDateTime,
    before: &Snapshot,
    after: &Snapshot,
) -> Result<Counted, ApiError> {
    let shows_who = call.principal.may(call.account, Area::Pii, Level::Read);
    let mut counted = Counted::default();
    let mut window = RecordWindow {
        since: Some(since),
        before: None,
        direction: Direction::Descending,
        after: None,
        limit: AT_ONCE,
        having: Vec::new(),
    };
    loop {
        let page = call.control.0.store.records().list(call.account, Dataset::Sessions, &window).await?;
        for record in &page {
            counted.looked_at += 1;
            compare(&mut counted, call.account, record, (before, after), shows_who);
        }
        if page.len() < AT_ONCE as usize {
            counted.complete = true;
            return Ok(counted);
        }
        if counted.looked_at >= MAX_RECORDS as u64 {
            return Ok(counted);
        }
        window.after = page.last().map(RecordRow::place);
        // Others have their turn.
        tokio::task::yield_now().await;
    }
}

fn compare(
    counted: &mut Counted,
    account: AccountId,
    record: &RecordRow,
    (before, after): (&Snapshot, &Snapshot),
    shows_who: bool,
) {
    let flow = match Flow::read(account, &record.fields) {
        Ok(flow) => flow,
        Err(unknown) => return *counted.unknown.entry(unknown).or_default() += 1,
    };
    let (Some(old), Some(new)) = (flow.outcome(before), flow.outcome(after)) else {
        return *counted.unknown.entry("what the client said first was not recorded").or_default() += 1;
    };
    if old == new {
        return;
    }
    let text =
        |name: &str| record.fields.get(name).and_then(Value::as_str).map(str::to_owned).filter(|_| shows_who);
    let group = Group {
        before: old,
        after: new,
        device: text("DeviceID"),
        destination: flow.facts.destination,
        protocol: flow.facts.protocol.as_str(),
    };
    counted.add(group, record, text("DeviceName"));
}

/// A recorded flow.
struct Flow {
    facts: FlowFacts,
    /// What the client said first, if that is known.
    first: Option<FirstBytes>,
}

impl Flow {
    /// Its facts; or what the record does not say.
    fn read(account: AccountId, fields: &Map<String, Value>) -> Result<Self, &'static str> {
        const REDACTED: &str = "the record does not say whose flow it was";
        const DAMAGED: &str = "the record does not say where the flow went";
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        let registration = text("RegistrationID").and_then(|id| id.parse().ok()).ok_or(REDACTED)?;
        let device = text("DeviceID").and_then(|id| id.parse().ok()).ok_or(REDACTED)?;
        let source: IpAddr = text("SourceIP").and_then(|address| address.parse().ok()).ok_or(REDACTED)?;
        let protocol: Protocol = text("Protocol").and_then(|name| name.parse().ok()).ok_or(DAMAGED)?;
        let address: IpAddr =
            text("DestinationIP").and_then(|address| address.parse().ok()).ok_or(DAMAGED)?;
        let port =
            fields.get("DestinationPort").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
        let virtual_network = text("VirtualNetworkID").and_then(|id| id.parse().ok()).ok_or(DAMAGED)?;
        // Rules or inspection waited for it, or nothing is recognised in an echo: then what is not there was not said.
        let was_read = text("DecisionPhase") == Some("N1") || text("Inspection").is_some();
        let first = FirstBytes {
            server_name: text("SNI").map(str::to_owned),
            protocol: text("DetectedProtocol").and_then(known_protocol),
            application_protocols: Vec::new(),
        };
        let named = match (text("ResolvedFQDN"), text("InitialOriginIP").map(str::parse)) {
            (Some(name), Some(Ok(synthetic))) => Some(Named { name: name.to_owned(), synthetic }.into()),
            _ => None,
        };
        let facts = FlowFacts {
            account,
            registration,
            device,
            virtual_network,
            protocol,
            source,
            destination: (address, port.unwrap_or_default()).into(),
            named,
        };
        Ok(Self { facts, first: (was_read || protocol == Protocol::Icmp).then_some(first) })
    }

    /// What becomes of it; none if that depends on what is not known.
    fn outcome(&self, snapshot: &Snapshot) -> Option<Outcome> {
        let facts = &self.facts;
        let mut decision = snapshot.decide(facts, Known::Opening);
        if decision == Decision::AwaitsFirstBytes {
            decision = snapshot.decide(facts, Known::FirstBytes(self.first.as_ref()?));
        }
        let named = |filter, id| {
            let rule = snapshot.rule_name(facts.account, filter, id)?;
            Some((rule.id.to_string(), rule.name))
        };
        match decision {
            Decision::Permitted(permit) => {
                let rule = permit.rule.and_then(|id| named(Filter::L4, id));
                let elsewhere = Some(permit.destination).filter(|dialled| *dialled != facts.destination);
                let effect =
                    elsewhere.map_or_else(|| "allow".to_owned(), |dialled| format!("dial {dialled} instead"));
                let opens =
                    snapshot.gateway_settings(facts.account).tls_decrypt && facts.protocol != Protocol::Icmp;
                if !opens {
                    return Some(Outcome { effect, rule });
                }
                match snapshot.treatment(facts, self.first.as_ref()?) {
                    Treatment::OpenTls => Some(Outcome { effect: effect + ", TLS opened", rule }),
                    Treatment::Refuse => {
                        Some(Outcome { effect: "block: TLS that cannot be opened".into(), rule })
                    }
                    Treatment::Pass(PassReason::Rule(off)) => {
                        let effect = effect + ", TLS passes unopened";
                        Some(Outcome { effect, rule: named(Filter::Http, off) })
                    }
                    Treatment::Pass(_) | Treatment::ReadHttp => Some(Outcome { effect, rule }),
                }
            }
            Decision::Refused { refusal, rule } => {
                let effect = if refusal == Refusal::Blocked { "block" } else { refusal.as_str() };
                Some(Outcome { effect: effect.to_owned(), rule: rule.and_then(|id| named(Filter::L4, id)) })
            }
            Decision::AwaitsFirstBytes => None,
        }
    }
}

/// A protocol by the name that rules know it by, as it is recognised.
fn known_protocol(name: &str) -> Option<&'static str> {
    const KNOWN: [&str; 16] = [
        "quic",
        "http",
        "http2",
        "ssh",
        "tls",
        "dcerpc",
        "mqtt",
        "tpkt",
        "dnp3",
        "imap",
        "pop3",
        "smtp",
        "mysql",
        "ldap",
        "ntp",
        "rsync-daemon",
    ];
    KNOWN.into_iter().find(|known| *known == name)
}
