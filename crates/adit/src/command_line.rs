//! The command line: every flag once, with its variable and its help.

mod connector;
mod database;
mod management;
mod single_dash;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use adit_agent::{Fallback, SystemDns, TransportSetting};
use adit_connector::ConfigError;
use clap::{Args, Parser, Subcommand};

pub(crate) use connector::ConnectorFlags;
pub(crate) use database::{BackupCommand, DatabaseUrl};
pub(crate) use management::*;
pub(crate) use single_dash::corrected;

use crate::access::AccessCommand;
use crate::account::{self, AccountCommand};
use crate::apply;
use crate::backup;
use crate::edge::{self, EdgeFlags};
use crate::explain::{self as explaining, ExplainCommand};
use crate::manage;
use crate::manage::commands::{
    ApplyCommand, CompletionsCommand, CreateCommand, DeleteCommand, DiffCommand, EditCommand, ExportCommand,
    GetCommand, LoginCommand,
};
use crate::manage::problem::Problem;
use crate::management::Failure;
use crate::node::{self, NodeCommand};
use crate::policy::PolicyCommand;
use crate::records::{RecordFlags, RetentionFlags};

/// What was typed.
#[derive(Debug, Parser)]
#[command(name = "adit", version, about = "A self-hosted zero-trust network", max_term_width = 100, after_help = ABOUT)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: AditCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AditCommand {
    /// Control plane and edge on this machine, on an embedded database
    #[command(after_help = UP_EXAMPLES)]
    Up(Box<UpFlags>),
    /// One edge node of several, beside an `adit up` on PostgreSQL
    #[command(after_help = edge::EXAMPLES)]
    Edge(Box<EdgeFlags>),
    /// The edge nodes of this installation, made and deleted on the machine of its `adit up`
    #[command(after_help = node::EXAMPLES)]
    Node(NodeCommand),
    /// The connector, and the management of tunnels
    #[command(after_help = TUNNEL_EXAMPLES)]
    Tunnel(Box<TunnelCommand>),
    /// The device: its service, and the commands that talk to it
    #[command(after_help = AGENT_EXAMPLES)]
    Agent(AgentCommand),
    /// The client side of applications behind public host names
    #[command(after_help = ACCESS_EXAMPLES)]
    Access(AccessCommand),
    /// The accounts of this installation, made and deleted on its own machine
    #[command(after_help = account::EXAMPLES)]
    Account(AccountCommand),
    /// A copy of the database of `adit up`, also while it runs
    #[command(after_help = backup::EXAMPLES)]
    Backup(BackupCommand),
    /// Expressions of rules, tested without a network
    Policy(PolicyCommand),
    /// Shows objects: tunnels, routes, rules and the like
    #[command(after_help = manage::GET_EXAMPLES)]
    Get(GetCommand),
    /// Makes an object
    #[command(after_help = manage::CREATE_EXAMPLES)]
    Create(CreateCommand),
    /// Changes an object
    #[command(after_help = manage::EDIT_EXAMPLES)]
    Edit(EditCommand),
    /// Tells why a flow is, or would be, allowed, blocked or unroutable, step by step
    #[command(after_help = explaining::EXAMPLES)]
    Explain(Box<ExplainCommand>),
    /// Deletes objects
    #[command(after_help = manage::DELETE_EXAMPLES)]
    Delete(DeleteCommand),
    /// Makes the installation what YAML files say, in one transaction
    #[command(after_help = apply::APPLY_EXAMPLES)]
    Apply(ApplyCommand),
    /// Shows what `adit apply` would do
    #[command(after_help = apply::DIFF_EXAMPLES)]
    Diff(DiffCommand),
    /// Prints what there is as YAML files for `adit apply`
    #[command(after_help = apply::EXPORT_EXAMPLES)]
    Export(ExportCommand),
    /// Keeps an address and a token, so that later commands need neither
    #[command(after_help = manage::LOGIN_EXAMPLES)]
    Login(LoginCommand),
    /// Prints the completions of a shell
    #[command(after_help = manage::COMPLETIONS_EXAMPLES)]
    Completions(CompletionsCommand),
}

impl AditCommand {
    /// Whether a usage error of this command is 2, as the commands for people have it.
    fn is_for_people(name: &str) -> bool {
        ["get", "create", "edit", "delete", "login", "completions", "apply", "diff", "export", "explain"]
            .contains(&name)
    }
}

const ABOUT: &str =
    "Exit codes of get, create, edit, delete, apply, diff, explain, export and login: 0 done; 1 refused
or failed for another reason, `adit diff` has found changes, or the flow is not allowed; 2 wrong
command line or file; 3 no such object; 4 no token, or one that may not do this; 5 conflict; 6 the
installation cannot be reached. Those of tunnel and access are cloudflared's. NO_COLOR turns
colours off.";

const UP_EXAMPLES: &str = "Examples:
  adit up --data /var/lib/adit --public-host adit.example.com
  adit up --public-host 192.0.2.10 --https 192.0.2.10:443 --tunnel 192.0.2.10:7844";

const TUNNEL_EXAMPLES: &str = "Examples:
  adit tunnel login https://adit.example.com --ca ca.pem
  adit tunnel --data /var/lib/adit create k8s
  adit tunnel --data /var/lib/adit route ip add 198.51.100.101/32 k8s
  adit tunnel --data /var/lib/adit list
  adit tunnel --config config.yaml --edge edge.example.com:7844 \
    --edge edge.example.com:7844 --cacert ca.pem run";

const AGENT_EXAMPLES: &str = "Examples:
  adit agent run --state /var/lib/adit-agent
  adit agent enroll https://adit.example.com --ca ca.pem --service-token ID:SECRET
  adit agent status --json";

const ACCESS_EXAMPLES: &str = "Examples:
  adit access tcp --hostname db.example.com --url 127.0.0.1:5432
  adit access ssh --hostname ssh.example.com";

/// Flags of `adit up`. Each may be a key of the configuration file too.
#[derive(Debug, Args)]
pub(crate) struct UpFlags {
    /// YAML file with any of the flags below as keys
    #[arg(long, env = "ADIT_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Directory for the database, keys and ca.pem [default: ./adit-data]
    #[arg(long, env = "ADIT_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// PostgreSQL database, as in postgres://adit:PASSWORD@db.example/adit; the directory then keeps keys only [default:
    /// SQLite in the directory]
    #[arg(long, env = "ADIT_DATABASE", hide_env_values = true, value_name = "URL")]
    pub(crate) database: Option<DatabaseUrl>,
    /// Name or address by which devices and connectors reach this machine; may be repeated [default: localhost]
    #[arg(long, env = "ADIT_PUBLIC_HOST", value_name = "HOST", value_delimiter = ',')]
    pub(crate) public_host: Vec<String>,
    /// TCP listener for devices and the API [default: [::]:443]
    #[arg(long, env = "ADIT_HTTPS", value_name = "ADDRESS")]
    pub(crate) https: Option<String>,
    /// UDP and TCP listener for connectors [default: [::]:7844]
    #[arg(long, env = "ADIT_TUNNEL", value_name = "ADDRESS")]
    pub(crate) tunnel: Option<String>,
    /// Listener for /metrics, /ready and /healthz [default: 127.0.0.1:9090]
    #[arg(long, env = "ADIT_METRICS", value_name = "ADDRESS")]
    pub(crate) metrics: Option<String>,
    /// Loopback listener for the API without TLS, for programs of this machine that take a base URL and no certificates
    /// [default: none]
    #[arg(long, env = "ADIT_HTTP", value_name = "ADDRESS")]
    pub(crate) http: Option<String>,
    /// Name of this edge node, shown as the location of its connections [default: edge01]
    #[arg(long, env = "ADIT_NODE", value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// For how long flows are decided by the last known state while the database cannot be read; past it no new flow is let
    /// through [default: 24h]
    #[arg(long, env = "ADIT_MAX_STALENESS", value_name = "DURATION")]
    pub(crate) max_staleness: Option<String>,
    /// PEM certificate, leaf first, for public host names that it names; may be repeated [default: made by this
    /// installation's authority]
    #[arg(long, env = "ADIT_CERTIFICATE", value_name = "FILE", value_delimiter = ',')]
    pub(crate) certificate: Vec<PathBuf>,
    /// PEM key of the certificate; as often as --certificate
    #[arg(long, env = "ADIT_CERTIFICATE_KEY", value_name = "FILE", value_delimiter = ',')]
    pub(crate) certificate_key: Vec<PathBuf>,
    /// PEM file of authorities that sign private origins, beside the system's: where TLS is inspected, origins are verified
    /// by them; may be repeated
    #[arg(long, env = "ADIT_ORIGIN_ROOTS", value_name = "FILE", value_delimiter = ',')]
    pub(crate) origin_roots: Vec<PathBuf>,
    /// Resolver that is asked for names where no rule says otherwise; may be repeated [default: those of /etc/resolv.conf]
    #[arg(long, env = "ADIT_DNS_UPSTREAM", value_name = "ADDRESS", value_delimiter = ',')]
    pub(crate) dns_upstream: Vec<String>,
    /// Listener for DNS over TLS, for the DNS locations of devices without the agent; its port is 853 elsewhere [default: none]
    #[arg(long, env = "ADIT_DOT", value_name = "ADDRESS")]
    pub(crate) dot: Option<String>,
    /// Domain whose hosts are the DNS locations, over HTTPS and TLS; its names lead here [default: dns. and the first
    /// --public-host that is a name]
    #[arg(long, env = "ADIT_DNS_DOMAIN", value_name = "NAME")]
    pub(crate) dns_domain: Option<String>,
    #[command(flatten)]
    pub(crate) records: RecordFlags,
    #[command(flatten)]
    pub(crate) retention: RetentionFlags,
    #[command(flatten)]
    pub(crate) log: LogFlags,
}

/// How to log.
#[derive(Debug, Args, Clone)]
pub(crate) struct LogFlags {
    /// debug, info, warn or error [default: info]
    #[arg(long, alias = "log-level", env = "ADIT_LOGLEVEL", global = true, value_name = "LEVEL")]
    pub(crate) loglevel: Option<String>,
    /// default or json [default: default]
    #[arg(long, env = "ADIT_LOG_OUTPUT", global = true, value_name = "FORMAT")]
    pub(crate) log_output: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TunnelCommand {
    #[command(flatten)]
    pub(crate) flags: TunnelFlags,
    #[command(flatten)]
    pub(crate) connector: ConnectorFlags,
    #[command(flatten)]
    pub(crate) api: ApiFlags,
    /// Format of the connector's log, default or json; stands before the command
    #[arg(id = "log_format", long = "output", env = "TUNNEL_LOG_OUTPUT", value_name = "FORMAT", hide = true)]
    pub(crate) output: Option<String>,
    #[command(flatten)]
    pub(crate) log: LogFlags,
    #[command(subcommand)]
    pub(crate) action: TunnelAction,
}

/// Flags of the connector: same names and variables as cloudflared's.
#[derive(Debug, Args, Clone)]
pub(crate) struct TunnelFlags {
    /// YAML file; any of the connector's flags may be a key in it
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Edge to connect to; may be repeated
    #[arg(long, env = "TUNNEL_EDGE", global = true, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) edge: Vec<String>,
    /// Certificates by which to trust the edge; without it the system's are used
    #[arg(long, env = "TUNNEL_CACERT", global = true, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,
    /// Credentials of the tunnel
    #[arg(long, env = "TUNNEL_CRED_FILE", global = true, alias = "cred-file", value_name = "FILE")]
    pub(crate) credentials_file: Option<PathBuf>,
    /// Credentials of the tunnel themselves, as JSON; goes before the file
    #[arg(long, env = "TUNNEL_CRED_CONTENTS", global = true, hide_env_values = true, value_name = "JSON")]
    pub(crate) credentials_contents: Option<String>,
    /// Listener for /ready, /healthcheck and /metrics
    #[arg(long, env = "TUNNEL_METRICS", global = true, value_name = "ADDRESS")]
    pub(crate) metrics: Option<String>,
    /// How long open flows are served after the first SIGTERM [default: 30s, at most 3m]
    #[arg(long, env = "TUNNEL_GRACE_PERIOD", global = true, value_name = "DURATION")]
    pub(crate) grace_period: Option<String>,
    /// Retries after which the pause between them grows no more [default: 5]
    #[arg(long, env = "TUNNEL_RETRIES", global = true, value_name = "N")]
    pub(crate) retries: Option<u32>,
    /// Transport to the edge: auto (QUIC, HTTP/2 where UDP is blocked), quic, http2 or both [default: auto]
    #[arg(long, short = 'p', env = "TUNNEL_TRANSPORT_PROTOCOL", global = true, value_name = "PROTOCOL")]
    pub(crate) protocol: Option<String>,
    /// Connections to keep, 1 to 4 [default: 4]
    #[arg(long, env = "TUNNEL_HA_CONNECTIONS", global = true, value_name = "N", hide = true)]
    pub(crate) ha_connections: Option<u8>,
    /// Local address of connections to the edge
    #[arg(long, env = "TUNNEL_EDGE_BIND_ADDRESS", global = true, value_name = "ADDRESS")]
    pub(crate) edge_bind_address: Option<String>,
    /// Flows at once; more are refused [default: 10000]
    #[arg(long, env = "TUNNEL_MAX_ACTIVE_FLOWS", global = true, value_name = "N")]
    pub(crate) max_active_flows: Option<u32>,
    /// File that gets the process's id after the first connection
    #[arg(long, env = "TUNNEL_PIDFILE", global = true, value_name = "FILE")]
    pub(crate) pidfile: Option<PathBuf>,
}

/// Where the API is and how to be let in. Not needed by `run`.
#[derive(Debug, Args, Clone)]
pub(crate) struct ApiFlags {
    /// Data directory of an `adit up` on this machine: gives token, account and trust
    #[arg(long, env = "ADIT_DATA", global = true, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Certificate of `adit tunnel login` [default: the first cert.pem in ~/.cloudflared and its like]
    #[arg(long, env = "TUNNEL_ORIGIN_CERT", global = true, value_name = "FILE")]
    pub(crate) origincert: Option<PathBuf>,
    /// Base URL of the API [default: the one of cert.pem or of --data, else https://localhost/client/v4]
    #[arg(long, env = "TUNNEL_API_URL", global = true, value_name = "URL")]
    pub(crate) api_url: Option<String>,
    /// API token
    #[arg(long, env = "ADIT_API_TOKEN", global = true, hide_env_values = true, value_name = "TOKEN")]
    pub(crate) api_token: Option<String>,
    /// Account tag
    #[arg(long, env = "ADIT_ACCOUNT", global = true, value_name = "ID")]
    pub(crate) account: Option<String>,
    /// Rows of a list to ask for at once
    #[arg(long, env = "TUNNEL_MAX_FETCH_SIZE", global = true, value_name = "N", hide = true)]
    pub(crate) max_fetch_size: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TunnelAction {
    /// Runs the connector
    #[command(
        after_help = "Examples:\n  adit tunnel --config config.yaml run\n  adit tunnel run --token TOKEN"
    )]
    Run {
        /// Tunnel id, if the configuration names none
        tunnel: Option<String>,
    },
    /// Questions about the ingress rules of a configuration
    Ingress {
        #[command(subcommand)]
        action: IngressAction,
    },
    /// Asks the connector at --metrics whether it is ready
    #[command(after_help = "Examples:\n  adit tunnel --metrics 127.0.0.1:8081 ready")]
    Ready,
    #[command(flatten)]
    Management(ManagementAction),
}

#[derive(Debug, Subcommand)]
pub(crate) enum IngressAction {
    /// Checks the rules
    #[command(after_help = "Examples:\n  adit tunnel --config config.yaml ingress validate")]
    Validate,
    /// Says which rule a URL matches
    #[command(
        after_help = "Examples:\n  adit tunnel --config config.yaml ingress rule https://app.example.com/path"
    )]
    Rule {
        /// Such as https://app.example.com/path
        url: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AgentCommand {
    /// Directory of the device's key and the control socket
    #[arg(
        long,
        env = "ADIT_AGENT_STATE",
        global = true,
        value_name = "DIR",
        default_value = "/var/lib/adit-agent"
    )]
    pub(crate) state: PathBuf,
    #[command(flatten)]
    pub(crate) log: LogFlags,
    #[command(subcommand)]
    pub(crate) action: AgentAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentAction {
    /// Runs the service; needs CAP_NET_ADMIN, unless with --proxy
    #[command(
        after_help = "Examples:\n  adit agent run --state /var/lib/adit-agent\n  adit agent run --state ~/.adit --proxy 127.0.0.1:1080"
    )]
    Run {
        /// Name of the TUN interface
        #[arg(long, env = "ADIT_AGENT_INTERFACE", value_name = "NAME", default_value = "adit0")]
        interface: String,
        /// Serve SOCKS5 and HTTP CONNECT at this loopback address, and make no interface: needs no root. Every program of
        /// this host that connects to it acts as this device
        #[arg(long, env = "ADIT_AGENT_PROXY", value_name = "ADDRESS:PORT")]
        proxy: Option<adit_agent::ProxyAddress>,
        /// How to reach the edge: auto (both, the better one first), h2 (TCP) or quic (UDP)
        #[arg(long, env = "ADIT_AGENT_TRANSPORT", value_name = "TRANSPORT", default_value = "auto")]
        transport: TransportSetting,
        /// Whether the system asks the agent for names while the device is connected: auto, or off
        #[arg(long, env = "ADIT_AGENT_DNS", value_name = "AUTO|OFF", default_value = "auto")]
        dns: SystemDns,
        /// Domain whose names are asked of RESOLVER, or of the system's former resolvers, past the edge and its rules; may be
        /// repeated
        #[arg(
            long,
            env = "ADIT_AGENT_DNS_FALLBACK",
            value_name = "SUFFIX[=RESOLVER]",
            value_delimiter = ','
        )]
        dns_fallback: Vec<Fallback>,
    },
    /// Makes the device's key and registers it with an edge
    #[command(
        after_help = "Examples:\n  adit agent enroll https://adit.example.com --ca ca.pem --service-token ID:SECRET"
    )]
    Enroll {
        /// The edge, https://HOST[:PORT]
        url: String,
        /// Certificates by which to trust the edge; without it the system's are used
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// Service token that may enrol devices
        #[arg(long, env = "ADIT_SERVICE_TOKEN", hide_env_values = true, value_name = "ID:SECRET")]
        service_token: String,
        /// Enrol anew although the device is enrolled
        #[arg(long)]
        force: bool,
    },
    /// Connects to the edge and captures the account's networks
    #[command(after_help = "Examples:\n  adit agent connect")]
    Connect,
    /// Disconnects, and captures nothing
    #[command(after_help = "Examples:\n  adit agent disconnect")]
    Disconnect,
    /// Says whether the device is connected, and what it captures
    #[command(after_help = "Examples:\n  adit agent status --json")]
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Parses an address to listen on; a bare port listens on every address.
pub(crate) fn listen_address(key: &str, text: &str) -> anyhow::Result<SocketAddr> {
    if let Ok(port) = text.trim_start_matches(':').parse::<u16>() {
        return Ok(SocketAddr::from(([0_u16; 8], port)));
    }
    text.parse().map_err(|_| {
        anyhow::anyhow!(
            "{key}: expected ADDRESS:PORT or a port, such as 192.0.2.10:443 or [::]:443, not {text:?}"
        )
    })
}

/// Prints what clap found wrong in one line, or the help that was asked for.
///
/// Under `tunnel` a usage error's code is 255, as it is cloudflared's (tunnel protocol, 6.4); of the commands for people it
/// is 2; elsewhere it is 1.
#[expect(clippy::print_stderr, clippy::print_stdout, reason = "this is where errors and help become text")]
pub(crate) fn explain(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        print!("{error}");
        return ExitCode::SUCCESS;
    }
    let shows_help = error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if shows_help {
        eprint!("{error}");
    } else {
        let text = error.to_string();
        let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
        // clap's own way to say the same as the end of this line.
        let lines = lines.filter(|line| !line.starts_with("For more information, try"));
        let line = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
        eprintln!("adit: {}; see --help", line.trim_start_matches("error: "));
    }
    match std::env::args().nth(1).as_deref() {
        Some("tunnel" | "access") => ExitCode::from(255),
        Some(first) if AditCommand::is_for_people(first) => ExitCode::from(2),
        Some(_) | None => ExitCode::FAILURE,
    }
}

/// Prints an error with its causes, in one line, and gives the exit code. How a management command failed is printed as it
/// is.
#[expect(clippy::print_stderr, reason = "this is where errors become text")]
pub(crate) fn complain(error: &anyhow::Error) -> ExitCode {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        eprintln!("{failure}");
        return ExitCode::from(failure.code());
    }
    if let Some(problem) = error.downcast_ref::<Problem>() {
        eprintln!("adit: {problem}");
        return ExitCode::from(problem.code as u8);
    }
    let is_usage = error.downcast_ref::<ConfigError>().is_some_and(ConfigError::is_usage);
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !line.ends_with(&cause) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&cause);
        }
    }
    eprintln!("adit: {}", line.replace('\n', " "));
    if is_usage { ExitCode::from(255) } else { ExitCode::FAILURE }
}
