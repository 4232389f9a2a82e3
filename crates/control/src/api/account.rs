//! Accounts (contract D, 5): those that a credential sees, which is its own.

use adit_model::AccountId;
use adit_store::{AccountEdit, AccountRow, AccountUpdateError};
use http::StatusCode;
use serde_json::Value;

use super::answer::{DIRECTION, Kind, object};
use super::body::Family;
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style};
use super::{Call, shape};
use crate::accounts::MAX_NAME;
use crate::permission::{Area, Level};

/// Accounts on a page, if nothing is said.
const PER_PAGE: u64 = 20;
const MAX_PER_PAGE: u64 = 50;
/// Longest address, in characters (RFC 5321, 4.5.3.1).
const MAX_EMAIL: usize = 254;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::get("/user", "Get the person of this credential", |_call| {
        Box::pin(std::future::ready(Err(no_user())))
    }),
    Operation::patch("/user", "Change the person of this credential: refused", |_call| {
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
    Operation::put("/accounts/{account}", "Change an account", |call| Box::pin(update(call)))
        .needs(Area::AccountSettings, Level::Write)
        .body(Family::Network, CHANGE)
        .answers(ACCOUNT),
    Operation::delete("/accounts/{account}", "Delete an account: refused", |_call| {
        Box::pin(std::future::ready(Err(made_elsewhere())))
    }),
];

const NAME: &str = "1 to 100 printable characters";

const CHANGE: &[Field] = &[
    Field::required("name", NAME, Shape::Name(MAX_NAME)),
    Field::required("type", "standard", Shape::OneOf(&["standard"])),
    Field::optional(
        "settings",
        Shape::Object(&[
            Field::optional("enforce_twofactor", Shape::Flag),
            Field::optional("abuse_contact_email", Shape::Comment(MAX_EMAIL)),
        ]),
    ),
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

/// What is not said of the settings stays as it is.
async fn update(call: &Call<'_>) -> Result<Reply, ApiError> {
    let fields = call.fields(Family::Network)?;
    let name = fields.required("name", NAME, fields.name("name", MAX_NAME)?)?;
    if name.parse::<AccountId>().is_ok() {
        return Err(fields.wrong("name", "a name that is no account's id"));
    }
    let settings = fields.value("settings");
    if settings.is_some_and(|settings| settings["enforce_twofactor"] == true) {
        let expected = "false: nobody signs in yet, so that nobody could be held to it";
        return Err(fields.wrong("settings.enforce_twofactor", expected).at("/settings/enforce_twofactor"));
    }
    let contact = settings.and_then(|settings| settings.get("abuse_contact_email"));
    let contact = contact.map(|contact| contact.as_str().filter(|text| !text.is_empty()).map(str::to_owned));
    let edit = AccountEdit { name, abuse_contact_email: contact };
    let done = call.control.0.store.account_update(&call.actor, call.account, edit).await;
    let done = done.map_err(|error| match error {
        AccountUpdateError::NotFound => ApiError::no_route(),
        AccountUpdateError::NameTaken => {
            ApiError::new(StatusCode::CONFLICT, 1015, "Another account has this name").at("/name")
        }
        AccountUpdateError::Fault(fault) => fault.into(),
    })?;
    Ok(Reply::One(object(&done.value)))
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
    SETTINGS_FIELDS = settings(account: &AccountRow) [
        "enforce_twofactor": Kind::Flag => false,
        "abuse_contact_email": Kind::Maybe(&Kind::Text) => account.abuse_contact_email,
    ]
}

const ACCOUNT: Kind = Kind::Object("Account", FIELDS, &[]);
