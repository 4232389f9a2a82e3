//! Requests of the edge for HTTP and WebSocket: the rule that matches, and what its service answers (contract, 3.2, 3.3,
//! 3.5 and 6.2).
//!
//! [`serve`] is called by whatever carries the request (a QUIC stream, an HTTP/2 stream), which hands over the request's
//! body as a [`ReadChunk`] and takes the answer through [`Answer`]. `rule` has the rules, `service` what a rule may
//! name, `exchange` an HTTP request to an origin, `stream` a WebSocket that ends here and goes on as TCP.
//!
//! What always holds: a service is reached only as its rule says, and a destination that the *request* names
//! (`bastion`, `socks-proxy`) never where nothing is dialled (design, section 4). An answer that has begun ends with its
//! end or with a reset, never with an end that looks like one. Who may send a request is not asked here: that is the
//! edge's to decide.

mod connect;
mod exchange;
mod go_url;
mod hello;
mod io;
mod origin;
mod rule;
mod service;
mod socks;
mod stream;
mod websocket;

use std::future::Future;
use std::sync::Arc;

use adit_transport::stream::{ReadChunk, StreamError, WriteChunk};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

use crate::process::Process;
use exchange::ExchangeError;
pub(crate) use rule::RulesError;
pub use rule::{NotAUrl, Rule, Rules};
pub(crate) use service::{Service, single_service};
pub use socks::fuzz_socks;
pub use websocket::fuzz_websocket;

/// A request as the edge sent it, without its body.
#[derive(Debug, Clone)]
pub(crate) struct OriginRequest {
    pub(crate) method: Method,
    /// The full URL, or its path and query: the rest is not looked at.
    pub(crate) uri: Uri,
    /// The `Host` that the client sent, perhaps with a port; rules match it without.
    pub(crate) host: String,
    /// All other headers. `Content-Length` or `Transfer-Encoding: chunked` says that there is a body; a carrier in which
    /// a body needs neither (HTTP/2) adds the latter.
    pub(crate) headers: HeaderMap,
    /// The stream is to become a WebSocket (type 1).
    pub(crate) websocket: bool,
}

/// The way back of a request: exactly one of [`Answer::respond`] and [`Answer::fail`] is called, or neither and the
/// value is dropped, when nobody waits for an answer any more.
pub(crate) trait Answer {
    /// What the body is written to.
    type Writer: AnswerWriter;

    /// Waits until the edge no longer wants an answer. May be cancelled.
    fn abandoned(&mut self) -> impl Future<Output = ()> + Send;

    /// Sends the head of an answer. Headers are as the origin sent them.
    fn respond(
        self,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> impl Future<Output = Result<Self::Writer, StreamError>> + Send;

    /// Says that there is none, and why (contract, 3.5).
    fn fail(self, error: String) -> impl Future<Output = ()> + Send;
}

/// The body of an answer on its way to the edge.
pub(crate) trait AnswerWriter: WriteChunk {
    /// Waits until the edge no longer reads. May be cancelled.
    fn abandoned(&mut self) -> impl Future<Output = ()> + Send;

    /// Ends the body; trailers are sent where the carrier has them.
    fn finish_with(&mut self, trailers: &HeaderMap) -> impl Future<Output = Result<(), StreamError>> + Send;

    /// After the end: waits until the edge has it, or never will.
    fn delivered(&mut self) -> impl Future<Output = ()> + Send;
}

/// Serves one request to its end.
pub(crate) async fn serve<R, A>(process: &Arc<Process>, mut request: OriginRequest, body: R, answer: A)
where
    R: ReadChunk + Send + 'static,
    A: Answer,
{
    let configuration = process.configuration();
    let path = rule::decoded(request.uri.path());
    let (number, rule) = configuration.rules.matching(&request.host, &path);
    tracing::debug!(rule = number, service = %rule.service(), "request");
    if configuration.rules.are_none() {
        tracing::warn!("{NO_RULES}");
    }
    add_tags(process, &mut request.headers);
    let ended: Result<(), Box<dyn std::error::Error>> = match rule.service() {
        Service::Status(status) => answer_status(process, *status, answer).await.map_err(Into::into),
        Service::HelloWorld => hello::serve(process, &request, answer).await.map_err(Into::into),
        Service::Http(_) | Service::Unix { .. } => match rule.origin() {
            Some(origin) => exchange::serve(process, origin, rule.settings(), request, body, answer)
                .await
                .map_err(Into::into),
            None => answer_status(process, StatusCode::SERVICE_UNAVAILABLE, answer).await.map_err(Into::into),
        },
        Service::Stream(_) | Service::Bastion | Service::SocksProxy => {
            stream::serve(process, rule, &request, body, answer).await.map_err(Into::into)
        }
    };
    if let Err(error) = ended {
        process.metrics.request_failed();
        tracing::debug!(rule = number, error = %crate::error_chain(&*error), "request ended early");
    }
}

/// Said at the start and at every request, as cloudflared does.
pub(crate) const NO_RULES: &str = "No ingress rules were defined in provided config (if any) nor from the cli, cloudflared will return 503 for all incoming HTTP requests";

/// A host without its port and brackets.
pub(crate) fn bare_host(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(inner, _)| inner);
    }
    match host.rsplit_once(':') {
        // More than one colon and no brackets: an address without a port.
        Some((name, _)) if !name.contains(':') => name,
        _ => host,
    }
}

/// `Cf-Warp-Tag-Id`, and what else was given with `tag` (contract, 3.2).
fn add_tags(process: &Process, headers: &mut HeaderMap) {
    if let Ok(id) = HeaderValue::from_str(&process.connector.to_string()) {
        headers.append(HeaderName::from_static("cf-warp-tag-id"), id);
    }
    for (name, value) in &process.config.tags {
        headers.append(name.clone(), value.clone());
    }
}

/// An answer without a body.
async fn answer_status<A: Answer>(
    process: &Process,
    status: StatusCode,
    answer: A,
) -> Result<(), ExchangeError> {
    process.metrics.response(status);
    let mut writer = answer.respond(status, &HeaderMap::new()).await?;
    writer.finish_with(&HeaderMap::new()).await?;
    writer.delivered().await;
    Ok(())
}
