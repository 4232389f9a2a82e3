//! Why an expression is met or not: which of its comparisons decided, and what they compared.
//!
//! For people who ask, never for deciding: it evaluates by [`crate::naive`], copying every value. What holds: it comes to
//! the same truth as the [`Program`](crate::Program), also phase by phase; the fuzz target of expressions says so. What it
//! tells is bounded, whatever the facts are.

use crate::Expression;
use crate::ast::Connective;
use crate::facts::Facts;
use crate::list::Lists;
use crate::naive::{Naive, Value};
use crate::program::phase_of;
use crate::scheme::Phase;
use crate::typed::{Operand, Typed};

/// Comparisons that one explanation names at most.
const MAX_FINDINGS: usize = 16;
/// Longest text of a comparison or a value, in characters.
const MAX_CHARS: usize = 160;
/// Values of an array that are shown.
const MAX_VALUES: usize = 6;

/// Why an expression is met, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Whether it is met; none: what is not known yet decides.
    pub truth: Option<bool>,
    /// What decided: if it is met, what had to be; if not, what would have had to be.
    pub because: Vec<Finding>,
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The comparison, in canonical text.
    pub condition: String,
    /// Whether it holds; none: it is not known yet.
    pub truth: Option<bool>,
    /// What it compares, and the values of that; none: there is no value.
    pub values: Vec<(String, Option<String>)>,
}

impl Expression {
    /// Why these facts match, or do not, as far as they are known by this phase.
    pub fn explain(&self, phase: Phase, facts: &Facts<'_>, lists: &dyn Lists) -> Explanation {
        let explaining = Explaining { naive: Naive { facts, lists }, phase };
        let mut explanation = explaining.look(&self.root);
        explanation.because.truncate(MAX_FINDINGS);
        explanation
    }
}

struct Explaining<'e> {
    naive: Naive<'e>,
    phase: Phase,
}

impl Explaining<'_> {
    fn look(&self, typed: &Typed) -> Explanation {
        match typed {
            Typed::Chain(Connective::Xor, operands) => {
                let all: Vec<Explanation> = operands.iter().map(|operand| self.look(operand)).collect();
                let truth = all.iter().try_fold(false, |truth, one| Some(truth ^ one.truth?));
                together(truth, all)
            }
            Typed::Chain(connective, operands) => {
                let decisive = *connective == Connective::Or;
                let mut all = Vec::with_capacity(operands.len());
                for operand in operands {
                    let one = self.look(operand);
                    if one.truth == Some(decisive) {
                        return one;
                    }
                    all.push(one);
                }
                let truth = all.iter().all(|one| one.truth.is_some()).then_some(!decisive);
                together(truth, all)
            }
            Typed::Not(negated) => {
                let inner = self.look(negated);
                Explanation { truth: inner.truth.map(|truth| !truth), because: inner.because }
            }
            Typed::Quantified(..) | Typed::Is(_) | Typed::Compare(..) => {
                let truth = (phase_of(typed) <= self.phase).then(|| self.naive.truth(typed));
                let mut values = Vec::new();
                if truth.is_some() {
                    self.values(typed, &mut values);
                }
                let finding = Finding { condition: short(&typed.to_string()), truth, values };
                Explanation { truth, because: vec![finding] }
            }
        }
    }

    /// What the comparisons in it compare.
    fn values(&self, typed: &Typed, found: &mut Vec<(String, Option<String>)>) {
        match typed {
            Typed::Chain(_, operands) => operands.iter().for_each(|operand| self.values(operand, found)),
            Typed::Not(inner) | Typed::Quantified(_, inner) => self.values(inner, found),
            Typed::Is(operand) | Typed::Compare(operand, _) => {
                let name = short(&operand.to_string());
                if found.len() < MAX_VALUES && !found.iter().any(|(known, _)| *known == name) {
                    found.push((name, self.value(operand)));
                }
            }
        }
    }

    fn value(&self, operand: &Operand) -> Option<String> {
        let values = self.naive.values(operand)?;
        let several = operand.stars() > 0;
        match values.as_slice() {
            [] if several => Some("{}".to_owned()),
            [] => None,
            [one] if !several => Some(told(one)),
            many => Some(set(many)),
        }
    }
}

/// What is told of several: of those that are not known yet, if they keep the whole from being known.
fn together(truth: Option<bool>, all: Vec<Explanation>) -> Explanation {
    let matters = |one: &Explanation| truth.is_some() || one.truth.is_none();
    let because = all.into_iter().filter(matters).flat_map(|one| one.because).take(MAX_FINDINGS).collect();
    Explanation { truth, because }
}

fn set(values: &[Value]) -> String {
    let more = values.len().saturating_sub(MAX_VALUES);
    let mut shown: Vec<String> = values.iter().take(MAX_VALUES).map(told).collect();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    short(&format!("{{{}}}", shown.join(" ")))
}

fn told(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Ip(value) => value.to_string(),
        Value::Bytes(value) => short(&format!("{:?}", String::from_utf8_lossy(value))),
        Value::Array(values) => set(values),
        Value::Map(map) => {
            short(&format!("{{{}}}", map.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ")))
        }
    }
}

fn short(text: &str) -> String {
    if text.chars().count() <= MAX_CHARS {
        return text.to_owned();
    }
    text.chars().take(MAX_CHARS - 1).chain(['…']).collect()
}
