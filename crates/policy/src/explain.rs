//! Why rules decide as they do: each that is asked, in order, with what made it miss or match.
//!
//! What holds: whether a rule is met is said by the code that decides flows; only the reasons are found by a second look.
//! So the last rule here is the one by which [`Snapshot::decide`] decides.

use adit_expr::{Expression, Facts, Phase};
use adit_model::{AccountId, ExplainedFinding, ExplainedRule, Filter, FirstBytes, FlowFacts};

use crate::facts::{Known, Room, of_flow, of_http};
use crate::http_rules::decides_opening;
use crate::network_rules::Met;
use crate::rule::{CompiledRule, Condition, list_kind};
use crate::scheme::{self, Part, http_phase};
use crate::snapshot::Snapshot;

/// Rules that are told of one by one; of those that missed before the last, the first.
const MAX_TOLD: usize = 200;

/// The rules that were asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// In their order; the last is the one that decided, if one did.
    pub rules: Vec<ExplainedRule>,
    /// Rules before the last that missed and are not told of.
    pub omitted: usize,
}

impl Snapshot {
    /// The rules of the filter `l4` as they are asked about a flow, up to the one that decides.
    pub fn explain_network(&self, flow: &FlowFacts, known: Known<'_>) -> Asked {
        let room = Room::new(flow, known, self.gateway_settings(flow.account).inspection);
        let facts = of_flow(flow, known, &room);
        let rules = self.rules(flow.account, Filter::L4).iter().map(|rule| &**rule);
        self.explain(flow.account, rules, known.phase(), &facts)
    }

    /// The rules that decide whether a flow's TLS is opened.
    pub fn explain_opening(&self, flow: &FlowFacts, first: &FirstBytes) -> Asked {
        let room = Room::with_name(flow, first.server_name.as_deref());
        let facts = of_http(&room, None);
        let rules = self.rules(flow.account, Filter::Http).iter().map(|rule| &**rule);
        let rules = rules.filter(|rule| decides_opening(&rule.rule));
        self.explain(flow.account, rules, http_phase::HELLO, &facts)
    }

    fn explain<'s>(
        &self,
        account: AccountId,
        rules: impl Iterator<Item = &'s CompiledRule>,
        phase: Phase,
        facts: &Facts<'_>,
    ) -> Asked {
        let mut asked = Asked::default();
        for rule in rules {
            let met = rule.rule.enabled.then(|| self.meets(rule, phase, facts));
            let decides = !matches!(met, None | Some(Met::No));
            if !decides && asked.rules.len() >= MAX_TOLD {
                asked.omitted += 1;
                continue;
            }
            let (outcome, wanted) = match met {
                None => ("disabled", None),
                Some(Met::No) => ("missed", Some(Some(false))),
                Some(Met::Yes) => ("matched", Some(Some(true))),
                Some(Met::Later) => ("waits", Some(None)),
                Some(Met::Unreadable) => ("unreadable", None),
            };
            let because =
                wanted.map(|wanted| self.findings(account, rule, wanted, phase, facts)).unwrap_or_default();
            asked.rules.push(ExplainedRule {
                filter: rule.rule.filter.to_string(),
                id: rule.rule.id,
                name: rule.rule.name.clone(),
                precedence: rule.rule.precedence,
                action: rule.rule.action,
                outcome: outcome.to_owned(),
                because,
            });
            if decides {
                break;
            }
        }
        asked
    }

    /// What of a rule's three conditions came to this.
    fn findings(
        &self,
        account: AccountId,
        compiled: &CompiledRule,
        wanted: Option<bool>,
        phase: Phase,
        facts: &Facts<'_>,
    ) -> Vec<ExplainedFinding> {
        let rule = &compiled.rule;
        let parts = [
            (Part::Traffic, &rule.traffic, &compiled.traffic),
            (Part::Identity, &rule.identity, &compiled.identity),
            (Part::DevicePosture, &rule.device_posture, &compiled.device_posture),
        ];
        let mut findings = Vec::new();
        for (part, text, condition) in parts {
            let Condition::Program(_) = condition else { continue };
            let scheme = scheme::rule(rule.filter, part, rule.action.as_str());
            let kinds = Kinds { snapshot: self, account };
            let Some(Ok(Some(expression))) = scheme.map(|scheme| Expression::new(text, scheme, &kinds))
            else {
                continue;
            };
            let explanation = expression.explain(phase, facts, self);
            if explanation.truth != wanted {
                continue;
            }
            findings.extend(explanation.because.into_iter().map(|finding| ExplainedFinding {
                condition: finding.condition,
                holds: finding.truth,
                values: finding.values,
            }));
            if wanted == Some(false) {
                // One that is not met decides.
                break;
            }
        }
        findings
    }
}

/// The kinds of one account's lists.
struct Kinds<'s> {
    snapshot: &'s Snapshot,
    account: AccountId,
}

impl adit_expr::ListKinds for Kinds<'_> {
    fn list_kind(&self, id: adit_expr::ListId) -> Option<adit_expr::ListKind> {
        let list = self.snapshot.lists.get(&id).filter(|list| list.account == self.account)?;
        Some(list_kind(list.kind))
    }
}
