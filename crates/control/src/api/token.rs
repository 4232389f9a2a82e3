//! API tokens (contract D, 5): `A/tokens`, and the same ones under `user/tokens`: no person has tokens of their own yet.

use adit_model::{SecretHash, TokenId};
use adit_store::{FindError, NewToken, TokenEdit, TokenRow};
use http::StatusCode;
use ipnet::IpNet;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::answer::{Kind, object};
use super::auth::Standing;
use super::body::{Family, Fields};
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style};
use super::{Call, shape};
use crate::install::new_api_token;
use crate::permission::{self, Area, GROUPS, Group, Level};

/// Longest name of a token, in characters.
const MAX_NAME: usize = 120;
const PER_PAGE: u64 = 20;
const MAX_PER_PAGE: u64 = 1000;

/// Whether the token that asks is good (contract D, 5).
pub(super) fn verify(call: &Call<'_>) -> Reply {
    let token = &call.principal.token;
    Reply::One(verified(token, call.principal.standing))
}

object! {
    VERIFIED_FIELDS = verified(token: &TokenRow, standing: Standing) [
        "id": Kind::Tag => token.id.uuid().simple().to_string(),
        "status": STANDING => standing.as_str(),
        "not_before": Kind::Maybe(&Kind::Time) => shape::maybe_time(token.not_before),
        "expires_on": Kind::Maybe(&Kind::Time) => shape::maybe_time(token.expires_at),
    ]
}

const TOKEN: &[Field] = &[
    Field::required("name", "a text", Shape::Name(MAX_NAME)),
    Field::required("policies", "an array of policies", Shape::Told(permission::policies_schema)),
    Field::optional("condition", Shape::Told(condition_schema)),
    Field::optional("status", Shape::OneOf(&["active", "disabled"])),
    Field::optional("not_before", Shape::Time),
    Field::optional("expires_on", Shape::Time),
];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::get("/accounts/{account}/tokens/verify", "Tell whether this token is good", |call| {
        Box::pin(std::future::ready(Ok(verify(call))))
    })
    .answers(VERIFIED),
    Operation::get("/accounts/{account}/tokens/permission_groups", "List permission groups", |call| {
        Box::pin(std::future::ready(Ok(groups(call))))
    })
    .needs(Area::ApiTokens, Level::Read)
    .list(Style::Single, GROUP, &[("name", Kind::Text), ("scope", Kind::Text)]),
    Operation::get("/accounts/{account}/tokens", "List API tokens", |call| Box::pin(list(call)))
        .needs(Area::ApiTokens, Level::Read)
        .list(Style::Page, API_TOKEN, &[]),
    Operation::post("/accounts/{account}/tokens", "Create an API token", |call| Box::pin(create(call)))
        .needs(Area::ApiTokens, Level::Write)
        .body(Family::Network, TOKEN)
        .answers(CREATED),
    Operation::get("/accounts/{account}/tokens/{token}", "Get an API token", |call| {
        Box::pin(fetch(call, call.parameter("token")))
    })
    .needs(Area::ApiTokens, Level::Read)
    .answers(API_TOKEN),
    Operation::put("/accounts/{account}/tokens/{token}", "Replace an API token", |call| {
        Box::pin(update(call, call.parameter("token")))
    })
    .needs(Area::ApiTokens, Level::Write)
    .body(Family::Network, TOKEN)
    .answers(API_TOKEN),
    Operation::delete("/accounts/{account}/tokens/{token}", "Delete an API token", |call| {
        Box::pin(revoke(call, call.parameter("token")))
    })
    .needs(Area::ApiTokens, Level::Write)
    .answers(REVOKED),
    Operation::put("/accounts/{account}/tokens/{token}/value", "Make a new value for an API token", |call| {
        Box::pin(roll(call, call.parameter("token")))
    })
    .needs(Area::ApiTokens, Level::Write)
    .answers(Kind::Text),
    Operation::get("/user/tokens/verify", "Tell whether this token is good", |call| {
        Box::pin(std::future::ready(Ok(verify(call))))
    })
    .answers(VERIFIED),
    Operation::get("/user/tokens/permission_groups", "List permission groups", |call| {
        Box::pin(std::future::ready(Ok(groups(call))))
    })
    .needs(Area::ApiTokens, Level::Read)
    .list(Style::Single, GROUP, &[("name", Kind::Text), ("scope", Kind::Text)]),
    Operation::get("/user/tokens", "List API tokens", |call| Box::pin(list(call)))
        .needs(Area::ApiTokens, Level::Read)
        .list(Style::Page, API_TOKEN, &[]),
    Operation::post("/user/tokens", "Create an API token", |call| Box::pin(create(call)))
        .needs(Area::ApiTokens, Level::Write)
        .body(Family::Network, TOKEN)
        .answers(CREATED),
    Operation::get("/user/tokens/{token}", "Get an API token", |call| {
        Box::pin(fetch(call, call.parameter("token")))
    })
    .needs(Area::ApiTokens, Level::Read)
    .answers(API_TOKEN),
    Operation::put("/user/tokens/{token}", "Replace an API token", |call| {
        Box::pin(update(call, call.parameter("token")))
    })
    .needs(Area::ApiTokens, Level::Write)
    .body(Family::Network, TOKEN)
    .answers(API_TOKEN),
    Operation::delete("/user/tokens/{token}", "Delete an API token", |call| {
        Box::pin(revoke(call, call.parameter("token")))
    })
    .needs(Area::ApiTokens, Level::Write)
    .answers(REVOKED),
    Operation::put("/user/tokens/{token}/value", "Make a new value for an API token", |call| {
        Box::pin(roll(call, call.parameter("token")))
    })
    .needs(Area::ApiTokens, Level::Write)
    .answers(Kind::Text),
];

fn groups(call: &Call<'_>) -> Reply {
    let (name, wanted) = (call.query.text("name"), call.query.text("scope"));
    let scope = "com.cloudflare.api.account";
    let in_scope = wanted.is_none_or(|wanted| wanted == scope);
    let groups = GROUPS.iter().filter(|group| in_scope && name.is_none_or(|name| group.name == name));
    let rows = groups.map(|group| self::group(group, scope)).collect();
    Reply::single(rows)
}

async fn list(call: &Call<'_>) -> Result<Reply, ApiError> {
    let paging = call.query.paging(PER_PAGE, MAX_PER_PAGE)?;
    let page = call.control.0.store.token_list(call.account, paging.window()).await?;
    let rows: Vec<Value> = page.rows.iter().map(object).collect();
    let info = paging.info(rows.len(), page.total);
    Ok(Reply::Many { rows, info })
}

async fn create(call: &Call<'_>) -> Result<Reply, ApiError> {
    let wanted = read(&call.fields(Family::Network)?)?;
    let value = new_value()?;
    let new = NewToken {
        name: wanted.name,
        hash: SecretHash::of(value.as_bytes()),
        policies: wanted.policies,
        condition: wanted.condition,
        not_before: wanted.not_before,
        expires_at: wanted.expires_at,
    };
    let made = call.control.0.store.token_create(&call.actor, call.account, new).await?;
    let mut object = object(&made.value);
    object["value"] = value.into();
    Ok(Reply::One(object))
}

async fn fetch(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let row = call.control.0.store.token_fetch(call.account, parse(id)?).await.map_err(missing)?;
    Ok(Reply::One(object(&row)))
}

async fn update(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let edit = read(&call.fields(Family::Network)?)?;
    let done = call.control.0.store.token_update(&call.actor, call.account, parse(id)?, edit).await;
    Ok(Reply::One(object(&done.map_err(missing)?.value)))
}

async fn roll(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let value = new_value()?;
    let hash = SecretHash::of(value.as_bytes());
    let done = call.control.0.store.token_roll(&call.actor, call.account, parse(id)?, hash).await;
    done.map_err(missing)?;
    Ok(Reply::One(value.into()))
}

async fn revoke(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let done = call.control.0.store.token_revoke(&call.actor, call.account, parse(id)?).await;
    Ok(Reply::One(revoked(&done.map_err(missing)?.value)))
}

/// The fields of a token as it is created or replaced.
fn read(fields: &Fields) -> Result<TokenEdit, ApiError> {
    let name = fields.name("name", MAX_NAME)?;
    let name = fields.required("name", "a text", name)?;
    let policies = fields.required("policies", "an array of policies", fields.value("policies"))?;
    let policies = permission::checked_policies(policies).map_err(|flaw| {
        let pointer = format!("/policies{}", flaw.pointer);
        let field = pointer[1..].replace('/', ".");
        Family::Network.invalid(&format!("{field}: expected {}", flaw.expected)).at(pointer)
    })?;
    let disabled = match fields.text("status")? {
        None | Some("active") => false,
        Some("disabled") => true,
        Some(_) => return Err(fields.wrong("status", "active or disabled")),
    };
    Ok(TokenEdit {
        name,
        policies,
        condition: condition(fields)?,
        disabled,
        not_before: fields.time("not_before")?,
        expires_at: fields.time("expires_on")?,
    })
}

/// What [`condition`] takes.
fn condition_schema() -> Value {
    let networks = json!({ "type": ["array", "null"], "items": {
        "type": "string",
        "description": "A network such as 192.0.2.0/24.",
        "pattern": "^[0-9A-Fa-f.:]+/[0-9]{1,3}$",
    } });
    let addresses = json!({
        "type": ["object", "null"],
        "properties": { "in": networks, "not_in": networks },
        "additionalProperties": false,
    });
    json!({
        "type": ["object", "null"], "properties": { "request_ip": addresses }, "additionalProperties": false,
    })
}

fn condition(fields: &Fields) -> Result<Option<Value>, ApiError> {
    let Some(condition) = fields.value("condition") else { return Ok(None) };
    // Elsewhere unknown keys are ignored; here one would be a limit that nobody keeps.
    let only = |value: &Value, keys: &[&str]| {
        value.as_object().is_some_and(|map| map.keys().all(|key| keys.contains(&key.as_str())))
    };
    let addresses = &condition["request_ip"];
    if !only(condition, &["request_ip"]) || !(addresses.is_null() || only(addresses, &["in", "not_in"])) {
        return Err(
            fields.wrong("condition", "{\"request_ip\": {\"in\": [..], \"not_in\": [..]}} and no other keys")
        );
    }
    for key in ["in", "not_in"] {
        let list = &addresses[key];
        let networks = |list: &Vec<Value>| {
            list.iter().all(|network| network.as_str().is_some_and(|text| text.parse::<IpNet>().is_ok()))
        };
        if !(list.is_null() || list.as_array().is_some_and(networks)) {
            let error = fields.wrong("condition", "networks such as 192.0.2.0/24");
            return Err(error.at(format!("/condition/request_ip/{key}")));
        }
    }
    Ok(Some(condition.clone()))
}

object! {
    FIELDS = object(token: &TokenRow) [
        "id": Kind::Tag => token.id.uuid().simple().to_string(),
        "name": Kind::Text => token.name,
        "status": STANDING => Standing::of(token, OffsetDateTime::now_utc()).as_str(),
        "policies": Kind::Many(&POLICY) => policies(token),
        "condition": Kind::Maybe(&Kind::Map(&Kind::Anything)) => token.condition,
        "not_before": Kind::Maybe(&Kind::Time) => shape::maybe_time(token.not_before),
        "expires_on": Kind::Maybe(&Kind::Time) => shape::maybe_time(token.expires_at),
        "issued_on": Kind::Time => shape::time(token.created_at),
        "modified_on": Kind::Time => shape::time(token.updated_at),
    ]
}

object! {
    GROUP_FIELDS = group(group: &Group, scope: &str) [
        "id": Kind::Tag => group.id,
        "name": Kind::Text => group.name,
        "scopes": Kind::Many(&Kind::Text) => [scope],
    ]
}

object! {
    REVOKED_FIELDS = revoked(token: &TokenRow) [
        "id": Kind::Tag => token.id.uuid().simple().to_string(),
    ]
}

const STANDING: Kind = Kind::OneOf(&["active", "disabled", "expired"]);
const VERIFIED: Kind = Kind::Object("ApiTokenVerified", VERIFIED_FIELDS, &[]);
const API_TOKEN: Kind = Kind::Object("ApiToken", FIELDS, &[]);
const CREATED: Kind = Kind::Object("ApiTokenCreated", FIELDS, &[("value", Kind::Text)]);
const REVOKED: Kind = Kind::Object("ApiTokenDeleted", REVOKED_FIELDS, &[]);
const GROUP: Kind = Kind::Object("PermissionGroup", GROUP_FIELDS, &[]);
/// A policy, as [`permission::checked_policies`] keeps it, with an id.
const POLICY: Kind = Kind::Object(
    "TokenPolicy",
    &[
        ("id", Kind::Tag),
        ("effect", Kind::OneOf(&["allow", "deny"])),
        (
            "permission_groups",
            Kind::Many(&Kind::Object("TokenPolicyGroup", &[("id", Kind::Tag), ("name", Kind::Text)], &[])),
        ),
        ("resources", Kind::Map(&Kind::Text)),
    ],
    &[],
);

/// The policies as they are shown: each with an id, which the published schema asks for and nothing here goes by.
fn policies(token: &TokenRow) -> Value {
    let mut policies = token.policies.clone();
    let ids = (1..).map(|number: u128| format!("{:032x}", token.id.uuid().as_u128().wrapping_add(number)));
    for (policy, id) in policies.as_array_mut().into_iter().flatten().zip(ids) {
        policy["id"] = id.into();
    }
    policies
}

fn new_value() -> Result<String, ApiError> {
    new_api_token().ok_or_else(|| ApiError::internal(&aws_lc_rs::error::Unspecified))
}

fn parse(id: &str) -> Result<TokenId, ApiError> {
    id.parse().map_err(|_| not_found())
}

fn missing(error: FindError) -> ApiError {
    match error {
        FindError::NotFound => not_found(),
        FindError::Fault(fault) => fault.into(),
    }
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, 1003, "API token not found")
}
