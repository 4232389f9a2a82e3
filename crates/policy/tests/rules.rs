//! Lists and rules in a state and its snapshots.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::sync::Arc;

use adit_model::{
    AccountId, Action, Change, ChangeBatch, Filter, List, ListId, ListItemsChange, ListKind, Rule, RuleId,
    RuleSettings,
};
use adit_policy::{CompiledRule, Condition, Snapshot, State};
use uuid::Uuid;

const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);
const OTHER_ACCOUNT: AccountId = AccountId::from_bytes([2; 16]);
const LIST: ListId = ListId::from_uuid(Uuid::from_u128(7));

fn rule(id: u128, precedence: u64, traffic: &str) -> Rule {
    Rule {
        id: RuleId::from_uuid(Uuid::from_u128(id)),
        account: ACCOUNT,
        name: format!("rule {id}"),
        version: 1,
        precedence,
        enabled: true,
        filter: Filter::L4,
        action: Action::Block,
        traffic: traffic.into(),
        identity: String::new(),
        device_posture: String::new(),
        settings: RuleSettings::default(),
        schedule: None,
        expires_at_micros: None,
    }
}

fn put(rule: Rule) -> Change {
    Change::RulePut(Box::new(rule))
}

fn list(account: AccountId, items: &[&str]) -> Change {
    let items = items.iter().map(|item| (*item).to_owned()).collect();
    Change::ListPut(List { id: LIST, account, kind: ListKind::Ip, items })
}

/// A state that takes one batch after another.
#[derive(Default)]
struct Following(State, u64);

impl Following {
    fn apply(&mut self, changes: Vec<Change>) -> Arc<Snapshot> {
        self.1 += 1;
        self.0.apply(ChangeBatch { number: self.1, changes });
        self.0.snapshot()
    }
}

fn rules(snapshot: &Snapshot) -> &[Arc<CompiledRule>] {
    snapshot.rules(ACCOUNT, Filter::L4)
}

fn precedences(snapshot: &Snapshot) -> Vec<u64> {
    rules(snapshot).iter().map(|rule| rule.rule.precedence).collect()
}

#[test]
fn rules_stand_in_the_order_in_which_they_are_asked() {
    let mut state = Following::default();
    let snapshot = state.apply(vec![put(rule(1, 30, "")), put(rule(2, 10, "")), put(rule(3, 20, ""))]);
    assert_eq!(precedences(&snapshot), [10, 20, 30]);
    let moved = state.apply(vec![put(rule(2, 40, "")), Change::RuleRemoved { id: rule(3, 0, "").id }]);
    assert_eq!(precedences(&moved), [30, 40]);
    assert_eq!(precedences(&snapshot), [10, 20, 30], "a snapshot does not change");
    let elsewhere = Rule { filter: Filter::Http, ..rule(1, 30, "") };
    let snapshot = state.apply(vec![put(elsewhere)]);
    assert_eq!(precedences(&snapshot), [40]);
    assert_eq!(snapshot.rules(ACCOUNT, Filter::Http).len(), 1);
    assert!(snapshot.rules(OTHER_ACCOUNT, Filter::L4).is_empty());
}

#[test]
fn a_change_of_one_rule_compiles_no_other() {
    let mut state = Following::default();
    let many = (0..1000_u64).map(|id| put(rule(id.into(), id * 10, "net.dst.port == 22"))).collect();
    let before = state.apply(many);
    let after = state.apply(vec![put(rule(500, 5005, "net.dst.port == 23"))]);
    let same = rules(&before).iter().zip(rules(&after)).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
    assert_eq!((rules(&after).len(), same), (1000, 999));
}

#[test]
fn a_list_is_made_anew_when_its_items_change_and_only_then() {
    let mut state = Following::default();
    let traffic = "net.dst.ip in $00000000000000000000000000000007";
    let snapshot =
        state.apply(vec![list(ACCOUNT, &["10.0.0.1/32", "10.0.0.2/32"]), put(rule(1, 1, traffic))]);
    let holds = |snapshot: &Snapshot, address: &str| {
        snapshot.list(LIST).unwrap().values().contains_ip(address.parse().unwrap())
    };
    assert!(
        matches!(rules(&snapshot)[0].traffic, Condition::Program(_)) && rules(&snapshot)[0].is_readable()
    );
    assert!(holds(&snapshot, "10.0.0.1") && !holds(&snapshot, "10.0.0.3"));
    let change =
        ListItemsChange { id: LIST, removed: vec!["10.0.0.1/32".into()], added: vec!["10.0.0.3/32".into()] };
    let changed = state.apply(vec![Change::ListItemsChanged(change)]);
    assert!(!holds(&changed, "10.0.0.1") && holds(&changed, "10.0.0.3") && holds(&snapshot, "10.0.0.1"));
    assert!(Arc::ptr_eq(&rules(&snapshot)[0], &rules(&changed)[0]), "its rules stay as they are");
    let same = state.apply(vec![put(rule(2, 2, ""))]);
    assert!(Arc::ptr_eq(changed.list(LIST).unwrap(), same.list(LIST).unwrap()));
    let gone = state.apply(vec![Change::ListRemoved { id: LIST }]);
    assert!(gone.list(LIST).is_none());
}

#[test]
fn what_cannot_be_read_is_there_and_says_so() {
    let mut state = Following::default();
    let traffic = "net.dst.ip in $00000000000000000000000000000007";
    let snapshot = state.apply(vec![
        list(OTHER_ACCOUNT, &["10.0.0.1/32"]),
        put(rule(1, 1, traffic)),
        put(rule(2, 2, "some.field.of_a_later_version == 1")),
    ]);
    for rule in rules(&snapshot) {
        assert!(!rule.is_readable(), "{}", rule.rule.name);
    }
}
