//! The management commands: each is a call or two of the v4 API, and a table of the answer.

mod client;

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::command_line::{ApiFlags, RouteIpAction, TunnelFlags};
use crate::table;
use client::Client;

/// `tunnel list`.
pub(crate) async fn list_tunnels(
    api: &ApiFlags,
    cacert: Option<&PathBuf>,
    output: Option<&str>,
) -> anyhow::Result<String> {
    let client = Client::new(api, cacert)?;
    let tunnels = client.pages("cfd_tunnel?is_deleted=false").await?;
    if wants_json(output)? {
        return pretty(&tunnels);
    }
    if tunnels.is_empty() {
        return Ok("No tunnels were found for the given filter flags. \
                   You can use 'adit tunnel create' to create a tunnel.\n"
            .to_owned());
    }
    let rows: Vec<_> = tunnels.iter().map(tunnel_row).collect();
    Ok(table::lines(&["ID", "NAME", "CREATED", "CONNECTIONS"], &rows))
}

fn tunnel_row(tunnel: &Value) -> Vec<String> {
    let created = text(tunnel, "created_at");
    // To the second, as cloudflared prints it.
    let created = created.split_once('.').map_or(created.clone(), |(seconds, _)| format!("{seconds}Z"));
    vec![text(tunnel, "id"), text(tunnel, "name"), created, connections(tunnel)]
}

/// `2xams01, 1xlon01`: how many connections each location has, those that are reconnecting not counted.
fn connections(tunnel: &Value) -> String {
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for connection in tunnel["connections"].as_array().into_iter().flatten() {
        if connection["is_pending_reconnect"] != true {
            *counts.entry(text(connection, "colo_name")).or_default() += 1;
        }
    }
    counts.iter().map(|(location, count)| format!("{count}x{location}")).collect::<Vec<_>>().join(", ")
}

/// `tunnel create`.
pub(crate) async fn create_tunnel(
    api: &ApiFlags,
    flags: &TunnelFlags,
    name: &str,
    secret: Option<String>,
) -> anyhow::Result<String> {
    let client = Client::new(api, flags.cacert.as_ref())?;
    let mut body = json!({ "name": name });
    if let Some(secret) = secret {
        let decoded = STANDARD.decode(&secret).ok().filter(|bytes| bytes.len() >= 32);
        decoded.context("--secret: expected standard base64 of at least 32 bytes")?;
        body["tunnel_secret"] = secret.into();
    }
    let tunnel = client.call("POST", "cfd_tunnel", Some(&body)).await.context("cannot create the tunnel")?;
    let id = text(&tunnel, "id");
    let path = flags.credentials_file.clone().unwrap_or_else(|| PathBuf::from(format!("{id}.json")));
    if let Err(error) = write_credentials(&path, &tunnel, name) {
        // Nothing half-made is left behind: a tunnel whose secret nobody has is of no use.
        client
            .call("DELETE", &format!("cfd_tunnel/{id}?cascade=true"), None)
            .await
            .context("cannot undo the creation")?;
        return Err(error);
    }
    Ok(format!(
        "Tunnel credentials written to {}. Keep this file secret. To revoke these credentials, delete the tunnel.\n\n\
         Created tunnel {name} with id {id}\n",
        path.display()
    ))
}

fn write_credentials(path: &PathBuf, tunnel: &Value, name: &str) -> anyhow::Result<()> {
    let token = STANDARD.decode(text(tunnel, "token")).context("the API sent no token for the tunnel")?;
    let token: Value =
        serde_json::from_slice(&token).context("the API sent a malformed token for the tunnel")?;
    let credentials = json!({
        "AccountTag": token["a"],
        "TunnelSecret": token["s"],
        "TunnelID": token["t"],
        "TunnelName": name,
    });
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(path).map_err(|error| {
            if error.kind() == std::io::ErrorKind::AlreadyExists {
                anyhow::anyhow!("{} already exists, and credentials are never overwritten", path.display())
            } else {
                anyhow::Error::new(error).context(format!("cannot write {}", path.display()))
            }
        })?;
    file.write_all(credentials.to_string().as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

/// `tunnel route ip …`.
pub(crate) async fn route_ip(
    api: &ApiFlags,
    cacert: Option<&PathBuf>,
    action: RouteIpAction,
) -> anyhow::Result<String> {
    let client = Client::new(api, cacert)?;
    match action {
        RouteIpAction::Add { network, tunnel, comment } => {
            let id = tunnel_id(&client, &tunnel).await?;
            let body = json!({ "network": network, "tunnel_id": id, "comment": comment.unwrap_or_default() });
            client.call("POST", "teamnet/routes", Some(&body)).await.context("cannot add the route")?;
            Ok(format!("Successfully added route for {network} over tunnel {id}\n"))
        }
        RouteIpAction::Show => {
            let routes = client.pages("teamnet/routes?is_deleted=false").await?;
            if routes.is_empty() {
                return Ok("No routes were found for the given filter flags. \
                           You can use 'adit tunnel route ip add' to add a route.\n"
                    .to_owned());
            }
            let columns = [
                "id",
                "network",
                "virtual_network_id",
                "comment",
                "tunnel_id",
                "tunnel_name",
                "created_at",
                "deleted_at",
            ];
            let rows: Vec<_> = routes
                .iter()
                .map(|route| columns.iter().map(|column| cell(route, column)).collect())
                .collect();
            let header = [
                "ID",
                "NETWORK",
                "VIRTUAL NET ID",
                "COMMENT",
                "TUNNEL ID",
                "TUNNEL NAME",
                "CREATED",
                "DELETED",
            ];
            Ok(table::lines(&header, &rows))
        }
    }
}

async fn tunnel_id(client: &Client, tunnel: &str) -> anyhow::Result<String> {
    if let Ok(id) = tunnel.parse::<adit_model::TunnelId>() {
        return Ok(id.to_string());
    }
    let tunnels =
        client.pages(&format!("cfd_tunnel?is_deleted=false&name={}", client::escape(tunnel))).await?;
    match tunnels.first() {
        Some(found) => Ok(text(found, "id")),
        None => bail!("there is no tunnel named {tunnel:?}; `adit tunnel list` shows those that there are"),
    }
}

fn wants_json(output: Option<&str>) -> anyhow::Result<bool> {
    match output {
        None => Ok(false),
        Some("json") => Ok(true),
        Some(other) => bail!("--output: expected json, not {other:?}"),
    }
}

fn pretty(value: &[Value]) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?))
}

fn text(object: &Value, key: &str) -> String {
    object[key].as_str().unwrap_or_default().to_owned()
}

fn cell(object: &Value, key: &str) -> String {
    object[key].as_str().map_or_else(|| "-".to_owned(), str::to_owned)
}
