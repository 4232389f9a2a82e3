//! What a new API token may: permissions by their names, as the API takes them (contract D, 5).

use serde_json::{Map, Value, json};

use super::objects::nearest;
use super::problem::Problem;
use super::session::Session;

/// The body that makes a token, of what was typed.
pub(super) async fn body(
    session: &Session,
    typed: Map<String, Value>,
) -> Result<Map<String, Value>, Problem> {
    let groups = session.call("GET", &session.of_account("tokens/permission_groups"), None).await?;
    of_groups(session.account(), groups.as_array().map_or(&[], Vec::as_slice), typed)
}

fn of_groups(
    account: &str,
    groups: &[Value],
    mut typed: Map<String, Value>,
) -> Result<Map<String, Value>, Problem> {
    let names = || groups.iter().filter_map(|group| group["name"].as_str());
    let mut wanted = Vec::new();
    for permission in texts(typed.remove("permissions")) {
        let found = groups.iter().find(|group| {
            group["id"] == permission.as_str()
                || group["name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case(&permission))
        });
        let found = found.ok_or_else(|| {
            let hint = match nearest(&permission, names()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("expected one of {}", names().collect::<Vec<_>>().join(", ")),
            };
            Problem::usage(format!("--permission: there is no {permission:?}; {hint}"))
        })?;
        wanted.push(json!({ "id": found["id"] }));
    }
    let resource = format!("com.cloudflare.api.account.{account}");
    let policy = json!({ "effect": "allow", "permission_groups": wanted, "resources": { resource: "*" } });
    let addresses = texts(typed.remove("allow_from"));
    if !addresses.is_empty() {
        typed.insert("condition".into(), json!({ "request_ip": { "in": addresses } }));
    }
    typed.insert("policies".into(), json!([policy]));
    Ok(typed)
}

fn texts(value: Option<Value>) -> Vec<String> {
    let Some(Value::Array(items)) = value else { return Vec::new() };
    items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_named_and_an_unknown_one_is_refused_with_the_nearest() {
        let groups = [
            json!({ "id": "1", "name": "Cloudflare Tunnel Write" }),
            json!({ "id": "2", "name": "Zero Trust Read" }),
        ];
        let typed = |permission: &str| {
            let typed = json!({ "name": "ci", "permissions": [permission], "allow_from": ["192.0.2.0/24"] });
            of_groups("a", &groups, typed.as_object().unwrap().clone())
        };
        let body = typed("cloudflare tunnel write").unwrap();
        assert_eq!(
            Value::from(body),
            json!({
                "name": "ci", "condition": { "request_ip": { "in": ["192.0.2.0/24"] } },
                "policies": [{
                    "effect": "allow", "permission_groups": [{ "id": "1" }],
                    "resources": { "com.cloudflare.api.account.a": "*" },
                }],
            })
        );
        let problem = typed("Zero Trust Reed").unwrap_err();
        assert!(problem.text.contains("did you mean \"Zero Trust Read\"?"), "{problem}");
    }
}
