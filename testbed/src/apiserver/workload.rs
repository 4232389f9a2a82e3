//! What runs in a pod of the testbed: a log that grows, programs that `exec` starts, and ports.
//!
//! Used by the testbed's own API server and by the kubelet that it puts behind a real one. There is no container:
//! programs run as they are, in the server's namespace, which is why only those in [`PROGRAMS`] may be started.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

/// Programs that `exec` may start.
const PROGRAMS: [&str; 9] = ["cat", "echo", "env", "false", "head", "sh", "sha256sum", "true", "wc"];
/// A new line of log this often.
const LOG_INTERVAL: Duration = Duration::from_millis(200);
/// Lines that a pod has logged before anyone looks.
const LOG_HISTORY: u64 = 3;
/// The pod's port that answers HTTP.
pub const HTTP_PORT: u16 = 80;
/// The pod's port that sends back what it is sent.
pub const ECHO_PORT: u16 = 7;

/// A pod's log: what is there, and with `follow` also what comes. Ends when the receiver is dropped.
pub fn log(pod: String, follow: bool, tail: Option<u64>) -> mpsc::Receiver<Bytes> {
    let (lines, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(LOG_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let first = LOG_HISTORY.saturating_sub(tail.unwrap_or(LOG_HISTORY));
        for n in first.. {
            if n >= LOG_HISTORY {
                if !follow {
                    return;
                }
                tick.tick().await;
            }
            if lines.send(Bytes::from(format!("{pod} line {n}\n"))).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// The streams of one `exec`; those that were not asked for are `None`.
#[derive(Debug, Default)]
pub struct ExecStreams {
    /// To the program; end of file closes its standard input.
    pub stdin: Option<DuplexStream>,
    /// From the program.
    pub stdout: Option<DuplexStream>,
    /// From the program.
    pub stderr: Option<DuplexStream>,
}

/// Runs a program in a pod to its end. The result is the `Status` object that ends the `exec`.
pub async fn exec(command: &[String], streams: ExecStreams) -> Value {
    match run(command, streams).await {
        Ok(0) => json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(error) => json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "InternalError",
            "code": 500, "message": format!("{error:#}"),
        }),
    }
}

async fn run(command: &[String], streams: ExecStreams) -> Result<i32> {
    let [program, args @ ..] = command else { anyhow::bail!("no command") };
    anyhow::ensure!(PROGRAMS.contains(&program.as_str()), "exec: {program:?}: not found in this pod");
    let pipe = |wanted: bool| if wanted { Stdio::piped() } else { Stdio::null() };
    let mut child = Command::new(program)
        .args(args)
        .stdin(pipe(streams.stdin.is_some()))
        .stdout(pipe(streams.stdout.is_some()))
        .stderr(pipe(streams.stderr.is_some()))
        .kill_on_drop(true)
        .spawn()?;
    let stdin = tokio::spawn(pump(streams.stdin, child.stdin.take()));
    let ((), (), status) = tokio::join!(
        pump(child.stdout.take(), streams.stdout),
        pump(child.stderr.take(), streams.stderr),
        child.wait(),
    );
    // The program is gone: what the client still types has no reader.
    stdin.abort();
    Ok(status?.code().unwrap_or(137))
}

/// Copies until the end of `from`, then ends `to`.
async fn pump(from: Option<impl AsyncRead + Unpin>, to: Option<impl AsyncWrite + Unpin>) {
    if let (Some(mut from), Some(mut to)) = (from, to) {
        // Either side may go away early; then the other sees the end of its stream.
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
    }
}

/// Serves one connection to a port of a pod. The error is what the client is told.
pub async fn port(pod: &str, port: u16, io: DuplexStream) -> Result<(), String> {
    match port {
        HTTP_PORT => {
            let body = Bytes::from(format!("hello from {pod}\n"));
            let service = hyper::service::service_fn(move |_request| {
                let body = body.clone();
                async move { Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(body))) }
            });
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(io), service)
                .await
                .map_err(|error| error.to_string())
        }
        ECHO_PORT => {
            let (mut read, mut write) = tokio::io::split(io);
            tokio::io::copy(&mut read, &mut write).await.map_err(|error| error.to_string())?;
            write.shutdown().await.map_err(|error| error.to_string())
        }
        _ => Err(format!("dial tcp4 127.0.0.1:{port}: connect: connection refused")),
    }
}
