//! The management commands of `adit tunnel`: names, flags and variables are cloudflared's (tunnel protocol, 6.5).
//!
//! Positional arguments are lists, so that a wrong number of them is refused in cloudflared's words.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum ManagementAction {
    /// Writes cert.pem, by which the management commands of adit and of cloudflared are let in
    #[command(after_help = LOGIN_HELP)]
    Login(LoginArgs),
    /// Creates a tunnel and writes its credentials file
    #[command(after_help = "Examples:\n  adit tunnel create k8s --credentials-file creds.json")]
    Create(CreateArgs),
    /// Lists tunnels and their connections
    #[command(after_help = "Examples:\n  adit tunnel list\n  adit tunnel list --name-prefix k8s -o json")]
    List(ListArgs),
    /// Lists the connectors of a tunnel
    #[command(after_help = "Examples:\n  adit tunnel info k8s")]
    Info(InfoArgs),
    /// Deletes tunnels
    #[command(after_help = "Examples:\n  adit tunnel delete k8s\n  adit tunnel delete --force k8s")]
    Delete(DeleteArgs),
    /// Makes connectors of tunnels connect anew
    #[command(after_help = "Examples:\n  adit tunnel cleanup k8s")]
    Cleanup(CleanupArgs),
    /// Prints the token by which a tunnel can be run
    #[command(after_help = "Examples:\n  adit tunnel token k8s")]
    Token(TokenArgs),
    /// What leads to tunnels: host names, and networks by address
    Route {
        #[command(subcommand)]
        action: RouteAction,
    },
    /// Virtual networks, for private networks that use the same addresses
    #[command(alias = "network")]
    Vnet {
        #[command(subcommand)]
        action: VnetAction,
    },
}

const LOGIN_HELP: &str = "\
Who logs in is proved by an API token: --api-token or ADIT_API_TOKEN, the admin token of --data DIR, or what is
typed when asked. With it a token is made that may change tunnels and nothing else, and that one is written.
Signing in with a browser is not there yet: it comes with identity providers.

The file is ~/.cloudflared/cert.pem, or what --origincert names; it is never overwritten.

Examples:
  adit tunnel login https://adit.example.com --ca ca.pem
  adit tunnel login https://adit.example.com --data /var/lib/adit --origincert ./cert.pem
  SSL_CERT_FILE=ca.pem cloudflared tunnel --api-url https://adit.example.com/client/v4 list";

#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// The installation, https://HOST[:PORT]
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// Certificates by which to trust it; they are kept in cert.pem too. Without it the system's are used
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

/// How to print.
#[derive(Debug, Args)]
pub(crate) struct OutputFlag {
    /// json or yaml instead of text
    #[arg(long, short = 'o', value_name = "FORMAT")]
    pub(crate) output: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[arg(value_name = "NAME", num_args = 0..)]
    pub(crate) name: Vec<String>,
    #[command(flatten)]
    pub(crate) format: OutputFlag,
    /// Secret, base64 of at least 32 bytes [default: generated]
    #[arg(long, short = 's', env = "TUNNEL_CREATE_SECRET", hide_env_values = true, value_name = "BASE64")]
    pub(crate) secret: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) format: OutputFlag,
    /// Deleted tunnels too
    #[arg(long, short = 'd')]
    pub(crate) show_deleted: bool,
    /// Only tunnels of this name
    #[arg(long, short = 'n', value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Only tunnels whose name begins so; also -np
    #[arg(long, alias = "np", value_name = "PREFIX")]
    pub(crate) name_prefix: Option<String>,
    /// No tunnels whose name begins so; also -enp
    #[arg(long, alias = "enp", value_name = "PREFIX")]
    pub(crate) exclude_name_prefix: Option<String>,
    /// Only tunnels that existed then, such as 2026-01-02T03:04:05Z
    #[arg(long, short = 'w', value_name = "TIME")]
    pub(crate) when: Option<String>,
    /// Only the tunnel with this id
    #[arg(long, short = 'i', value_name = "ID")]
    pub(crate) id: Option<String>,
    #[command(flatten)]
    pub(crate) recently: RecentlyFlag,
    /// name, id, createdAt, deletedAt or numConnections
    #[arg(long, env = "TUNNEL_LIST_SORT_BY", value_name = "FIELD", default_value = "name")]
    pub(crate) sort_by: String,
    /// From the last to the first
    #[arg(long, env = "TUNNEL_LIST_INVERT_SORT", value_parser = BoolishValueParser::new())]
    pub(crate) invert_sort: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RecentlyFlag {
    /// Connections that are about to connect anew too; also -rd
    #[arg(long, alias = "rd")]
    pub(crate) show_recently_disconnected: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    #[arg(value_name = "TUNNEL", num_args = 0..)]
    pub(crate) tunnel: Vec<String>,
    #[command(flatten)]
    pub(crate) format: OutputFlag,
    #[command(flatten)]
    pub(crate) recently: RecentlyFlag,
    /// id, createdAt, numConnections or version
    #[arg(long, env = "TUNNEL_INFO_SORT_BY", value_name = "FIELD", default_value = "createdAt")]
    pub(crate) sort_by: String,
    /// From the last to the first
    #[arg(long, env = "TUNNEL_INFO_INVERT_SORT", value_parser = BoolishValueParser::new())]
    pub(crate) invert_sort: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[arg(value_name = "TUNNEL", num_args = 0..)]
    pub(crate) tunnels: Vec<String>,
    /// Also tunnels with connections, routes or host names, which go with them
    #[arg(long, short = 'f', env = "TUNNEL_RUN_FORCE_OVERWRITE", value_parser = BoolishValueParser::new())]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CleanupArgs {
    #[arg(value_name = "TUNNEL", num_args = 0..)]
    pub(crate) tunnels: Vec<String>,
    /// Only this connector; `adit tunnel info` shows their ids
    #[arg(long, short = 'c', env = "TUNNEL_CLEANUP_CONNECTOR", value_name = "ID")]
    pub(crate) connector_id: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[arg(value_name = "TUNNEL", num_args = 0..)]
    pub(crate) tunnel: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RouteAction {
    /// A public host name leads to a tunnel's ingress rules
    #[command(after_help = "Examples:\n  adit tunnel route dns k8s app.example.com")]
    Dns {
        #[arg(value_name = "TUNNEL HOSTNAME", num_args = 0..)]
        arguments: Vec<String>,
        /// Take the name away from where it leads now
        #[arg(long, short = 'f', env = "TUNNEL_FORCE_PROVISIONING_DNS", value_parser = BoolishValueParser::new())]
        overwrite_dns: bool,
    },
    /// Not supported: a tunnel's connections share its flows by themselves
    #[command(after_help = "Examples:\n  adit tunnel route dns k8s app.example.com")]
    Lb {
        #[arg(value_name = "TUNNEL HOSTNAME POOL", num_args = 0..)]
        arguments: Vec<String>,
    },
    /// Networks by address
    Ip {
        #[command(subcommand)]
        action: RouteIpAction,
    },
}

/// In which virtual network.
#[derive(Debug, Args)]
pub(crate) struct VnetFlag {
    /// Virtual network, by name or id; also -vn [default: the account's default one]
    #[arg(long, alias = "vn", value_name = "VNET")]
    pub(crate) vnet: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RouteIpAction {
    /// Routes a network, such as 198.51.100.0/24, through a tunnel
    #[command(after_help = "Examples:\n  adit tunnel route ip add 198.51.100.0/24 k8s 'cluster network'")]
    Add {
        #[arg(value_name = "CIDR TUNNEL [COMMENT]", num_args = 0..)]
        arguments: Vec<String>,
        #[command(flatten)]
        vnet: VnetFlag,
    },
    /// Lists routes
    #[command(
        alias = "list",
        after_help = "Examples:\n  adit tunnel route ip show\n  adit tunnel route ip show -o yaml"
    )]
    Show(RouteShowArgs),
    /// Deletes a route, by its id or its network
    #[command(after_help = "Examples:\n  adit tunnel route ip delete 198.51.100.0/24")]
    Delete {
        #[arg(value_name = "ROUTE", num_args = 0..)]
        arguments: Vec<String>,
        #[command(flatten)]
        vnet: VnetFlag,
    },
    /// Shows the route that an address takes
    #[command(after_help = "Examples:\n  adit tunnel route ip get 198.51.100.101")]
    Get {
        #[arg(value_name = "IP", num_args = 0..)]
        arguments: Vec<String>,
        #[command(flatten)]
        vnet: VnetFlag,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RouteShowArgs {
    #[command(flatten)]
    pub(crate) format: OutputFlag,
    /// Deleted routes only
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub(crate) filter_is_deleted: Option<bool>,
    /// Only routes of the tunnel with this id
    #[arg(long, value_name = "ID")]
    pub(crate) filter_tunnel_id: Option<String>,
    /// Only routes inside this network, or equal; also -nsub
    #[arg(long, alias = "nsub", value_name = "CIDR")]
    pub(crate) filter_network_is_subset_of: Option<String>,
    /// Only routes that contain this network, or equal it; also -nsup
    #[arg(long, alias = "nsup", value_name = "CIDR")]
    pub(crate) filter_network_is_superset_of: Option<String>,
    /// Only routes with exactly this comment
    #[arg(long, value_name = "COMMENT")]
    pub(crate) filter_comment_is: Option<String>,
    /// Only routes of the virtual network with this id
    #[arg(long, value_name = "ID")]
    pub(crate) filter_vnet_id: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VnetAction {
    /// Adds a virtual network
    #[command(after_help = "Examples:\n  adit tunnel vnet add staging 'same addresses as production'")]
    Add {
        #[arg(value_name = "NAME [COMMENT]", num_args = 0..)]
        arguments: Vec<String>,
        #[command(flatten)]
        default: DefaultFlag,
    },
    /// Lists virtual networks
    #[command(after_help = "Examples:\n  adit tunnel vnet list")]
    List(VnetListArgs),
    /// Deletes a virtual network
    #[command(after_help = "Examples:\n  adit tunnel vnet delete staging")]
    Delete {
        #[arg(value_name = "VNET", num_args = 0..)]
        arguments: Vec<String>,
        /// Also one with routes, which go with it
        #[arg(long, short = 'f')]
        force: bool,
    },
    /// Changes a virtual network
    #[command(after_help = "Examples:\n  adit tunnel vnet update staging --name test")]
    Update {
        #[arg(value_name = "VNET", num_args = 0..)]
        arguments: Vec<String>,
        /// Another name
        #[arg(long, short = 'n', value_name = "NAME")]
        name: Option<String>,
        /// Another comment
        #[arg(long, short = 'c', value_name = "COMMENT")]
        comment: Option<String>,
        #[command(flatten)]
        default: DefaultFlag,
    },
}

/// Whether devices use the virtual network that chose none.
#[derive(Debug, Args)]
pub(crate) struct DefaultFlag {
    /// It becomes the account's default one
    #[arg(long, short = 'd', num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub(crate) default: Option<bool>,
}

#[derive(Debug, Args)]
pub(crate) struct VnetListArgs {
    #[command(flatten)]
    pub(crate) format: OutputFlag,
    /// Only the one with this id
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
    /// Only the one of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Only the default one; with =false only the others
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub(crate) is_default: Option<bool>,
    /// Deleted ones only
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub(crate) show_deleted: Option<bool>,
}
