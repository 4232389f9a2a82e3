//! One connection of a client and the one to its origin, request by request.
//!
//! The two speak the same version of HTTP, one connection each: what the origin can do is what the client is offered, and
//! an end, a reset or an upgrade on one side is one on the other. Each request is judged before anything of it is sent
//! on; bodies, trailers and what follows an upgrade pass unchanged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use adit_model::{OwnPage, RequestFacts, ResponseFacts, Rule, RuleSettings, UntrustedAction};
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::upgrade::OnUpgrade;
use tokio::sync::{Mutex, watch};
use tokio_util::task::TaskTracker;

use crate::gate::{Action, Exchange, Gate, Verdict};
use crate::head::{Head, mime, settle_host};
use crate::origin::{Seen, Validation};
use crate::page::{self, Body, Why, page};
use crate::upgrade::join;

/// What the requests of one connection share.
pub(crate) struct Session<G> {
    pub(crate) gate: Arc<G>,
    pub(crate) sender: Sender,
    /// `https` or `http`.
    pub(crate) scheme: &'static str,
    /// What the handshake with the origin showed; none in plain HTTP.
    pub(crate) seen: Option<Arc<Seen>>,
    /// The name in the client's hello.
    pub(crate) named: Option<String>,
    pub(crate) tasks: TaskTracker,
    /// Whether the origin has answered anything.
    pub(crate) answered: AtomicBool,
    /// Whether it has answered that the connection is no longer one of HTTP.
    pub(crate) upgraded: AtomicBool,
    /// Requests that wait for an answer.
    pub(crate) waiting: watch::Sender<usize>,
    /// Whether the client has asked anything.
    pub(crate) asked: AtomicBool,
    /// Whether something else than HTTP was spoken instead.
    pub(crate) something_else: AtomicBool,
}

/// Sends requests to the origin.
pub(crate) enum Sender {
    /// One after another.
    Http1(Mutex<http1::SendRequest<Incoming>>),
    /// Side by side.
    Http2(http2::SendRequest<Incoming>),
    /// There is no connection to the origin.
    None,
}

/// A request ends its client's connection without an answer, as if the origin had done so.
#[derive(Debug, thiserror::Error)]
#[error("the origin ended the connection")]
pub(crate) struct Ended(#[source] hyper::Error);

/// How a request was judged, and what is to be done for it.
struct Judged {
    rule: Option<Arc<Rule>>,
    /// Its response decides.
    waits: bool,
    untrusted: Option<UntrustedAction>,
}

/// A request that waits for an answer, for as long as it does.
pub(crate) struct Waiting<'a>(&'a watch::Sender<usize>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

impl<G: Gate> Session<G> {
    /// Counts a request in.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.waiting.send_modify(|waiting| *waiting += 1);
        Waiting(&self.waiting)
    }

    /// Serves one request.
    pub(crate) async fn serve(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Ended> {
        self.asked.store(true, Ordering::Relaxed);
        let context = self.gate.context();
        let clear = settle_host(&mut request, self.scheme);
        let head = Head::of(&request, self.scheme, &context.destination.to_string());
        let (headers, method, uri) =
            (request.headers().clone(), request.method().clone(), request.uri().clone());
        let asked = Asked { head: &head, headers: &headers, method: &method, uri: &uri };
        if clear.is_err() {
            let sentence = "The request does not say clearly which host it is for.";
            let why = Why { status: 400, reason: "bad_request", sentence, rule: None };
            return Ok(self.answer(asked, why, Action::Error));
        }
        if self.is_misdirected(&head) {
            let sentence = "This connection is for another site. Open a new one.";
            return Ok(self.answer(
                asked,
                Why { status: 421, reason: "misdirected", sentence, rule: None },
                Action::Error,
            ));
        }
        let facts = head.facts(None);
        let (rule, waits) = match self.gate.verdict(&facts) {
            Verdict::Allow(rule) => (rule, false),
            Verdict::Later => (None, true),
            refusing @ (Verdict::Block(_) | Verdict::Redirect(_)) => return Ok(self.refuse(asked, &refusing)),
        };
        let untrusted = match self.judge_origin(rule.as_deref()) {
            Ok(untrusted) => untrusted,
            Err(why) => return Ok(self.answer_for(asked, rule.as_deref(), why)),
        };
        let judged = Judged { rule, waits, untrusted };
        if let Some(rule) = &judged.rule {
            change_headers(request.headers_mut(), &rule.settings);
        }
        let upgrade = hyper::upgrade::on(&mut request);
        match self.send(request).await {
            Ok(response) => Ok(self.respond(asked, judged, upgrade, response)),
            Err(Unsent::Failed(error)) => self.failed(asked, error),
            Err(Unsent::NoOrigin) => {
                let sentence = "The site does not answer.";
                Ok(self.answer(
                    asked,
                    Why { status: 502, reason: "origin_tls_error", sentence, rule: None },
                    Action::Error,
                ))
            }
        }
    }

    /// On one connection of HTTP/2 a client may ask for several hosts; one that may not be opened is not read here.
    fn is_misdirected(&self, head: &Head) -> bool {
        let Some(host) = head.facts(None).host.map(str::to_owned) else { return false };
        self.scheme == "https"
            && head.version == "HTTP/2"
            && self.named.as_deref() != Some(host.as_str())
            && self.gate.passes_unopened(&host)
    }

    /// What is done about an origin whose certificate is not good.
    fn judge_origin(&self, rule: Option<&Rule>) -> Result<Option<UntrustedAction>, Why<'static>> {
        if matches!(self.sender, Sender::None) {
            return if self.wants_certificate() { Err(MTLS_REQUIRED) } else { Ok(None) };
        }
        let validation = self.seen.as_ref().map_or(Validation::Valid, |seen| seen.validation());
        if validation == Validation::Valid {
            return Ok(None);
        }
        match page::untrusted_action(rule) {
            UntrustedAction::PassThrough => Ok(Some(UntrustedAction::PassThrough)),
            UntrustedAction::Block => {
                let sentence = "The site's certificate is not trusted, and a rule does not allow this.";
                Err(Why { status: 403, reason: "untrusted_certificate", sentence, rule: None })
            }
            UntrustedAction::Error => Err(untrusted(validation)),
        }
    }

    /// Whether the origin asked for a certificate and has answered nothing: in TLS 1.3 it says only after the handshake
    /// that it does not do without.
    pub(crate) fn insists_on_certificate(&self) -> bool {
        self.wants_certificate() && !self.answered.load(Ordering::Relaxed)
    }

    /// Notes what is no HTTP; after a request it is only a mistake.
    pub(crate) fn spoke_something_else(&self) {
        if !self.asked.load(Ordering::Relaxed) {
            self.something_else.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_something_else(&self) -> bool {
        self.something_else.load(Ordering::Relaxed)
    }

    fn wants_certificate(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.wants_certificate())
    }

    async fn send(&self, mut request: Request<Incoming>) -> Result<Response<Incoming>, Unsent> {
        match &self.sender {
            Sender::None => Err(Unsent::NoOrigin),
            Sender::Http2(sender) => {
                let mut sender = sender.clone();
                sender.ready().await.map_err(Unsent::Failed)?;
                sender.send_request(request).await.map_err(Unsent::Failed)
            }
            Sender::Http1(sender) => {
                if *request.method() != Method::CONNECT {
                    *request.uri_mut() = origin_form(request.uri());
                }
                let mut sender = sender.lock().await;
                sender.ready().await.map_err(Unsent::Failed)?;
                sender.send_request(request).await.map_err(Unsent::Failed)
            }
        }
    }

    /// The origin's answer, unless a rule on answers refuses it.
    fn respond(
        &self,
        asked: Asked<'_>,
        judged: Judged,
        client: OnUpgrade,
        mut response: Response<Incoming>,
    ) -> Response<Body> {
        self.answered.store(true, Ordering::Relaxed);
        let kind = mime(response.headers());
        let answered = ResponseFacts { status: response.status().as_u16(), download_mime: kind.as_deref() };
        let facts = asked.head.facts(Some(answered));
        let rule = match judged.rule {
            rule if !judged.waits => rule,
            _ => match self.gate.verdict(&facts) {
                Verdict::Allow(rule) => rule,
                refusing @ (Verdict::Block(_) | Verdict::Redirect(_) | Verdict::Later) => {
                    return self.refuse(asked, &refusing);
                }
            },
        };
        let status = response.status().as_u16();
        let record =
            Exchange { rule: rule.as_deref(), ..self.exchange(asked.head, &facts, status, Action::Allow) };
        self.gate.record(&Exchange { untrusted: judged.untrusted, ..record });
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS
            || *asked.method == Method::CONNECT && response.status().is_success();
        if upgraded {
            self.upgraded.store(matches!(self.sender, Sender::Http1(_)), Ordering::Relaxed);
            let origin = hyper::upgrade::on(&mut response);
            self.tasks.spawn(join(client, origin));
        }
        response.map(BodyExt::boxed_unsync)
    }

    /// The origin failed before it answered.
    fn failed(&self, asked: Asked<'_>, error: hyper::Error) -> Result<Response<Body>, Ended> {
        if self.insists_on_certificate() {
            return Ok(self.answer(asked, MTLS_REQUIRED, Action::Error));
        }
        // Nothing of an answer came: the client sees what it would have seen without anybody in between.
        Err(Ended(error))
    }

    fn refuse(&self, asked: Asked<'_>, verdict: &Verdict) -> Response<Body> {
        match verdict {
            Verdict::Redirect(rule) => {
                let settings = rule.settings.redirect.as_ref();
                let keep = settings.is_some_and(|redirect| redirect.preserve_path_and_query == Some(true));
                let target = settings.map(|redirect| redirect.target_uri.as_str()).unwrap_or_default();
                let tells = settings.is_some_and(|redirect| redirect.include_context == Some(true));
                let told = if tells { self.told(asked, rule) } else { Vec::new() };
                if let Some(response) = page::redirect(target, keep.then_some(asked.uri), &told) {
                    self.recorded(
                        asked,
                        Why { reason: "redirected", ..page::blocked(rule) },
                        302,
                        Action::Redirect,
                    );
                    return response;
                }
                self.answer(asked, page::blocked(rule), Action::Block)
            }
            Verdict::Block(rule) => {
                if let Some(response) = self.led_to_page(asked, rule) {
                    self.recorded(asked, page::blocked(rule), 302, Action::Block);
                    return response;
                }
                self.answer(asked, page::blocked(rule), Action::Block)
            }
            Verdict::Allow(_) | Verdict::Later => {
                let sentence = "It is not decided.";
                self.answer(
                    asked,
                    Why { status: 403, reason: "undecided", sentence, rule: None },
                    Action::Block,
                )
            }
        }
    }

    /// A person is sent to the page of the rule, or to the account's, if there is one; a program would not read it.
    fn led_to_page(&self, asked: Asked<'_>, rule: &Rule) -> Option<Response<Body>> {
        let context = self.gate.context();
        let of_account = match context.page.as_deref() {
            Some(OwnPage::RedirectUri(page)) => Some(page),
            Some(OwnPage::CustomizedBlockPage(_)) | None => None,
        };
        let page = rule.settings.block_page.as_ref().or(of_account)?;
        if !page::is_read_by_a_person(asked.headers, asked.method) {
            return None;
        }
        let told = if page.include_context == Some(true) { self.told(asked, rule) } else { Vec::new() };
        page::redirect(&page.target_uri, None, &told)
    }

    /// What another page is told of who was sent there, and why (Gateway semantics, 2.1 and 6).
    fn told(&self, asked: Asked<'_>, rule: &Rule) -> Vec<(&'static str, String)> {
        let context = self.gate.context();
        vec![
            ("cf_user_email", context.user),
            ("cf_account_id", context.account),
            ("cf_device_id", context.device),
            ("cf_source_ip", context.source),
            ("cf_rule_id", rule.id.to_string()),
            ("cf_policy_name", rule.name.clone()),
            ("cf_filter", "http".to_owned()),
            // Without what stands behind its `?`, which may be secret.
            ("cf_site_uri", format!("{}://{}{}", self.scheme, asked.head.authority, asked.uri.path())),
        ]
    }

    fn answer_for(&self, asked: Asked<'_>, rule: Option<&Rule>, why: Why<'_>) -> Response<Body> {
        let action = if why.status == 403 { Action::Block } else { Action::Error };
        self.answer(asked, Why { rule, ..why }, action)
    }

    /// The edge's own answer.
    fn answer(&self, asked: Asked<'_>, why: Why<'_>, action: Action) -> Response<Body> {
        self.recorded(asked, why, why.status, action);
        page(why, &asked.head.authority, &self.gate.context(), asked.headers, asked.method)
    }

    fn recorded(&self, asked: Asked<'_>, why: Why<'_>, status: u16, action: Action) {
        let facts = asked.head.facts(None);
        let record = self.exchange(asked.head, &facts, status, action);
        self.gate.record(&Exchange { rule: why.rule, reason: Some(why.reason), ..record });
    }

    fn exchange<'a>(
        &self,
        head: &'a Head,
        facts: &'a RequestFacts<'a>,
        status: u16,
        action: Action,
    ) -> Exchange<'a> {
        Exchange {
            request: facts,
            version: head.version,
            status,
            action,
            rule: None,
            reason: None,
            validation: self.seen.as_ref().map(|seen| seen.validation()),
            untrusted: None,
            wants_certificate: self.wants_certificate(),
            referer: head.referer.as_deref(),
            user_agent: head.user_agent.as_deref(),
        }
    }
}

/// A request as it came.
#[derive(Clone, Copy)]
struct Asked<'a> {
    head: &'a Head,
    headers: &'a HeaderMap,
    method: &'a Method,
    uri: &'a Uri,
}

enum Unsent {
    NoOrigin,
    Failed(hyper::Error),
}

const MTLS_REQUIRED: Why<'static> = Why {
    status: 526,
    reason: "mtls_required",
    sentence: "The site asks for a client certificate, which cannot be shown while its TLS is inspected. A rule with action \
               off for this site lets it through uninspected.",
    rule: None,
};

fn untrusted(validation: Validation) -> Why<'static> {
    let (reason, sentence) = match validation {
        Validation::Expired => ("certificate_expired", "The site's certificate is past its end."),
        Validation::Revoked => ("certificate_revoked", "The site's certificate was taken back."),
        Validation::HostnameMismatch => {
            ("certificate_hostname", "The site's certificate is for another name.")
        }
        Validation::Valid | Validation::Unknown => {
            ("certificate_unknown", "The site's certificate leads to no trusted authority.")
        }
    };
    Why { status: 526, reason, sentence, rule: None }
}

/// What a rule does to the headers of a request (Gateway semantics, 2.1). Names and values were checked when it was written.
fn change_headers(headers: &mut HeaderMap, settings: &RuleSettings) {
    for name in &settings.delete_headers {
        headers.remove(name);
    }
    let parsed = |name: &str, value: &str| {
        Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
    };
    for (name, values) in &settings.set_headers {
        headers.remove(name);
        for (name, value) in values.iter().filter_map(|value| parsed(name, value)) {
            headers.append(name, value);
        }
    }
    for (name, values) in &settings.add_headers {
        for (name, value) in values.iter().filter_map(|value| parsed(name, value)) {
            headers.append(name, value);
        }
    }
}

/// The form in which an origin is asked (RFC 9112, section 3.2.1).
fn origin_form(uri: &Uri) -> Uri {
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    path.parse().unwrap_or_else(|_| uri.clone())
}
