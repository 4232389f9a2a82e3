//! `adit node …`: edge nodes are made and removed on the machine of an `adit up`, which is asked over its control socket.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_model::SecretHash;
use adit_store::{Actor, FindError, NODE_SILENT_AFTER, NewNode, NodeRow, RoleMade, Store};
use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::account;
use crate::account::socket::Client;
use crate::nodes::enrolment::new_code;
use crate::table;
use crate::up::settings::{check_host, check_node};

pub(crate) const EXAMPLES: &str = "Examples:
  adit node --data /var/lib/adit create edge02 --public-host edge02.example.com > edge02.yaml
  adit node --data /var/lib/adit list
  adit node --data /var/lib/adit delete edge02

The file that `create` prints is all that the node needs: adit edge --config edge02.yaml";

#[derive(Debug, Args)]
pub(crate) struct NodeCommand {
    /// Data directory of an `adit up` that runs on this machine, with --database
    #[arg(long, env = "ADIT_DATA", global = true, value_name = "DIR", default_value = "./adit-data")]
    data: PathBuf,
    #[command(subcommand)]
    action: NodeAction,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
enum NodeAction {
    /// Makes a node and its role in the database, and prints its configuration file with a one-time code, this once
    #[command(
        after_help = "Examples:\n  adit node --data /var/lib/adit create edge02 --public-host edge02.example.com > edge02.yaml"
    )]
    Create {
        /// A name that no other node has: letters, digits and dashes
        name: String,
        /// Name or address by which devices, connectors and other nodes reach it; may be repeated
        #[arg(long, required = true, value_name = "HOST", value_delimiter = ',')]
        public_host: Vec<String>,
    },
    /// Prints a new one-time code, for a node that lost its key or did not use its code in time
    #[command(after_help = "Examples:\n  adit node --data /var/lib/adit code edge02")]
    Code {
        /// The node's name
        name: String,
    },
    /// Lists the nodes
    #[command(after_help = "Examples:\n  adit node --data /var/lib/adit list")]
    List {
        /// How to print: table or json
        #[arg(long, short = 'o', value_name = "FORMAT", default_value = "table")]
        output: Format,
    },
    /// Deletes a node and its role: the others talk to it no more, and it learns nothing more
    #[command(after_help = "Examples:\n  adit node --data /var/lib/adit delete edge02")]
    Delete {
        /// The node's name
        name: String,
    },
}

/// What is asked of an `adit up`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub(crate) enum Request {
    Create { name: String, hosts: Vec<String> },
    Code { name: String },
    List,
    Delete { name: String },
}

/// What it answers.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// A code, the control plane's URL, and the statements that somebody has to run.
    Created {
        code: String,
        control: String,
        by_hand: Vec<String>,
    },
    Code {
        code: String,
    },
    Nodes(Vec<Node>),
    /// The role that somebody has to drop.
    Deleted {
        role_left: Option<String>,
    },
    Error(String),
}

/// A node, as it is shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Node {
    id: String,
    name: String,
    state: String,
    connections: u64,
    hosts: Vec<String>,
}

impl From<NodeRow> for Node {
    fn from(row: NodeRow) -> Self {
        let state = match row.silent_for {
            None if !row.enrolled => "not enrolled".to_owned(),
            None => "never seen".to_owned(),
            Some(silent) if silent <= NODE_SILENT_AFTER => "live".to_owned(),
            Some(silent) => format!("silent for {} s", silent.as_secs()),
        };
        let (id, connections) = (row.id.to_string(), row.connections);
        Self { id, name: row.name, state, connections, hosts: row.hosts }
    }
}

pub(crate) fn run(command: NodeCommand) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let text = runtime.block_on(act(command))?;
    std::io::stdout().write_all(text.as_bytes()).context("cannot print")
}

async fn act(command: NodeCommand) -> anyhow::Result<String> {
    let NodeCommand { data, action } = command;
    match action {
        NodeAction::Create { name, public_host } => create(&data, name, &public_host).await,
        NodeAction::Code { name } => {
            let Answer::Code { code } = ask(&data, Request::Code { name }).await? else {
                bail!(account::UNREADABLE)
            };
            Ok(format!("code: {code}\n"))
        }
        NodeAction::List { output } => {
            let Answer::Nodes(nodes) = ask(&data, Request::List).await? else { bail!(account::UNREADABLE) };
            list(&nodes, output)
        }
        NodeAction::Delete { name } => {
            let Answer::Deleted { role_left } = ask(&data, Request::Delete { name: name.clone() }).await?
            else {
                bail!(account::UNREADABLE)
            };
            let Some(role) = role_left else { return Ok(format!("Deleted the node {name}\n")) };
            Ok(format!(
                "Deleted the node {name}. Its role is left, since this database's role may not drop it. Have somebody \
                 run who may:\nDROP OWNED BY \"{role}\"; DROP ROLE \"{role}\";\n"
            ))
        }
    }
}

async fn create(data: &Path, name: String, hosts: &[String]) -> anyhow::Result<String> {
    let name = check_node(name)?;
    let hosts = hosts.iter().map(|host| check_host(host)).collect::<Result<Vec<_>, _>>()?;
    let path = data.join("ca.pem");
    let ca = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let Answer::Created { code, control, by_hand } =
        ask(data, Request::Create { name: name.clone(), hosts }).await?
    else {
        bail!(account::UNREADABLE)
    };
    let mut text = format!(
        "# The edge node {name}: adit edge --config FILE. The code may be used once, within a day.\n"
    );
    if by_hand.is_empty() {
        text.push_str("# database: postgres://HOST/NAME, if this node reaches it otherwise than the control plane does\n");
    } else {
        text.push_str(
            "# This database's role may not make roles. Have somebody run who may, with a password:\n",
        );
        text.extend(by_hand.iter().map(|statement| format!("#   {statement};\n")));
        text.push_str(
            "# and put the role and the password here:\n# database: postgres://ROLE:PASSWORD@HOST/NAME\n",
        );
    }
    let ca = ca.trim_end().replace('\n', "\n  ");
    Ok(format!("{text}control: {control}\ncode: {code}\nca: |\n  {ca}\n"))
}

fn list(nodes: &[Node], format: Format) -> anyhow::Result<String> {
    if let Format::Json = format {
        return Ok(serde_json::to_string_pretty(nodes)? + "\n");
    }
    let rows = nodes.iter().map(|node| {
        let (state, hosts) = (node.state.clone(), node.hosts.join(", "));
        vec![node.name.clone(), state, node.connections.to_string(), hosts, node.id.clone()]
    });
    Ok(table::lines(&["NAME", "STATE", "CONNECTIONS", "HOSTS", "ID"], &rows.collect::<Vec<_>>()))
}

async fn ask(data: &Path, request: Request) -> anyhow::Result<Answer> {
    let client = Client::connect(data).await?;
    let Some(client) = client else {
        bail!("no adit up runs on {}: start it first, or name its directory with --data", data.display());
    };
    match client.ask(&account::Request::Node(request)).await? {
        account::Answer::Node(Answer::Error(error)) | account::Answer::Error(error) => bail!(error),
        account::Answer::Node(answer) => Ok(answer),
        account::Answer::Accounts(_) | account::Answer::Created(_) | account::Answer::Deleted => {
            bail!(account::UNREADABLE)
        }
    }
}

/// Does what was asked by someone of this machine. `control`: where nodes find this control plane.
pub(crate) async fn answer(store: &Store, control: &str, actor: &Actor, request: Request) -> Answer {
    let answered = match request {
        Request::Create { name, hosts } => made(store, control, actor, name, hosts).await,
        Request::Code { name } => code(store, actor, &name).await,
        Request::List => match store.node_list().await {
            Ok(nodes) => Ok(Answer::Nodes(nodes.into_iter().map(Node::from).collect())),
            Err(fault) => Err(fault.into()),
        },
        Request::Delete { name } => match store.node_delete(actor, &name).await {
            Ok(role_left) => Ok(Answer::Deleted { role_left }),
            Err(error) => Err(not_found(error, &name)),
        },
    };
    answered.unwrap_or_else(|error| Answer::Error(format!("{error:#}")))
}

async fn made(
    store: &Store,
    control: &str,
    actor: &Actor,
    name: String,
    hosts: Vec<String>,
) -> anyhow::Result<Answer> {
    let code = new_code()?;
    let hash = SecretHash::of(code.as_bytes());
    let new = NewNode { name, hosts, code: hash, code_valid_for: CODE_LASTS };
    let (_, role) = store.node_create(actor, &new).await?.value;
    let by_hand = match role {
        RoleMade::Made => Vec::new(),
        RoleMade::ByHand(statements) => statements,
    };
    Ok(Answer::Created { code, control: control.to_owned(), by_hand })
}

async fn code(store: &Store, actor: &Actor, name: &str) -> anyhow::Result<Answer> {
    let code = new_code()?;
    let made = store.node_code_create(actor, name, &SecretHash::of(code.as_bytes()), CODE_LASTS).await;
    made.map_err(|error| not_found(error, name))?;
    Ok(Answer::Code { code })
}

fn not_found(error: FindError, name: &str) -> anyhow::Error {
    match error {
        FindError::NotFound => anyhow::anyhow!("there is no node with the name {name:?}: see adit node list"),
        FindError::Fault(fault) => fault.into(),
    }
}

/// From making a code to its use.
const CODE_LASTS: Duration = Duration::from_hours(24);
