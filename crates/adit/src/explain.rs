//! `adit explain`: why a flow is, or would be, allowed, blocked or unroutable, step by step.
//!
//! On a device it asks the running agent, which asks its edge; with `--device` it asks the API, for any device. Names are
//! resolved here, by the system's resolver, and that is said. What is printed is the edge's answer.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use adit_agent::control_socket::{self, ClientError};
use adit_model::{DeviceId, ExplainQuestion, ExplainStep, Explained, Protocol};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::manage::problem::{Code, Problem};
use crate::manage::session::{InstallationFlags, Session, escaped};
use crate::manage::write_out;

pub(crate) const EXAMPLES: &str = "Exits with 0 if the flow is allowed, with 1 if it is not.

Examples:
  adit explain 198.51.100.101:6443
  adit explain api.k8s.example.com --server-name kubernetes.default.svc
  adit explain 10.0.0.7 --protocol icmp --no-dial
  adit explain 198.51.100.101 --device laptop --data /var/lib/adit --output json";

/// For the system's resolver.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(10);
/// Of a destination without one.
const DEFAULT_PORT: u16 = 443;

#[derive(Debug, Args)]
pub(crate) struct ExplainCommand {
    /// Where to: a name or an address, and a port [default: 443]
    #[arg(value_name = "HOST[:PORT]")]
    target: String,
    /// The protocol
    #[arg(long, value_enum, default_value = "tcp")]
    protocol: Spoken,
    /// What the client names in its TLS [default: HOST, if that is a name]
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Ask the API about this device, by its id or name, instead of the agent of this one
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Leave the destination alone: what it says is not asked
    #[arg(long)]
    no_dial: bool,
    /// How to print
    #[arg(long, short = 'o', value_enum, default_value = "text", value_name = "FORMAT")]
    output: Printed,
    /// State directory of this device's agent
    #[arg(long, env = "ADIT_AGENT_STATE", value_name = "DIR", default_value = "/var/lib/adit-agent")]
    state: PathBuf,
    #[command(flatten)]
    installation: InstallationFlags,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Spoken {
    Tcp,
    Udp,
    Icmp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Printed {
    Text,
    Json,
}

impl From<Spoken> for Protocol {
    fn from(spoken: Spoken) -> Self {
        match spoken {
            Spoken::Tcp => Self::Tcp,
            Spoken::Udp => Self::Udp,
            Spoken::Icmp => Self::Icmp,
        }
    }
}

pub(crate) fn run(command: &ExplainCommand) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let explained = runtime.block_on(explain(command))?;
    let text = match command.output {
        Printed::Text => told(&explained),
        Printed::Json => format!("{}\n", serde_json::to_string_pretty(&explained)?),
    };
    write_out(&text);
    Ok(if explained.allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn told(explained: &Explained) -> String {
    let mut lines: Vec<String> = explained.steps.iter().map(ToString::to_string).collect();
    lines.push(match (&explained.refusal, explained.allowed) {
        (_, true) => "allowed".to_owned(),
        (Some(refusal), false) => format!("not allowed: {refusal}"),
        (None, false) => "not allowed".to_owned(),
    });
    lines.join("\n") + "\n"
}

async fn explain(command: &ExplainCommand) -> Result<Explained, Problem> {
    let protocol = Protocol::from(command.protocol);
    let (host, port) = split(&command.target)?;
    let port = if protocol.has_ports() { port.unwrap_or(DEFAULT_PORT) } else { 0 };
    let addresses = match host.parse() {
        Ok::<IpAddr, _>(_) => Vec::new(),
        Err(_) => resolve(host).await?,
    };
    let is_name = !addresses.is_empty();
    let address: Option<IpAddr> = addresses.first().copied().or_else(|| host.parse().ok());
    let address = address
        .ok_or_else(|| Problem::new(Code::NotFound, format!("{host}: the system knows no address")))?;
    let question = ExplainQuestion {
        destination: SocketAddr::new(address, port),
        protocol,
        server_name: command.server_name.clone().or_else(|| is_name.then(|| host.to_owned())),
        dial: !command.no_dial,
    };
    let mut explained = match &command.device {
        Some(device) => asked_of_api(&command.installation, device, &question).await?,
        None => asked_of_agent(command, question).await?,
    };
    let by = if is_name {
        "asked of this system's resolver; the first is explained"
    } else {
        "not asked: it is an address"
    };
    let dns = ExplainStep::Dns { name: host.to_owned(), addresses, by: by.to_owned() };
    explained.steps.insert(0, dns);
    Ok(explained)
}

/// The host, and the port if there is one; an IPv6 address with a port stands in brackets.
fn split(target: &str) -> Result<(&str, Option<u16>), Problem> {
    let wrong = || {
        let text = format!("expected HOST or HOST:PORT, such as 198.51.100.101:6443, not {target:?}");
        Problem::usage(text)
    };
    let (host, port) = match target.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            (host, rest.strip_prefix(':'))
        }
        None if target.parse::<IpAddr>().is_ok() => (target, None),
        None => match target.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (target, None),
        },
    };
    if host.is_empty() || host.contains(['/', '@', ' ']) {
        return Err(wrong());
    }
    let port = port.map(|port| port.parse::<u16>().map_err(|_| wrong())).transpose()?;
    Ok((host, port))
}

/// What the name stands for, by the system's resolver: the addresses that a program on this machine gets.
async fn resolve(host: &str) -> Result<Vec<IpAddr>, Problem> {
    let looked = tokio::time::timeout(RESOLVE_DEADLINE, tokio::net::lookup_host((host, 0))).await;
    let found = match looked {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(Problem::new(Code::NotFound, format!("{host}: {error}"))),
        Err(_) => {
            let text = format!("{host}: the system's resolver does not answer");
            return Err(Problem::new(Code::Unreachable, text));
        }
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|address| address.ip().to_canonical()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

async fn asked_of_agent(command: &ExplainCommand, question: ExplainQuestion) -> Result<Explained, Problem> {
    control_socket::explain(&command.state, question).await.map_err(|error| {
        let code = match error {
            ClientError::NotRunning { .. } | ClientError::Silent => Code::Unreachable,
            ClientError::NotPermitted { .. } => Code::NotAllowed,
            ClientError::Io(_) | ClientError::Answer | ClientError::Refused(_) => Code::Failed,
        };
        let hint = if code == Code::Unreachable { "; or ask the API, with --device" } else { "" };
        Problem::new(code, format!("{error}{hint}"))
    })
}

async fn asked_of_api(
    installation: &InstallationFlags,
    device: &str,
    question: &ExplainQuestion,
) -> Result<Explained, Problem> {
    let session = Session::open(installation).await?;
    let device = device_id(&session, device).await?;
    let body = json!({
        "device_id": device.to_string(),
        "destination_ip": question.destination.ip(),
        "destination_port": question.destination.port(),
        "protocol": question.protocol,
        "server_name": question.server_name,
        "dial": question.dial,
    });
    let answer = session.call("POST", &session.of_account("x/explain"), Some(&body)).await?;
    serde_json::from_value(answer)
        .map_err(|_| Problem::new(Code::Failed, "the answer cannot be read: is it of the same version?"))
}

async fn device_id(session: &Session, device: &str) -> Result<DeviceId, Problem> {
    if let Ok(id) = device.parse() {
        return Ok(id);
    }
    let path = session.of_account("devices/physical-devices");
    let devices = session.list(&path, &format!("&search={}", escaped(device))).await?;
    let named = |one: &&Value| one["name"].as_str() == Some(device);
    let ids: Vec<DeviceId> =
        devices.iter().filter(named).filter_map(|one| one["id"].as_str()?.parse().ok()).collect();
    match ids.as_slice() {
        [id] => Ok(*id),
        [] => {
            Err(Problem::new(Code::NotFound, format!("there is no device {device:?}: see adit get devices")))
        }
        ids => {
            let text = format!("{} devices are called {device:?}: say which by its id", ids.len());
            Err(Problem::usage(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_host_with_or_without_a_port() {
        let check = |target: &str, expected: Option<(&str, Option<u16>)>| {
            assert_eq!(split(target).ok(), expected, "{target}");
        };
        check("198.51.100.101", Some(("198.51.100.101", None)));
        check("198.51.100.101:6443", Some(("198.51.100.101", Some(6443))));
        check("2001:db8::101", Some(("2001:db8::101", None)));
        check("[2001:db8::101]:6443", Some(("2001:db8::101", Some(6443))));
        check("[2001:db8::101]", Some(("2001:db8::101", None)));
        check("api.example.com:443", Some(("api.example.com", Some(443))));
        for wrong in ["", ":443", "https://api.example.com", "api.example.com:http", "[2001:db8::101", "a@b"]
        {
            check(wrong, None);
        }
    }
}
