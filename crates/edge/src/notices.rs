//! What devices are told of blocks, where a rule says that it is to be shown (Gateway semantics, 5.2).
//!
//! What holds: nothing waits for it. A device that does not take what it is told misses some of it; its own agent sees to it
//! that nobody is told the same all the time.

use std::time::{SystemTime, UNIX_EPOCH};

use adit_model::{AccountId, Filter, RegistrationId, Rule, RuleId};
use adit_policy::Snapshot;
use adit_wire::device::Block;

use crate::Shared;

/// A rule has blocked what this device asked for.
pub(crate) fn blocked(shared: &Shared, device: RegistrationId, rule: &Rule, destination: &str) {
    let Some(shown) =
        rule.settings.notification_settings.as_ref().filter(|shown| shown.enabled == Some(true))
    else {
        return;
    };
    let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let block = Block {
        rule: rule.id,
        name: rule.name.clone(),
        layer: rule.filter,
        destination: destination.to_owned(),
        message: text(&shown.msg).unwrap_or_else(|| rule.settings.block_reason.clone()),
        support_url: text(&shown.support_url),
        at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    };
    shared.sessions.tell(device, &block);
}

/// The same of a rule of the filter `l4`.
pub(crate) fn flow_blocked(
    shared: &Shared,
    snapshot: &Snapshot,
    (account, device): (AccountId, RegistrationId),
    rule: RuleId,
    destination: &str,
) {
    let mut rules = snapshot.rules(account, Filter::L4).iter();
    if let Some(compiled) = rules.find(|compiled| compiled.rule.id == rule) {
        blocked(shared, device, &compiled.rule, destination);
    }
}
