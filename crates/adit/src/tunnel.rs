//! `adit tunnel …`: the connector, and the management of tunnels.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use adit_connector::{ConfigFile, ConnectorConfig, Overrides};
use anyhow::Context;

use crate::command_line::{LogFlags, RouteAction, TunnelAction, TunnelCommand, TunnelFlags};
use crate::{log, management, shutdown, threads};

pub(crate) fn run(command: TunnelCommand) -> anyhow::Result<()> {
    let TunnelCommand { flags, api, log: log_flags, action } = command;
    let runtime = threads::runtime()?;
    let trusted = flags.cacert.clone();
    let cacert = trusted.as_ref();
    let text = runtime.block_on(async {
        match action {
            TunnelAction::Run { tunnel } => connect(flags, log_flags, tunnel).await.map(|()| String::new()),
            TunnelAction::List { output } => management::list_tunnels(&api, cacert, output.as_deref()).await,
            TunnelAction::Create { name, secret } => {
                management::create_tunnel(&api, &flags, &name, secret).await
            }
            TunnelAction::Route { action: RouteAction::Ip { action } } => {
                management::route_ip(&api, cacert, action).await
            }
        }
    })?;
    std::io::stdout().write_all(text.as_bytes()).context("cannot print")
}

/// `tunnel run`.
async fn connect(flags: TunnelFlags, log_flags: LogFlags, tunnel: Option<String>) -> anyhow::Result<()> {
    let directories = search_directories();
    let path = flags.config.clone().or_else(|| default_config(&directories));
    let file = path.as_deref().map(ConfigFile::read).transpose()?.unwrap_or_default();
    let loglevel = log_flags.loglevel.or_else(|| file.loglevel.clone());
    log::start(&LogFlags { loglevel, ..log_flags })?;
    let overrides = Overrides {
        tunnel,
        edge: flags.edge,
        cacert: flags.cacert,
        credentials_file: flags.credentials_file,
        credentials_contents: flags.credentials_contents,
        credentials_directories: directories,
        metrics: flags.metrics,
        grace_period: flags.grace_period,
        retries: flags.retries,
        protocol: flags.protocol,
        ha_connections: flags.ha_connections,
        edge_bind_address: flags.edge_bind_address,
        max_active_flows: flags.max_active_flows,
        pidfile: flags.pidfile,
    };
    let config = ConnectorConfig::new(&file, &overrides)?;
    Ok(adit_connector::run(config, shutdown::on_signal()?).await?)
}

/// Where configuration and credentials are looked for when nothing names them (tunnel protocol, 6.1).
fn search_directories() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let below_home = [".cloudflared", ".cloudflare-warp", "cloudflare-warp"];
    let of_home = home.iter().flat_map(|home| below_home.map(|name| home.join(name)));
    of_home.chain(["/etc/cloudflared", "/usr/local/etc/cloudflared"].map(PathBuf::from)).collect()
}

fn default_config(directories: &[PathBuf]) -> Option<PathBuf> {
    let names = ["config.yml", "config.yaml"];
    let candidates =
        directories.iter().flat_map(|directory: &PathBuf| names.map(|name| directory.join(name)));
    candidates.into_iter().find(|path: &PathBuf| Path::is_file(path))
}
