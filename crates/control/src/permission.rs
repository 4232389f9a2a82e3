//! What API tokens may (contract D, 3.4): permission groups, and the policies that grant them.

use adit_model::AccountId;
use serde_json::{Value, json};

/// A product on which permissions are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Area {
    Tunnel,
    ZeroTrust,
    AccessApps,
    ServiceTokens,
    AccessOrganizations,
    MutualTls,
    AuditLogs,
    AccountSettings,
    Pii,
    ApiTokens,
}

impl Area {
    /// What it is called.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tunnel => "Cloudflare Tunnel",
            Self::ZeroTrust => "Zero Trust",
            Self::AccessApps => "Access: Apps and Policies",
            Self::ServiceTokens => "Access: Service Tokens",
            Self::AccessOrganizations => "Access: Organizations, Identity Providers, and Groups",
            Self::MutualTls => "Access: Mutual TLS Certificates",
            Self::AuditLogs => "Access: Audit Logs",
            Self::AccountSettings => "Account Settings",
            Self::Pii => "Zero Trust: PII",
            Self::ApiTokens => "API Tokens",
        }
    }
}

/// How much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Read,
    /// Includes reading.
    Write,
}

/// A permission group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    /// Its id, fixed for ever.
    pub(crate) id: &'static str,
    /// Its name.
    pub(crate) name: &'static str,
    area: Area,
    level: Level,
}

const fn group(id: &'static str, name: &'static str, area: Area, level: Level) -> Group {
    Group { id, name, area, level }
}

/// Every permission group.
pub(crate) const GROUPS: [Group; 18] = [
    group("ad170000000000000000000000000101", "Cloudflare Tunnel Read", Area::Tunnel, Level::Read),
    group("ad170000000000000000000000000102", "Cloudflare Tunnel Write", Area::Tunnel, Level::Write),
    group("ad170000000000000000000000000201", "Zero Trust Read", Area::ZeroTrust, Level::Read),
    group("ad170000000000000000000000000202", "Zero Trust Write", Area::ZeroTrust, Level::Write),
    group(
        "ad170000000000000000000000000301",
        "Access: Apps and Policies Read",
        Area::AccessApps,
        Level::Read,
    ),
    group(
        "ad170000000000000000000000000302",
        "Access: Apps and Policies Write",
        Area::AccessApps,
        Level::Write,
    ),
    group(
        "ad170000000000000000000000000401",
        "Access: Service Tokens Read",
        Area::ServiceTokens,
        Level::Read,
    ),
    group(
        "ad170000000000000000000000000402",
        "Access: Service Tokens Write",
        Area::ServiceTokens,
        Level::Write,
    ),
    group(
        "ad170000000000000000000000000501",
        "Access: Organizations, Identity Providers, and Groups Read",
        Area::AccessOrganizations,
        Level::Read,
    ),
    group(
        "ad170000000000000000000000000502",
        "Access: Organizations, Identity Providers, and Groups Write",
        Area::AccessOrganizations,
        Level::Write,
    ),
    group(
        "ad170000000000000000000000000601",
        "Access: Mutual TLS Certificates Read",
        Area::MutualTls,
        Level::Read,
    ),
    group(
        "ad170000000000000000000000000602",
        "Access: Mutual TLS Certificates Write",
        Area::MutualTls,
        Level::Write,
    ),
    group("ad170000000000000000000000000701", "Access: Audit Logs Read", Area::AuditLogs, Level::Read),
    group("ad170000000000000000000000000801", "Account Settings Read", Area::AccountSettings, Level::Read),
    group("ad170000000000000000000000000802", "Account Settings Write", Area::AccountSettings, Level::Write),
    group("ad170000000000000000000000000901", "Zero Trust: PII Read", Area::Pii, Level::Read),
    group("ad170000000000000000000000000a01", "API Tokens Read", Area::ApiTokens, Level::Read),
    group("ad170000000000000000000000000a02", "API Tokens Write", Area::ApiTokens, Level::Write),
];

/// The start of a resource key that names an account.
pub(crate) const ACCOUNT_RESOURCE: &str = "com.cloudflare.api.account.";

/// Policies that grant everything on every account.
pub(crate) fn all_policies() -> Value {
    everything_on("*")
}

/// Policies that grant everything on one account.
pub(crate) fn policies_of(account: AccountId) -> Value {
    everything_on(&account.to_string())
}

fn everything_on(account: &str) -> Value {
    let groups: Vec<Value> =
        GROUPS.iter().map(|group| json!({ "id": group.id, "name": group.name })).collect();
    json!([{
        "effect": "allow",
        "permission_groups": groups,
        "resources": { format!("{ACCOUNT_RESOURCE}{account}"): "*" },
    }])
}

/// What is wrong with policies, and where (a JSON pointer behind `/policies`).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PolicyFlaw {
    pub(crate) pointer: String,
    pub(crate) expected: &'static str,
}

/// What [`checked_policies`] takes.
pub(crate) fn policies_schema() -> Value {
    let group = json!({
        "type": "object",
        "properties": { "id": { "type": "string", "enum": GROUPS.map(|group| group.id) } },
        "required": ["id"],
    });
    json!({
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "properties": {
                "effect": { "type": "string", "enum": ["allow", "deny"] },
                "permission_groups": { "type": "array", "minItems": 1, "items": group },
                "resources": {
                    "type": "object",
                    "minProperties": 1,
                    "propertyNames": { "pattern": format!("^{}", ACCOUNT_RESOURCE.replace('.', "\\.")) },
                    "additionalProperties": { "const": "*" },
                },
            },
            "required": ["effect", "permission_groups", "resources"],
        },
    })
}

/// Checks policies as the API was given them, and returns them as it shows them.
pub(crate) fn checked_policies(policies: &Value) -> Result<Value, PolicyFlaw> {
    let flaw = |pointer: String, expected| PolicyFlaw { pointer, expected };
    let list = policies.as_array().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| flaw(String::new(), "an array with at least one policy"))?;
    let mut checked = Vec::with_capacity(list.len());
    for (at, policy) in list.iter().enumerate() {
        let effect = policy["effect"].as_str().filter(|effect| matches!(*effect, "allow" | "deny"));
        let effect = effect.ok_or_else(|| flaw(format!("/{at}/effect"), "allow or deny"))?;
        let groups = policy["permission_groups"].as_array().filter(|groups| !groups.is_empty());
        let groups = groups.ok_or_else(|| flaw(format!("/{at}/permission_groups"), "an array of groups"))?;
        let mut named = Vec::with_capacity(groups.len());
        for (group_at, group) in groups.iter().enumerate() {
            let known = GROUPS.iter().find(|known| Some(known.id) == group["id"].as_str());
            let known = known.ok_or_else(|| {
                let pointer = format!("/{at}/permission_groups/{group_at}/id");
                flaw(pointer, "the id of a permission group, as A/tokens/permission_groups lists them")
            })?;
            named.push(json!({ "id": known.id, "name": known.name }));
        }
        let resources = policy["resources"].as_object().filter(|resources| {
            let known = |(key, value): (&String, &Value)| key.starts_with(ACCOUNT_RESOURCE) && value == "*";
            !resources.is_empty() && resources.iter().all(known)
        });
        let resources = resources.ok_or_else(|| {
            flaw(format!("/{at}/resources"), "an object such as {\"com.cloudflare.api.account.TAG\": \"*\"}")
        })?;
        checked.push(json!({ "effect": effect, "permission_groups": named, "resources": resources }));
    }
    Ok(checked.into())
}

/// Whether policies let do this on this account: some policy allows it and none denies it.
pub(crate) fn may(policies: &Value, account: AccountId, area: Area, level: Level) -> bool {
    let mut allowed = false;
    for policy in policies.as_array().into_iter().flatten() {
        if !covers(policy, account) {
            continue;
        }
        let mut groups = policy["permission_groups"].as_array().into_iter().flatten().filter_map(|group| {
            let id = group["id"].as_str()?;
            GROUPS.iter().find(|known| known.id == id)
        });
        let of_area = |group: &Group| group.area == area;
        match policy["effect"].as_str() {
            Some("allow") => allowed |= groups.any(|group| of_area(group) && group.level >= level),
            // To deny reading is to deny writing too.
            Some("deny") if groups.any(|group| of_area(group) && group.level <= level) => return false,
            _ => {}
        }
    }
    allowed
}

/// Whether policies let see this account at all.
pub(crate) fn sees(policies: &Value, account: AccountId) -> bool {
    let policies = policies.as_array().into_iter().flatten();
    policies.filter(|policy| policy["effect"] == "allow").any(|policy| covers(policy, account))
}

fn covers(policy: &Value, account: AccountId) -> bool {
    let account = account.to_string();
    let keys = policy["resources"].as_object().into_iter().flat_map(serde_json::Map::keys);
    keys.filter_map(|key| key.strip_prefix(ACCOUNT_RESOURCE)).any(|tag| tag == "*" || tag == account)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);
    const OTHER: AccountId = AccountId::from_bytes([2; 16]);

    fn policy(effect: &str, groups: &[&str], account: &str) -> Value {
        let id = |name: &&str| GROUPS.iter().find(|group| group.name == *name).unwrap().id;
        let groups: Vec<Value> = groups.iter().map(|name| json!({ "id": id(name) })).collect();
        let mut resources = serde_json::Map::new();
        resources.insert(format!("{ACCOUNT_RESOURCE}{account}"), "*".into());
        json!({ "effect": effect, "permission_groups": groups, "resources": resources })
    }

    #[test]
    fn group_ids_are_distinct_tags() {
        let ids: std::collections::BTreeSet<_> = GROUPS.iter().map(|group| group.id).collect();
        assert_eq!(ids.len(), GROUPS.len());
        assert!(ids.iter().all(|id| id.parse::<AccountId>().is_ok()), "32 hex digits each");
    }

    #[test]
    fn writing_includes_reading_and_nothing_else() {
        let policies = json!([policy("allow", &["Cloudflare Tunnel Write"], &ACCOUNT.to_string())]);
        assert!(may(&policies, ACCOUNT, Area::Tunnel, Level::Read));
        assert!(may(&policies, ACCOUNT, Area::Tunnel, Level::Write));
        assert!(!may(&policies, ACCOUNT, Area::ZeroTrust, Level::Read));
        assert!(!may(&policies, OTHER, Area::Tunnel, Level::Read));
        assert!(sees(&policies, ACCOUNT) && !sees(&policies, OTHER));
    }

    #[test]
    fn a_denial_wins() {
        let policies = json!([
            policy("allow", &["Cloudflare Tunnel Write"], "*"),
            policy("deny", &["Cloudflare Tunnel Write"], "*"),
        ]);
        assert!(!may(&policies, ACCOUNT, Area::Tunnel, Level::Write));
        assert!(may(&policies, ACCOUNT, Area::Tunnel, Level::Read));
        let policies = json!([
            policy("allow", &["Cloudflare Tunnel Write"], "*"),
            policy("deny", &["Cloudflare Tunnel Read"], "*"),
        ]);
        assert!(!may(&policies, ACCOUNT, Area::Tunnel, Level::Write));
    }

    #[test]
    fn the_first_token_may_everything() {
        let all = all_policies();
        for group in GROUPS {
            assert!(may(&all, ACCOUNT, group.area, group.level), "{}", group.name);
        }
        assert_eq!(checked_policies(&all), Ok(all));
    }

    #[test]
    fn flawed_policies_say_where() {
        let flawed = json!([{ "effect": "allow", "permission_groups": [{ "id": "x" }], "resources": {} }]);
        assert_eq!(checked_policies(&flawed).unwrap_err().pointer, "/0/permission_groups/0/id");
        assert_eq!(checked_policies(&json!([])).unwrap_err().pointer, "");
    }
}
