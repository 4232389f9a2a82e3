//! The life of one query, in the design's order: decide by what is asked, resolve, decide by what is answered, record.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use adit_model::{
    DecidingRule, DnsDecision, DnsProtocol, DnsRecord, FlowId, HostnameRoute, LocationTtl, QueryFacts, Rule,
    RuleId,
};
use adit_policy::{AnswerVerdict, QueryVerdict, Resolver, Snapshot};
use adit_wire::dns::hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use adit_wire::dns::hickory_proto::rr::{Name, RecordType};
use adit_wire::dns::{ExtendedError, MAX_DATAGRAM_BYTES, NotResolvable, failure, text};
use uuid::Uuid;

use super::Asker;
use super::cache::Key;
use super::content::{MADE_TTL_SECS, blocked, facts_of, overridden, passed_on, renamed, stood_for};
use super::upstream::{Behalf, Choice, NoAnswer, ask};
use crate::Shared;
use crate::notices;
use crate::synthetic::Family;

/// Answers one query. `None` for what is no query.
pub(crate) async fn answer(shared: &Shared, asker: &Asker, bytes: &[u8]) -> Option<Message> {
    let (began, clock) = (SystemTime::now(), Instant::now());
    let query = match adit_wire::dns::query(bytes) {
        Ok(query) => query,
        Err(NotResolvable::NoQuery) => return None,
        Err(NotResolvable::Answer(answer)) => return Some(*answer),
    };
    let question = query.queries.first()?;
    let snapshot = shared.snapshots.current();
    let asked = Asked {
        shared,
        asker,
        snapshot: &snapshot,
        query: &query,
        name: text(&question.name),
        record_type: mnemonic(question.query_type),
        at_micros: micros(began),
    };
    let mut outcome = Outcome::default();
    let answer = match shared.dns.under_way.take(asker.account) {
        Some(_under_way) => asked.decided(&mut outcome).await,
        None => outcome.refused(&query, ExtendedError::Other, "too many queries at once"),
    };
    let told = facts_of(&answer);
    let (addresses, synthetic) = match outcome.stood_for {
        Some(addresses) => (addresses, told.addresses),
        None => (told.addresses, Vec::new()),
    };
    let registration = asker.registration.as_ref();
    let logging = snapshot.gateway_settings(asker.account).logging;
    let record = DnsRecord {
        id: FlowId::from_uuid(Uuid::new_v4()),
        account: asker.account,
        registration: registration.map(|one| one.id),
        device: registration.map(|one| one.device),
        device_name: registration.map(|one| one.device_name.clone()).unwrap_or_default(),
        user: registration.map(|one| one.user.clone()).or_else(|| asker.user.clone()).unwrap_or_default(),
        source: asker.source,
        protocol: asker.protocol,
        location: asker.location.clone(),
        record_type: question.query_type.into(),
        record_type_name: asked.record_type,
        name: asked.name,
        query_bytes: bytes.len(),
        response_code: answer.metadata.response_code.into(),
        decision: outcome.decision,
        rule: outcome.rule,
        resolver_rule: outcome.resolver_rule,
        custom_resolver: outcome.custom_resolver,
        custom_resolver_took: outcome.custom_resolver_took,
        addresses,
        synthetic,
        cnames: told.cnames,
        upstream_ttls: outcome.upstream_ttls,
        max_ttl: outcome.max_ttl,
        cached: outcome.cached,
        extended_error: outcome.extended_error.map(ExtendedError::code),
        redact: logging.redact_pii,
        snapshot: snapshot.number(),
        began,
        lasted: clock.elapsed(),
    };
    let decision = record.decision;
    let wanted = logging.enabled && logging.dns.wants(decision.blocks());
    shared.metrics.dns_answered(decision, !wanted || shared.records.dns(record));
    Some(answer)
}

/// What the name that an address stands for has as its own address, for a flow of a device. Rules of DNS are not asked again:
/// whether the flow passes, others say.
pub(crate) async fn address_of(
    shared: &Shared,
    asker: &Asker,
    snapshot: &Snapshot,
    name: &str,
    family: Family,
) -> Result<IpAddr, &'static str> {
    let record_type = if family == Family::V4 { RecordType::A } else { RecordType::AAAA };
    let mut asked_for = Name::from_ascii(name).map_err(|_| "the name cannot be asked for")?;
    asked_for.set_fqdn(true);
    let mut query = Message::new(0, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(asked_for.clone(), record_type));
    let asked = Asked {
        shared,
        asker,
        snapshot,
        query: &query,
        name: name.to_owned(),
        record_type: mnemonic(record_type),
        at_micros: micros(SystemTime::now()),
    };
    let _under_way = shared.dns.under_way.take(asker.account).ok_or("too many queries at once")?;
    let found = asked.resolved(&asked_for, name, &mut Outcome::default()).await;
    let mut addresses = facts_of(&found.map_err(|_| "nobody says what the name stands for")?).addresses;
    addresses.retain(|address| family.holds(address));
    // Any of them: whoever tries again reaches another, should this one be dead.
    let (any, _) = Uuid::new_v4().as_u64_pair();
    let at = any.checked_rem(addresses.len() as u64).ok_or("the name has no address of this family")?;
    Ok(addresses[usize::try_from(at).unwrap_or_default()])
}

fn micros(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// What became of a query, for its record.
struct Outcome {
    decision: DnsDecision,
    rule: Option<DecidingRule>,
    resolver_rule: Option<DecidingRule>,
    custom_resolver: Option<std::net::SocketAddr>,
    custom_resolver_took: Option<std::time::Duration>,
    upstream_ttls: Vec<u32>,
    max_ttl: Option<u32>,
    cached: bool,
    extended_error: Option<ExtendedError>,
    /// The addresses for which the answer's stands.
    stood_for: Option<Vec<IpAddr>>,
}

impl Default for Outcome {
    fn default() -> Self {
        Self {
            decision: DnsDecision::Unmatched,
            rule: None,
            resolver_rule: None,
            custom_resolver: None,
            custom_resolver_took: None,
            upstream_ttls: Vec::new(),
            max_ttl: None,
            cached: false,
            extended_error: None,
            stood_for: None,
        }
    }
}

impl Outcome {
    fn by(&mut self, rule: &Rule, decision: DnsDecision) {
        self.rule = Some(deciding(rule));
        self.decision = decision;
    }

    fn refused(&mut self, query: &Message, why: ExtendedError, words: &str) -> Message {
        self.decision = DnsDecision::Refused;
        self.failed(query, why, words)
    }

    fn failed(&mut self, query: &Message, why: ExtendedError, words: &str) -> Message {
        self.extended_error = Some(why);
        failure(query, ResponseCode::ServFail, Some((why, words)))
    }

    fn blocked(&mut self, query: &Message, rule: &Rule, decision: DnsDecision) -> Message {
        self.by(rule, decision);
        self.extended_error = Some(ExtendedError::Filtered);
        blocked(query, rule)
    }
}

fn deciding(rule: &Rule) -> DecidingRule {
    DecidingRule { id: rule.id, name: rule.name.clone() }
}

/// A query, and who asks it.
struct Asked<'a> {
    shared: &'a Shared,
    asker: &'a Asker,
    snapshot: &'a Snapshot,
    query: &'a Message,
    name: String,
    record_type: String,
    at_micros: i64,
}

impl Asked<'_> {
    /// The answer of a name that a rule blocks, of which the device is told if the rule says so.
    fn blocked(&self, rule: &Rule, decision: DnsDecision, outcome: &mut Outcome) -> Message {
        if let Some(device) = &self.asker.registration {
            notices::blocked(self.shared, device.id, rule, &self.name);
        }
        outcome.blocked(self.query, rule, decision)
    }

    fn facts<'f>(&'f self, name: &'f str) -> QueryFacts<'f> {
        QueryFacts {
            account: self.asker.account,
            name,
            record_type: &self.record_type,
            source: self.asker.source.ip(),
            resolver: self.asker.resolver.map(|address| address.ip()),
            location: self.asker.location.as_ref().map(|location| location.id),
            subdomain: self.subdomain(),
            at_micros: self.at_micros,
        }
    }

    /// The first label of the host that was asked over HTTPS.
    fn subdomain(&self) -> Option<&str> {
        let location = self.asker.location.as_ref()?;
        (self.asker.protocol == DnsProtocol::Https).then_some(location.subdomain.as_str())
    }

    /// For how long answers may be kept at most, in seconds.
    fn max_ttl(&self) -> Option<u32> {
        match self.asker.location.as_ref().map(|location| location.max_ttl) {
            None | Some(LocationTtl::Inherit) => {
                self.snapshot.gateway_settings(self.asker.account).max_ttl_secs
            }
            Some(LocationTtl::Seconds(seconds)) => Some(seconds),
            Some(LocationTtl::Unlimited) => None,
        }
    }

    async fn decided(&self, outcome: &mut Outcome) -> Message {
        let query = self.query;
        if self.shared.freshness.is_stale() {
            return outcome.refused(query, ExtendedError::NotReady, "the edge has lost its control plane");
        }
        let facts = self.facts(&self.name);
        match self.snapshot.query_verdict(&facts) {
            QueryVerdict::Block(rule) => self.blocked(rule, DnsDecision::BlockedByQuery, outcome),
            QueryVerdict::Addresses(rule, addresses) => {
                outcome.by(rule, DnsDecision::Overridden);
                overridden(query, addresses)
            }
            QueryVerdict::Host(rule, host) => {
                outcome.by(rule, DnsDecision::Overridden);
                self.renamed(host, outcome).await
            }
            QueryVerdict::Allow(rule) => {
                outcome.by(rule, DnsDecision::Allowed);
                match self.resolved(&self.question().name, &self.name, outcome).await {
                    Ok(found) => self.passed_on(found, outcome),
                    Err(failed) => failed,
                }
            }
            QueryVerdict::Unmatched => {
                let found = match self.resolved(&self.question().name, &self.name, outcome).await {
                    Ok(found) => found,
                    Err(failed) => return failed,
                };
                match self.snapshot.answer_verdict(&facts, &facts_of(&found)) {
                    AnswerVerdict::Block(rule) => self.blocked(rule, DnsDecision::BlockedByAnswer, outcome),
                    AnswerVerdict::Allow(rule) => {
                        if let Some(rule) = rule {
                            outcome.by(rule, DnsDecision::Allowed);
                        }
                        self.passed_on(found, outcome)
                    }
                }
            }
        }
    }

    fn question(&self) -> &Query {
        // A query is read with one question.
        &self.query.queries[0]
    }

    fn passed_on(&self, found: Message, outcome: &mut Outcome) -> Message {
        let found = match self.stood_for(&self.question().name, &self.name, found, outcome) {
            Ok(found) => found,
            Err(words) => return outcome.refused(self.query, ExtendedError::Other, words),
        };
        outcome.upstream_ttls = found.answers.iter().map(|record| record.ttl).take(MAX_TTLS).collect();
        outcome.max_ttl = self.max_ttl();
        passed_on(self.query, &found, outcome.max_ttl)
    }

    /// What is told of a name: what was found of it, or, if it is one of a hostname route and a device asks, what stands for
    /// its addresses (Gateway semantics, 4.5).
    fn stood_for(
        &self,
        name: &Name,
        spelled: &str,
        found: Message,
        outcome: &mut Outcome,
    ) -> Result<Message, &'static str> {
        let Some(device) = self.asker.registration.as_ref().map(|registration| registration.id) else {
            return Ok(found);
        };
        if self.named_route(spelled).is_none() {
            return Ok(found);
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "types of records that hold no addresses")]
        let family = match self.question().query_type {
            RecordType::A => Family::V4,
            RecordType::AAAA => Family::V6,
            RecordType::HTTPS | RecordType::SVCB => return Ok(stood_for(&found, name, None, 0)),
            _ => return Ok(found),
        };
        let mut addresses = facts_of(&found).addresses;
        addresses.retain(|address| family.holds(address));
        let ttl = found.answers.iter().map(|record| record.ttl).min().unwrap_or_default().min(MADE_TTL_SECS);
        let lasts = Duration::from_secs(ttl.into());
        let mut instead = None;
        if !addresses.is_empty() {
            instead = self.shared.synthetic.stand_in(device, spelled, family, lasts, Instant::now());
            if instead.is_none() {
                return Err(
                    "the device has asked for too many names of hostname routes: ask again in five minutes",
                );
            }
        }
        outcome.stood_for = Some(addresses);
        Ok(stood_for(&found, name, instead, ttl))
    }

    /// What another name stands for, by whom resolver rules say for it.
    async fn renamed(&self, host: &str, outcome: &mut Outcome) -> Message {
        let name = Name::from_ascii(host).ok().map(|mut name| {
            name.set_fqdn(true);
            name
        });
        let Some(name) = name else {
            return outcome.failed(self.query, ExtendedError::Other, "the rule's host is no name");
        };
        let spelled = text(&name);
        let told = match self.resolved(&name, &spelled, outcome).await {
            Ok(found) => self.stood_for(&name, &spelled, found, outcome),
            Err(failed) => return failed,
        };
        match told {
            Ok(told) => renamed(self.query, &name, &told),
            Err(words) => outcome.refused(self.query, ExtendedError::Other, words),
        }
    }

    /// The hostname route of a name, for a device that can be carried there.
    fn named_route(&self, name: &str) -> Option<&HostnameRoute> {
        self.asker.registration.as_ref()?;
        self.snapshot.hostname_route(self.asker.account, name)
    }

    /// What a resolver says of a name, now or a while ago; or the answer that says that none does.
    async fn resolved(&self, name: &Name, spelled: &str, outcome: &mut Outcome) -> Result<Message, Message> {
        let (choice, rule) = match self.snapshot.resolver(&self.facts(spelled)) {
            // Whoever is behind the tunnel knows its names, unless a rule says who does.
            Resolver::Own(None) => match self.named_route(spelled) {
                Some(route) => (Choice::of_tunnel(route.account, route.tunnel), None),
                None => (Choice::Own, None),
            },
            Resolver::Own(rule) => (Choice::Own, rule),
            Resolver::Given(rule, given) => {
                (Choice::given(self.snapshot, self.asker.account, given), Some(rule))
            }
            Resolver::Nobody(rule) => {
                outcome.resolver_rule = Some(deciding(rule));
                return Err(outcome.failed(
                    self.query,
                    ExtendedError::Other,
                    "the resolver rule cannot be read",
                ));
            }
        };
        outcome.resolver_rule = rule.map(deciding);
        let signed = self.query.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        let key = Key {
            name: spelled.to_owned(),
            record_type: self.question().query_type,
            flags: (signed, self.query.metadata.checking_disabled),
            choice,
        };
        let cache = &self.shared.dns.cache;
        if let Some(kept) = cache.lock().unwrap_or_else(PoisonError::into_inner).get(&key, Instant::now()) {
            outcome.cached = true;
            return Ok(kept);
        }
        let asking = self.asking(name, signed);
        let asked = self.ask(&key.choice, rule.map(|rule| rule.id), &asking, outcome).await;
        let (found, bytes) = asked.map_err(|error| {
            let why = match error {
                NoAnswer::Silent { .. } | NoAnswer::NoResolver => ExtendedError::NoReachableAuthority,
                NoAnswer::Unreachable { .. } | NoAnswer::Private { .. } => ExtendedError::NetworkError,
            };
            outcome.failed(self.query, why, &error.to_string())
        })?;
        cache.lock().unwrap_or_else(PoisonError::into_inner).put(key, &found, bytes, Instant::now());
        Ok(found)
    }

    async fn ask(
        &self,
        choice: &Choice,
        rule: Option<RuleId>,
        asking: &Message,
        outcome: &mut Outcome,
    ) -> Result<(Message, usize), NoAnswer> {
        let behalf = Behalf {
            snapshot: self.snapshot,
            account: self.asker.account,
            rule,
            source: self.asker.source.ip().to_canonical(),
        };
        let clock = Instant::now();
        let asked = ask(self.shared, behalf, choice, asking).await;
        if rule.is_some() {
            outcome.custom_resolver_took = Some(clock.elapsed());
            outcome.custom_resolver = match &asked {
                Ok(answered) => Some(answered.by),
                Err(error) => error.address(),
            };
        }
        asked.map(|answered| (answered.message, answered.bytes))
    }

    /// The query that a resolver is asked: with a number of its own, and nothing of the asker but what it asks.
    fn asking(&self, name: &Name, signed: bool) -> Message {
        let (id, _) = Uuid::new_v4().as_u64_pair();
        #[expect(clippy::cast_possible_truncation, reason = "the low bits are as random as the others")]
        let mut asking = Message::new(id as u16, MessageType::Query, OpCode::Query);
        asking.metadata.recursion_desired = true;
        asking.metadata.authentic_data = true;
        asking.metadata.checking_disabled = self.query.metadata.checking_disabled;
        asking.add_query(Query::query(name.clone(), self.question().query_type));
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_DATAGRAM_BYTES).set_dnssec_ok(signed);
        asking.set_edns(edns);
        asking
    }
}

/// `A`, `AAAA`, or for a type without a name `TYPE65280` (RFC 3597, 5).
fn mnemonic(record_type: RecordType) -> String {
    if let RecordType::Unknown(number) = record_type {
        format!("TYPE{number}")
    } else {
        record_type.to_string()
    }
}

/// Times to live that are recorded.
const MAX_TTLS: usize = 32;
