//! Members of an account (contract D, 5): `A/members`, and the roles that they may have, `A/roles`.
//!
//! A member is a person by address, with roles or policies. Nobody can sign in yet, so that every member is pending: what it
//! was given is kept, and lets nobody in.

use adit_model::{AccountId, MemberId};
use adit_store::{FindError, MemberCreateError, MemberRow};
use http::StatusCode;
use serde_json::{Value, json};

use super::Call;
use super::answer::{DIRECTION, Kind, object};
use super::body::{Family, Fields};
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style};
use crate::permission::{ACCOUNT_RESOURCE, Area, GROUPS, Level};

/// Longest address, in characters (RFC 5321, 4.5.3.1).
const MAX_EMAIL: usize = 254;
/// Most policies of a member.
const MAX_POLICIES: usize = 100;
const PER_PAGE: u64 = 20;
const MAX_PER_PAGE: u64 = 50;
const EMAIL: &str = "an address such as someone@example.com";
const ROLE_IDS: &str = "an array of ids of roles, as A/roles lists them";

/// A role.
struct Role {
    /// Its id, fixed for ever.
    id: &'static str,
    name: &'static str,
    description: &'static str,
    level: Level,
}

const ROLES: [Role; 2] = [
    Role {
        id: "ad17000000000000000000000000a001",
        name: "Administrator",
        description: "May read and change everything in the account.",
        level: Level::Write,
    },
    Role {
        id: "ad17000000000000000000000000a002",
        name: "Administrator Read Only",
        description: "May read everything in the account.",
        level: Level::Read,
    },
];

const CREATE: &[Field] = &[
    Field::required("email", EMAIL, Shape::Name(MAX_EMAIL)),
    Field::optional("roles", Shape::Told(roles_schema)),
    Field::optional("policies", Shape::Told(policies_schema)),
    Field::optional("status", Shape::OneOf(&["pending"])),
];

const CHANGE: &[Field] = &[
    Field::optional("roles", Shape::Told(roles_schema)),
    Field::optional("policies", Shape::Told(policies_schema)),
];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::get("/accounts/{account}/members", "List members", |call| Box::pin(list(call)))
        .needs(Area::AccountSettings, Level::Read)
        .list(
            Style::Page,
            MEMBER,
            &[
                ("status", Kind::OneOf(&["accepted", "pending", "rejected"])),
                ("order", Kind::OneOf(&["user.first_name", "user.last_name", "user.email", "status"])),
                ("direction", DIRECTION),
            ],
        ),
    Operation::post("/accounts/{account}/members", "Add a member", |call| Box::pin(create(call)))
        .needs(Area::AccountSettings, Level::Write)
        .body(Family::Network, CREATE)
        .answers(MEMBER),
    Operation::get("/accounts/{account}/members/{member}", "Get a member", |call| {
        Box::pin(fetch(call, call.parameter("member")))
    })
    .needs(Area::AccountSettings, Level::Read)
    .answers(MEMBER),
    Operation::put("/accounts/{account}/members/{member}", "Give a member other roles or policies", |call| {
        Box::pin(update(call, call.parameter("member")))
    })
    .needs(Area::AccountSettings, Level::Write)
    .body(Family::Network, CHANGE)
    .answers(MEMBER),
    Operation::delete("/accounts/{account}/members/{member}", "Remove a member", |call| {
        Box::pin(delete(call, call.parameter("member")))
    })
    .needs(Area::AccountSettings, Level::Write)
    .answers(REMOVED),
    Operation::get("/accounts/{account}/roles", "List the roles that members may have", |call| {
        Box::pin(std::future::ready(roles(call)))
    })
    .needs(Area::AccountSettings, Level::Read)
    .list(Style::Page, ROLE, &[]),
    Operation::get("/accounts/{account}/roles/{role}", "Get a role", |call| {
        Box::pin(std::future::ready(role_fetch(call.parameter("role"))))
    })
    .needs(Area::AccountSettings, Level::Read)
    .answers(ROLE),
];

async fn list(call: &Call<'_>) -> Result<Reply, ApiError> {
    let query = &call.query;
    let paging = query.paging(PER_PAGE, MAX_PER_PAGE)?;
    let descending = match query.text("direction") {
        None | Some("asc") => false,
        Some("desc") => true,
        Some(_) => return Err(Family::Network.invalid("direction: expected asc or desc")),
    };
    let by_email = match query.text("order") {
        None | Some("user.first_name" | "user.last_name" | "status") => false,
        Some("user.email") => true,
        Some(_) => {
            let message = "order: expected user.first_name, user.last_name, user.email or status";
            return Err(Family::Network.invalid(message));
        }
    };
    let pending = match query.text("status") {
        None | Some("pending") => true,
        Some("accepted" | "rejected") => false,
        Some(_) => return Err(Family::Network.invalid("status: expected accepted, pending or rejected")),
    };
    // An account has few, and their order may be any.
    let mut members = call.control.0.store.member_list(call.account, adit_store::Window::ALL).await?.rows;
    members.retain(|_| pending);
    if by_email {
        members.sort_by_key(|member| member.email.to_lowercase());
    }
    if descending {
        members.reverse();
    }
    let (total, window) = (members.len() as u64, paging.window());
    let start = usize::try_from(window.offset).unwrap_or(usize::MAX);
    let most = usize::try_from(window.limit).unwrap_or(usize::MAX);
    let rows: Vec<Value> = members.iter().skip(start).take(most).map(object).collect();
    let info = paging.info(rows.len(), total);
    Ok(Reply::Many { rows, info })
}

async fn create(call: &Call<'_>) -> Result<Reply, ApiError> {
    let fields = call.fields(Family::Network)?;
    let email = fields.required("email", EMAIL, fields.name("email", MAX_EMAIL)?)?;
    if !is_address(&email) {
        return Err(fields.wrong("email", EMAIL));
    }
    let grants = grants(&fields, call.account)?;
    let made = call.control.0.store.member_create(&call.actor, call.account, email, grants).await;
    let made = made.map_err(|error| match error {
        MemberCreateError::EmailTaken => {
            ApiError::new(StatusCode::CONFLICT, 1016, "This address belongs to the account already")
                .at("/email")
        }
        MemberCreateError::Fault(fault) => fault.into(),
    })?;
    Ok(Reply::One(object(&made.value)))
}

async fn fetch(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let row = call.control.0.store.member_fetch(call.account, parse(id)?).await.map_err(missing)?;
    Ok(Reply::One(object(&row)))
}

async fn update(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let id = parse(id)?;
    let grants = grants(&call.fields(Family::Network)?, call.account)?;
    let done = call.control.0.store.member_update(&call.actor, call.account, id, grants).await;
    Ok(Reply::One(object(&done.map_err(missing)?.value)))
}

async fn delete(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let done = call.control.0.store.member_delete(&call.actor, call.account, parse(id)?).await;
    Ok(Reply::One(removed(&done.map_err(missing)?.value)))
}

fn roles(call: &Call<'_>) -> Result<Reply, ApiError> {
    let paging = call.query.paging(PER_PAGE, MAX_PER_PAGE)?;
    let start = usize::try_from(paging.window().offset).unwrap_or(usize::MAX);
    let most = usize::try_from(paging.window().limit).unwrap_or(usize::MAX);
    let rows: Vec<Value> = ROLES.iter().skip(start).take(most).map(role).collect();
    let info = paging.info(rows.len(), ROLES.len() as u64);
    Ok(Reply::Many { rows, info })
}

fn role_fetch(id: &str) -> Result<Reply, ApiError> {
    let found = ROLES.iter().find(|role| role.id == id);
    found
        .map(|found| Reply::One(role(found)))
        .ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, 1003, "Role not found"))
}

/// What of the form of an address can be told without asking its host.
fn is_address(text: &str) -> bool {
    let (local, domain) = text.rsplit_once('@').unwrap_or_default();
    !local.is_empty() && !domain.is_empty() && !text.contains(char::is_whitespace) && !local.contains('@')
}

/// The roles or the policies of a body: one of the two.
fn grants(fields: &Fields, account: AccountId) -> Result<Value, ApiError> {
    match (fields.value("roles"), fields.value("policies")) {
        (Some(roles), None) => given_roles(fields, roles).map(|ids| json!({ "roles": ids })),
        (None, Some(policies)) => {
            given_policies(policies, account).map(|checked| json!({ "policies": checked }))
        }
        (Some(_), Some(_)) => Err(fields.wrong("policies", "either roles or policies, not both")),
        (None, None) => {
            Err(fields.wrong("roles", &format!("{ROLE_IDS}, or policies; one of them is required")))
        }
    }
}

/// Ids, plain or in objects as an older client sends them.
fn given_roles(fields: &Fields, roles: &Value) -> Result<Vec<&'static str>, ApiError> {
    let roles = roles.as_array().filter(|roles| (1..=ROLES.len()).contains(&roles.len()));
    let roles = roles.ok_or_else(|| fields.wrong("roles", ROLE_IDS))?;
    let mut found = Vec::with_capacity(roles.len());
    for (at, role) in roles.iter().enumerate() {
        let id = role.as_str().or_else(|| role["id"].as_str());
        let known = ROLES.iter().find(|known| Some(known.id) == id);
        let known = known.ok_or_else(|| fields.wrong("roles", ROLE_IDS).at(format!("/roles/{at}")))?;
        found.push(known.id);
    }
    Ok(found)
}

/// What [`given_roles`] takes.
fn roles_schema() -> Value {
    let id = json!({ "type": "string", "enum": ROLES.map(|role| role.id) });
    let named = json!({ "type": "object", "properties": { "id": id }, "required": ["id"] });
    let many = json!({
        "type": "array", "minItems": 1, "maxItems": ROLES.len(), "items": { "anyOf": [id, named] },
    });
    json!({ "anyOf": [many, { "type": "null" }] })
}

fn given_policies(policies: &Value, account: AccountId) -> Result<Value, ApiError> {
    let wrong = |expected: &str, pointer: String| {
        let field = pointer.trim_start_matches('/').replace('/', ".");
        Family::Network.invalid(&format!("{field}: expected {expected}")).at(pointer)
    };
    let list = policies.as_array().filter(|list| (1..=MAX_POLICIES).contains(&list.len()));
    let list = list.ok_or_else(|| wrong("an array of 1 to 100 policies", "/policies".into()))?;
    let mut checked = Vec::with_capacity(list.len());
    for (at, policy) in list.iter().enumerate() {
        let access = policy["access"].as_str().filter(|access| matches!(*access, "allow" | "deny"));
        let access = access.ok_or_else(|| wrong("allow or deny", format!("/policies/{at}/access")))?;
        let ids = |key: &str| {
            let given = policy[key].as_array().filter(|given| !given.is_empty());
            given.ok_or_else(|| wrong("an array of {id}", format!("/policies/{at}/{key}")))
        };
        let mut groups = Vec::new();
        for (index, group) in ids("permission_groups")?.iter().enumerate() {
            let known = GROUPS.iter().find(|known| Some(known.id) == group["id"].as_str());
            let expected = "the id of a permission group, as A/tokens/permission_groups lists them";
            let pointer = format!("/policies/{at}/permission_groups/{index}/id");
            groups.push(known.ok_or_else(|| wrong(expected, pointer))?.id);
        }
        for (index, group) in ids("resource_groups")?.iter().enumerate() {
            if group["id"].as_str() != Some(account.to_string().as_str()) {
                let pointer = format!("/policies/{at}/resource_groups/{index}/id");
                return Err(wrong("the account's id: it is the only resource group", pointer));
            }
        }
        checked.push(json!({ "access": access, "permission_groups": groups }));
    }
    Ok(checked.into())
}

/// What [`given_policies`] takes.
fn policies_schema() -> Value {
    let ids = |id: Value| {
        json!({ "type": "array", "minItems": 1, "items": {
            "type": "object", "properties": { "id": id }, "required": ["id"],
        } })
    };
    let policy = json!({
        "type": "object",
        "properties": {
            "access": { "type": "string", "enum": ["allow", "deny"] },
            "permission_groups": ids(json!({ "type": "string", "enum": GROUPS.map(|group| group.id) })),
            "resource_groups": ids(Kind::Tag.schema()),
        },
        "required": ["access", "permission_groups", "resource_groups"],
    });
    let many = json!({ "type": "array", "minItems": 1, "maxItems": MAX_POLICIES, "items": policy });
    json!({ "anyOf": [many, { "type": "null" }] })
}

object! {
    FIELDS = object(member: &MemberRow) with {
        let granted = |key: &str| member.grants[key].as_array().cloned().unwrap_or_default();
        let roles = granted("roles");
        let known = ROLES.iter().filter(|known| roles.iter().any(|id| id == known.id));
    } [
        "id": Kind::Tag => tag(member.id),
        "email": Kind::Text => member.email,
        "status": Kind::OneOf(&["accepted", "pending"]) => "pending",
        "roles": Kind::Many(&ROLE) => known.map(role).collect::<Vec<_>>(),
        "policies": Kind::Many(&POLICY) =>
            granted("policies").iter().enumerate().map(|(at, one)| policy(member, at, one)).collect::<Vec<_>>(),
        "user": Kind::Object("MemberUser", USER_FIELDS, &[]) => user(member),
    ]
}

object! {
    USER_FIELDS = user(member: &MemberRow) [
        "id": Kind::Null => Value::Null,
        "email": Kind::Text => member.email,
        "first_name": Kind::Null => Value::Null,
        "last_name": Kind::Null => Value::Null,
        "two_factor_authentication_enabled": Kind::Flag => false,
    ]
}

object! {
    ROLE_FIELDS = role(role: &Role) [
        "id": Kind::Tag => role.id,
        "name": Kind::Text => role.name,
        "description": Kind::Text => role.description,
        "permissions": Kind::Object("RolePermissions", PERMISSION_FIELDS, &[]) => permissions(role.level),
    ]
}

object! {
    PERMISSION_FIELDS = permissions(level: Level) [
        "organization": Kind::Object("RolePermission", READ_WRITE_FIELDS, &[]) => read_write(level),
        "logs": Kind::Object("RolePermission", READ_WRITE_FIELDS, &[]) => read_write(Level::Read),
    ]
}

object! {
    READ_WRITE_FIELDS = read_write(level: Level) [
        "read": Kind::Flag => true,
        "write": Kind::Flag => level == Level::Write,
    ]
}

object! {
    POLICY_FIELDS = policy(member: &MemberRow, at: usize, policy: &Value) with {
        let ids = policy["permission_groups"].as_array().cloned().unwrap_or_default();
        let groups = GROUPS.iter().filter(|group| ids.iter().any(|id| id == group.id));
    } [
        "id": Kind::Tag => format!("{:032x}", member.id.uuid().as_u128().wrapping_add(at as u128 + 1)),
        "access": Kind::OneOf(&["allow", "deny"]) => policy["access"],
        "permission_groups": Kind::Many(&Kind::Object("MemberPolicyGroup", GROUP_FIELDS, &[])) =>
            groups.map(|one| group(one.id, one.name)).collect::<Vec<_>>(),
        "resource_groups": Kind::Many(&RESOURCE_GROUP) => [resource_group(member.account)],
    ]
}

object! {
    GROUP_FIELDS = group(id: &str, name: &str) [
        "id": Kind::Tag => id,
        "name": Kind::Text => name,
    ]
}

object! {
    RESOURCE_GROUP_FIELDS = resource_group(account: AccountId) [
        "id": Kind::Tag => account,
        "name": Kind::Text => "account",
        "scope": Kind::Many(&Kind::Map(&Kind::Anything)) => [json!({
            "key": format!("{ACCOUNT_RESOURCE}{account}"), "objects": [{ "key": "*" }],
        })],
    ]
}

object! {
    REMOVED_FIELDS = removed(member: &MemberRow) [
        "id": Kind::Tag => tag(member.id),
    ]
}

const MEMBER: Kind = Kind::Object("Member", FIELDS, &[]);
const REMOVED: Kind = Kind::Object("MemberRemoved", REMOVED_FIELDS, &[]);
const ROLE: Kind = Kind::Object("Role", ROLE_FIELDS, &[]);
const POLICY: Kind = Kind::Object("MemberPolicy", POLICY_FIELDS, &[]);
const RESOURCE_GROUP: Kind = Kind::Object("ResourceGroup", RESOURCE_GROUP_FIELDS, &[]);

/// Ids of members are tags: no dashes.
fn tag(id: MemberId) -> String {
    id.uuid().simple().to_string()
}

fn parse(id: &str) -> Result<MemberId, ApiError> {
    id.parse().map_err(|_| not_found())
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, 1003, "Member not found")
}

fn missing(error: FindError) -> ApiError {
    match error {
        FindError::NotFound => not_found(),
        FindError::Fault(fault) => fault.into(),
    }
}
