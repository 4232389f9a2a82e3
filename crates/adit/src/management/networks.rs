//! `tunnel vnet …`.

use adit_model::VirtualNetworkId;
use serde_json::{Value, json};

use super::client::{Client, Query};
use super::failure::Failure;
use super::object::VirtualNetwork;
use super::render::{Shown, render};
use super::session::{Session, uuid};
use crate::command_line::{VnetAction, VnetListArgs};
use crate::table;

const PATH: &str = "teamnet/virtual_networks";

pub(super) async fn run(session: &Session<'_>, action: &VnetAction) -> Result<String, Failure> {
    match action {
        VnetAction::Add { arguments, default } => add(session, arguments, default.default).await,
        VnetAction::List(arguments) => list(session, arguments).await,
        VnetAction::Delete { arguments, force } => delete(session, arguments, *force).await,
        VnetAction::Update { arguments, name, comment, default } => {
            let changes = [
                ("name", name.clone().map(Value::from)),
                ("comment", comment.clone().map(Value::from)),
                ("is_default_network", default.default.map(Value::from)),
            ];
            update(session, arguments, changes).await
        }
    }
}

async fn add(session: &Session<'_>, arguments: &[String], default: Option<bool>) -> Result<String, Failure> {
    let (name, rest) = arguments.split_first().ok_or_else(|| {
        Failure::new("You must supply at least 1 argument, the name of the virtual network you wish to add.")
    })?;
    let comment = rest.first().map_or("", String::as_str);
    let body = json!({ "name": name, "comment": comment, "is_default_network": default == Some(true) });
    let failed = |failure: Failure| failure.within("Could not add virtual network");
    let client = session.client().map_err(failed)?;
    let made = client.call("add virtual network", "POST", &client.account(PATH), Some(&body)).await;
    let made: VirtualNetwork = made.map_err(failed)?;
    let default = if made.is_default_network { " (as the new default for this account) " } else { "" };
    Ok(format!(
        "Successfully added virtual 'network' {name} with ID: {}{default}\n\
         You can now add IP routes attached to this virtual network. See `adit tunnel route ip add -help`\n",
        made.id
    ))
}

async fn list(session: &Session<'_>, arguments: &VnetListArgs) -> Result<String, Failure> {
    let id = match arguments.id.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => Some(uuid(id).map_err(|problem| {
            Failure::new(problem).within(format_args!(
                "invalid flags for filtering virtual networks: {id} is not a valid virtual network ID"
            ))
        })?),
        None => None,
    };
    let query = Query::default()
        .with("is_deleted", &(arguments.show_deleted == Some(true)))
        .maybe("id", id)
        .maybe("name", arguments.name.as_ref())
        .maybe("is_default", arguments.is_default);
    let networks = fetch(&session.client()?, &query).await?;
    if let Some(format) = &arguments.format.output {
        return render(format, &Shown::List(networks.iter().map(VirtualNetwork::shown).collect()));
    }
    if networks.is_empty() {
        return Ok("No virtual networks were found for the given filter flags. \
                   You can use 'adit tunnel vnet add' to add a virtual network.\n"
            .to_owned());
    }
    let rows: Vec<_> = networks.iter().map(VirtualNetwork::row).collect();
    Ok(table::lines(&["ID", "NAME", "IS DEFAULT", "COMMENT", "CREATED", "DELETED"], &rows))
}

async fn delete(session: &Session<'_>, arguments: &[String], force: bool) -> Result<String, Failure> {
    let named = arguments.first().ok_or_else(|| {
        let text =
            "You must supply exactly one argument, either the ID or name of the virtual network to delete";
        Failure::new(text)
    })?;
    let client = session.client()?;
    let id = id_of(&client, named).await?;
    let query = if force { "?force=true" } else { "" };
    let path = client.account(&format!("{PATH}/{id}{query}"));
    let deleted = client.call::<Value>("delete virtual network", "DELETE", &path, None).await;
    deleted.map_err(|failure| failure.within("API error"))?;
    Ok(format!("Successfully deleted virtual network '{named}'\n"))
}

async fn update(
    session: &Session<'_>,
    arguments: &[String],
    changes: [(&str, Option<Value>); 3],
) -> Result<String, Failure> {
    let [named] = arguments else {
        return Err(Failure::new(
            " You must supply exactly one argument, either the ID or (current) name of the virtual network to update",
        ));
    };
    let client = session.client()?;
    let id = id_of(&client, named).await?;
    let mut body = json!({});
    for (key, value) in changes {
        if let Some(value) = value {
            body[key] = value;
        }
    }
    let path = client.account(&format!("{PATH}/{id}"));
    let updated = client.call::<Value>("update virtual network", "PATCH", &path, Some(&body)).await;
    updated.map_err(|failure| failure.within("API error"))?;
    Ok(format!("Successfully updated virtual network '{named}'\n"))
}

/// The id of a virtual network by its id or its name.
pub(super) async fn id_of(client: &Client, named: &str) -> Result<VirtualNetworkId, Failure> {
    if let Ok(id) = uuid(named) {
        return Ok(VirtualNetworkId::from_uuid(id));
    }
    let query = Query::default().with("is_deleted", &false).with("name", &named);
    let several =
        || Failure::new(format!("there should only be 1 non-deleted virtual network named {named}"));
    let found = fetch(client, &query).await?;
    if let [one] = found.as_slice() { Ok(one.id) } else { Err(several()) }
}

/// This list has one page.
async fn fetch(client: &Client, query: &Query) -> Result<Vec<VirtualNetwork>, Failure> {
    let path = client.account(&format!("{PATH}?{}", query.text()));
    client.call("list virtual networks", "GET", &path, None).await
}
