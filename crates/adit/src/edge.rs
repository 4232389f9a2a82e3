//! `adit edge`: one edge node of several.
//!
//! It has no control plane: it decides by the change log of the database, writes there what it holds, and got its certificate
//! from the `adit up` that its file names. Devices enrol and people manage there. What holds: once it has a state it needs
//! neither the database nor the control plane to go on, nor to start again.

mod settings;
mod state;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adit_edge::{
    Certificates, Edge, EdgeConfig, Ends, Freshness, InspectionAuthorities, KEPT_FILE, PeerIdentity,
};
use adit_model::{PublicHostname, Record};
use adit_store::{NodeDatabase, NodeRecord};
use adit_transport::tls::Identity;
use anyhow::Context;
use clap::Args;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::certificates::Supplied;
use crate::command_line::{DatabaseUrl, LogFlags};
use crate::inspection::NodeAuthorities;
use crate::nodes::Member;
use crate::nodes::enrolment::Enrolment;
use crate::nodes::identity::Enrolled;
use crate::records::{self, RecordFlags, Sinks};
use crate::up::settings::{at_port, dns_domain, with};
use crate::up::{CHANGES, COMMANDS, RECORDS, REPORTS, try_ports, with_hint};
use crate::{listener, log, shutdown, threads};
use settings::{Code, Settings};
use state::Beginning;

pub(crate) const EXAMPLES: &str = "Examples:
  adit edge --config edge02.yaml
  adit edge --config edge02.yaml --data /var/lib/adit-edge --https 192.0.2.11:443

The file is what `adit node create` prints, on the machine of an `adit up` with --database postgres://...";

/// Flags of `adit edge`. Each may be a key of the configuration file too.
#[derive(Debug, Args)]
pub(crate) struct EdgeFlags {
    /// YAML file with any of the flags below as keys
    #[arg(long, env = "ADIT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory for this node's key, certificate and password [default: ./adit-edge]
    #[arg(long, env = "ADIT_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// URL of the control plane, an `adit up`
    #[arg(long, env = "ADIT_CONTROL", value_name = "URL")]
    control: Option<String>,
    /// The control plane's ca.pem: its path, or the text itself
    #[arg(long, env = "ADIT_CA", value_name = "FILE")]
    ca: Option<String>,
    /// One-time code of `adit node create`; not needed any more after the first start
    #[arg(long, env = "ADIT_CODE", hide_env_values = true, value_name = "CODE")]
    code: Option<Code>,
    /// Where this node reaches the database, if that is not where the control plane does; without a user, it signs in as it
    /// has enrolled
    #[arg(long, env = "ADIT_DATABASE", hide_env_values = true, value_name = "URL")]
    database: Option<DatabaseUrl>,
    /// TCP and UDP listener for devices [default: [::]:443]
    #[arg(long, env = "ADIT_HTTPS", value_name = "ADDRESS")]
    https: Option<String>,
    /// UDP and TCP listener for connectors and other nodes [default: [::]:7844]
    #[arg(long, env = "ADIT_TUNNEL", value_name = "ADDRESS")]
    tunnel: Option<String>,
    /// Listener for /metrics, /ready and /healthz [default: 127.0.0.1:9090]
    #[arg(long, env = "ADIT_METRICS", value_name = "ADDRESS")]
    metrics: Option<String>,
    /// PEM certificate, leaf first, for public host names that it names; may be repeated. Names that none names are not
    /// served by this node
    #[arg(long, env = "ADIT_CERTIFICATE", value_name = "FILE", value_delimiter = ',')]
    certificate: Vec<PathBuf>,
    /// PEM key of the certificate; as often as --certificate
    #[arg(long, env = "ADIT_CERTIFICATE_KEY", value_name = "FILE", value_delimiter = ',')]
    certificate_key: Vec<PathBuf>,
    /// For how long flows are decided without the database, the time before a start included [default: 24h]
    #[arg(long, env = "ADIT_MAX_STALENESS", value_name = "DURATION")]
    max_staleness: Option<String>,
    /// Resolver that is asked for names where no rule says otherwise; may be repeated [default: those of /etc/resolv.conf]
    #[arg(long, env = "ADIT_DNS_UPSTREAM", value_name = "ADDRESS", value_delimiter = ',')]
    dns_upstream: Vec<String>,
    /// Listener for DNS over TLS, for the DNS locations of devices without the agent; its port is 853 elsewhere [default: none]
    #[arg(long, env = "ADIT_DOT", value_name = "ADDRESS")]
    dot: Option<String>,
    /// Domain whose hosts are the DNS locations, over HTTPS and TLS; its names lead here [default: dns. and the first
    /// host of this node that is a name]
    #[arg(long, env = "ADIT_DNS_DOMAIN", value_name = "NAME")]
    dns_domain: Option<String>,
    #[command(flatten)]
    records: RecordFlags,
    #[command(flatten)]
    log: LogFlags,
}

pub(crate) fn run(flags: EdgeFlags) -> anyhow::Result<()> {
    log::start(&flags.log)?;
    let settings = Settings::check(flags)?;
    let runtime = threads::runtime()?;
    let result = runtime.block_on(serve(settings));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let signal = shutdown::on_signal()?;
    let metrics = listener::bind("metrics", settings.metrics).await?;
    try_ports(settings.https, settings.tunnel, settings.dot)?;
    let supplied = settings.certificates.iter().cloned().map(Supplied::open).collect::<Result<_, _>>()?;
    let enrolment = Enrolment {
        data: &settings.data,
        control: &settings.control,
        ca: &settings.ca,
        code: settings.code.as_ref().map(Code::reveal),
    };
    let enrolled = enrolment.run().await?;
    let member = member(&settings, &enrolled)?;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let inspection = Arc::new(NodeAuthorities::open(&member, &enrolled, &settings.data)?);
    tasks.spawn(Arc::clone(&inspection).follow(stop.clone()));
    let config = EdgeConfig {
        node: enrolled.name.clone(),
        https: settings.https,
        tunnel: settings.tunnel,
        identity: enrolled.identity()?,
        tunnel_identity: enrolled.identity()?,
        names: with(&enrolled.hosts, &["localhost", "127.0.0.1", "::1"]),
        certificates: Arc::new(Files(supplied)),
        inspection: Arc::clone(&inspection) as Arc<dyn InspectionAuthorities>,
        management: axum::Router::new(),
        enrolment: axum::Router::new(),
        dns_upstreams: settings.dns_upstreams.clone(),
        dns_domain: dns_domain(settings.dns_domain.as_deref(), &enrolled.hosts)?,
        dot: settings.dot,
        peer: Some(PeerIdentity { node: enrolled.node, identity: enrolled.identity()? }),
    };
    let kept = settings.data.join(KEPT_FILE);
    let beginning = match signal.run_until_cancelled(state::begin(&member, &kept)).await {
        Some(beginning) => beginning?,
        None => return Ok(()),
    };
    let freshness = Arc::new(Freshness::new(settings.max_staleness, beginning.age));
    let counters = records::Metrics::default();
    let shared = records::Database::Shared(member.database.clone(), member.id);
    let sinks = Sinks::start(&settings.records, Some(shared), &counters, &tasks, &stop);
    beginning.prepare(&inspection).await;
    let ends = join((&member, inspection), beginning, sinks, &freshness, &tasks, &stop)?;
    let edge = Arc::new(Edge::start_bounded(config, ends, freshness).await.map_err(with_hint)?);
    edge.keep(kept);
    let health = Some(Arc::clone(&member.health));
    tasks.spawn(listener::serve(metrics, Arc::clone(&edge), health, counters, stop.clone()));
    tracing::info!(
        node = enrolled.name,
        https = %edge.https(),
        tunnel = %edge.tunnel(),
        metrics = %settings.metrics,
        "this edge node is up"
    );
    signal.cancelled().await;
    edge.stop().await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    member.database.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// This node among the others.
fn member(settings: &Settings, enrolled: &Enrolled) -> anyhow::Result<Member> {
    let place = settings.database.as_ref().map_or(enrolled.database.url.as_str(), DatabaseUrl::reveal);
    let own = settings.database.as_ref().is_some_and(|url| url.reveal().contains('@'));
    let role = match &enrolled.database.password {
        _ if own => None,
        Some(password) => Some((enrolled.database.role.as_str(), password.as_str())),
        None => anyhow::bail!(
            "database: the role {} was made by hand: expected its URL, with its password",
            enrolled.database.role
        ),
    };
    let host = enrolled.hosts.first().map_or("localhost", String::as_str);
    Ok(Member {
        database: NodeDatabase::at(place, role).context("database")?,
        id: enrolled.node,
        address: at_port(host, settings.tunnel.port()),
        devices: at_port(host, settings.https.port()),
        open: Arc::default(),
        health: Arc::default(),
    })
}

/// Joins the edge and the database: changes and commands one way, records the other.
fn join(
    (member, inspection): (&Member, Arc<NodeAuthorities>),
    beginning: Beginning,
    sinks: Sinks,
    freshness: &Arc<Freshness>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Ends> {
    let (changes_in, changes) = mpsc::channel(CHANGES);
    let (commands_in, commands) = mpsc::channel(COMMANDS);
    let (records, records_out) = mpsc::channel(RECORDS);
    let following = beginning.follow(
        member.clone(),
        (changes_in.clone(), inspection),
        Arc::clone(freshness),
        stop.clone(),
    )?;
    tasks.spawn(following);
    tasks.spawn(member.clone().show(stop.clone()));
    tasks.spawn(member.clone().learn(changes_in, stop.clone()));
    tasks.spawn(member.clone().obey(commands_in, stop.clone()));
    let (reports_in, reports) = mpsc::channel(REPORTS);
    tasks.spawn(take_reports(member.clone(), reports));
    tasks.spawn(records::sort(records_out, sinks, reports_in, stop.clone()));
    Ok(Ends { changes, commands, records })
}

/// Connections are noted; what else the control plane must know is written for it.
async fn take_reports(member: Member, mut reports: mpsc::Receiver<Record>) {
    while let Some(report) = reports.recv().await {
        member.open.note(&report);
        let report = match report {
            Record::RegistrationSeen(seen) => NodeRecord::Seen(seen),
            Record::LocalConfiguration(configuration) => NodeRecord::Configuration(configuration),
            Record::ConnectionOpened(_)
            | Record::ConnectionClosed(_)
            | Record::Decision(_)
            | Record::Http(_)
            | Record::Flow(_)
            | Record::Request(_)
            | Record::Dns(_) => continue,
        };
        // For display: what is lost while the database is gone is told again by the next one.
        if member.health.silent_for().is_none() {
            member.health.note(member.database.record(member.id, &report).await);
        }
    }
}

/// Certificates of public host names, in files.
#[derive(Debug)]
struct Files(Vec<Supplied>);

impl Certificates for Files {
    fn certificate(&self, hostname: &PublicHostname) -> Option<Identity> {
        self.0.iter().map(Supplied::identity).find(|identity| identity.is_for(hostname.as_str()))
    }
}
