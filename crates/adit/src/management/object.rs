//! The API's objects as the management commands read and print them.

use adit_model::{ConnectorId, RouteId, TunnelId, VirtualNetworkId};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use super::render::{Member, Shown, member};

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Tunnel {
    pub(super) id: TunnelId,
    pub(super) name: String,
    #[serde(deserialize_with = "moment")]
    pub(super) created_at: Option<OffsetDateTime>,
    #[serde(default, deserialize_with = "moment")]
    pub(super) deleted_at: Option<OffsetDateTime>,
    #[serde(default)]
    pub(super) connections: Vec<Connection>,
    /// Of a tunnel that was just made.
    #[serde(default)]
    pub(super) token: String,
    /// Of a tunnel that was just made: where its connectors find the edge.
    #[serde(default)]
    pub(super) x_edges: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Connection {
    pub(super) colo_name: String,
    pub(super) id: String,
    pub(super) is_pending_reconnect: bool,
    pub(super) origin_ip: String,
    #[serde(deserialize_with = "moment")]
    pub(super) opened_at: Option<OffsetDateTime>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Connector {
    pub(super) id: ConnectorId,
    #[serde(default)]
    pub(super) features: Vec<String>,
    pub(super) version: String,
    pub(super) arch: String,
    #[serde(deserialize_with = "moment")]
    pub(super) run_at: Option<OffsetDateTime>,
    #[serde(default, rename = "conns")]
    pub(super) connections: Vec<Connection>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Route {
    pub(super) id: RouteId,
    pub(super) network: IpNet,
    pub(super) tunnel_id: TunnelId,
    pub(super) virtual_network_id: Option<VirtualNetworkId>,
    pub(super) comment: String,
    #[serde(deserialize_with = "moment")]
    pub(super) created_at: Option<OffsetDateTime>,
    #[serde(default, deserialize_with = "moment")]
    pub(super) deleted_at: Option<OffsetDateTime>,
    #[serde(default)]
    pub(super) tunnel_name: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct VirtualNetwork {
    pub(super) id: VirtualNetworkId,
    pub(super) comment: String,
    pub(super) name: String,
    pub(super) is_default_network: bool,
    #[serde(deserialize_with = "moment")]
    pub(super) created_at: Option<OffsetDateTime>,
    #[serde(default, deserialize_with = "moment")]
    pub(super) deleted_at: Option<OffsetDateTime>,
}

impl Tunnel {
    pub(super) fn members(&self) -> Vec<Member> {
        vec![
            member("id", "id", text(&self.id)),
            member("name", "name", text(&self.name)),
            member("created_at", "createdat", Shown::Time(self.created_at)),
            member("deleted_at", "deletedat", Shown::Time(self.deleted_at)),
            member("connections", "connections", connections(&self.connections)),
        ]
    }

    pub(super) fn shown(&self) -> Shown {
        Shown::Object(self.members())
    }

    pub(super) fn row(&self, recently: bool) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.name.clone(),
            table_time(self.created_at),
            counted(&self.connections, recently),
        ]
    }
}

impl Connector {
    pub(super) fn shown(&self) -> Shown {
        Shown::Object(vec![
            member("id", "id", text(&self.id)),
            member("features", "features", Shown::List(self.features.iter().map(text).collect())),
            member("version", "version", text(&self.version)),
            member("arch", "arch", text(&self.arch)),
            member("run_at", "runat", Shown::Time(self.run_at)),
            member("conns", "connections", connections(&self.connections)),
        ])
    }

    /// `None` if it has no connection to count.
    pub(super) fn row(&self, recently: bool) -> Option<Vec<String>> {
        let counted = counted(&self.connections, recently);
        let first = self.connections.first().filter(|_| !counted.is_empty())?;
        Some(vec![
            self.id.to_string(),
            table_time(self.run_at),
            self.arch.clone(),
            self.version.clone(),
            first.origin_ip.clone(),
            counted,
        ])
    }
}

impl Route {
    pub(super) fn shown(&self) -> Shown {
        let network = self.virtual_network_id.as_ref().map_or(Shown::Absent, text);
        Shown::Object(vec![
            member("id", "id", text(&self.id)),
            member("network", "network", Shown::Network(self.network)),
            member("tunnel_id", "tunnelid", text(&self.tunnel_id)),
            member("virtual_network_id", "vnetid", network),
            member("comment", "comment", text(&self.comment)),
            member("created_at", "createdat", Shown::Time(self.created_at)),
            member("deleted_at", "deletedat", Shown::Time(self.deleted_at)),
            member("tunnel_name", "tunnelname", text(&self.tunnel_name)),
        ])
    }

    pub(super) fn row(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.network.to_string(),
            self.virtual_network_id.map_or_else(|| "default".to_owned(), |id| id.to_string()),
            self.comment.clone(),
            self.tunnel_id.to_string(),
            self.tunnel_name.clone(),
            table_time(self.created_at),
            deletion(self.deleted_at),
        ]
    }
}

impl VirtualNetwork {
    pub(super) fn shown(&self) -> Shown {
        Shown::Object(vec![
            member("id", "id", text(&self.id)),
            member("comment", "comment", text(&self.comment)),
            member("name", "name", text(&self.name)),
            member("is_default_network", "isdefault", Shown::Flag(self.is_default_network)),
            member("created_at", "createdat", Shown::Time(self.created_at)),
            member("deleted_at", "deletedat", Shown::Time(self.deleted_at)),
        ])
    }

    pub(super) fn row(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.name.clone(),
            self.is_default_network.to_string(),
            self.comment.clone(),
            table_time(self.created_at),
            deletion(self.deleted_at),
        ]
    }
}

fn connections(connections: &[Connection]) -> Shown {
    let shown = |connection: &Connection| {
        Shown::Object(vec![
            member("colo_name", "coloname", text(&connection.colo_name)),
            member("id", "id", text(&connection.id)),
            member(
                "is_pending_reconnect",
                "ispendingreconnect",
                Shown::Flag(connection.is_pending_reconnect),
            ),
            member("origin_ip", "originip", text(&connection.origin_ip)),
            member("opened_at", "openedat", Shown::Time(connection.opened_at)),
        ])
    };
    Shown::List(connections.iter().map(shown).collect())
}

/// `2xams01, 1xlon01`: how many connections each location has; those that are about to connect anew only if asked for.
fn counted(connections: &[Connection], recently: bool) -> String {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for connection in connections.iter().filter(|connection| recently || !connection.is_pending_reconnect) {
        *counts.entry(&connection.colo_name).or_default() += 1;
    }
    counts.iter().map(|(location, count)| format!("{count}x{location}")).collect::<Vec<_>>().join(", ")
}

pub(super) fn text(value: &impl ToString) -> Shown {
    Shown::Text(value.to_string())
}

/// As Go prints a time in JSON and YAML: without zeros at the end of the fraction, and year 1 where there is none.
pub(super) fn go_time(time: Option<OffsetDateTime>) -> String {
    let (seconds, fraction) = utc(time, format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]"));
    format!("{seconds}{fraction}Z")
}

/// As Go prints a time in a sentence.
pub(super) fn spoken_time(time: Option<OffsetDateTime>) -> String {
    let (seconds, fraction) = utc(time, format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"));
    format!("{seconds}{fraction} +0000 UTC")
}

/// A time in a table: whole seconds.
fn table_time(time: Option<OffsetDateTime>) -> String {
    let (seconds, _) = utc(time, format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]"));
    format!("{seconds}Z")
}

fn deletion(time: Option<OffsetDateTime>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| table_time(Some(time)))
}

/// The seconds in UTC, and the fraction with its point or nothing.
fn utc(time: Option<OffsetDateTime>, format: &[BorrowedFormatItem<'_>]) -> (String, String) {
    let zero = time::macros::datetime!(0001-01-01 0:00 UTC);
    let time = time.unwrap_or(zero).to_offset(time::UtcOffset::UTC);
    let seconds = time.format(format).unwrap_or_default();
    let digits = format!("{:09}", time.nanosecond());
    let digits = digits.trim_end_matches('0');
    (seconds, if digits.is_empty() { String::new() } else { format!(".{digits}") })
}

fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<OffsetDateTime>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let parse = |text: String| OffsetDateTime::parse(&text, &Rfc3339).map_err(serde::de::Error::custom);
    text.map(parse).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_go_prints_them() {
        let time = |text: &str| Some(OffsetDateTime::parse(text, &Rfc3339).expect("a time"));
        assert_eq!(go_time(time("2026-01-02T03:04:05.405350Z")), "2026-01-02T03:04:05.40535Z");
        assert_eq!(go_time(time("2026-01-02T03:04:05+01:00")), "2026-01-02T02:04:05Z");
        assert_eq!(go_time(None), "0001-01-01T00:00:00Z");
        assert_eq!(spoken_time(time("2026-01-02T03:04:05.123456Z")), "2026-01-02 03:04:05.123456 +0000 UTC");
        assert_eq!(table_time(time("2026-01-02T03:04:05.9Z")), "2026-01-02T03:04:05Z");
    }
}
