//! `adit agent …`: the service, and the commands that ask it.

use std::io::Write as _;
use std::path::Path;

use adit_agent::control_socket::{self, EnrollCommand, ServiceToken};
use adit_agent::{AgentConfig, ConnectionState, Status, Transport};
use anyhow::{Context, bail};

use crate::command_line::{AgentAction, AgentCommand};
use crate::{log, shutdown};

pub(crate) fn run(command: AgentCommand) -> anyhow::Result<()> {
    // Flows, packets and carriers share one thread, and so need no locks.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let state = command.state;
    match command.action {
        AgentAction::Run { interface, proxy, transport, dns, dns_fallback: fallbacks } => {
            log::start(&command.log)?;
            let config =
                AgentConfig { interface, proxy, transport, dns, fallbacks, ..AgentConfig::new(state) };
            runtime.block_on(async { Ok(adit_agent::run(config, shutdown::on_signal()?).await?) })
        }
        AgentAction::Enroll { url, ca, service_token, force } => {
            let command = enroll_command(&url, ca.as_deref(), &service_token, force)?;
            say(&runtime.block_on(control_socket::enroll(&state, command))?, false)
        }
        AgentAction::Connect => say(&runtime.block_on(control_socket::connect(&state))?, false),
        AgentAction::Disconnect => say(&runtime.block_on(control_socket::disconnect(&state))?, false),
        AgentAction::Status { json } => say(&runtime.block_on(control_socket::status(&state))?, json),
    }
}

fn enroll_command(url: &str, ca: Option<&Path>, token: &str, force: bool) -> anyhow::Result<EnrollCommand> {
    let Some((id, secret)) =
        token.split_once(':').filter(|(id, secret)| !id.is_empty() && !secret.is_empty())
    else {
        bail!("--service-token: expected ID:SECRET, as the API gave them when the token was created");
    };
    Ok(EnrollCommand {
        edge: url.parse().context("the edge's URL")?,
        ca_pem: ca.map(read).transpose()?,
        service_token: ServiceToken::new(id.to_owned(), secret.to_owned()),
        force,
    })
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("--ca: cannot read {}", path.display()))
}

fn say(status: &Status, json: bool) -> anyhow::Result<()> {
    let text = if json { format!("{}\n", serde_json::to_string_pretty(status)?) } else { describe(status) };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print")
}

fn describe(status: &Status) -> String {
    let state = match status.state {
        ConnectionState::NotEnrolled => "not enrolled",
        ConnectionState::Connecting => "connecting",
        ConnectionState::Connected => "connected",
        ConnectionState::Disconnected => "disconnected",
        ConnectionState::ReauthRequired => "not known to the edge any more: enrol again",
    };
    let mut lines = vec![format!("State:  {state}")];
    let mut line = |name: &str, value: Option<&String>| {
        lines.extend(value.map(|value| format!("{name:<7} {value}")));
    };
    line("Edge:", status.edge.as_ref());
    line("Device:", status.device_id.as_ref());
    line("User:", status.user.as_ref());
    line("Mode:", Some(&mode(status)));
    let transport = status.transport.map(|transport| match transport {
        Transport::H2 => "HTTP/2".to_owned(),
        Transport::Quic => "QUIC".to_owned(),
    });
    line("Over:", transport.as_ref());
    line("Error:", status.last_error.as_ref());
    if !status.routes.is_empty() {
        lines.push(format!("Routes: {}", status.routes.join(", ")));
    }
    for block in status.blocked.iter().take(MAX_BLOCKS_SHOWN) {
        let mut text = format!("Blocked: {} by the rule {:?}", block.destination, block.name);
        for more in std::iter::once(&block.message).chain(&block.support_url).filter(|more| !more.is_empty())
        {
            text += "; ";
            text += more;
        }
        lines.push(text);
    }
    lines.join("\n") + "\n"
}

/// How many blocks are shown to people; there may be more in the JSON.
const MAX_BLOCKS_SHOWN: usize = 5;

/// How programs come to the agent.
fn mode(status: &Status) -> String {
    match &status.proxy {
        Some(address) => format!("proxy, SOCKS5 and HTTP CONNECT at {address}"),
        None => "interface".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_token_is_an_id_and_a_secret() {
        let command = enroll_command("https://192.0.2.1", None, "88bf.access:5ec4e7", false).unwrap();
        assert_eq!(command.service_token.id, "88bf.access");
        for wrong in ["", "88bf.access", ":secret", "88bf.access:"] {
            let error = enroll_command("https://192.0.2.1", None, wrong, false).unwrap_err().to_string();
            assert!(error.starts_with("--service-token: expected ID:SECRET"), "{error}");
        }
    }

    #[test]
    fn a_status_is_told_in_lines() {
        let status = Status {
            state: ConnectionState::Connected,
            edge: Some("https://192.0.2.1".into()),
            routes: vec!["198.51.100.101/32".into(), "2001:db8::101/128".into()],
            ..Status::default()
        };
        let expected = "State:  connected\nEdge:   https://192.0.2.1\nMode:   interface\nRoutes: 198.51.100.101/32, 2001:db8::101/128\n";
        assert_eq!(describe(&status), expected);
    }
}
