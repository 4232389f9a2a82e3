//! `adit access …`: the client side of applications behind public host names.
//!
//! `tcp` carries TCP connections to a host name's ingress, each over a WebSocket of its own (tunnel protocol, 8.1): of a
//! local listener, or the one that standard input and output are. It signs nobody in: what an edge asks a person for, a
//! service token has to give.

mod flags;
mod websocket;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use adit_transport::tls;
use anyhow::Context;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use flags::{AccessAction, AccessCommand};

use crate::{log, shutdown};
use flags::TcpFlags;
use websocket::Client;

pub(crate) fn run(command: AccessCommand) -> anyhow::Result<()> {
    let AccessAction::Tcp(flags) = command.action;
    log::start(&flags.log)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let result = runtime.block_on(async { Box::pin(carry_tcp(*flags, shutdown::on_signal()?)).await });
    // A read of standard input cannot be cancelled, and is not waited for.
    runtime.shutdown_background();
    result
}

async fn carry_tcp(flags: TcpFlags, stop: CancellationToken) -> anyhow::Result<()> {
    let url = flags.url.clone();
    let client = Client::new(flags)?;
    if let Some(address) = url {
        let listener = TcpListener::bind(&address)
            .await
            .with_context(|| format!("--url: cannot listen on {address}"))?;
        return serve(&listener, Arc::new(client), stop).await;
    }
    let carried = async {
        let websocket = client.connect().await?;
        websocket::carry(websocket, tokio::io::stdin(), tokio::io::stdout()).await
    };
    Box::pin(stop.run_until_cancelled(carried)).await.unwrap_or(Ok(()))
}

/// One WebSocket for each connection that the listener accepts, until stopped.
async fn serve(listener: &TcpListener, client: Arc<Client>, stop: CancellationToken) -> anyhow::Result<()> {
    tracing::info!(address = %listener.local_addr()?, hostname = client.hostname(), "listening");
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(connections.spawn(serve_one(Arc::clone(&client), stream))),
                Err(error) => {
                    // Mostly out of file descriptors: open connections will give some back.
                    tracing::warn!(error = %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

async fn serve_one(client: Arc<Client>, stream: TcpStream) {
    let carried = async {
        let websocket = client.connect().await?;
        carry_stream(websocket, stream).await
    };
    if let Err(error) = carried.await {
        tracing::warn!(hostname = client.hostname(), error = format!("{error:#}"), "connection failed");
    }
}

async fn carry_stream(websocket: websocket::Stream, stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true).or_else(ignore_gone)?;
    let (reader, writer) = stream.into_split();
    websocket::carry(websocket, reader, writer).await
}

/// A local program that has already gone is noticed by whoever reads.
fn ignore_gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::InvalidInput { Ok(()) } else { Err(error) }
}

/// Trust as the flags say: a file, or what the system trusts.
fn roots(flags: &TcpFlags) -> anyhow::Result<rustls::RootCertStore> {
    match &flags.ca {
        Some(file) => {
            let pem = std::fs::read(file).with_context(|| format!("--ca: cannot read {}", file.display()))?;
            Ok(tls::roots_from_pem(&pem).with_context(|| format!("--ca: {}", file.display()))?)
        }
        None => Ok(tls::system_roots().context("give --ca, or SSL_CERT_FILE")?),
    }
}

/// Connections at once; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 1024;
/// After a failed accept, before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
