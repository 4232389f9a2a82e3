//! The v4 API of an `adit up`, as an operator calls it: over TLS from a host, with a bearer token.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;
use tokio_rustls::TlsConnector;

use crate::https;
use crate::net::Host;

/// Longest wait for an answer.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// A client of one account.
pub struct Api {
    address: SocketAddr,
    tls: TlsConnector,
    token: String,
    account: String,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api")
            .field("address", &self.address)
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}

impl Api {
    /// A client of the edge at `address` that reads what it must trust and its token from the data directory `data`.
    pub fn new(address: SocketAddr, data: &Path) -> Result<Self> {
        let read = |name: &str| {
            let text = std::fs::read_to_string(data.join(name));
            text.map(|text| text.trim().to_owned())
                .with_context(|| format!("read {name} of the data directory"))
        };
        Ok(Self {
            address,
            tls: https::connector(&data.join("ca.pem"), None)?,
            token: read("admin-token")?,
            account: read("account-id")?,
        })
    }

    /// A client of another account, by a token of it.
    pub fn of_account(address: SocketAddr, data: &Path, account: &str, token: &str) -> Result<Self> {
        let tls = https::connector(&data.join("ca.pem"), None)?;
        Ok(Self { address, tls, token: token.to_owned(), account: account.to_owned() })
    }

    /// The account's id.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Calls `path` from `host`: below the account, or below the whole API if it begins with `/`. Gives the HTTP status and
    /// the whole envelope.
    pub async fn call(
        &self,
        host: &Host,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        tokio::time::timeout(CALL_LIMIT, self.exchange(host, method, path, body))
            .await
            .with_context(|| format!("no answer within {CALL_LIMIT:?}"))?
    }

    /// As [`Self::call`], and gives the `result` of a success.
    pub async fn result(
        &self,
        host: &Host,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value> {
        let (status, mut envelope) = self.call(host, method.clone(), path, body).await?;
        ensure!(
            status == 200 && envelope["success"] == true,
            "{method} {path}: {status}: {}",
            envelope["errors"]
        );
        Ok(envelope["result"].take())
    }

    async fn exchange(
        &self,
        host: &Host,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let path = match path.strip_prefix('/') {
            Some(path) => format!("/client/v4/{path}"),
            None => format!("/client/v4/accounts/{}/{path}", self.account),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()))))?;
        let stream = host.connect(self.address).await?;
        let response = https::send(&self.tls, self.address.ip(), stream, request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        let envelope = serde_json::from_slice(&body).with_context(|| {
            format!("the answer is not JSON: {status}: {}", String::from_utf8_lossy(&body))
        })?;
        Ok((status, envelope))
    }
}
