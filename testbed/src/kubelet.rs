//! A node for a real API server, which runs pods only as far as its clients can tell.
//!
//! It registers the node [`NODE`], says of every pod bound to it that it runs, lets go of those that are deleted, and
//! answers the requests that an API server passes on to a kubelet: logs, and `exec` and `port-forward` over SPDY/3.1.
//! What a pod does is the same as with the testbed's own API server.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::apiserver::{Failure, streams, whole};
use crate::https::{self, Body};
use crate::net::{API_V4, CLUSTER_V4, Namespace};
use crate::pki::Pki;
use crate::spdy;

/// The node's name: a pod that shall run must name it, as there is no scheduler.
pub const NODE: &str = "worker";
/// A kubelet's port.
const PORT: u16 = 10250;
/// Between two attempts to watch.
const RETRY: Duration = Duration::from_millis(200);
/// Longest event of a watch.
const MAX_EVENT_BYTES: usize = 1 << 20;
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// A running node; it is gone when dropped.
#[derive(Debug)]
pub struct Kubelet {
    _tasks: JoinSet<()>,
}

impl Kubelet {
    /// Registers the node with the API server at `port` of the same host, and begins to serve it.
    pub async fn start(host: Namespace, port: u16, pki: &Pki) -> Result<Self> {
        let listener = host.listen(SocketAddr::from((CLUSTER_V4, PORT)))?;
        let server = SocketAddr::from((API_V4, port));
        let client = Client { host, server, tls: https::connector(&pki.ca(), Some(pki))? };
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE},
            "status": {
                "addresses": [{"type": "InternalIP", "address": CLUSTER_V4}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": PORT}},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        client.call(Method::POST, "/api/v1/nodes", Some(&node)).await.context("register the node")?;
        let mut tasks = JoinSet::new();
        tasks.spawn(https::serve(
            listener,
            https::acceptor(pki, https::Clients::Certificate)?,
            async |request| serve(request).unwrap_or_else(|failure| failure.response()),
        ));
        tasks.spawn(async move {
            loop {
                if let Err(error) = client.run_pods().await {
                    tracing::warn!(error = format!("{error:#}"), "watch of pods");
                }
                tokio::time::sleep(RETRY).await;
            }
        });
        Ok(Self { _tasks: tasks })
    }
}

struct Client {
    host: Namespace,
    server: SocketAddr,
    tls: TlsConnector,
}

impl Client {
    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response<Incoming>> {
        let content_type = match method {
            Method::PATCH => "application/strategic-merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder()
            .method(&method)
            .uri(path)
            .header(HOST, self.server.to_string())
            .header(CONTENT_TYPE, content_type)
            .body(Full::new(body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()))))?;
        let stream = self.host.connect(self.server).await?;
        let response = https::send(&self.tls, self.server.ip(), stream, request).await?;
        ensure!(response.status().is_success(), "{method} {path}: {}", response.status());
        Ok(response)
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<()> {
        self.send(method, path, body).await?.into_body().collect().await?;
        Ok(())
    }

    /// Watches the node's pods, from those that are there on, until the watch ends.
    async fn run_pods(&self) -> Result<()> {
        let path = format!("/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3D{NODE}");
        let mut body = self.send(Method::GET, &path, None).await?.into_body();
        let mut buffer = BytesMut::new();
        while let Some(frame) = body.frame().await {
            buffer.extend_from_slice(&frame?.into_data().unwrap_or_default());
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let event: Value = serde_json::from_slice(&buffer[..end])?;
                buffer.advance(end + 1);
                if event["type"] == "ADDED" || event["type"] == "MODIFIED" {
                    self.run_pod(&event["object"]).await?;
                }
            }
            ensure!(buffer.len() < MAX_EVENT_BYTES, "an event of over {MAX_EVENT_BYTES} bytes");
        }
        Ok(())
    }

    async fn run_pod(&self, pod: &Value) -> Result<()> {
        let metadata = &pod["metadata"];
        let text = |value: &Value| value.as_str().map(ToOwned::to_owned).context("an object has a name");
        let path =
            format!("/api/v1/namespaces/{}/pods/{}", text(&metadata["namespace"])?, text(&metadata["name"])?);
        if metadata["deletionTimestamp"].is_string() {
            return self.call(Method::DELETE, &format!("{path}?gracePeriodSeconds=0"), None).await;
        }
        if pod["status"]["phase"] == "Running" {
            return Ok(());
        }
        let started = &metadata["creationTimestamp"];
        let containers = pod["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let containers = containers.iter().map(|container| {
            json!({
                "name": container["name"], "image": container["image"], "imageID": "", "ready": true,
                "started": true, "restartCount": 0, "state": {"running": {"startedAt": started}},
            })
        });
        let status = json!({"status": {
            "phase": "Running", "podIP": CLUSTER_V4, "hostIP": CLUSTER_V4, "startTime": started,
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": containers.collect::<Vec<_>>(),
        }});
        self.call(Method::PATCH, &format!("{path}/status"), Some(&status)).await
    }
}

/// The part of a kubelet's API that `kubectl` is passed on to.
fn serve(request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    match segments.as_slice() {
        ["containerLogs", _, pod, _] => Ok(streams::log_response(pod, &query)),
        ["exec", _, _, _] => upgrade(request, "v4.channel.k8s.io", |incoming| async move {
            streams::exec_spdy(&query, incoming).await;
        }),
        ["portForward", _, pod] => {
            let pod = (*pod).to_owned();
            upgrade(request, "portforward.k8s.io", |incoming| streams::forward_ports(pod, incoming))
        }
        _ => Err(Failure::bad_request(format!("{path} is not what this kubelet serves"))),
    }
}

/// Answers an upgrade to SPDY/3.1 with one of the offered protocols, and runs `f` on its streams.
fn upgrade<F: Future<Output = ()> + Send + 'static>(
    mut request: Request<Incoming>,
    protocol: &'static str,
    f: impl FnOnce(tokio::sync::mpsc::Receiver<spdy::Stream>) -> F + Send + 'static,
) -> Result<Response<Body>, Failure> {
    let headers = request.headers();
    let offered = headers
        .get_all(STREAM_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|offer| offer.trim() == protocol));
    if !offered
        || headers.get(UPGRADE).is_none_or(|value| !value.as_bytes().eq_ignore_ascii_case(b"SPDY/3.1"))
    {
        return Err(Failure::bad_request(format!(
            "an upgrade to SPDY/3.1 with {protocol} is needed: {headers:?}"
        )));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => f(spdy::serve(TokioIo::new(upgraded))).await,
            Err(error) => tracing::warn!(%error, "upgrade"),
        }
    });
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    Ok(response)
}
