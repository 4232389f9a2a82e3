//! From a body to a rule (contract D, 8.1 to 8.6).

use std::collections::HashMap;

use adit_expr::{Expression, ListKinds};
use adit_model::{Action, Filter, ListId, MAX_PRECEDENCE};
use adit_policy::scheme::{self, Part};
use adit_store::{Expiration, FindError, NewRule, RuleContent, RuleText};
use http::StatusCode;
use serde_json::{Value, json};

use super::{schedule, settings};
use crate::api::Call;
use crate::api::body::{Family, Fields};
use crate::api::envelope::ApiError;

/// Longest name, in characters.
pub(super) const MAX_NAME: usize = 256;
/// Longest description, in characters.
pub(super) const MAX_DESCRIPTION: usize = 1024;

/// Actions of the API that this program does not carry out, and what to do instead (Gateway semantics, 2.1). A rule that
/// is stored and has no effect would be worse than none.
const UNSUPPORTED: [(&str, &str); 5] = [
    ("isolate", "there is no remote browser"),
    ("noisolate", "there is no remote browser, so that nothing is isolated"),
    ("scan", "there is no scanner"),
    ("quarantine", "there is no sandbox for files"),
    ("audit_ssh", "it is deprecated: use an infrastructure application instead"),
];

/// The same of an action that means something, but not here (Gateway semantics, 7).
const NO_EGRESS: &str = "invalid action \"egress\": unsupported action: what is carried leaves by the connector of its route, and \
     nothing by this installation itself (x_egress_enabled is off), so that such a rule would have no effect";

/// Reads a rule. What it expires at may lie in the past only if it is what it was.
pub(super) async fn read(
    call: &Call<'_>,
    fields: &Fields,
    before: Option<Expiration>,
) -> Result<NewRule, ApiError> {
    let name = fields.name("name", MAX_NAME)?;
    let name = fields.required("name", "1 to 256 printable characters", name)?;
    let description = fields.comment("description", MAX_DESCRIPTION)?.unwrap_or_default();
    let enabled = fields.flag("enabled")?.unwrap_or(false);
    let action = action(fields)?;
    let filter = filter(fields, action)?;
    let precedence = precedence(fields)?;
    let kinds = kinds(call, fields).await?;
    let mut remarks = Vec::new();
    let mut lists = Vec::new();
    let mut text = |part| expression(fields, filter, part, action, &kinds, &mut remarks, &mut lists);
    let (traffic, identity, device_posture) =
        (text(Part::Traffic)?, text(Part::Identity)?, text(Part::DevicePosture)?);
    let checked = settings::read(fields, filter, action)?;
    if action == Action::Egress {
        return Err(action_error(NO_EGRESS.to_owned()));
    }
    networks_exist(call, &checked).await?;
    remarks.extend(settings::remarks(filter, &checked.settings));
    let schedule = schedule::read(fields, filter)?;
    let expiration = schedule::expiration(fields, filter, before)?;
    lists.sort_unstable();
    lists.dedup();
    let content = RuleContent {
        name,
        description,
        enabled,
        filter,
        action,
        traffic,
        identity,
        device_posture,
        settings: checked.settings,
        settings_as_written: checked.as_written,
        schedule,
        expiration,
        remarks,
    };
    Ok(NewRule { content, precedence, lists })
}

/// What [`action`] takes.
pub(super) fn action_schema() -> Value {
    json!({ "type": "string", "enum": Action::ALL.map(Action::as_str) })
}

/// What [`filter`] takes.
pub(super) fn filters_schema() -> Value {
    let names: Vec<&str> = Filter::ALL.iter().map(|filter| filter.as_str()).collect();
    let one = json!({ "type": "array", "items": { "type": "string", "enum": names }, "maxItems": 1 });
    json!({ "anyOf": [one, { "type": "null" }] })
}

fn action_error(message: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, 2087, message).at("/action")
}

fn action(fields: &Fields) -> Result<Action, ApiError> {
    let name = fields.text("action")?.unwrap_or_default();
    if let Ok(action) = name.parse() {
        return Ok(action);
    }
    let short: String = name.chars().take(64).collect();
    let unsupported = UNSUPPORTED.iter().find(|(unsupported, _)| *unsupported == name);
    let why = unsupported.map_or_else(
        || {
            let known: Vec<&str> = Action::ALL.into_iter().map(Action::as_str).collect();
            format!("expected one of {}", known.join(", "))
        },
        |(_, why)| format!("unsupported action: {why}"),
    );
    Err(action_error(format!("invalid action {short:?}: {why}")))
}

fn filter(fields: &Fields, action: Action) -> Result<Filter, ApiError> {
    const ONE: &str = "an array of one of dns, http, l4, egress, dns_resolver";
    let given = match fields.value("filters") {
        None => &[],
        Some(Value::Array(filters)) => filters.as_slice(),
        Some(_) => return Err(fields.wrong("filters", ONE)),
    };
    let filter = match given {
        [] => match action.filters() {
            [only] => return Ok(*only),
            several => {
                let names: Vec<&str> = several.iter().map(|filter| filter.as_str()).collect();
                let expected = format!("one of {}: {action} does not say which", names.join(", "));
                return Err(fields.wrong("filters", &expected));
            }
        },
        [one] => one.as_str().and_then(Filter::from_name),
        _ => return Err(fields.wrong("filters", ONE)),
    };
    let filter = filter.ok_or_else(|| fields.wrong("filters", ONE).at("/filters/0"))?;
    if action.filters().contains(&filter) {
        return Ok(filter);
    }
    let legal: Vec<&str> = Action::ALL
        .into_iter()
        .filter(|action| action.filters().contains(&filter))
        .map(Action::as_str)
        .collect();
    let message = format!("invalid action \"{action}\": with filter {filter} there are {}", legal.join(", "));
    Err(action_error(message))
}

/// The number, exactly as it is (contract D, 8.3).
fn precedence(fields: &Fields) -> Result<Option<u64>, ApiError> {
    let number = |value: &Value| {
        let number = value.as_u64().filter(|number| *number <= MAX_PRECEDENCE);
        number.ok_or_else(|| fields.wrong("precedence", "a whole number from 0 to 2^53"))
    };
    fields.value("precedence").map(number).transpose()
}

/// The kinds of the account's lists, if an expression may name any.
async fn kinds(
    call: &Call<'_>,
    fields: &Fields,
) -> Result<HashMap<adit_expr::ListId, adit_expr::ListKind>, ApiError> {
    let names = |part: Part| {
        fields.value(part.as_str()).and_then(Value::as_str).is_some_and(|text| text.contains('$'))
    };
    if ![Part::Traffic, Part::Identity, Part::DevicePosture].into_iter().any(names) {
        return Ok(HashMap::new());
    }
    let lists = call.control.0.store.list_list(call.account).await?;
    let kind =
        |list: &adit_store::ListRow| (adit_policy::list_id(list.id), adit_policy::list_kind(list.kind));
    Ok(lists.iter().map(kind).collect())
}

fn expression(
    fields: &Fields,
    filter: Filter,
    part: Part,
    action: Action,
    kinds: &dyn ListKinds,
    remarks: &mut Vec<String>,
    lists: &mut Vec<ListId>,
) -> Result<RuleText, ApiError> {
    let key = part.as_str();
    let written = fields.text(key)?.unwrap_or_default();
    let refused =
        |message: String| ApiError::new(StatusCode::BAD_REQUEST, 2088, message).at(format!("/{key}"));
    if written.trim().is_empty() {
        return Ok(RuleText { written: written.to_owned(), canonical: String::new() });
    }
    let scheme = scheme::rule(filter, part, action.as_str());
    let scheme = scheme.ok_or_else(|| {
        refused(format!("filter parsing error (1:1): a rule of filter {filter} has no {key}"))
    })?;
    let read = Expression::new(written, scheme, kinds);
    let expression = read.map_err(|error| refused(error.to_string()))?;
    let Some(expression) = expression else {
        return Ok(RuleText { written: written.to_owned(), canonical: String::new() });
    };
    match expression.constant() {
        Some(false) => remarks.push(format!("rule never matches: {key} is false whatever the traffic is")),
        Some(true) => remarks.push(format!("{key} is true whatever the traffic is")),
        None => {}
    }
    remarks.extend(expression.lints().iter().map(ToString::to_string));
    let uuid = |id: &adit_expr::ListId| ListId::from_uuid(uuid::Uuid::from_bytes(*id.as_bytes()));
    lists.extend(expression.lists().iter().map(uuid));
    Ok(RuleText { written: written.to_owned(), canonical: expression.canonical().to_owned() })
}

/// The virtual networks in which resolvers are reached are there.
async fn networks_exist(call: &Call<'_>, checked: &settings::Checked) -> Result<(), ApiError> {
    let Some(resolvers) = &checked.settings.dns_resolvers else { return Ok(()) };
    for (family, resolvers) in [("ipv4", &resolvers.ipv4), ("ipv6", &resolvers.ipv6)] {
        for (index, id) in resolvers.iter().enumerate().filter_map(|(index, one)| Some((index, one.vnet_id?)))
        {
            let found = call.control.0.store.virtual_network_fetch(call.account, id).await;
            match found {
                Ok(network) if network.deleted_at.is_none() => {}
                Ok(_) | Err(FindError::NotFound) => {
                    let pointer = format!("/rule_settings/dns_resolvers/{family}/{index}/vnet_id");
                    return Err(Family::Rule.invalid("vnet_id: no such virtual network").at(pointer));
                }
                Err(FindError::Fault(fault)) => return Err(fault.into()),
            }
        }
    }
    Ok(())
}
