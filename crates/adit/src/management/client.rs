//! A client of the v4 API: one request on one connection, the envelope opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use adit_transport::tls;
use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::command_line::ApiFlags;

/// Where the API is, and by what right.
pub(super) struct Client {
    host: String,
    port: u16,
    base: String,
    tls: Option<Arc<rustls::ClientConfig>>,
    token: String,
    account: String,
}

impl Client {
    pub(super) fn new(flags: &ApiFlags, cacert: Option<&PathBuf>) -> anyhow::Result<Self> {
        let data = flags.data.as_deref();
        let url = flags.api_url.as_deref().unwrap_or("https://localhost/client/v4");
        let (secure, host, port, base) = parse_url(url)?;
        let tls = if secure { Some(Arc::new(trust(data, cacert)?)) } else { None };
        let need = |given: &Option<String>, file: &str, flag: &str| match (given, data) {
            (Some(value), _) => Ok(value.clone()),
            (None, Some(data)) => read(&data.join(file)),
            (None, None) => bail!(
                "--{flag} is missing: give it, or --data with the directory of an `adit up` on this machine"
            ),
        };
        Ok(Self {
            host,
            port,
            base,
            tls,
            token: need(&flags.api_token, "admin-token", "api-token")?,
            account: need(&flags.account, "account-id", "account")?,
        })
    }

    /// Every row of a list, page by page. `query` begins with the path behind the account's and has a `?`.
    pub(super) async fn pages(&self, query: &str) -> anyhow::Result<Vec<Value>> {
        let mut rows = Vec::new();
        for page in 1..=MAX_PAGES {
            let result = self.call("GET", &format!("{query}&page={page}&per_page={PER_PAGE}"), None).await?;
            let Value::Array(mut more) = result else { bail!("the API sent no list") };
            let last = more.len() < PER_PAGE;
            rows.append(&mut more);
            if last {
                break;
            }
        }
        Ok(rows)
    }

    /// The result of one call below the account's path.
    pub(super) async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let answer = tokio::time::timeout(CALL_DEADLINE, self.exchange(method, path, body));
        let where_to = format!("the API at {}:{}", self.host, self.port);
        let answer = answer.await.map_err(|_| anyhow::anyhow!("{where_to} did not answer within 15 s"))?;
        open_envelope(&answer.with_context(|| format!("cannot reach {where_to}"))?)
    }

    async fn exchange(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Bytes> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        match &self.tls {
            None => self.send(stream, method, path, body).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone())?;
                let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
                self.send(stream, method, path, body).await
            }
        }
    }

    async fn send<S>(
        &self,
        stream: S,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Bytes>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(format!("{}/accounts/{}/{path}", self.base, self.account))
            .header(header::HOST, &self.host)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("adit/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        connection.abort();
        Ok(body.map_err(|error| anyhow::anyhow!(error))?.to_bytes())
    }
}

fn trust(data: Option<&Path>, cacert: Option<&PathBuf>) -> anyhow::Result<rustls::ClientConfig> {
    let file = cacert.cloned().or_else(|| data.map(|data| data.join("ca.pem")));
    let roots = match file {
        Some(file) => {
            let pem = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            tls::roots_from_pem(&pem).with_context(|| file.display().to_string())?
        }
        None => tls::system_roots().context("give --cacert")?,
    };
    Ok(tls::client_config(roots, &[b"http/1.1"])?)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// Scheme is https or not, host, port, path without a slash at its end.
fn parse_url(url: &str) -> anyhow::Result<(bool, String, u16, String)> {
    let wrong = || {
        anyhow::anyhow!("--api-url: expected a URL such as https://adit.example.com/client/v4, not {url:?}")
    };
    let uri: hyper::Uri = url.parse().map_err(|_| wrong())?;
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        Some(_) | None => return Err(wrong()),
    };
    let host = uri.host().ok_or_else(wrong)?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    Ok((secure, host, port, uri.path().trim_end_matches('/').to_owned()))
}

fn open_envelope(answer: &[u8]) -> anyhow::Result<Value> {
    let mut envelope: Value = serde_json::from_slice(answer).context("the API's answer is no JSON")?;
    let errors: Vec<String> = envelope["errors"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|error| {
            format!("{} (code {})", error["message"].as_str().unwrap_or("unknown error"), error["code"])
        })
        .collect();
    if envelope["success"] == true && errors.is_empty() {
        return Ok(envelope["result"].take());
    }
    if errors.is_empty() {
        bail!("the API refused without saying why");
    }
    bail!("{}", errors.join("; "))
}

/// Percent-encodes a query value (RFC 3986, 2.1).
pub(super) fn escape(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// One call, answer included (tunnel protocol, 6.5).
const CALL_DEADLINE: Duration = Duration::from_secs(15);
/// Largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// Rows asked for at once.
const PER_PAGE: usize = 100;
/// Pages asked for at most: 100,000 rows.
const MAX_PAGES: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_gives_host_port_and_path() {
        let parsed = parse_url("https://[2001:db8::1]:8443/client/v4/").unwrap();
        assert_eq!(parsed, (true, "2001:db8::1".to_owned(), 8443, "/client/v4".to_owned()));
        assert!(parse_url("adit.example.com").is_err());
    }

    #[test]
    fn a_failure_gives_its_message_and_code() {
        let error =
            open_envelope(br#"{"success":false,"errors":[{"code":1013,"message":"taken"}],"result":null}"#);
        assert_eq!(error.unwrap_err().to_string(), "taken (code 1013)");
    }

    #[test]
    fn a_name_in_a_query_is_escaped() {
        assert_eq!(escape("a b&c/\u{e9}"), "a%20b%26c%2F%C3%A9");
    }
}
