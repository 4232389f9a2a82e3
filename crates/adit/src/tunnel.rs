//! `adit tunnel …`: the connector, and the management of tunnels.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use adit_connector::{ConfigFile, ConnectorConfig, Overrides};
use adit_model::TunnelId;
use anyhow::Context;

use crate::command_line::{ApiFlags, LogFlags, ManagementAction, TunnelAction, TunnelCommand, TunnelFlags};
use crate::{log, management, shutdown, threads};

pub(crate) fn run(command: TunnelCommand) -> anyhow::Result<()> {
    let TunnelCommand { flags, api, log: log_flags, action } = command;
    let runtime = threads::runtime()?;
    runtime.block_on(async {
        match action {
            TunnelAction::Run { tunnel } => connect(flags, &api, log_flags, tunnel).await,
            TunnelAction::Management(action) => manage(&flags, &api, &log_flags, &action).await,
        }
    })
}

/// A management command.
async fn manage(
    flags: &TunnelFlags,
    api: &ApiFlags,
    log_flags: &LogFlags,
    action: &ManagementAction,
) -> anyhow::Result<()> {
    log::start(log_flags)?;
    let (result, note) = management::run(api, flags, &search_directories(), action).await?;
    std::io::stdout().write_all(result.as_bytes()).context("cannot print")?;
    std::io::stderr().write_all(note.as_bytes()).context("cannot print")
}

/// `tunnel run`.
async fn connect(
    flags: TunnelFlags,
    api: &ApiFlags,
    log_flags: LogFlags,
    tunnel: Option<String>,
) -> anyhow::Result<()> {
    let directories = search_directories();
    let path = flags.config.clone().or_else(|| default_config(&directories));
    let file = path.as_deref().map(ConfigFile::read).transpose()?.unwrap_or_default();
    let loglevel = log_flags.loglevel.or_else(|| file.loglevel.clone());
    log::start(&LogFlags { loglevel, ..log_flags })?;
    let tunnel = match tunnel.as_deref().or(file.tunnel.as_deref()) {
        // A name is the credentials file's tunnel, or one that the API knows.
        Some(name) if name.parse::<TunnelId>().is_err() && flags.credentials_contents.is_none() => {
            Some(management::resolve(api, &flags, &directories, name).await?.to_string())
        }
        Some(_) | None => tunnel,
    };
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
