//! `tunnel route dns`, `route lb` and `route ip …`.

use std::net::IpAddr;

use adit_model::{RouteId, VirtualNetworkId};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::client::{Client, Query};
use super::failure::Failure;
use super::networks;
use super::object::Route;
use super::render::{Shown, render};
use super::session::{Session, uuid};
use crate::command_line::{RouteAction, RouteIpAction, RouteShowArgs};
use crate::table;

const TITLES: [&str; 8] =
    ["ID", "NETWORK", "VIRTUAL NET ID", "COMMENT", "TUNNEL ID", "TUNNEL NAME", "CREATED", "DELETED"];

pub(super) async fn run(session: &Session<'_>, action: &RouteAction) -> Result<String, Failure> {
    match action {
        RouteAction::Dns { arguments, overwrite_dns } => dns(session, arguments, *overwrite_dns).await,
        RouteAction::Lb { arguments } => balancer(session, arguments).await,
        RouteAction::Ip { action: RouteIpAction::Add { arguments, vnet } } => {
            add(session, arguments, vnet.vnet.as_deref()).await
        }
        RouteAction::Ip { action: RouteIpAction::Show(arguments) } => show(session, arguments).await,
        RouteAction::Ip { action: RouteIpAction::Delete { arguments, vnet } } => {
            delete(session, arguments, vnet.vnet.as_deref()).await
        }
        RouteAction::Ip { action: RouteIpAction::Get { arguments, vnet } } => {
            lookup(session, arguments, vnet.vnet.as_deref()).await
        }
    }
}

async fn dns(session: &Session<'_>, arguments: &[String], overwrite: bool) -> Result<String, Failure> {
    let [tunnel, hostname] = arguments else {
        let text = "This command expects the format \"adit tunnel route dns <tunnel name/id> <hostname>\"";
        return Err(Failure::usage("tunnel route dns", text));
    };
    let client = session.client()?;
    let id = session.tunnel_id(&client, tunnel).await?;
    if !hostname_form(hostname) {
        return Err(Failure::new(format!("{hostname} is not a valid hostname")));
    }
    let body = json!({ "type": "dns", "user_hostname": hostname, "overwrite_existing": overwrite });
    let path = client.zone(&format!("tunnels/{id}/routes"));
    let done: Value = client.call("add route", "PUT", &path, Some(&body)).await?;
    let name = done["name"].as_str().filter(|name| !name.is_empty()).unwrap_or(hostname);
    let summary = match done["cname"].as_str() {
        Some("new") => format!("Added CNAME {name} which will route to this tunnel"),
        Some("updated") => format!("{name} updated to route to your tunnel"),
        _ => format!("{name} is already configured to route to your tunnel"),
    };
    tracing::info!(tunnelID = %id, "{summary}");
    Ok(String::new())
}

/// The API refuses it and says so.
async fn balancer(session: &Session<'_>, arguments: &[String]) -> Result<String, Failure> {
    let [tunnel, name, pool] = arguments else {
        let text = "This command expects the format \"adit tunnel route lb <tunnel name/id> <hostname> <load balancer \
                    pool>\"";
        return Err(Failure::usage("tunnel route lb", text));
    };
    let client = session.client()?;
    let id = session.tunnel_id(&client, tunnel).await?;
    if !hostname_form(name) {
        return Err(Failure::new(format!("{name} is not a valid load balancer name")));
    }
    let body = json!({ "type": "lb", "lb_name": name, "lb_pool": pool });
    let path = client.zone(&format!("tunnels/{id}/routes"));
    client.call::<Value>("add route", "PUT", &path, Some(&body)).await?;
    Ok(String::new())
}

/// Whether a name has a form that an API may take; which names it does take is its own to say.
fn hostname_form(name: &str) -> bool {
    let known = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
    let label =
        |label: &str| (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
    let name = name.strip_suffix('.').unwrap_or(name);
    let bare = name.strip_prefix("*.").unwrap_or(name);
    name.len() <= 253 && bare.chars().all(known) && bare.split('.').all(label)
}

/// The virtual network that was named, if one was.
async fn network_id(client: &Client, named: Option<&str>) -> Result<Option<VirtualNetworkId>, Failure> {
    match named {
        Some(named) => networks::id_of(client, named).await.map(Some),
        None => Ok(None),
    }
}

/// A network as Go reads it: with a prefix length, and host bits are passed over.
fn network(text: &str) -> Result<IpNet, Failure> {
    let network = text.parse::<IpNet>().map(|network| network.trunc());
    network.map_err(|_| Failure::new(format!("invalid CIDR address: {text}")))
}

async fn add(session: &Session<'_>, arguments: &[String], vnet: Option<&str>) -> Result<String, Failure> {
    let ([cidr, tunnel], rest) = arguments.split_first_chunk().ok_or_else(|| {
        Failure::new(
            "You must supply at least 2 arguments, first the network you wish to route (in CIDR form e.g. 1.2.3.4/32) and \
             then the tunnel ID to proxy with",
        )
    })?;
    let network = network(cidr).map_err(|failure| failure.within("Invalid network CIDR"))?;
    let invalid = |failure: Failure| failure.within("Invalid tunnel");
    let client = session.client().map_err(invalid)?;
    let tunnel = session.tunnel_id(&client, tunnel).await.map_err(invalid)?;
    let mut body = json!({
        "network": network, "tunnel_id": tunnel, "comment": rest.first().map_or("", String::as_str),
    });
    if let Some(id) = network_id(&client, vnet).await? {
        body["virtual_network_id"] = id.to_string().into();
    }
    let added =
        client.call::<Value>("add route", "POST", &client.account("teamnet/routes"), Some(&body)).await;
    added.map_err(|failure| failure.within("API error"))?;
    Ok(format!("Successfully added route for {network} over tunnel {tunnel}\n"))
}

async fn show(session: &Session<'_>, arguments: &RouteShowArgs) -> Result<String, Failure> {
    let query = filter(arguments).map_err(|failure| failure.within("invalid config for routing filters"))?;
    let client = session.client()?;
    let routes: Vec<Route> = client.pages("list routes", &client.account("teamnet/routes"), &query).await?;
    if let Some(format) = &arguments.format.output {
        let shown: Vec<Shown> = routes.iter().map(Route::shown).collect();
        return render(format, &if shown.is_empty() { Shown::NoList } else { Shown::List(shown) });
    }
    if routes.is_empty() {
        return Ok("No routes were found for the given filter flags. \
                   You can use 'adit tunnel route ip add' to add a route.\n"
            .to_owned());
    }
    Ok(table::lines(&TITLES, &routes.iter().map(Route::row).collect::<Vec<_>>()))
}

fn filter(arguments: &RouteShowArgs) -> Result<Query, Failure> {
    let id = |flag: &str, given: &Option<String>| match given.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => uuid(id)
            .map(Some)
            .map_err(|problem| Failure::new(problem).within(format_args!("Couldn't parse UUID from {flag}"))),
        None => Ok(None),
    };
    let inside = arguments.filter_network_is_subset_of.as_deref().map(network).transpose()?;
    let around = arguments.filter_network_is_superset_of.as_deref().map(network).transpose()?;
    Ok(Query::default()
        .with("tun_types", &"cfd_tunnel")
        .with("is_deleted", &(arguments.filter_is_deleted == Some(true)))
        .maybe("network_subset", inside)
        .maybe("network_superset", around)
        .maybe("comment", arguments.filter_comment_is.as_ref())
        .maybe("tunnel_id", id("filter-tunnel-id", &arguments.filter_tunnel_id)?)
        .maybe("virtual_network_id", id("filter-vnet-id", &arguments.filter_vnet_id)?))
}

async fn delete(session: &Session<'_>, arguments: &[String], vnet: Option<&str>) -> Result<String, Failure> {
    let one = || {
        Failure::new("You must supply exactly one argument, the ID or CIDR of the route you want to delete")
    };
    let [route] = arguments else { return Err(one()) };
    let (client, id) = if let Ok(id) = uuid(route) {
        (session.client()?, RouteId::from_uuid(id))
    } else {
        let network = network(route).map_err(|_| one())?;
        let client = session.client()?;
        let id = route_of(&client, network, vnet).await?;
        (client, id)
    };
    let path = client.account(&format!("teamnet/routes/{id}"));
    let deleted = client.call::<Value>("delete route", "DELETE", &path, None).await;
    deleted.map_err(|failure| failure.within("API error"))?;
    Ok(format!("Successfully deleted route with ID {id}\n"))
}

/// The one live route with this network.
async fn route_of(client: &Client, network: IpNet, vnet: Option<&str>) -> Result<RouteId, Failure> {
    let query = Query::default()
        .with("tun_types", &"cfd_tunnel")
        .with("is_deleted", &false)
        .with("network_subset", &network)
        .with("network_superset", &network)
        .maybe("virtual_network_id", network_id(client, vnet).await?);
    let found: Vec<Route> = client.pages("list routes", &client.account("teamnet/routes"), &query).await?;
    match found.as_slice() {
        [one] => Ok(one.id),
        _ => Err(Failure::new("unable to find route for provided network and vnet")),
    }
}

async fn lookup(session: &Session<'_>, arguments: &[String], vnet: Option<&str>) -> Result<String, Failure> {
    let [given] = arguments else {
        return Err(Failure::new(
            "You must supply exactly one argument, an IP whose route will be queried (e.g. 1.2.3.4 or 2001:0db8:::7334)",
        ));
    };
    let address: IpAddr = given.parse().map_err(|_| Failure::new(format!("Invalid IP {given}")))?;
    let address = address.to_canonical();
    let client = session.client()?;
    let query = Query::default().maybe("virtual_network_id", network_id(&client, vnet).await?);
    let path = client.account(&format!("teamnet/routes/ip/{address}?{}", query.text()));
    let found = client.call::<Option<Route>>("get route by IP", "GET", &path, None).await;
    match found.map_err(|failure| failure.within("API error"))? {
        Some(route) => Ok(table::lines(&TITLES, &[route.row()])),
        None => Ok(format!("No route matches the IP {address}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_have_their_form() {
        for good in
            ["app.example.com", "*.example.com", "_dmarc.example.com", "App.Example.com.", "localhost"]
        {
            assert!(hostname_form(good), "{good}");
        }
        for wrong in ["", "a/b", "a..b", "-a.example.com", "a.*.b", "a b", &"x".repeat(64)] {
            assert!(!hostname_form(wrong), "{wrong}");
        }
    }

    #[test]
    fn host_bits_are_passed_over_and_a_bare_address_is_refused() {
        assert_eq!(network("10.1.2.3/16").map(|network| network.to_string()), Ok("10.1.0.0/16".into()));
        let error = network("10.0.0.0").map_err(|error| error.to_string());
        assert_eq!(error, Err("invalid CIDR address: 10.0.0.0".into()));
    }
}
