//! The programs that the bench runs inside a host: an echo server and its clients.
//!
//! They are this same binary, started again with `worker …`, so that each is a process of its own in its own network
//! namespace, with one thread where the figures are taken. A worker prints one line of JSON when it is done. It sets
//! `TCP_NODELAY` everywhere, and trusts nobody's clock but its own.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stats::Percentiles;

/// How long a worker waits for one connection or one echo before it counts as failed.
const STEP_DEADLINE: Duration = Duration::from_secs(10);
/// How many round trips are made, and not counted, before the echo is timed.
const ECHO_WARM_UP: usize = 200;
/// How many connections of a `hold` are opened at a time.
const HOLD_OPENING: usize = 32;
/// Ports on which `flows` is served, from the given one on. A client's port rests for a minute after each flow to one
/// server port, unless both ends have TCP timestamps, and the kernel searches longer for a free one the more of them rest:
/// with one port, this search is what is measured after some 27,000 flows.
const FLOW_PORTS: u16 = 32;
/// The most flows of one run. It bounds the samples kept, and the ports that a client can use up.
const MAX_FLOWS: usize = 200_000;

#[derive(Debug, Subcommand)]
pub(crate) enum Worker {
    /// Answers every byte with the same byte, on two sets of ports: threads for `echo`, one event loop for `flows` and
    /// `hold`.
    Serve { echo: SocketAddr, flows: SocketAddr },
    /// Times a one-byte echo over one connection.
    Echo { server: SocketAddr, samples: usize },
    /// Opens flows, each: connect, one byte there and back, close.
    Flows { server: SocketAddr, seconds: f64, concurrent: usize },
    /// Opens `count` flows, says so, and holds them idle until its standard input ends.
    Hold { server: SocketAddr, count: usize },
}

/// What `flows` found.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct FlowRate {
    /// Flows that got their byte back.
    pub(crate) done: usize,
    /// Flows that could not connect, or got no byte back in time.
    pub(crate) failed: usize,
    /// Flows done per second.
    pub(crate) per_second: f64,
    /// From connect to the first byte back.
    pub(crate) first_byte: Option<Percentiles>,
}

/// What `hold` says once its flows are open.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Flows that are open, each of which has carried one byte there and back.
    pub(crate) open: usize,
}

/// Runs one worker to its end and prints its answer as one line of JSON.
pub(crate) fn run(worker: &Worker) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match *worker {
        Worker::Serve { echo, flows } => {
            serve_by_threads(echo)?;
            runtime.block_on(serve_by_events(flows))
        }
        Worker::Echo { server, samples } => say(&time_echo(server, samples)?),
        Worker::Flows { server, seconds, concurrent } => {
            let rate = tokio::task::LocalSet::new();
            say(&runtime.block_on(rate.run_until(count_flows(
                server,
                Duration::try_from_secs_f64(seconds)?,
                concurrent,
            )))?)
        }
        Worker::Hold { server, count } => runtime.block_on(hold(server, count)),
    }
}

fn say<T: Serialize>(answer: &T) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

fn serve_by_threads(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || echo_until_end(stream));
        }
    });
    Ok(())
}

/// Ends with the connection: its client reports what went wrong, the server has nothing to add.
fn echo_until_end(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 64];
    loop {
        let got = stream.read(&mut buffer)?;
        if got == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..got])?;
    }
}

async fn serve_by_events(first: SocketAddr) -> Result<()> {
    let mut accepting = tokio::task::JoinSet::new();
    for index in 0..FLOW_PORTS {
        accepting.spawn(accept(listen(flow_port(first, index))?));
    }
    say(&serde_json::json!({ "serving": true }))?;
    match accepting.join_next().await {
        Some(ended) => ended?,
        None => Ok(()),
    }
}

/// The `index`th of the flow ports, round and round.
fn flow_port(first: SocketAddr, index: u16) -> SocketAddr {
    SocketAddr::new(first.ip(), first.port() + index % FLOW_PORTS)
}

fn listen(address: SocketAddr) -> Result<tokio::net::TcpListener> {
    let socket =
        if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("cannot listen on {address}"))?;
    Ok(socket.listen(4096)?)
}

async fn accept(listener: tokio::net::TcpListener) -> Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut buffer = [0; 64];
            while let Ok(got) = stream.read(&mut buffer).await {
                if got == 0 || stream.write_all(&buffer[..got]).await.is_err() {
                    return;
                }
            }
        });
    }
}

fn time_echo(server: SocketAddr, samples: usize) -> Result<Percentiles> {
    let mut stream = TcpStream::connect_timeout(&server, STEP_DEADLINE)
        .with_context(|| format!("cannot connect to {server}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STEP_DEADLINE))?;
    let mut times = Vec::with_capacity(samples);
    for round in 0..ECHO_WARM_UP + samples {
        let mut byte = [u8::try_from(round % 251)?];
        let sent = byte;
        let began = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        let took = began.elapsed();
        if byte != sent {
            bail!("echo of {sent:?} came back as {byte:?}");
        }
        if round >= ECHO_WARM_UP {
            times.push(u64::try_from(took.as_nanos())?);
        }
    }
    Percentiles::of_nanos(&mut times).context("no samples were asked for")
}

/// One flow: connect, one byte there and back. The open stream is handed back so that the caller closes it.
async fn open_flow(server: SocketAddr) -> Result<tokio::net::TcpStream> {
    let one = async {
        let mut stream = tokio::net::TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        stream.write_all(b"x").await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        if byte != *b"x" {
            bail!("another byte came back");
        }
        Ok(stream)
    };
    tokio::time::timeout(STEP_DEADLINE, one).await.context("no answer in time")?
}

/// Lets a flow end by a reset when it is dropped. An end alone is held back from connectors that would take it for the end of
/// both directions, and the flow would stay until the server ends it, which an echo never does.
fn close(stream: &tokio::net::TcpStream) {
    // A flow that has failed already is reset in any case.
    let _ = stream.set_zero_linger();
}

async fn count_flows(server: SocketAddr, length: Duration, concurrent: usize) -> Result<FlowRate> {
    close(&open_flow(server).await.with_context(|| format!("no flow to {server}"))?);
    let began = Instant::now();
    let times = Rc::new(RefCell::new(Vec::new()));
    let next = Rc::new(Cell::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..concurrent {
        let (times, next) = (Rc::clone(&times), Rc::clone(&next));
        tasks.spawn_local(async move {
            let mut failed = 0_usize;
            while began.elapsed() < length && times.borrow().len() < MAX_FLOWS && failed < 100 {
                let opened = Instant::now();
                let index = next.get();
                next.set((index + 1) % FLOW_PORTS);
                match open_flow(flow_port(server, index)).await {
                    Ok(stream) => {
                        times
                            .borrow_mut()
                            .push(u64::try_from(opened.elapsed().as_nanos()).unwrap_or(u64::MAX));
                        close(&stream);
                    }
                    Err(_) => failed += 1,
                }
            }
            failed
        });
    }
    let failed = tasks.join_all().await.into_iter().sum();
    let elapsed = began.elapsed();
    let mut times = times.take();
    let done = times.len();
    Ok(FlowRate {
        done,
        failed,
        per_second: f64::from(u32::try_from(done)?) / elapsed.as_secs_f64(),
        first_byte: Percentiles::of_nanos(&mut times),
    })
}

async fn hold(server: SocketAddr, count: usize) -> Result<()> {
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        let mut opening = tokio::task::JoinSet::new();
        for _ in 0..HOLD_OPENING.min(count - held.len()) {
            opening.spawn(open_flow(server));
        }
        while let Some(opened) = opening.join_next().await {
            held.push(opened?.with_context(|| format!("flow to {server} failed"))?);
        }
    }
    say(&Held { open: held.len() })?;
    // A blocking read is right here: nothing is left to do but to hold the flows.
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink())?;
    held.iter().for_each(close);
    Ok(())
}
