//! `adit account …`: accounts are made and deleted where the database is, never over the API.
//!
//! Where an `adit up` runs on the directory it holds the database, and is asked over its control socket ([`socket`]); where
//! none does, the database is opened here: SQLite's in the directory, or the PostgreSQL that is named. Other nodes of a
//! PostgreSQL may run meanwhile: they learn by the change log.

pub(crate) mod socket;

use std::io::{self, Write as _};
use std::path::Path;

use adit_control::accounts;
use adit_store::{AccountRow, Actor, Cascade, OpenError, Store};
use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use time::format_description::well_known::Rfc3339;

use crate::command_line::DatabaseUrl;
use crate::{node, table};

#[derive(Debug, Args)]
pub(crate) struct AccountCommand {
    /// Data directory of this installation's `adit up`
    #[arg(long, env = "ADIT_DATA", global = true, value_name = "DIR", default_value = "./adit-data")]
    data: std::path::PathBuf,
    /// PostgreSQL database of the installation, if it has one and no adit up runs on the directory
    #[arg(long, env = "ADIT_DATABASE", hide_env_values = true, global = true, value_name = "URL")]
    database: Option<DatabaseUrl>,
    /// How to print: table, json or yaml
    #[arg(long, short = 'o', global = true, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(subcommand)]
    action: AccountAction,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
    Yaml,
}

#[derive(Debug, Subcommand)]
enum AccountAction {
    /// Makes an account, and prints its id and its first token, this once
    #[command(after_help = "Examples:\n  adit account --data /var/lib/adit create staging")]
    Create {
        /// A name that no other account has
        name: String,
    },
    /// Lists the accounts
    #[command(after_help = "Examples:\n  adit account --data /var/lib/adit list -o yaml")]
    List,
    /// Deletes an account for good, and closes what it has open
    #[command(after_help = "Examples:\n  adit account --data /var/lib/adit delete staging --cascade")]
    Delete {
        /// The account's name or id
        account: String,
        /// Delete what it owns too: tunnels, routes, host names, registrations, tokens
        #[arg(long)]
        cascade: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) const EXAMPLES: &str = "Examples:
  adit account --data /var/lib/adit create staging
  adit account --data /var/lib/adit list -o json
  adit account --data /var/lib/adit delete staging --cascade
  adit account --data /var/lib/adit --database postgres://adit:PASSWORD@db.example/adit list";

/// What is asked of the installation.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub(crate) enum Request {
    List,
    Create {
        name: String,
    },
    Delete {
        account: String,
        cascade: bool,
    },
    /// Of edge nodes, which only a running `adit up` can be asked.
    Node(node::Request),
}

/// What it answers.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Accounts(Vec<Account>),
    Created(Created),
    Deleted,
    Node(node::Answer),
    Error(String),
}

/// An account, as it is shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Account {
    id: String,
    name: String,
    created_on: String,
}

/// A new account.
#[derive(Serialize, Deserialize)]
pub(crate) struct Created {
    id: String,
    name: String,
    token: String,
}

impl From<AccountRow> for Account {
    fn from(row: AccountRow) -> Self {
        let at = row.created_at.replace_microsecond(0).unwrap_or(row.created_at);
        let created_on = at.format(&Rfc3339).unwrap_or_default();
        Self { id: row.id.to_string(), name: row.name, created_on }
    }
}

pub(crate) fn run(command: AccountCommand) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        let place = Place::find(&command.data, command.database.as_ref()).await?;
        let done = act(&place, command.action, command.output).await;
        place.close().await;
        done
    })
}

async fn act(place: &Place, action: AccountAction, format: Format) -> anyhow::Result<()> {
    match action {
        AccountAction::List => list(place, format).await,
        AccountAction::Create { name } => create(place, name, format).await,
        AccountAction::Delete { account, cascade, yes } => delete(place, &account, cascade, yes).await,
    }
}

async fn list(place: &Place, format: Format) -> anyhow::Result<()> {
    let accounts = place.accounts().await?;
    let row = |account: &Account| vec![account.id.clone(), account.name.clone(), account.created_on.clone()];
    say(format, &accounts, || {
        table::lines(&["ID", "NAME", "CREATED"], &accounts.iter().map(row).collect::<Vec<_>>())
    })
}

async fn create(place: &Place, name: String, format: Format) -> anyhow::Result<()> {
    let Answer::Created(made) = place.ask(Request::Create { name }).await? else { bail!(UNREADABLE) };
    say(format, &made, || format!("Account: {}\nToken:   {}\n", made.id, made.token))?;
    note("The token may do everything in this account. It is shown only now.")
}

async fn delete(place: &Place, wanted: &str, cascade: bool, yes: bool) -> anyhow::Result<()> {
    let accounts = place.accounts().await?;
    let found = accounts.iter().find(|account| account.id == wanted || account.name == wanted);
    let Some(found) = found else {
        bail!("there is no account with the name or id {wanted:?}: see adit account list");
    };
    if !yes {
        note(&format!("This deletes the account {} ({}) for good.", found.name, found.id))?;
        note("Type its name to go on:")?;
        let mut typed = String::new();
        io::stdin().read_line(&mut typed).context("cannot read the answer")?;
        if typed.trim_end_matches(['\n', '\r']) != found.name {
            bail!("nothing is deleted: the name was not repeated (--yes does not ask)");
        }
    }
    let request = Request::Delete { account: found.id.clone(), cascade };
    let Answer::Deleted = place.ask(request).await? else { bail!(UNREADABLE) };
    note(&format!("Deleted the account {}", found.name))
}

/// Where the installation is asked.
enum Place {
    /// The `adit up` that has the directory.
    Running(socket::Client),
    /// The directory itself.
    Here(Box<Store>),
}

impl Place {
    async fn find(data: &Path, database: Option<&DatabaseUrl>) -> anyhow::Result<Self> {
        if let Some(client) = socket::Client::connect(data).await? {
            return Ok(Self::Running(client));
        }
        if let Some(url) = database {
            // The key seals what the database holds: without it, nothing here is this installation's.
            if !data.join("seal.key").exists() {
                bail!(
                    "{} has no seal.key: name the directory of an `adit up` of this database with --data",
                    data.display()
                );
            }
            return Self::opened(data, Store::open_postgres(url.reveal(), data).await);
        }
        if !data.join("adit.db").exists() && data.join("seal.key").exists() {
            bail!(
                "no adit up runs on {}, and its database is elsewhere: name it with --database",
                data.display()
            );
        }
        if !data.join("adit.db").exists() {
            bail!("{} is no data directory: name that of `adit up` with --data", data.display());
        }
        Self::opened(data, Store::open(data).await)
    }

    fn opened(data: &Path, store: Result<Store, OpenError>) -> anyhow::Result<Self> {
        match store {
            Ok(store) => Ok(Self::Here(Box::new(store))),
            // It has the directory, but not its socket yet, or no longer.
            Err(OpenError::InUse { .. }) => {
                bail!("the adit up on {} is starting or stopping: try again", data.display())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn ask(&self, request: Request) -> anyhow::Result<Answer> {
        let answer = match self {
            Self::Running(client) => client.ask(&request).await?,
            Self::Here(store) => answer(store, "", nix::unistd::geteuid().as_raw(), request).await,
        };
        if let Answer::Error(error) = answer {
            bail!(error);
        }
        Ok(answer)
    }

    async fn accounts(&self) -> anyhow::Result<Vec<Account>> {
        let Answer::Accounts(accounts) = self.ask(Request::List).await? else { bail!(UNREADABLE) };
        Ok(accounts)
    }

    async fn close(self) {
        match self {
            Self::Running(_) => {}
            Self::Here(store) => store.close().await,
        }
    }
}

/// Does what was asked by someone of this machine. `control`: where edge nodes find this control plane.
pub(crate) async fn answer(store: &Store, control: &str, uid: u32, request: Request) -> Answer {
    let actor = Actor { who: format!("local:{uid}"), ..Actor::system() };
    let result = match request {
        Request::List => match store.account_list().await {
            Ok(rows) => Ok(Answer::Accounts(rows.into_iter().map(Account::from).collect())),
            Err(fault) => Err(fault.into()),
        },
        Request::Node(request) => Ok(Answer::Node(node::answer(store, control, &actor, request).await)),
        Request::Create { name } => accounts::create(store, &actor, &name).await.map(|made| {
            Answer::Created(Created {
                id: made.account.id.to_string(),
                name: made.account.name,
                token: made.token,
            })
        }),
        Request::Delete { account, cascade } => {
            let cascade = if cascade { Cascade::Delete } else { Cascade::Refuse };
            match account.parse() {
                Ok(account) => {
                    accounts::delete(store, &actor, account, cascade).await.map(|()| Answer::Deleted)
                }
                Err(_) => Err(accounts::AccountError::NotFound),
            }
        }
    };
    result.unwrap_or_else(|error| Answer::Error(error.to_string()))
}

fn say<T: Serialize>(format: Format, value: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    let text = match format {
        Format::Table => text(),
        Format::Json => serde_json::to_string_pretty(value)? + "\n",
        Format::Yaml => crate::manage::print::yaml(&serde_json::to_value(value)?),
    };
    io::stdout().write_all(text.as_bytes()).context("cannot print")
}

fn note(text: &str) -> anyhow::Result<()> {
    writeln!(io::stderr(), "{text}").context("cannot print")
}

pub(crate) const UNREADABLE: &str = "the answer of adit up cannot be read: is it of the same version?";
