//! `adit tunnel …`: the connector, and the management of tunnels.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use adit_connector::{ConfigFile, ConnectorConfig, Overrides};
use adit_model::TunnelId;
use anyhow::Context;

use crate::command_line::{
    ApiFlags, ConnectorFlags, IngressAction, LogFlags, ManagementAction, TunnelAction, TunnelCommand,
    TunnelFlags,
};
use crate::{ingress, log, management, shutdown, threads};

pub(crate) fn run(command: TunnelCommand) -> anyhow::Result<()> {
    let TunnelCommand { flags, connector, api, output, log: mut log_flags, action } = command;
    // Variables that cloudflared's log goes by; its management commands have one of their own.
    log_flags.loglevel = log_flags.loglevel.or_else(|| std::env::var("TUNNEL_LOGLEVEL").ok());
    log_flags.log_output = log_flags.log_output.or(output);
    let runtime = threads::runtime()?;
    runtime.block_on(async {
        match action {
            TunnelAction::Run { tunnel } => connect(flags, connector, &api, log_flags, tunnel).await,
            TunnelAction::Ingress { action } => {
                let path = config_path(&flags, &search_directories());
                let (text, result) = match action {
                    IngressAction::Validate => ingress::validate(path.as_deref()),
                    IngressAction::Rule { url } => ingress::rule(path.as_deref(), &url),
                };
                std::io::stdout().write_all(text.as_bytes()).context("cannot print")?;
                result
            }
            TunnelAction::Ready => ingress::ready(flags.metrics.as_deref()).await,
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
    connector: ConnectorFlags,
    api: &ApiFlags,
    log_flags: LogFlags,
    tunnel: Option<String>,
) -> anyhow::Result<()> {
    let directories = search_directories();
    let path = config_path(&flags, &directories);
    let file = path.as_deref().map(ConfigFile::read).transpose()?.unwrap_or_default();
    let loglevel = log_flags.loglevel.or_else(|| file.loglevel.clone());
    let log_output = log_flags.log_output.or_else(|| file.output.clone());
    let setting = |name| connector.text(name).or_else(|| file.setting(name)).map(PathBuf::from);
    let log_file = setting("logfile").or_else(|| Some(setting("log-directory")?.join(LOG_FILE)));
    log::start_with_file(&LogFlags { loglevel: loglevel.clone(), log_output }, log_file.as_deref())?;
    if let Some(path) = file.path() {
        tracing::info!("Settings from {}", path.display());
    }
    let by_token = ["token", "token-file"].iter().any(|name| setting(name).is_some());
    let tunnel = match tunnel.as_deref().or(file.tunnel.as_deref()) {
        // A name is the credentials file's tunnel, or one that the API knows.
        Some(name)
            if name.parse::<TunnelId>().is_err() && flags.credentials_contents.is_none() && !by_token =>
        {
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
        loglevel,
        settings: connector.into_settings(),
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

/// The log's file in `log-directory`.
const LOG_FILE: &str = "cloudflared.log";

fn config_path(flags: &TunnelFlags, directories: &[PathBuf]) -> Option<PathBuf> {
    flags.config.clone().or_else(|| default_config(directories))
}

fn default_config(directories: &[PathBuf]) -> Option<PathBuf> {
    let names = ["config.yml", "config.yaml"];
    let candidates =
        directories.iter().flat_map(|directory: &PathBuf| names.map(|name| directory.join(name)));
    candidates.into_iter().find(|path: &PathBuf| Path::is_file(path))
}
