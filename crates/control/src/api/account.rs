//! Accounts (contract D, 5): this installation has one.

use adit_store::AccountRow;
use http::StatusCode;
use serde_json::Value;

use super::answer::{DIRECTION, Kind, object};
use super::body::Family;
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style};
use super::{Call, shape};

/// Accounts on a page, if nothing is said.
const PER_PAGE: u64 = 20;
const MAX_PER_PAGE: u64 = 50;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::get("/user", "Get the person of this credential", |_call| {
        Box::pin(std::future::ready(Err(no_user())))
    }),
    Operation::get("/accounts", "List accounts", |call| Box::pin(list(call))).list(
        Style::Page,
        ACCOUNT,
        &[("name", Kind::Text), ("direction", DIRECTION)],
    ),
    Operation::post("/accounts", "Create an account: refused", |_call| {
        Box::pin(std::future::ready(Err(made_elsewhere())))
    }),
    Operation::get("/accounts/{account}", "Get an account", |call| Box::pin(fetch(call))).answers(ACCOUNT),
    Operation::delete("/accounts/{account}", "Delete an account: refused", |_call| {
        Box::pin(std::future::ready(Err(made_elsewhere())))
    }),
];

/// API tokens stand for no person.
pub(super) fn no_user() -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, 9109, "Unauthorized to access requested resource")
}

/// Accounts are made where the database is (contract D, 5).
pub(super) fn made_elsewhere() -> ApiError {
    let message =
        "Authentication error: accounts are created and deleted on the machine of adit up, by adit account";
    ApiError::new(StatusCode::FORBIDDEN, 10000, message)
}

pub(super) async fn list(call: &Call<'_>) -> Result<Reply, ApiError> {
    let paging = call.query.paging(PER_PAGE, MAX_PER_PAGE)?;
    let name = call.query.text("name");
    let mut accounts = call.control.0.store.account_list().await?;
    match call.query.text("direction") {
        None | Some("asc") => {}
        Some("desc") => accounts.reverse(),
        Some(_) => return Err(Family::Network.invalid("direction: expected asc or desc")),
    }
    let seen: Vec<&AccountRow> = accounts
        .iter()
        .filter(|account| call.principal.sees(account.id) && name.is_none_or(|name| account.name == name))
        .collect();
    let window = paging.window();
    let rows: Vec<Value> = seen
        .iter()
        .skip(usize::try_from(window.offset).unwrap_or(usize::MAX))
        .take(usize::try_from(window.limit).unwrap_or(usize::MAX))
        .map(|account| object(account))
        .collect();
    let info = paging.info(rows.len(), seen.len() as u64);
    Ok(Reply::Many { rows, info })
}

pub(super) async fn fetch(call: &Call<'_>) -> Result<Reply, ApiError> {
    let accounts = call.control.0.store.account_list().await?;
    let account = accounts.iter().find(|account| account.id == call.account);
    account.map(|account| Reply::One(object(account))).ok_or_else(ApiError::no_route)
}

object! {
    FIELDS = object(account: &AccountRow) [
        "id": Kind::Tag => account.id,
        "name": Kind::Text => account.name,
        "type": Kind::OneOf(&["standard", "enterprise"]) => "standard",
        "created_on": Kind::Time => shape::time(account.created_at),
        "settings": Kind::Object("AccountSettings", SETTINGS_FIELDS, &[]) => settings(account),
        "managed_by": Kind::Null => Value::Null,
    ]
}

object! {
    SETTINGS_FIELDS = settings(_account: &AccountRow) [
        "enforce_twofactor": Kind::Flag => false,
        "abuse_contact_email": Kind::Maybe(&Kind::Text) => Value::Null,
    ]
}

const ACCOUNT: Kind = Kind::Object("Account", FIELDS, &[]);
