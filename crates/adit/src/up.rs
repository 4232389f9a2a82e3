//! `adit up`: control plane and edge in one process.

pub(crate) mod settings;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use adit_control::{Control, Explainer};
use adit_edge::{Edge, EdgeConfig, Ends, Freshness, InspectionAuthorities, PeerIdentity};
use adit_model::{AccountId, ChangeBatch, Command, ExplainFor, ExplainQuestion, Explained, Filter, Record};
use adit_store::{Feed, NodeDatabase, Store};
use anyhow::Context;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::account::socket::Socket;
use crate::authority::Authority;
use crate::certificates::{HostCertificates, Supplied};
use crate::command_line::UpFlags;
use crate::inspection::Authorities;
use crate::nodes::{self, Member, Open};
use crate::records::{self, Sinks};
use crate::{listener, log, shutdown, threads};
use settings::Settings;

pub(crate) fn run(flags: UpFlags) -> anyhow::Result<()> {
    log::start(&flags.log)?;
    let settings = Settings::check(flags)?;
    let runtime = threads::runtime()?;
    let result = runtime.block_on(serve(settings));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let signal = shutdown::on_signal()?;
    let metrics = listener::bind("metrics", settings.metrics).await?;
    let http = match settings.http {
        Some(address) => Some(listener::bind("http", address).await?),
        None => None,
    };
    try_ports(settings.https, settings.tunnel, settings.dot)?;
    let supplied = settings.certificates.iter().cloned().map(Supplied::open).collect::<Result<_, _>>()?;
    let store = match &settings.database {
        Some(url) => Store::open_postgres(url.reveal(), &settings.data).await?,
        None => Store::open(&settings.data).await?,
    };
    let served = adit_control::Settings {
        node: settings.node.clone(),
        edges: settings.connector_edges(),
        dns_domain: settings.dns_domain.clone(),
        own_names: settings.served_names().into_iter().chain(settings.connector_names()).collect(),
    };
    let control = Control::new(store, served).await?;
    let authority = Authority::open(control.store()).await?;
    authority.write_pem(&settings.data)?;
    let authority = Arc::new(authority);
    let certificates = HostCertificates::new(Arc::clone(&authority), supplied);
    let (member, peer) = membership(&settings, control.store()).await?.unzip();
    let mut management = adit_control::api::router(control.clone());
    if let Some(url) = &settings.database {
        management = management.merge(nodes::enrolment::router(nodes::enrolment::Registry {
            store: control.store().clone(),
            authority: Arc::clone(&authority),
            connector_names: settings::connector_names(&[]),
            database: nodes::enrolment::without_user(url.reveal()),
        }));
    }
    let roots = settings.origin_roots.iter().map(|path| {
        std::fs::read(path).with_context(|| format!("origin-roots: cannot read {}", path.display()))
    });
    let inspection =
        Arc::new(Authorities::new(control.store().clone(), &roots.collect::<Result<Vec<_>, _>>()?)?);
    let config = EdgeConfig {
        node: settings.node.clone(),
        https: settings.https,
        tunnel: settings.tunnel,
        identity: authority.identity(&settings.served_names())?,
        tunnel_identity: authority.identity(&settings.connector_names())?,
        names: settings.served_names(),
        certificates: Arc::new(certificates),
        inspection: Arc::clone(&inspection) as Arc<dyn InspectionAuthorities>,
        management,
        enrolment: adit_control::device::router(control.clone()),
        dns_upstreams: settings.dns_upstreams.clone(),
        dns_domain: settings.dns_domain.clone(),
        dot: settings.dot,
        peer,
    };
    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    let freshness = Arc::new(Freshness::new(settings.max_staleness, std::time::Duration::ZERO));
    let counters = records::Metrics::default();
    let sinks = sinks(&settings, &control, &counters, &tasks, &stop);
    let ends = join(&control, (member.as_ref(), inspection), sinks, &freshness, &tasks, &stop).await?;
    let url = settings.url();
    match Socket::bind(&settings.data) {
        Ok(socket) => drop(tasks.spawn(socket.serve(control.store().clone(), url, stop.clone()))),
        Err(error) => {
            tracing::warn!(%error, "no control socket: adit account can only be used while adit up is stopped");
        }
    }
    let edge = Arc::new(Edge::start_bounded(config, ends, freshness).await.map_err(with_hint)?);
    control.explain_by(Arc::new(Asked(Arc::clone(&edge))));
    let health = member.as_ref().map(|member| Arc::clone(&member.health));
    tasks.spawn(listener::serve(metrics, Arc::clone(&edge), health, counters, stop.clone()));
    if let Some(http) = http {
        let api = adit_control::api::router(control.clone());
        tasks.spawn(listener::serve_api(http, api, stop.clone()));
    }
    write_url(&settings.data, edge.https())?;
    tracing::info!(
        https = %edge.https(),
        tunnel = %edge.tunnel(),
        dot = edge.dot().map(tracing::field::display),
        metrics = %settings.metrics,
        account = %control.account(),
        data = %settings.data.display(),
        "adit is up"
    );
    warn_of_rules(&control).await?;
    signal.cancelled().await;
    edge.stop().await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    if let Some(member) = member {
        member.database.close().await;
    }
    control.store().close().await;
    tracing::info!("stopped");
    Ok(())
}

/// Says which rules are there and not applied.
async fn warn_of_rules(control: &Control) -> anyhow::Result<()> {
    for (filter, rules) in control.store().rule_enabled_counts().await? {
        if filter == Filter::Egress {
            tracing::warn!(
                %filter, rules,
                "enabled gateway rules are not enforced: this version stores rules of this filter and does not apply them yet"
            );
        }
    }
    Ok(())
}

/// This process's edge, as the control plane asks it.
struct Asked(Arc<Edge>);

impl Explainer for Asked {
    fn explain<'a>(
        &'a self,
        account: AccountId,
        whose: &'a ExplainFor,
        question: &'a ExplainQuestion,
    ) -> Pin<Box<dyn Future<Output = Option<Explained>> + Send + 'a>> {
        Box::pin(self.0.explain(account, whose, question))
    }
}

/// Where log records go.
fn sinks(
    settings: &Settings,
    control: &Control,
    counters: &records::Metrics,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Sinks {
    let kept = settings.retention.map(|_| records::Database::Own(control.store().records().clone()));
    if let Some(retention) = settings.retention {
        tasks.spawn(records::sweep(control.clone(), retention, stop.clone()));
    }
    Sinks::start(&settings.records, kept, counters, tasks, stop)
}

/// This process as one of several nodes, where the database is one that others can reach.
async fn membership(settings: &Settings, store: &Store) -> anyhow::Result<Option<(Member, PeerIdentity)>> {
    let Some(url) = &settings.database else { return Ok(None) };
    let (identity, key) = nodes::identity::own(&settings.data)?;
    let host = settings.first_host();
    let id = store.node_own(&settings.node, &key).await?;
    let member = Member {
        database: NodeDatabase::at(url.reveal(), None).context("database")?,
        id,
        address: settings::at_port(host, settings.tunnel.port()),
        devices: settings::at_port(host, settings.https.port()),
        open: Arc::default(),
        health: Arc::default(),
    };
    Ok(Some((member, PeerIdentity { node: id, identity })))
}

/// Leaves where this machine's commands find the API.
fn write_url(directory: &Path, https: SocketAddr) -> anyhow::Result<()> {
    let host = match https.ip() {
        address if address.is_unspecified() => "localhost".to_owned(),
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let path = directory.join(URL_FILE);
    std::fs::write(&path, format!("https://{host}:{}\n", https.port()))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Finds out that a port cannot be had before anything is written.
pub(crate) fn try_ports(
    https: SocketAddr,
    tunnel: SocketAddr,
    dot: Option<SocketAddr>,
) -> anyhow::Result<()> {
    let failed = |listener, address| {
        move |source| with_hint(adit_edge::StartError::Listen { listener, address, source })
    };
    std::net::TcpListener::bind(https).map_err(failed("https", https))?;
    if let Some(dot) = dot {
        std::net::TcpListener::bind(dot).map_err(failed("dot", dot))?;
    }
    std::net::UdpSocket::bind(tunnel).map_err(failed("tunnel", tunnel))?;
    std::net::TcpListener::bind(tunnel).map_err(failed("tunnel", tunnel))?;
    Ok(())
}

/// Joins control plane and edge: changes and commands one way, records the other.
async fn join(
    control: &Control,
    (member, inspection): (Option<&Member>, Arc<Authorities>),
    sinks: Sinks,
    freshness: &Arc<Freshness>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Ends> {
    let (changes_in, changes) = mpsc::channel(CHANGES);
    let (commands_in, commands) = mpsc::channel(COMMANDS);
    let (records, records_out) = mpsc::channel(RECORDS);
    let (state, feed) = control.subscribe().await?;
    inspection.prepare(&state).await;
    changes_in.try_send(state).context("a new channel has room")?;
    if let Some(member) = member {
        tasks.spawn(member.clone().show(stop.clone()));
        tasks.spawn(member.clone().learn(changes_in.clone(), stop.clone()));
        tasks.spawn(member.clone().obey(commands_in.clone(), stop.clone()));
        tasks.spawn(nodes::inspection::sign(control.clone(), member.clone(), stop.clone()));
        tasks.spawn(nodes::reports::commands(control.clone(), member.clone(), stop.clone()));
        tasks.spawn(nodes::reports::records(control.clone(), member.clone(), stop.clone()));
    }
    tasks.spawn(feed_changes(feed, (changes_in, inspection), Arc::clone(freshness), stop.clone()));
    tasks.spawn(pass_commands(control.commands(), commands_in, stop.clone()));
    let open = member.map(|member| Arc::clone(&member.open));
    let (reports_in, reports) = mpsc::channel(REPORTS);
    tasks.spawn(take_reports(control.clone(), open, reports));
    tasks.spawn(records::sort(records_out, sinks, reports_in, stop.clone()));
    Ok(Ends { changes, commands, records })
}

async fn feed_changes(
    mut feed: Feed,
    (changes, inspection): (mpsc::Sender<ChangeBatch>, Arc<Authorities>),
    freshness: Arc<Freshness>,
    stop: CancellationToken,
) {
    loop {
        let next = tokio::select! {
            next = feed.look() => next,
            () = stop.cancelled() => return,
        };
        match next {
            Ok(next) => {
                if !freshness.is_reached() {
                    tracing::info!("the change log can be read again");
                }
                if let Some(batch) = next {
                    inspection.prepare(&batch).await;
                    if changes.send(batch).await.is_err() {
                        return;
                    }
                }
                freshness.confirm();
                inspection.again().await;
            }
            Err(error) => {
                if freshness.is_reached() {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the change log cannot be read: deciding by the last snapshot, and trying again"
                    );
                }
                freshness.fail();
                let _stopping = stop.run_until_cancelled(tokio::time::sleep(RETRY)).await;
            }
        }
    }
}

async fn pass_commands(
    mut commands: broadcast::Receiver<Command>,
    edge: mpsc::Sender<Command>,
    stop: CancellationToken,
) {
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            () = stop.cancelled() => return,
        };
        match command {
            Ok(command) => {
                if edge.send(command).await.is_err() {
                    return;
                }
            }
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "commands were missed");
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Takes what is no log record: the control plane may wait for its database.
async fn take_reports(control: Control, open: Option<Arc<Open>>, mut reports: mpsc::Receiver<Record>) {
    while let Some(report) = reports.recv().await {
        if let Some(open) = &open {
            open.note(&report);
        }
        control.record(report).await;
    }
}

/// A port in use, or one that needs privileges, has something to be done about.
pub(crate) fn with_hint(error: adit_edge::StartError) -> anyhow::Error {
    let kind = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
        .find_map(|error| error.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind);
    let hint = match kind {
        Some(std::io::ErrorKind::AddrInUse) => {
            "; stop what uses it, or choose another address with --https, --tunnel or --dot"
        }
        Some(std::io::ErrorKind::PermissionDenied) => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE, or choose others with --https, --tunnel and --dot"
        }
        Some(std::io::ErrorKind::AddrNotAvailable) => "; the address is not this machine's",
        _ => "",
    };
    let text = anyhow::Error::new(error);
    if hint.is_empty() { text } else { anyhow::anyhow!("{text:#}{hint}") }
}

/// The file in the data directory that says where the API is.
pub(crate) const URL_FILE: &str = "api-url";
/// Batches of changes on their way to the edge.
pub(crate) const CHANGES: usize = 64;
/// Commands on their way to the edge.
pub(crate) const COMMANDS: usize = 64;
/// Records on their way from the edge: a second of a busy one.
pub(crate) const RECORDS: usize = 16_384;
/// Those of them that are no log records, on their way to the control plane.
pub(crate) const REPORTS: usize = 1024;
/// Between two tries to read changes.
pub(crate) const RETRY: std::time::Duration = std::time::Duration::from_secs(1);
