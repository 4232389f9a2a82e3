//! What is asked of whoever knows the rules, the certificates and the flow.

use std::net::SocketAddr;
use std::sync::Arc;

use adit_model::{OwnPage, RequestFacts, Rule, UntrustedAction};
use rustls::sign::CertifiedKey;

use crate::origin::Validation;

/// Decides, and is told what became of it.
pub trait Gate: Send + Sync + 'static {
    /// The certificate to show to a client that asks for this name, or for the flow's destination. `None`: TLS cannot be
    /// opened.
    fn leaf(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>>;

    /// What becomes of a request, with what is known of it.
    fn verdict(&self, request: &RequestFacts<'_>) -> Verdict;

    /// Whether a request for this host would have passed unopened, had its client named it in its hello.
    fn passes_unopened(&self, host: &str) -> bool;

    /// Takes the record of a request.
    fn record(&self, exchange: &Exchange<'_>);

    /// What pages say of the flow.
    fn context(&self) -> PageContext;
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It passes, as this rule says if one matches.
    Allow(Option<Arc<Rule>>),
    /// It is refused.
    Block(Arc<Rule>),
    /// Its client is sent elsewhere.
    Redirect(Arc<Rule>),
    /// The response decides.
    Later,
}

/// What a page says of the flow.
#[derive(Debug, Clone)]
pub struct PageContext {
    /// The account's tag.
    pub account: String,
    /// Where the device is.
    pub source: String,
    /// The device's id.
    pub device: String,
    /// The person or service token behind it.
    pub user: String,
    /// When it was asked, in UTC.
    pub time: String,
    /// Where the flow goes.
    pub destination: SocketAddr,
    /// The account's own page, if it has one.
    pub page: Option<Arc<OwnPage>>,
}

/// What was done with a request, by the names of the HTTP log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It was passed on.
    Allow,
    /// A rule refused it.
    Block,
    /// Its client was sent elsewhere.
    Redirect,
    /// It could not be passed on.
    Error,
}

impl Action {
    /// The name in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Block => "block",
            Self::Redirect => "redirect",
            Self::Error => "error",
        }
    }
}

/// The record of one request, made when its response's head is known.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// The request, its response included.
    pub request: &'a RequestFacts<'a>,
    /// `HTTP/1.1` or `HTTP/2`.
    pub version: &'static str,
    /// The status that the client was told.
    pub status: u16,
    /// What was done.
    pub action: Action,
    /// The rule that decided, if one did.
    pub rule: Option<&'a Rule>,
    /// Why the edge itself answered, if it did.
    pub reason: Option<&'static str>,
    /// What was found of the origin's certificate; none in plain HTTP.
    pub validation: Option<Validation>,
    /// What was done about an origin whose certificate is not good.
    pub untrusted: Option<UntrustedAction>,
    /// Whether the origin asked for a certificate of the client.
    pub wants_certificate: bool,
    /// What led the client here, if it said so.
    pub referer: Option<&'a str>,
    /// The client's program, if it said so.
    pub user_agent: Option<&'a str>,
}
