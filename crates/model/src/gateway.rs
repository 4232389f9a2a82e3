//! How an account's gateway treats flows, beside its rules (Gateway semantics, 3.2).

use serde::{Deserialize, Serialize};

use crate::id::{AccountId, CertificateId, OriginRootId, VirtualNetworkId};
use crate::rule::BlockPage;

/// An account's settings, as an edge needs them. An account that has none has the default ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewaySettings {
    /// The account.
    pub account: AccountId,
    /// Whether TLS is opened.
    pub tls_decrypt: bool,
    /// The authority that signs the certificates that are shown.
    #[serde(default = "built_in", skip_serializing_if = "is_built_in")]
    pub certificate: CertificateId,
    /// On which ports HTTP and TLS are looked for.
    pub inspection: InspectionMode,
    /// What becomes of TLS that carries no HTTP.
    pub non_http_tls: NonHttpTls,
    /// For how long an answer to a DNS query may be kept at most, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ttl_secs: Option<u32>,
    /// Whether open flows are cut that a block rule matches when rules change.
    #[serde(default = "yes")]
    pub reevaluate: bool,
    /// What is recorded.
    #[serde(default)]
    pub logging: Logging,
}

const fn yes() -> bool {
    true
}

const fn built_in() -> CertificateId {
    CertificateId::BUILT_IN
}

fn is_built_in(certificate: &CertificateId) -> bool {
    *certificate == CertificateId::BUILT_IN
}

/// What is recorded of an account's flows (Gateway semantics, 8; contract D, 9.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Logging {
    /// Whether anything is.
    pub enabled: bool,
    /// Whether personal fields are left out.
    pub redact_pii: bool,
    /// Whether URLs keep what stands behind their `?`.
    pub query_strings: bool,
    /// Of DNS queries.
    pub dns: RuleLogging,
    /// Of HTTP requests.
    pub http: RuleLogging,
    /// Of flows, when rules decide them.
    pub l4: RuleLogging,
}

/// What is recorded of one filter's decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleLogging {
    /// All of them.
    pub log_all: bool,
    /// Those that block.
    pub log_blocks: bool,
}

impl RuleLogging {
    /// Whether a decision is recorded.
    pub fn wants(self, blocks: Blocks) -> bool {
        self.log_all || self.log_blocks && blocks == Blocks::Yes
    }
}

/// Whether a decision refuses what it was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    /// It refuses it.
    Yes,
    /// It lets it pass.
    No,
}

impl Default for RuleLogging {
    fn default() -> Self {
        Self { log_all: true, log_blocks: false }
    }
}

impl Default for Logging {
    fn default() -> Self {
        let all = RuleLogging::default();
        Self { enabled: true, redact_pii: false, query_strings: false, dns: all, http: all, l4: all }
    }
}

/// What an account's blocked requests get, unless a rule says otherwise (Gateway semantics, 6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountBlockPage {
    /// The account.
    pub account: AccountId,
    /// Its own; `None` is the page that is built in.
    pub page: Option<OwnPage>,
}

/// What an account made of the block page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum OwnPage {
    /// A page in the account's words.
    CustomizedBlockPage(Box<CustomPage>),
    /// People are sent to this URL.
    RedirectUri(BlockPage),
}

/// The account's words on a block page; what is empty is not shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CustomPage {
    /// Whose page it is.
    pub name: String,
    /// Above the reason.
    pub header_text: String,
    /// At the end.
    pub footer_text: String,
    /// The URL of an image.
    pub logo_path: String,
    /// `#rrggbb`.
    pub background_color: String,
    /// Whom to write to.
    pub mailto_address: String,
    /// What about.
    pub mailto_subject: String,
    /// Shows no footer.
    pub suppress_footer: bool,
}

/// Authorities by which an account's own origins are trusted, beside the system's (Gateway semantics, 3.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginRoot {
    /// Its id.
    pub id: OriginRootId,
    /// Its account.
    pub account: AccountId,
    /// Certificates as PEM, one behind the other.
    pub certificate: String,
    /// Only for origins in these; empty for all.
    pub virtual_networks: Vec<VirtualNetworkId>,
    /// Only for these names and those below them, in lower case; empty for all.
    pub host_suffixes: Vec<String>,
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
            certificate: CertificateId::BUILT_IN,
            inspection: InspectionMode::default(),
            non_http_tls: NonHttpTls::default(),
            reevaluate: true,
            logging: Logging::default(),
            max_ttl_secs: None,
        }
    }
}
