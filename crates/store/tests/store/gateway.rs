//! Lists and rules: whatever is done to them, the change log and the state tell edges the same, and each refers only to what
//! is there.

use std::collections::{BTreeMap, BTreeSet};

use adit_model::{Action, Filter, List, ListId, ListKind, Rule, RuleId, RuleSettings};
use adit_store::{
    ListDeleteError, ListEdit, NewItem, NewList, NewRule, RuleContent, RuleText, RuleWriteError,
};

use super::*;

#[derive(Debug, Clone)]
enum Step {
    ListCreate(Option<BTreeSet<u8>>),
    ListReplace(u8, Option<BTreeSet<u8>>),
    ListChange(u8, Vec<u8>, Vec<u8>),
    ListDelete(u8),
    RuleCreate(Option<u8>, Vec<u8>),
    RuleReplace(u8, Option<u8>, Vec<u8>),
    RuleDelete(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let items = || proptest::option::of(proptest::collection::btree_set(0u8..12, 0..8));
    let some = || proptest::collection::vec(0u8..12, 0..4);
    prop_oneof![
        items().prop_map(Step::ListCreate),
        (any::<u8>(), items()).prop_map(|(which, items)| Step::ListReplace(which, items)),
        (any::<u8>(), some(), some()).prop_map(|(which, out, into)| Step::ListChange(which, out, into)),
        any::<u8>().prop_map(Step::ListDelete),
        (proptest::option::of(0u8..6), some()).prop_map(|(place, lists)| Step::RuleCreate(place, lists)),
        (any::<u8>(), proptest::option::of(0u8..6), some())
            .prop_map(|(which, place, lists)| Step::RuleReplace(which, place, lists)),
        any::<u8>().prop_map(Step::RuleDelete),
    ]
}

fn item(number: u8) -> NewItem {
    NewItem { value: format!("10.0.0.{number}"), compared: format!("10.0.0.{number}/32"), description: None }
}

fn rule(precedence: Option<u64>, lists: Vec<ListId>) -> NewRule {
    let content = RuleContent {
        name: "a rule".into(),
        description: String::new(),
        enabled: true,
        filter: Filter::Http,
        action: Action::Off,
        traffic: RuleText::default(),
        identity: RuleText::default(),
        device_posture: RuleText::default(),
        settings: RuleSettings::default(),
        settings_as_written: serde_json::json!({}),
        schedule: None,
        expiration: None,
        remarks: Vec::new(),
    };
    NewRule { content, precedence, lists }
}

/// What an edge would hold, and which rule names which lists.
#[derive(Debug, Default)]
struct World {
    lists: BTreeMap<ListId, BTreeSet<String>>,
    rules: BTreeMap<RuleId, Rule>,
    named: BTreeMap<RuleId, BTreeSet<ListId>>,
}

impl World {
    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::ListPut(List { id, items, .. }) => {
                    self.lists.insert(*id, items.iter().cloned().collect());
                }
                Change::ListItemsChanged(change) => {
                    let items = self.lists.get_mut(&change.id).expect("a list is there before it changes");
                    for removed in &change.removed {
                        assert!(items.remove(removed), "{removed} was there");
                    }
                    for added in &change.added {
                        assert!(items.insert(added.clone()), "{added} was not there");
                    }
                }
                Change::ListRemoved { id } => drop(self.lists.remove(id).expect("it was there")),
                Change::RulePut(rule) => drop(self.rules.insert(rule.id, (**rule).clone())),
                Change::RuleRemoved { id } => drop(self.rules.remove(id).expect("it was there")),
                Change::VirtualNetworkPut(_)
                | Change::VirtualNetworkRemoved { .. }
                | Change::TunnelPut(_)
                | Change::TunnelRemoved { .. }
                | Change::TunnelConfigurationPut(_)
                | Change::HostnamePut(_)
                | Change::HostnameRemoved { .. }
                | Change::RoutePut(_)
                | Change::RouteRemoved { .. }
                | Change::HostnameRoutePut(_)
                | Change::HostnameRouteRemoved { .. }
                | Change::RegistrationPut(_)
                | Change::RegistrationRemoved { .. }
                | Change::NodePut(_)
                | Change::NodeRemoved { .. }
                | Change::LeasePut(_)
                | Change::LeaseRemoved(_)
                | Change::BlockPagePut(_)
                | Change::OriginRootPut(_)
                | Change::OriginRootRemoved { .. }
                | Change::GatewaySettingsPut(_)
                | Change::FallbackDomainsPut(_)
                | Change::LocationPut(_)
                | Change::LocationRemoved { .. }
                | Change::ServiceTokenPut(_)
                | Change::ServiceTokenRemoved { .. } => {}
            }
        }
    }

    fn list(&self, which: u8) -> Option<ListId> {
        self.lists.keys().nth(usize::from(which).checked_rem(self.lists.len())?).copied()
    }

    fn rule(&self, which: u8) -> Option<RuleId> {
        self.rules.keys().nth(usize::from(which).checked_rem(self.rules.len())?).copied()
    }

    fn some_lists(&self, which: &[u8]) -> BTreeSet<ListId> {
        which.iter().filter_map(|which| self.list(*which)).collect()
    }

    /// Whether a rule may be put there; it is `own`, if it is there already.
    fn check_written(&self, own: Option<RuleId>, precedence: Option<u64>, error: Option<&RuleWriteError>) {
        let taken =
            self.rules.values().any(|rule| Some(rule.id) != own && Some(rule.precedence) == precedence);
        match error {
            None => assert!(!taken),
            Some(RuleWriteError::PrecedenceTaken { .. }) => assert!(taken),
            Some(other) => panic!("{other:?}"),
        }
    }

    async fn take(&mut self, store: &Store, step: &Step) -> Option<()> {
        let actor = Actor::system();
        let items =
            |items: &Option<BTreeSet<u8>>| items.as_ref().map(|all| all.iter().copied().map(item).collect());
        match step {
            Step::ListCreate(given) => {
                let (name, kind, description) = ("a list".to_owned(), ListKind::Ip, None);
                let new = NewList { name, kind, description, items: items(given) };
                let made = store.list_create(&actor, ACCOUNT, new).await.unwrap().value;
                assert_eq!(made.item_count, given.as_ref().map(|items| items.len() as u64));
            }
            Step::ListReplace(which, given) => {
                let edit = ListEdit { name: "b".into(), description: None, items: items(given) };
                store.list_replace(&actor, ACCOUNT, self.list(*which)?, edit).await.unwrap();
            }
            Step::ListChange(which, out, into) => {
                let out = out.iter().map(|number| item(*number).compared).collect();
                let into = into.iter().map(|number| item(*number)).collect();
                store.list_items_change(&actor, ACCOUNT, self.list(*which)?, out, into, 100).await.unwrap();
            }
            Step::ListDelete(which) => {
                let id = self.list(*which)?;
                let named = self.named.values().any(|lists| lists.contains(&id));
                match store.list_delete(&actor, ACCOUNT, id).await {
                    Ok(()) => assert!(!named),
                    Err(ListDeleteError::InUse { by }) => assert!(named && !by.is_empty()),
                    Err(other) => panic!("{other:?}"),
                }
            }
            Step::RuleCreate(place, which) => {
                let (place, lists) = (place.map(u64::from), self.some_lists(which));
                let made =
                    store.rule_create(&actor, ACCOUNT, rule(place, lists.iter().copied().collect())).await;
                self.check_written(None, place, made.as_ref().err());
                self.named.insert(made.ok()?.value.id, lists);
            }
            Step::RuleReplace(which, place, lists) => {
                let (id, place, lists) = (self.rule(*which)?, place.map(u64::from), self.some_lists(lists));
                let new = rule(place, lists.iter().copied().collect());
                let done = store.rule_replace(&actor, ACCOUNT, id, new).await;
                self.check_written(Some(id), place, done.as_ref().err());
                assert_eq!(done.as_ref().ok()?.value.version, self.rules[&id].version + 1);
                self.named.insert(id, lists);
            }
            Step::RuleDelete(which) => {
                let id = self.rule(*which)?;
                store.rule_delete(&actor, ACCOUNT, id).await.unwrap();
                self.named.remove(&id);
            }
        }
        Some(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: Place::CASES, ..ProptestConfig::default() })]

    #[test]
    fn lists_and_rules_are_told_to_edges_as_they_are(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let Some(place) = Place::new() else { return };
            let store = open(&place).await;
            let (mut world, mut number) = (World::default(), 0);
            for step in &steps {
                world.take(&store, step).await;
                for batch in store.changes_since(number).await.unwrap() {
                    number = batch.number;
                    world.apply(&batch.changes);
                }
                let mut begun = World::default();
                begun.apply(&store.state().await.unwrap().changes);
                assert_eq!((&begun.lists, &begun.rules), (&world.lists, &world.rules), "after {step:?}");
            }
            for (id, items) in &world.lists {
                let (row, page) = store.list_items(ACCOUNT, *id, Window::ALL).await.unwrap();
                assert_eq!((row.item_count.unwrap_or(0), page.rows.len()), (items.len() as u64, items.len()));
            }
        });
    }
}

#[tokio::test]
async fn a_rule_names_lists_of_its_own_account_only() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let unknown = ListId::from_uuid(uuid::Uuid::new_v4());
    let refused = store.rule_create(&Actor::system(), ACCOUNT, rule(None, vec![unknown])).await.unwrap_err();
    assert!(matches!(refused, RuleWriteError::ListNotFound(id) if id == unknown), "{refused:?}");
    assert!(store.rule_list(ACCOUNT).await.unwrap().is_empty(), "nothing was stored");
}
