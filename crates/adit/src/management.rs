//! The management commands of `adit tunnel`: each is a call or two of the v4 API, and a table of the answer.
//!
//! Calls, texts and exit codes are cloudflared's (tunnel protocol, 6.4 and 6.5), with adit's name where a text names a
//! command. Two of its faults are not taken over: `list --when` reaches the API, and `--filter-network-is-subset-of` asks
//! for what it says.

mod certificate;
pub(crate) mod client;
mod failure;
mod login;
mod networks;
mod object;
mod render;
mod routes;
pub(crate) mod session;
mod tunnels;

use std::path::PathBuf;

use adit_model::TunnelId;

use crate::command_line::{ApiFlags, ManagementAction, TunnelFlags};
pub(crate) use failure::Failure;
use session::Session;
use tunnels::Printed;

/// Runs a command; gives what goes to the standard output, and a note that goes to the standard error.
pub(crate) async fn run(
    api: &ApiFlags,
    flags: &TunnelFlags,
    directories: &[PathBuf],
    action: &ManagementAction,
) -> Result<(String, String), Failure> {
    let session = Session { api, flags, directories };
    let result = match action {
        ManagementAction::Login(arguments) => {
            let Printed { result, note } = login::run(&session, arguments).await?;
            return Ok((result, note));
        }
        ManagementAction::Create(arguments) => {
            let Printed { result, note } = tunnels::create(&session, arguments).await?;
            return Ok((result, note));
        }
        ManagementAction::List(arguments) => tunnels::list(&session, arguments).await,
        ManagementAction::Info(arguments) => tunnels::info(&session, arguments).await,
        ManagementAction::Delete(arguments) => tunnels::delete(&session, arguments).await,
        ManagementAction::Cleanup(arguments) => tunnels::cleanup(&session, arguments).await,
        ManagementAction::Token(arguments) => tunnels::token(&session, arguments).await,
        ManagementAction::Route { action } => routes::run(&session, action).await,
        ManagementAction::Vnet { action } => networks::run(&session, action).await,
    };
    result.map(|result| (result, String::new()))
}

/// The id of a tunnel that `tunnel run` was given by name: the credentials file's, else what the API says.
pub(crate) async fn resolve(
    api: &ApiFlags,
    flags: &TunnelFlags,
    directories: &[PathBuf],
    tunnel: &str,
) -> Result<TunnelId, Failure> {
    let session = Session { api, flags, directories };
    session.resolve(tunnel).await.map_err(|failure| failure.within("error parsing tunnel ID"))
}
