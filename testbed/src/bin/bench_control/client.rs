//! Clients of the API whose connections stay.

use std::time::{Duration, Instant};

use adit_testbed::https;
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::installation::Installation;

/// One connection.
pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    account: String,
    authorization: String,
}

impl Client {
    pub(crate) async fn connect(up: &Installation) -> Result<Self> {
        let read = |name: &str| std::fs::read_to_string(up.data.join(name)).context(name.to_owned());
        let tls = https::connector(&up.data.join("ca.pem"), None)?;
        let stream = TcpStream::connect(up.https).await?;
        stream.set_nodelay(true)?;
        let stream = tls.connect(ServerName::try_from("localhost")?, stream).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // Whoever waits for an answer sees the same error.
            let _ended = connection.await;
        });
        let account = read("account-id")?.trim().to_owned();
        let authorization = format!("Bearer {}", read("admin-token")?.trim());
        Ok(Self { sender, account, authorization })
    }

    /// One call below the account, which must succeed.
    pub(crate) async fn call(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Bytes> {
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = Request::builder()
            .method(method)
            .uri(format!("/client/v4/accounts/{}/{path}", self.account))
            .header(HOST, "localhost")
            .header(AUTHORIZATION, &self.authorization)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status == 200, "{path}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }
}

/// So many connections, each with one call after the other, for so long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) lasts: Duration,
}

impl Load {
    /// Calls a second; what is called is said by the number of the connection and that of the call.
    pub(crate) async fn run(
        self,
        up: &Installation,
        what: impl Fn(usize, u32) -> (Method, String, Option<Value>) + Clone + Send + 'static,
    ) -> Result<f64> {
        let mut clients = Vec::new();
        for _ in 0..self.connections {
            clients.push(Client::connect(up).await?);
        }
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for (connection, mut client) in clients.into_iter().enumerate() {
            let what = what.clone();
            tasks.spawn(async move {
                let mut calls = 0_u32;
                while begun.elapsed() < self.lasts {
                    let (method, path, body) = what(connection, calls);
                    client.call(method, &path, body.as_ref()).await?;
                    calls += 1;
                }
                Ok::<_, anyhow::Error>(calls)
            });
        }
        let mut calls = 0_u32;
        while let Some(done) = tasks.join_next().await {
            calls += done??;
        }
        Ok(f64::from(calls) / begun.elapsed().as_secs_f64())
    }
}
