//! Fallback domains (contract D, 11.6): `A/devices/policy/fallback_domains`, whose names devices ask of somebody else than the
//! edge. They come back as they were written.

use std::collections::HashSet;
use std::net::IpAddr;

use adit_model::{DomainSuffix, FallbackDomain, FallbackDomains};
use serde_json::Value;

use super::Call;
use super::answer::{Kind, object};
use super::body::{self, Family};
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style};
use crate::permission::{Area, Level};

/// Most domains: each device is told all of them.
const MAX_DOMAINS: usize = 1000;
const MANY: &str = "an array of up to 1000 fallback domains, each as {\"suffix\": \"corp.example\"}";
/// Longest description, in characters.
const MAX_DESCRIPTION: usize = 100;
/// Most resolvers of one domain: devices ask two of them.
const MAX_SERVERS: usize = 8;
const SERVERS: &str = "an array of up to 8 addresses";

const DOMAINS: Shape = Shape::List(
    &Shape::Object(&[
        Field::required("suffix", "a domain such as corp.example", Shape::Name(255)),
        Field::optional("description", Shape::Comment(MAX_DESCRIPTION)),
        Field::optional("dns_server", Shape::List(&Shape::Text, MAX_SERVERS, SERVERS)),
    ]),
    MAX_DOMAINS,
    MANY,
);

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::get(
        "/accounts/{account}/devices/policy/fallback_domains",
        "List the domains whose names devices ask of somebody else",
        |call| Box::pin(list(call)),
    )
    .needs(Area::ZeroTrust, Level::Read)
    .list(Style::Single, FALLBACK_DOMAIN, &[]),
    Operation::put(
        "/accounts/{account}/devices/policy/fallback_domains",
        "Replace the domains whose names devices ask of somebody else",
        |call| Box::pin(replace(call)),
    )
    .needs(Area::ZeroTrust, Level::Write)
    .items(Family::Device, DOMAINS)
    .list(Style::Single, FALLBACK_DOMAIN, &[]),
];

async fn list(call: &Call<'_>) -> Result<Reply, ApiError> {
    Ok(reply(&call.control.0.store.fallback_domains_fetch(call.account).await?))
}

async fn replace(call: &Call<'_>) -> Result<Reply, ApiError> {
    let body = body::value(&call.body, Family::Device)?;
    let domains = read(&body)?;
    let edge = FallbackDomains { account: call.account, domains };
    let done = call.control.0.store.fallback_domains_put(&call.actor, body, edge).await?;
    Ok(reply(&done.value))
}

fn reply(written: &Value) -> Reply {
    Reply::single(written.as_array().into_iter().flatten().map(object).collect())
}

/// What an array says that has been checked to be one.
fn read(body: &Value) -> Result<Vec<FallbackDomain>, ApiError> {
    let wrong = |pointer: &str, expected: &str| {
        let field = pointer.trim_start_matches('/').replace('/', ".");
        Err(Family::Device.invalid(&format!("{field}: {expected}")).at(pointer))
    };
    let mut seen = HashSet::new();
    let mut domains = Vec::new();
    for (at, item) in body.as_array().into_iter().flatten().enumerate() {
        let pointer = format!("/{at}/suffix");
        let suffix = match item["suffix"].as_str().unwrap_or_default().parse::<DomainSuffix>() {
            Ok(suffix) if seen.insert(suffix.clone()) => suffix,
            Ok(_) => return wrong(&pointer, "is there twice"),
            Err(error) => return wrong(&pointer, &error.to_string()),
        };
        let mut servers = Vec::new();
        for (number, server) in item["dns_server"].as_array().into_iter().flatten().enumerate() {
            match server.as_str().unwrap_or_default().parse::<IpAddr>() {
                Ok(server) => servers.push(server),
                Err(_) => return wrong(&format!("/{at}/dns_server/{number}"), "expected an address"),
            }
        }
        domains.push(FallbackDomain { suffix, servers });
    }
    Ok(domains)
}

object! {
    FIELDS = object(domain: &Value) [
        "suffix": Kind::Text => domain["suffix"],
        "description": Kind::Maybe(&Kind::Text) => domain["description"],
        "dns_server": Kind::Maybe(&Kind::Many(&Kind::Text)) => domain["dns_server"],
    ]
}

const FALLBACK_DOMAIN: Kind = Kind::Object("FallbackDomain", FIELDS, &[]);
