//! A client of the v4 API: one request on one connection, the envelope opened, errors in cloudflared's words (tunnel
//! protocol, 6.5).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::failure::Failure;
use crate::manage::progress::progress;

/// Where the API is, and by what right.
pub(crate) struct Client {
    pub(crate) at: Address,
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
    pub(crate) token: String,
    pub(crate) account: String,
    pub(crate) zone: String,
    /// Rows of a list to ask for at once.
    pub(crate) per_page: usize,
}

/// The parts of a base URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) secure: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The path, without a slash at its end.
    pub(crate) base: String,
}

/// What came back.
struct Answer {
    status: StatusCode,
    /// Whether its type is exactly JSON's: only then its errors are read.
    json: bool,
    body: Bytes,
}

impl Client {
    /// The path of something of the account.
    pub(crate) fn account(&self, rest: &str) -> String {
        format!("/accounts/{}/{rest}", self.account)
    }

    /// The path of something of the zone.
    pub(crate) fn zone(&self, rest: &str) -> String {
        format!("/zones/{}/{rest}", self.zone)
    }

    /// The result of one call. `operation` says what was tried, such as `create tunnel`.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        operation: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, Failure> {
        let answer = self.send(method, path, body).await?;
        if answer.status != StatusCode::OK {
            return Err(answer.refusal(operation));
        }
        typed(answer.envelope()?["result"].take())
    }

    /// A call whose conflict has words of its own.
    pub(super) async fn call_unless_conflict<T: DeserializeOwned>(
        &self,
        operation: &str,
        path: &str,
        body: &Value,
        conflict: &str,
    ) -> Result<T, Failure> {
        let answer = self.send("POST", path, Some(body)).await?;
        match answer.status {
            StatusCode::OK => typed(answer.envelope()?["result"].take()),
            StatusCode::CONFLICT => Err(Failure::new(conflict)),
            _ => Err(answer.refusal(operation)),
        }
    }

    /// Every row of a list, page by page.
    pub(super) async fn pages<T: DeserializeOwned>(
        &self,
        operation: &str,
        path: &str,
        query: &Query,
    ) -> Result<Vec<T>, Failure> {
        let mut rows = Vec::new();
        for page in 1..=MAX_PAGES {
            let failed = |failure: Failure| failure.within(format_args!("Error Parsing page {page}"));
            let query = format!("{}&page={page}&per_page={}", query.text(), self.per_page);
            let answer = self.send("GET", &format!("{path}?{query}"), None).await.map_err(failed)?;
            if answer.status != StatusCode::OK {
                let refusal = status_text(answer.status, operation);
                return Err(failed(Failure::new(refusal).within("REST request failed")));
            }
            let mut envelope = answer.envelope().map_err(failed)?;
            let more: Vec<T> = typed(envelope["result"].take()).map_err(failed)?;
            let count = |key: &str| envelope["result_info"][key].as_u64().unwrap_or(0);
            let last = count("count") < count("per_page");
            rows.extend(more);
            if last || rows.len() as u64 >= count("total_count") {
                break;
            }
        }
        Ok(rows)
    }

    /// The status and the body of one call, whatever they are; a body that is not JSON is null.
    pub(crate) async fn exchange_json(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        deadline: Duration,
    ) -> anyhow::Result<(u16, Value)> {
        let answer = tokio::time::timeout(deadline, self.exchange(method, path, body)).await;
        let answer = answer.map_err(|_| anyhow::anyhow!("no answer within {} s", deadline.as_secs()))??;
        let json = if answer.json {
            serde_json::from_slice(&answer.body).unwrap_or(Value::Null)
        } else {
            Value::Null
        };
        Ok((answer.status.as_u16(), json))
    }

    async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, Failure> {
        let api = format!("{}:{}", self.at.host, self.at.port);
        let answer = tokio::time::timeout(CALL_DEADLINE, self.exchange(method, path, body));
        let answer = progress(&format!("waiting for {api}"), answer).await;
        let answer = match answer {
            Ok(answer) => answer.with_context(|| format!("cannot reach the API at {api}")),
            Err(_) => Err(anyhow::anyhow!("the API at {api} did not answer within 15 s")),
        };
        answer.map_err(|error| Failure::from(error).within("REST request failed"))
    }

    async fn exchange(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let stream = TcpStream::connect((self.at.host.as_str(), self.at.port)).await?;
        match &self.tls {
            None => self.request(stream, method, path, body).await,
            Some(tls) => {
                let name = ServerName::try_from(self.at.host.clone())?;
                let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
                self.request(stream, method, path, body).await
            }
        }
    }

    async fn request<S>(
        &self,
        stream: S,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.at.base))
            .header(header::HOST, self.at.authority())
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::ACCEPT, "application/json;version=1")
            .header(header::USER_AGENT, concat!("adit/", env!("CARGO_PKG_VERSION")));
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        let status = response.status();
        let json =
            response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == "application/json");
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        connection.abort();
        Ok(Answer { status, json, body: body.map_err(|error| anyhow::anyhow!(error))?.to_bytes() })
    }
}

impl Address {
    /// Takes a base URL apart.
    pub(crate) fn parse(flag: &str, url: &str) -> anyhow::Result<Self> {
        let wrong = || {
            anyhow::anyhow!("{flag}: expected a URL such as https://adit.example.com/client/v4, not {url:?}")
        };
        let uri: hyper::Uri = url.parse().map_err(|_| wrong())?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(wrong()),
        };
        let host = uri.host().ok_or_else(wrong)?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { secure, host, port, base: uri.path().trim_end_matches('/').to_owned() })
    }

    /// Host and port as a URL has them, the usual port left out.
    pub(crate) fn authority(&self) -> String {
        let host = host_in_url(&self.host);
        if self.port == if self.secure { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }
}

/// A host as it stands before a port: an IPv6 address in brackets.
pub(super) fn host_in_url(host: &str) -> String {
    if host.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

impl Answer {
    /// The envelope of a success.
    fn envelope(&self) -> Result<Value, Failure> {
        let envelope: Value = serde_json::from_slice(&self.body)
            .map_err(|error| Failure::new(format!("failed to decode response: {error}")))?;
        if let Some(errors) = errors(&envelope) {
            return Err(Failure::new(errors));
        }
        if envelope["success"] != true {
            return Err(Failure::new("API call failed"));
        }
        Ok(envelope)
    }

    /// Why a call was refused: what the API says, else what its status says.
    fn refusal(&self, operation: &str) -> Failure {
        let said = serde_json::from_slice(&self.body).ok().filter(|_| self.json);
        match said.as_ref().and_then(errors) {
            Some(errors) => Failure::new(format!("Failed to {operation}: {errors}")),
            None => Failure::new(status_text(self.status, operation)),
        }
    }
}

fn status_text(status: StatusCode, operation: &str) -> String {
    match status {
        StatusCode::BAD_REQUEST => "incorrect request parameters".into(),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "unauthorized".into(),
        StatusCode::NOT_FOUND => "not found".into(),
        other => format!(
            "API call to {operation} failed with status {}: {}",
            other.as_u16(),
            other.canonical_reason().unwrap_or_default()
        ),
    }
}

/// The errors of an envelope, if it has any.
fn errors(envelope: &Value) -> Option<String> {
    let said = |error: &Value| {
        format!("code: {}, reason: {}", error["code"], error["message"].as_str().unwrap_or_default())
    };
    match envelope["errors"].as_array()?.as_slice() {
        [] => None,
        [one] => Some(said(one)),
        several => Some(format!(
            "API errors: {}",
            several.iter().map(|error| said(error) + "; ").collect::<String>()
        )),
    }
}

fn typed<T: DeserializeOwned>(result: Value) -> Result<T, Failure> {
    serde_json::from_value(result)
        .map_err(|error| Failure::new(format!("the API response was an unexpected type: {error}")))
}

/// The parameters of a query.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(&'static str, String)>);

impl Query {
    pub(super) fn with(mut self, name: &'static str, value: &impl ToString) -> Self {
        self.0.push((name, value.to_string()));
        self
    }

    /// With a parameter, if there is a value.
    pub(super) fn maybe(self, name: &'static str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(name, &value),
            None => self,
        }
    }

    pub(super) fn text(&self) -> String {
        self.0.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect::<Vec<_>>().join("&")
    }
}

/// Percent-encodes a query value (RFC 3986, 2.1).
pub(crate) fn escape(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// One call, answer included (tunnel protocol, 6.5).
const CALL_DEADLINE: Duration = Duration::from_secs(15);
/// Largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// Pages asked for at most: 100,000 rows.
const MAX_PAGES: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Address {
        Address::parse("--api-url", url).unwrap()
    }

    #[test]
    fn a_base_url_gives_host_port_and_path() {
        let parsed = address("https://[2001:db8::1]:8443/client/v4/");
        assert_eq!(parsed.authority(), "[2001:db8::1]:8443");
        assert_eq!((parsed.host.as_str(), parsed.port), ("2001:db8::1", 8443));
        assert_eq!(parsed.base, "/client/v4");
        assert_eq!(address("http://localhost").authority(), "localhost");
        for wrong in ["adit.example.com", "ftp://adit.example.com", "https://"] {
            let error = Address::parse("--api-url", wrong).unwrap_err().to_string();
            assert!(error.starts_with("--api-url: expected a URL"), "{error}");
        }
    }

    fn answer(status: u16, body: &str) -> Answer {
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, json: true, body: Bytes::copy_from_slice(body.as_bytes()) }
    }

    #[test]
    fn refusals_have_the_words_of_the_api_or_of_the_status() {
        let said = r#"{"success":false,"errors":[{"code":1013,"message":"taken"}],"result":null}"#;
        assert_eq!(
            answer(409, said).refusal("add x").to_string(),
            "Failed to add x: code: 1013, reason: taken"
        );
        assert_eq!(answer(403, "").refusal("add x").to_string(), "unauthorized");
        let not_json = Answer { json: false, ..answer(404, said) };
        assert_eq!(not_json.refusal("add x").to_string(), "not found");
        let text = answer(503, "").refusal("add x").to_string();
        assert_eq!(text, "API call to add x failed with status 503: Service Unavailable");
        let error = answer(200, said).envelope().unwrap_err();
        assert_eq!(error.to_string(), "code: 1013, reason: taken");
        let error = answer(200, r#"{"success":false,"errors":[]}"#).envelope().unwrap_err();
        assert_eq!(error.to_string(), "API call failed");
    }

    #[test]
    fn query_values_are_escaped() {
        let query = Query::default().with("name", &"a b&c=ü").maybe("id", None::<&str>).with("x", &true);
        assert_eq!(query.text(), "name=a%20b%26c%3D%C3%BC&x=true");
    }
}
