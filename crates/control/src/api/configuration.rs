//! A tunnel's configuration (contract D, 6.2): `A/cfd_tunnel/{id}/configurations`.
//!
//! What is stored is what connectors are told: the object under `config`, as it was sent, without its nulls. It is checked
//! before ([`super::ingress`]), so that a connector has no reason to refuse it. A tunnel with a local configuration shows
//! what its connectors said of theirs.

use adit_model::TunnelId;
use adit_store::{ConfigSource, ConfigurationRow, TunnelRow};
use serde_json::{Map, Value};

use super::answer::{Kind, object};
use super::body::Family;
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::{Call, ingress, shape, tunnel};

/// What a connector adds to its report beside its configuration (tunnel protocol, 4.2).
const REPORT_FLAGS: &str = "__configuration_flags";

/// The body of a configuration.
pub(super) const PUT: &[Field] =
    &[Field::required("config", "an object with ingress rules", Shape::Told(ingress::schema))];

pub(super) async fn fetch(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let row = tunnel::row(call, id).await?;
    Ok(Reply::One(match row.config_source {
        ConfigSource::Control => {
            object(&row, call.control.0.store.configuration_fetch(row.id).await?.as_ref())
        }
        ConfigSource::Local => {
            let mut object = object(&row, None);
            object["config"] = reported(call, row.id);
            object
        }
    }))
}

pub(super) async fn put(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let id = tunnel::parse(id)?;
    let fields = call.fields(Family::Network)?;
    let config = fields.required("config", "an object with ingress rules", fields.value("config"))?;
    let config = without_nulls(config.clone());
    ingress::check(&config)?;
    let store = &call.control.0.store;
    let done = store.configuration_put(&call.actor, call.account, id, config.to_string()).await;
    let stored = done.map_err(tunnel::missing)?.value;
    let row = store.tunnel_fetch(call.account, id).await.map_err(tunnel::missing)?;
    Ok(Reply::One(object(&row, Some(&stored))))
}

object! {
    /// A tunnel without a configuration has version 0 and `null`.
    FIELDS = object(tunnel: &TunnelRow, stored: Option<&ConfigurationRow>) with {
        let config: Option<Value> = stored.and_then(|stored| serde_json::from_str(&stored.config).ok());
    } [
        "tunnel_id": Kind::Uuid => tunnel.id,
        "account_id": Kind::Tag => tunnel.account,
        "version": Kind::Number => stored.map_or(0, |stored| stored.version),
        "config": Kind::Maybe(&Kind::Map(&Kind::Anything)) => config.unwrap_or(Value::Null),
        "source": tunnel::SOURCE => tunnel.config_source.as_str(),
        "created_at": Kind::Time => shape::time(stored.map_or(tunnel.created_at, |stored| stored.created_at)),
    ]
}

pub(super) const CONFIGURATION: Kind = Kind::Object("TunnelConfiguration", FIELDS, &[]);

/// What the connector that registered last said of its configuration, if one said anything.
fn reported(call: &Call<'_>, tunnel: TunnelId) -> Value {
    let live = call.control.live();
    let mut open = live.of(tunnel);
    open.sort_by_key(|open| std::cmp::Reverse(open.at));
    let told = open.iter().find_map(|open| live.configuration(tunnel, open.connector));
    match told.and_then(|told| serde_json::from_str(told).ok()) {
        Some(Value::Object(mut report)) => {
            report.remove(REPORT_FLAGS);
            Value::Object(report)
        }
        Some(_) | None => Value::Null,
    }
}

/// A `null` is an absent key (contract D, 2.6), and connectors are told no nulls. As deep as the parser lets a value be.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, item)| !item.is_null());
            Value::Object(kept.map(|(key, item)| (key, without_nulls(item))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => other,
    }
}
