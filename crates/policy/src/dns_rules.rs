//! The walks over the rules of the filters `dns` and `dns_resolver` (Gateway semantics, 4.3).
//!
//! A query is asked about twice: by what it says before it is resolved ([`Snapshot::query_verdict`]), and, if no rule has
//! decided by then, by what the answer says too ([`Snapshot::answer_verdict`]). In between, one rule may choose who resolves it
//! ([`Snapshot::resolver`]). What holds: a rule belongs to the first walk if all that it asks is known by then, and else to the
//! second; a rule that cannot be read is never passed over, so that nothing is resolved that it might have blocked. How an
//! answer looks is not said here.

use std::net::IpAddr;

use adit_model::{Action, AnswerFacts, DnsResolvers, Filter, QueryFacts, Rule};

use crate::dns_facts::{AnswerRoom, QueryRoom, of_query};
use crate::network_rules::Walk;
use crate::rule::CompiledRule;
use crate::safe_search::safe_host;
use crate::scheme::dns_phase;
use crate::snapshot::Snapshot;

/// What the rules say of a query before it is resolved.
#[derive(Debug, Clone, Copy)]
pub enum QueryVerdict<'s> {
    /// Nothing: it is resolved, and rules on the answer are asked then.
    Unmatched,
    /// It is resolved, and no other rule is asked.
    Allow(&'s Rule),
    /// It is answered as blocked.
    Block(&'s Rule),
    /// It is answered with these addresses.
    Addresses(&'s Rule, &'s [IpAddr]),
    /// It is answered with what this name stands for, which is resolved without asking rules again.
    Host(&'s Rule, &'s str),
}

/// Who resolves a query.
#[derive(Debug, Clone, Copy)]
pub enum Resolver<'s> {
    /// The installation's own resolvers; because of this rule, if one says so.
    Own(Option<&'s Rule>),
    /// These and no others.
    Given(&'s Rule, &'s DnsResolvers),
    /// Nobody: this rule cannot be read, or says nothing that can be done.
    Nobody(&'s Rule),
}

/// What the rules say of an answer.
#[derive(Debug, Clone, Copy)]
pub enum AnswerVerdict<'s> {
    /// It is passed on, because of this rule if one says so.
    Allow(Option<&'s Rule>),
    /// It is replaced by that of a blocked name.
    Block(&'s Rule),
}

impl Snapshot {
    /// The first walk: the rules that ask nothing of the answer.
    pub fn query_verdict(&self, query: &QueryFacts<'_>) -> QueryVerdict<'_> {
        if self.rules(query.account, Filter::Dns).is_empty() {
            return QueryVerdict::Unmatched;
        }
        let room = QueryRoom::new(query);
        match self.walk(
            self.dns_rules(query, |phase| phase == dns_phase::QUERY),
            dns_phase::QUERY,
            &of_query(query, &room, None),
        ) {
            // Nothing that is asked here comes later.
            Walk::Unmatched | Walk::Later => QueryVerdict::Unmatched,
            Walk::Matched(rule) => carried_out(&rule.rule, query.name),
            Walk::Unreadable(rule) => QueryVerdict::Block(&rule.rule),
        }
    }

    /// The rules that choose a resolver.
    pub fn resolver(&self, query: &QueryFacts<'_>) -> Resolver<'_> {
        let rules = self.rules(query.account, Filter::DnsResolver);
        if rules.is_empty() {
            return Resolver::Own(None);
        }
        let room = QueryRoom::new(query);
        let rules = rules.iter().map(|rule| &**rule).filter(|rule| rule.is_in_force(query.at_micros));
        match self.walk(rules, dns_phase::QUERY, &of_query(query, &room, None)) {
            Walk::Unmatched | Walk::Later => Resolver::Own(None),
            Walk::Unreadable(rule) => Resolver::Nobody(&rule.rule),
            Walk::Matched(rule) => match &rule.rule.settings {
                settings if settings.resolve_dns_through_cloudflare => Resolver::Own(Some(&rule.rule)),
                settings => match &settings.dns_resolvers {
                    Some(resolvers) if !(resolvers.ipv4.is_empty() && resolvers.ipv6.is_empty()) => {
                        Resolver::Given(&rule.rule, resolvers)
                    }
                    Some(_) | None => Resolver::Nobody(&rule.rule),
                },
            },
        }
    }

    /// The second walk: the rules that ask something of the answer. Only for queries of which the first said nothing.
    pub fn answer_verdict(&self, query: &QueryFacts<'_>, answer: &AnswerFacts) -> AnswerVerdict<'_> {
        if !self.rules(query.account, Filter::Dns).iter().any(|rule| rule.phase > dns_phase::QUERY) {
            return AnswerVerdict::Allow(None);
        }
        let (room, answered) = (QueryRoom::new(query), AnswerRoom::new(answer));
        let facts = of_query(query, &room, Some(&answered));
        match self.walk(self.dns_rules(query, |phase| phase > dns_phase::QUERY), dns_phase::ANSWER, &facts) {
            Walk::Unmatched | Walk::Later => AnswerVerdict::Allow(None),
            Walk::Matched(rule) if rule.rule.action == Action::Allow => {
                AnswerVerdict::Allow(Some(&rule.rule))
            }
            Walk::Matched(rule) | Walk::Unreadable(rule) => AnswerVerdict::Block(&rule.rule),
        }
    }

    fn dns_rules<'s>(
        &'s self,
        query: &QueryFacts<'_>,
        belongs: impl Fn(adit_expr::Phase) -> bool + 's,
    ) -> impl Iterator<Item = &'s CompiledRule> {
        let (rules, at) =
            (self.rules(query.account, Filter::Dns).iter().map(|rule| &**rule), query.at_micros);
        rules.filter(move |rule| belongs(rule.phase) && rule.is_in_force(at))
    }
}

/// Does what the rule says. An action that means nothing here is refused where rules are written; if one is here all the
/// same, nothing passes by it.
fn carried_out<'s>(rule: &'s Rule, name: &str) -> QueryVerdict<'s> {
    let settings = &rule.settings;
    match rule.action {
        Action::Allow => QueryVerdict::Allow(rule),
        Action::Override if !settings.override_ips.is_empty() => {
            QueryVerdict::Addresses(rule, &settings.override_ips)
        }
        Action::Override if !settings.override_host.is_empty() => {
            QueryVerdict::Host(rule, &settings.override_host)
        }
        // A name that no provider of this kind has is what it is.
        Action::Safesearch | Action::Ytrestricted => match safe_host(rule.action, name) {
            Some(host) => QueryVerdict::Host(rule, host),
            None => QueryVerdict::Allow(rule),
        },
        Action::Block
        | Action::Override
        | Action::Off
        | Action::On
        | Action::Noscan
        | Action::Redirect
        | Action::L4Override
        | Action::Egress
        | Action::Resolve => QueryVerdict::Block(rule),
    }
}
