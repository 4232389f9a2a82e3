//! `tunnel create`, `list`, `info`, `delete`, `cleanup` and `token`.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use adit_model::TunnelId;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::client::{Client, Query, host_in_url};
use super::failure::Failure;
use super::object::{Connector, Tunnel, spoken_time, text};
use super::render::{Shown, member, render};
use super::session::{Entry, Session, uuid};
use crate::command_line::{CleanupArgs, CreateArgs, DeleteArgs, InfoArgs, ListArgs, TokenArgs};
use crate::table;

/// Shortest secret, in bytes.
const SECRET_BYTES: usize = 32;
/// The port of an edge for connectors, if nothing is said.
const EDGE_PORT: u16 = 7844;

/// What a token holds, in the order of its keys (tunnel protocol, 6.3).
#[derive(Serialize, Deserialize)]
struct TunnelToken {
    #[serde(rename = "a")]
    account: String,
    #[serde(rename = "s")]
    secret: String,
    #[serde(rename = "t")]
    tunnel: TunnelId,
    #[serde(rename = "e", default, skip_serializing_if = "String::is_empty")]
    endpoint: String,
}

/// A credentials file, in the order of its keys.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Credentials<'a> {
    account_tag: &'a str,
    tunnel_secret: &'a str,
    #[serde(rename = "TunnelID")]
    tunnel_id: TunnelId,
    endpoint: &'a str,
}

/// What a command prints: its result, and a note for the person beside it.
pub(super) struct Printed {
    pub(super) result: String,
    pub(super) note: String,
}

/// `tunnel create`.
pub(super) async fn create(session: &Session<'_>, arguments: &CreateArgs) -> Result<Printed, Failure> {
    let [name] = arguments.name.as_slice() else {
        let text = "\"adit tunnel create\" requires exactly 1 argument, the name of tunnel to create.";
        return Err(Failure::usage("tunnel create", text));
    };
    let created = create_named(session, name, arguments).await;
    created.map_err(|failure| failure.within("failed to create tunnel"))
}

async fn create_named(session: &Session<'_>, name: &str, arguments: &CreateArgs) -> Result<Printed, Failure> {
    let Entry { client, certificate } =
        session.enter().map_err(|failure| failure.within("couldn't create client to talk to the API"))?;
    let mut body = json!({ "name": name });
    if let Some(secret) = &arguments.secret {
        let decoded = STANDARD.decode(secret);
        let decoded = decoded.map_err(|_| Failure::new("Couldn't decode tunnel secret from base64"))?;
        if decoded.len() < SECRET_BYTES {
            return Err(Failure::new("Decoded tunnel secret must be at least 32 bytes long"));
        }
        body["tunnel_secret"] = secret.as_str().into();
    }
    let tunnel = call_create(&client, name, &body).await;
    let tunnel = tunnel.map_err(|failure| failure.within("Create Tunnel API call failed"))?;
    let beside = certificate.as_deref().and_then(Path::parent).map(Path::to_owned);
    let chosen = session.flags.credentials_file.is_none() && beside.is_some();
    let path = session.flags.credentials_file.clone().unwrap_or_else(|| {
        let name = format!("{}.json", tunnel.id);
        beside.map_or_else(|| PathBuf::from(&name), |directory| directory.join(&name))
    });
    let written = token_of(&tunnel.token).and_then(|token| write_credentials(&path, &token));
    if let Err(failure) = written {
        return Err(undone(&client, &tunnel, &path, &failure).await);
    }
    if let Some(format) = &arguments.format.output {
        let token = text(&tunnel.token);
        let shown = if format == "yaml" {
            vec![member("tunnel", "tunnel", tunnel.shown()), member("token", "token", token)]
        } else {
            let mut members = tunnel.members();
            members.push(member("token", "token", token));
            members
        };
        return Ok(Printed { result: render(format, &Shown::Object(shown))?, note: String::new() });
    }
    let chosen =
        if chosen { " adit chose this file based on where your origin certificate was found." } else { "" };
    let result = format!(
        "Tunnel credentials written to {}.{chosen} Keep this file secret. To revoke these credentials, delete the \
         tunnel.\n\nCreated tunnel {} with id {}\n",
        path.display(),
        tunnel.name,
        tunnel.id
    );
    Ok(Printed { result, note: how_to_run(session, &client, &tunnel, &path) })
}

async fn call_create(client: &Client, name: &str, body: &Value) -> Result<Tunnel, Failure> {
    if name.is_empty() {
        return Err(Failure::new("tunnel name required"));
    }
    if uuid(name).is_ok() {
        return Err(Failure::new("you cannot use UUIDs as tunnel names"));
    }
    let path = client.account("cfd_tunnel");
    client.call_unless_conflict("create tunnel", &path, body, "tunnel with name already exists").await
}

/// A tunnel whose secret nobody has is of no use: it is deleted again.
async fn undone(client: &Client, tunnel: &Tunnel, path: &Path, failure: &Failure) -> Failure {
    let mut lines = vec![
        format!(
            "Your tunnel '{}' was created with ID {}. However, adit couldn't write tunnel credentials to {}.",
            tunnel.name,
            tunnel.id,
            path.display()
        ),
        format!("The file-writing error is: {failure}"),
    ];
    let path = client.account(&format!("cfd_tunnel/{}?cascade=true", tunnel.id));
    match client.call::<Value>("delete tunnel", "DELETE", &path, None).await {
        Ok(_) => lines.push(
            "The tunnel was deleted, because the tunnel can't be run without the credentials file".to_owned(),
        ),
        Err(error) => {
            lines.push(format!(
                "Adit tried to delete the tunnel for you, but encountered an error. You should use `adit tunnel delete \
                 {}` to delete the tunnel yourself, because the tunnel can't be run without the tunnelfile.",
                tunnel.id
            ));
            lines.push(format!("The delete tunnel error is: {error}"));
        }
    }
    Failure::new(lines.join("\n"))
}

/// The commands that run a connector of a new tunnel. The edge stands in them twice: a cloudflared that knows one address
/// only redials it without a pause (tunnel protocol, 1.2).
fn how_to_run(session: &Session<'_>, client: &Client, tunnel: &Tunnel, credentials: &Path) -> String {
    let mut edges = session.flags.edge.clone();
    if edges.is_empty() {
        edges.clone_from(&tunnel.x_edges);
    }
    if edges.is_empty() {
        edges.push(format!("{}:{EDGE_PORT}", host_in_url(&client.at.host)));
    }
    if let [one] = edges.as_slice() {
        edges.push(one.clone());
    }
    let edges = edges.iter().map(|edge| format!("--edge {edge}")).collect::<Vec<_>>().join(" ");
    let authority = match (&session.flags.cacert, &session.api.data) {
        (Some(file), _) => file.display().to_string(),
        (None, Some(data)) => data.join("ca.pem").display().to_string(),
        (None, None) => "ca.pem".to_owned(),
    };
    let rest = format!("{edges} --cacert {authority}");
    let run = format!("run --credentials-file {} {}", credentials.display(), tunnel.id);
    format!(
        "To run its connector, adit's or cloudflared's:\n  adit tunnel {rest} {run}\n  cloudflared tunnel {rest} \
         --no-autoupdate --no-prechecks {run}\n"
    )
}

fn token_of(token: &str) -> Result<TunnelToken, Failure> {
    let json = STANDARD.decode(token).map_err(|_| Failure::new("the API sent a token that is no base64"))?;
    serde_json::from_slice(&json).map_err(|_| Failure::new("the API sent a malformed token"))
}

/// Writes a credentials file, which is never there before.
fn write_credentials(path: &Path, token: &TunnelToken) -> Result<(), Failure> {
    let credentials = Credentials {
        account_tag: &token.account,
        tunnel_secret: &token.secret,
        tunnel_id: token.tunnel,
        endpoint: &token.endpoint,
    };
    let text = serde_json::to_vec(&credentials).map_err(|error| Failure::new(error.to_string()))?;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(path);
    let written = file.and_then(|mut file| file.write_all(&text));
    written.map_err(|error| {
        let exists = error.kind() == std::io::ErrorKind::AlreadyExists;
        let path = path.display();
        Failure::new(if exists { format!("{path} already exists") } else { format!("open {path}: {error}") })
    })
}

/// `tunnel list`.
pub(super) async fn list(session: &Session<'_>, arguments: &ListArgs) -> Result<String, Failure> {
    let id = match arguments.id.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => Some(uuid(id).map_err(|problem| {
            Failure::new(problem).within(format_args!("{id} is not a valid tunnel ID"))
        })?),
        None => None,
    };
    if let Some(when) =
        arguments.when.as_deref().filter(|when| OffsetDateTime::parse(when, &Rfc3339).is_err())
    {
        let text = format!("--when: expected a time such as 2026-01-02T03:04:05Z, not {when:?}");
        return Err(Failure::usage("tunnel list", &text));
    }
    let client = session.client()?;
    let query = Query::default()
        .maybe("is_deleted", (!arguments.show_deleted).then_some(false))
        .maybe("name", arguments.name.as_ref())
        .maybe("name_prefix", arguments.name_prefix.as_ref())
        .maybe("exclude_prefix", arguments.exclude_name_prefix.as_ref())
        .maybe("existed_at", arguments.when.as_ref())
        .maybe("uuid", id);
    let mut tunnels: Vec<Tunnel> =
        client.pages("list tunnels", &client.account("cfd_tunnel"), &query).await?;
    sort_tunnels(&mut tunnels, &arguments.sort_by);
    if arguments.invert_sort {
        tunnels.reverse();
    }
    if let Some(format) = &arguments.format.output {
        let shown: Vec<Shown> = tunnels.iter().map(Tunnel::shown).collect();
        return render(format, &if shown.is_empty() { Shown::NoList } else { Shown::List(shown) });
    }
    if tunnels.is_empty() {
        return Ok("No tunnels were found for the given filter flags. \
                   You can use 'adit tunnel create' to create a tunnel.\n"
            .to_owned());
    }
    let recently = arguments.recently.show_recently_disconnected;
    let rows: Vec<_> = tunnels.iter().map(|tunnel| tunnel.row(recently)).collect();
    let table = table::lines(&["ID", "NAME", "CREATED", "CONNECTIONS"], &rows);
    Ok(format!(
        "You can obtain more detailed information for each tunnel with `adit tunnel info <name/uuid>`\n{table}"
    ))
}

fn sort_tunnels(tunnels: &mut [Tunnel], by: &str) {
    let seconds = |time: Option<OffsetDateTime>| time.map_or(i64::MIN, OffsetDateTime::unix_timestamp);
    match by {
        "id" => tunnels.sort_by_key(|tunnel| tunnel.id.to_string()),
        "createdAt" => tunnels.sort_by_key(|tunnel| seconds(tunnel.created_at)),
        "deletedAt" => tunnels.sort_by_key(|tunnel| seconds(tunnel.deleted_at)),
        "numConnections" => tunnels.sort_by_key(|tunnel| tunnel.connections.len()),
        other => {
            if other != "name" {
                tracing::error!(
                    "{other} is not a valid sort field. Valid sort fields are name, id, createdAt, deletedAt, \
                     numConnections. Defaulting to 'name'."
                );
            }
            tunnels.sort_by(|one, other| one.name.cmp(&other.name));
        }
    }
}

/// `tunnel info`.
pub(super) async fn info(session: &Session<'_>, arguments: &InfoArgs) -> Result<String, Failure> {
    let [tunnel] = arguments.tunnel.as_slice() else {
        let text = "\"adit tunnel info\" accepts exactly one argument, the ID or name of the tunnel to get info about.";
        return Err(Failure::usage("tunnel info", text));
    };
    let parsing = |failure: Failure| failure.within("error parsing tunnel ID");
    let client = session.client().map_err(parsing)?;
    let id = session.tunnel_id(&client, tunnel).await.map_err(parsing)?;
    let path = client.account(&format!("cfd_tunnel/{id}/connections"));
    let mut connectors: Vec<Connector> = client.call("list connection details", "GET", &path, None).await?;
    sort_connectors(&mut connectors, &arguments.sort_by);
    if arguments.invert_sort {
        connectors.reverse();
    }
    let query = Query::default().with("uuid", &id);
    let found: Vec<Tunnel> = client.pages("list tunnels", &client.account("cfd_tunnel"), &query).await?;
    let [tunnel] = found.as_slice() else {
        let text =
            format!("Expected to find a single tunnel with uuid {id} but found {} tunnels.", found.len());
        return Err(Failure::new(text));
    };
    if let Some(format) = &arguments.format.output {
        let connectors = Shown::List(connectors.iter().map(Connector::shown).collect());
        let info = Shown::Object(vec![
            member("id", "id", text(&tunnel.id)),
            member("name", "name", text(&tunnel.name)),
            member("createdAt", "createdat", Shown::Time(tunnel.created_at)),
            member("conns", "connectors", connectors),
        ]);
        return render(format, &info);
    }
    if connectors.is_empty() {
        return Ok(format!("Your tunnel {id} does not have any active connection.\n"));
    }
    let head = format!(
        "NAME:     {}\nID:       {}\nCREATED:  {}\n\n",
        tunnel.name,
        tunnel.id,
        spoken_time(tunnel.created_at)
    );
    let recently = arguments.recently.show_recently_disconnected;
    let rows: Vec<_> = connectors.iter().filter_map(|connector| connector.row(recently)).collect();
    if rows.is_empty() {
        return Ok(format!("{head}This tunnel has no active connectors.\n"));
    }
    let titles = ["CONNECTOR ID", "CREATED", "ARCHITECTURE", "VERSION", "ORIGIN IP", "EDGE"];
    Ok(format!("{head}{}", table::lines(&titles, &rows)))
}

fn sort_connectors(connectors: &mut [Connector], by: &str) {
    match by {
        "id" => connectors.sort_by_key(|connector| connector.id.to_string()),
        "numConnections" => connectors.sort_by_key(|connector| connector.connections.len()),
        "version" => connectors.sort_by(|one, other| one.version.cmp(&other.version)),
        other => {
            if other != "createdAt" {
                tracing::error!(
                    "{other} is not a valid sort field. Valid sort fields are id, startedAt, numConnections, version. \
                     Defaulting to 'name'."
                );
            }
            connectors.sort_by_key(|connector| connector.run_at.map(OffsetDateTime::unix_timestamp));
        }
    }
}

/// `tunnel delete`.
pub(super) async fn delete(session: &Session<'_>, arguments: &DeleteArgs) -> Result<String, Failure> {
    if arguments.tunnels.is_empty() {
        let text =
            "\"adit tunnel delete\" requires at least 1 argument, the ID or name of the tunnel to delete.";
        return Err(Failure::usage("tunnel delete", text));
    }
    let Entry { client, certificate } = session.enter()?;
    for id in session.tunnel_ids(&client, &arguments.tunnels).await? {
        let path = client.account(&format!("cfd_tunnel/{id}"));
        let tunnel: Tunnel = client.call("get tunnel", "GET", &path, None).await.map_err(|failure| {
            failure.within(format_args!("Can't get tunnel information. Please check tunnel id: {id}"))
        })?;
        if tunnel.deleted_at.is_some() {
            return Err(Failure::new(format!("Tunnel {id} has already been deleted")));
        }
        let query = if arguments.force { "?cascade=true" } else { "" };
        let done = client.call::<Value>("delete tunnel", "DELETE", &format!("{path}{query}"), None).await;
        done.map_err(|failure| failure.within(format_args!("Error deleting tunnel {id}")))?;
        if let Some(file) = session.credentials_of(certificate.as_deref(), id)
            && let Err(error) = std::fs::remove_file(&file)
        {
            tracing::info!(
                "Tunnel {id} was deleted, but we could not remove its credentials file  {}: {error}. Consider deleting \
                 this file manually.",
                file.display()
            );
        }
    }
    Ok(String::new())
}

/// `tunnel cleanup`. What the API refuses is logged: the other tunnels are still cleaned up.
pub(super) async fn cleanup(session: &Session<'_>, arguments: &CleanupArgs) -> Result<String, Failure> {
    if arguments.tunnels.is_empty() {
        let text = "\"adit tunnel cleanup\" requires at least 1 argument, the IDs of the tunnels to cleanup connections.";
        return Err(Failure::usage("tunnel cleanup", text));
    }
    let client = session.client()?;
    let ids = session.tunnel_ids(&client, &arguments.tunnels).await?;
    let connector = match arguments.connector_id.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => Some(uuid(id).map_err(|problem| {
            Failure::new(problem).within(format_args!("{id} is not a valid client ID (must be a UUID)"))
        })?),
        None => None,
    };
    let of_connector = connector.map(|id| format!(" for connector-id {id}")).unwrap_or_default();
    let query = connector.map(|id| format!("?client_id={id}")).unwrap_or_default();
    for id in ids {
        tracing::info!("Cleanup connection for tunnel {id}{of_connector}");
        let path = client.account(&format!("cfd_tunnel/{id}/connections{query}"));
        if let Err(error) = client.call::<Value>("cleanup connections", "DELETE", &path, None).await {
            tracing::error!("Error cleaning up connections for tunnel {id}, error :{error}");
        }
    }
    Ok(String::new())
}

/// `tunnel token`.
pub(super) async fn token(session: &Session<'_>, arguments: &TokenArgs) -> Result<String, Failure> {
    let [tunnel] = arguments.tunnel.as_slice() else {
        let text = "\"adit tunnel token\" requires exactly 1 argument, the name or UUID of tunnel to fetch the \
                    credentials token for.";
        return Err(Failure::usage("tunnel token", text));
    };
    let parsing = |failure: Failure| failure.within("error parsing tunnel ID");
    let client = session.client().map_err(parsing)?;
    let id = session.tunnel_id(&client, tunnel).await.map_err(parsing)?;
    let path = client.account(&format!("cfd_tunnel/{id}/token"));
    let token: String = client
        .call("get tunnel token", "GET", &path, None)
        .await
        .inspect_err(|_| tracing::error!("Could not get the Token for the given Tunnel {id}"))?;
    let token = token_of(&token)?;
    if let Some(path) = &session.flags.credentials_file {
        let written = write_credentials(path, &token);
        written.map_err(|failure| {
            let path = path.display();
            failure.within(format_args!("error writing token credentials to JSON file in path {path}"))
        })?;
        return Ok(String::new());
    }
    let json = serde_json::to_vec(&token).map_err(|error| Failure::new(error.to_string()))?;
    Ok(format!("{}\n", STANDARD.encode(json)))
}
