//! The lists and rules that changes make, kept so that a change of one touches no other.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use adit_model::{AccountId, Change, Filter, List, ListId, ListItemsChange, ListKind, Rule, RuleId};

use crate::rule::{CompiledList, CompiledRule, list_id, list_kind};
use crate::snapshot::Snapshot;

/// What snapshots are made of, as far as lists and rules go.
#[derive(Debug, Default)]
pub(super) struct Gateway {
    lists: HashMap<adit_expr::ListId, Kept>,
    /// Lists that are not in the snapshot as they are here, or are in it and no longer here.
    changed: HashSet<adit_expr::ListId>,
    /// Where each rule stands.
    rules: HashMap<RuleId, Place>,
}

#[derive(Debug)]
struct Kept {
    id: ListId,
    account: AccountId,
    kind: ListKind,
    items: HashSet<String>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    account: AccountId,
    filter: Filter,
    precedence: u64,
}

/// The kinds of the lists of one account.
struct Kinds<'g> {
    lists: &'g HashMap<adit_expr::ListId, Kept>,
    account: AccountId,
}

impl adit_expr::ListKinds for Kinds<'_> {
    fn list_kind(&self, id: adit_expr::ListId) -> Option<adit_expr::ListKind> {
        self.lists.get(&id).filter(|list| list.account == self.account).map(|list| list_kind(list.kind))
    }
}

impl Gateway {
    pub(super) fn put_list(&mut self, list: List) {
        let List { id, account, kind, items } = list;
        self.lists.insert(list_id(id), Kept { id, account, kind, items: items.into_iter().collect() });
        self.changed.insert(list_id(id));
    }

    /// Every list as a change that makes it.
    pub(super) fn list_changes(&self) -> impl Iterator<Item = Change> {
        self.lists.values().map(|Kept { id, account, kind, items }| {
            let items = items.iter().cloned().collect();
            Change::ListPut(List { id: *id, account: *account, kind: *kind, items })
        })
    }

    pub(super) fn change_items(&mut self, change: ListItemsChange) {
        let id = list_id(change.id);
        let Some(list) = self.lists.get_mut(&id) else { return };
        for item in &change.removed {
            list.items.remove(item);
        }
        list.items.extend(change.added);
        self.changed.insert(id);
    }

    pub(super) fn remove_list(&mut self, id: ListId) {
        let id = list_id(id);
        if self.lists.remove(&id).is_some() {
            self.changed.insert(id);
        }
    }

    /// Brings the snapshot's lists up to date: each that changed is compiled once, however often it changed.
    pub(super) fn compile_lists(&mut self, compiled: &mut Snapshot) {
        if self.changed.is_empty() {
            return;
        }
        let lists = &mut compiled.lists;
        for id in self.changed.drain() {
            match self.lists.get(&id) {
                Some(Kept { account, kind, items, .. }) => {
                    let items = items.iter().map(String::as_str);
                    let list = CompiledList::new(*account, *kind, items);
                    lists.insert(id, Arc::new(list));
                }
                None => drop(lists.remove(&id)),
            }
        }
    }

    pub(super) fn put_rule(&mut self, compiled: &mut Snapshot, rule: Rule) {
        self.remove_rule(compiled, rule.id);
        let place = Place { account: rule.account, filter: rule.filter, precedence: rule.precedence };
        let rule = CompiledRule::new(rule, &Kinds { lists: &self.lists, account: place.account });
        let rules = Arc::make_mut(compiled.rules.entry((place.account, place.filter)).or_default());
        let at = rules.partition_point(|other| order(other) < (place.precedence, rule.rule.id));
        self.rules.insert(rule.rule.id, place);
        rules.insert(at, Arc::new(rule));
    }

    pub(super) fn remove_rule(&mut self, compiled: &mut Snapshot, id: RuleId) {
        let Some(place) = self.rules.remove(&id) else { return };
        let key = (place.account, place.filter);
        let Some(rules) = compiled.rules.get_mut(&key) else { return };
        let rules = Arc::make_mut(rules);
        if let Ok(at) = rules.binary_search_by_key(&(place.precedence, id), |rule| order(rule)) {
            rules.remove(at);
        }
        if rules.is_empty() {
            compiled.rules.remove(&key);
        }
    }
}

/// By precedence; two rules have the same only while their change is on its way.
fn order(rule: &CompiledRule) -> (u64, RuleId) {
    (rule.rule.precedence, rule.rule.id)
}
