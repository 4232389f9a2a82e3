//! Log records by the names and types of the published datasets (Gateway semantics, 8), made of what edges report.
//!
//! What holds: a record has the fields of its dataset's table and no others; those that nothing is known of are empty, and
//! are written all the same, so that a parser of the published datasets reads each line. A field that says who or where
//! somebody is stands in the table as personal, and is left empty where the account's logs are to be redacted.

mod fields;
mod rows;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::SystemTime;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::id::AccountId;
pub use rows::log_record;

/// A stream of records, one for each layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Dataset {
    /// One for each DNS query.
    #[serde(rename = "gateway_dns")]
    Dns,
    /// One for each flow that rules decided.
    #[serde(rename = "gateway_network")]
    Network,
    /// One for each HTTP request that was looked into, and for each connection that a rule let pass unopened.
    #[serde(rename = "gateway_http")]
    Http,
    /// One for each flow when it has ended, also for one that never began.
    #[serde(rename = "zero_trust_network_sessions")]
    Sessions,
}

/// A text names no dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected gateway_dns, gateway_network, gateway_http or zero_trust_network_sessions")]
pub struct UnknownDataset;

impl Dataset {
    /// Every dataset.
    pub const ALL: [Self; 4] = [Self::Dns, Self::Network, Self::Http, Self::Sessions];

    /// The published name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "gateway_dns",
            Self::Network => "gateway_network",
            Self::Http => "gateway_http",
            Self::Sessions => "zero_trust_network_sessions",
        }
    }

    /// Its fields, in the order in which they are written.
    pub const fn fields(self) -> &'static [LogField] {
        match self {
            Self::Dns => fields::DNS,
            Self::Network => fields::NETWORK,
            Self::Http => fields::HTTP,
            Self::Sessions => fields::SESSIONS,
        }
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Dataset {
    type Err = UnknownDataset;

    fn from_str(text: &str) -> Result<Self, UnknownDataset> {
        Self::ALL.into_iter().find(|dataset| dataset.as_str() == text).ok_or(UnknownDataset)
    }
}

/// A field of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogField {
    /// Its published name.
    pub name: &'static str,
    /// What it holds.
    pub kind: LogKind,
    /// Whether it says who, where from or what somebody looked at: what redaction drops.
    pub personal: bool,
}

/// What a field holds, and what it holds when nothing is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKind {
    /// A text, or `""`.
    Text,
    /// A whole number, or 0.
    Number,
    /// `true` or `false`.
    Flag,
    /// An array, or `[]`.
    Many,
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum LogValue {
    /// A text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
    /// Texts.
    Texts(Vec<String>),
}

impl LogValue {
    /// Whether it says nothing.
    fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Number(number) => *number == 0,
            Self::Flag(flag) => !flag,
            Self::Texts(texts) => texts.is_empty(),
        }
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    dataset: Dataset,
    account: AccountId,
    at: SystemTime,
    id: Uuid,
    values: Vec<(&'static str, LogValue)>,
}

/// What a record is found by, beside its time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogKeys {
    /// The flow.
    pub session: Option<String>,
    /// The rule that decided.
    pub policy: Option<String>,
    /// The device.
    pub device: Option<String>,
    /// The address that was asked for.
    pub destination: Option<IpAddr>,
    /// What was done.
    pub action: Option<String>,
}

impl LogRecord {
    /// A record that says nothing yet but its account.
    pub fn new(dataset: Dataset, account: AccountId, at: SystemTime, id: Uuid) -> Self {
        let mut record = Self { dataset, account, at, id, values: Vec::with_capacity(24) };
        record.set("AccountID", account.to_string());
        record
    }

    /// Sets a field of the dataset's table. What says nothing is left out.
    pub fn set(&mut self, name: &'static str, value: impl Into<LogValue>) {
        debug_assert!(self.field(name).is_some(), "{name} is no field of {}", self.dataset);
        let value = value.into();
        if !value.is_empty() {
            self.values.push((name, value));
        }
    }

    /// Leaves out what the table calls personal.
    #[must_use]
    pub fn redacted(mut self) -> Self {
        let fields = self.dataset.fields();
        self.values.retain(|(name, _)| fields.iter().any(|field| field.name == *name && !field.personal));
        self
    }

    /// Its dataset.
    pub fn dataset(&self) -> Dataset {
        self.dataset
    }

    /// Its account.
    pub fn account(&self) -> AccountId {
        self.account
    }

    /// When it was recorded: of a session, its end.
    pub fn at(&self) -> SystemTime {
        self.at
    }

    /// Its own id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The value of a field, unless it is empty.
    pub fn get(&self, name: &str) -> Option<&LogValue> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// What it is found by.
    pub fn keys(&self) -> LogKeys {
        let text = |name| match self.get(name) {
            Some(LogValue::Text(text)) => Some(text.clone()),
            Some(LogValue::Number(_) | LogValue::Flag(_) | LogValue::Texts(_)) | None => None,
        };
        LogKeys {
            session: text("SessionID"),
            policy: text("PolicyID"),
            device: text("DeviceID"),
            destination: text("DestinationIP").and_then(|text| text.parse().ok()),
            action: text("Action").or_else(|| text("ResolverDecision")),
        }
    }

    /// Only the fields that say something, as they are stored.
    pub fn stored(&self) -> impl Serialize {
        Stored(self)
    }

    fn field(&self, name: &str) -> Option<&'static LogField> {
        self.dataset.fields().iter().find(|field| field.name == name)
    }
}

/// Every field of the dataset, the empty ones too, behind the dataset's name.
impl Serialize for LogRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.dataset.fields();
        let mut map = serializer.serialize_map(Some(fields.len() + 1))?;
        map.serialize_entry("Dataset", self.dataset.as_str())?;
        for field in fields {
            match (self.get(field.name), field.kind) {
                (Some(value), _) => map.serialize_entry(field.name, value)?,
                (None, LogKind::Text) => map.serialize_entry(field.name, "")?,
                (None, LogKind::Number) => map.serialize_entry(field.name, &0)?,
                (None, LogKind::Flag) => map.serialize_entry(field.name, &false)?,
                (None, LogKind::Many) => map.serialize_entry(field.name, &[(); 0])?,
            }
        }
        map.end()
    }
}

struct Stored<'a>(&'a LogRecord);

impl Serialize for Stored<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.values.iter().map(|(name, value)| (name, value)))
    }
}

impl From<String> for LogValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for LogValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for LogValue {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u64> for LogValue {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u16> for LogValue {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<bool> for LogValue {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<IpAddr> for LogValue {
    fn from(address: IpAddr) -> Self {
        Self::Text(address.to_canonical().to_string())
    }
}

impl From<Vec<String>> for LogValue {
    fn from(texts: Vec<String>) -> Self {
        Self::Texts(texts)
    }
}

/// A time as records have it: RFC 3339 in UTC.
impl From<SystemTime> for LogValue {
    fn from(time: SystemTime) -> Self {
        let time = OffsetDateTime::from(time);
        let time = time.replace_microsecond(time.microsecond()).unwrap_or(time);
        Self::Text(time.format(&Rfc3339).unwrap_or_default())
    }
}

impl<T: Into<LogValue>> From<Option<T>> for LogValue {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Text(String::new()), Into::into)
    }
}
