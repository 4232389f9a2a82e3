//! How an account's gateway treats flows, beside its rules (Gateway semantics, 3.2).

use serde::{Deserialize, Serialize};

use crate::id::AccountId;

/// An account's settings, as an edge needs them. An account that has none has the default ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewaySettings {
    /// The account.
    pub account: AccountId,
    /// Whether TLS is opened.
    pub tls_decrypt: bool,
    /// On which ports HTTP and TLS are looked for.
    pub inspection: InspectionMode,
    /// What becomes of TLS that carries no HTTP.
    pub non_http_tls: NonHttpTls,
    /// For how long an answer to a DNS query may be kept at most, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ttl_secs: Option<u32>,
}

/// On which ports HTTP and TLS are looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InspectionMode {
    /// HTTP on TCP 80, TLS on TCP 443.
    Static,
    /// On every port, by what the client says first.
    #[default]
    Dynamic,
}

/// What becomes of TLS whose client offers a protocol that is not HTTP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NonHttpTls {
    /// It is refused.
    #[default]
    Error,
    /// It passes unopened.
    Passthrough,
}

impl GatewaySettings {
    /// The settings of an account that has set nothing.
    pub fn of(account: AccountId) -> Self {
        Self {
            account,
            tls_decrypt: false,
            inspection: InspectionMode::default(),
            non_http_tls: NonHttpTls::default(),
            max_ttl_secs: None,
        }
    }
}
