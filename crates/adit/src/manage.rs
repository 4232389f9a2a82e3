//! The commands for people: `adit get`, `create`, `edit` and `delete` a KIND, `adit login`, `adit completions`.
//!
//! Each is a verb, a kind of object and a name, as with kubectl. They are beside `adit tunnel …`, which speaks as cloudflared
//! does; what that prints is not theirs to change. Results go to the standard output, everything else to the standard error;
//! the exit code says what kind of failure it was ([`problem::Code`]).

pub(crate) mod commands;
pub(crate) mod kind;
pub(crate) mod objects;
pub(crate) mod print;
pub(crate) mod problem;
pub(crate) mod progress;
mod readable;
pub(crate) mod session;
mod token;

use std::io::Write as _;

use anyhow::Context;
use clap::CommandFactory;
use serde_json::{Map, Value, json};

use commands::{
    Chosen, CompletionsCommand, CreateCommand, DeleteCommand, EditCommand, GetCommand, LoginCommand,
};
use kind::{Kind, Path, Shape};
use objects::Operation;
use print::{Colour, Format};
use problem::{Code, Problem};
use session::{InstallationFlags, Profile, Session};

pub(crate) const GET_EXAMPLES: &str = "Examples:
  adit get tunnels --data /var/lib/adit
  adit get route 10.0.0.0/8 -o yaml
  adit get rules -o json | jq '.[].name'";

pub(crate) const CREATE_EXAMPLES: &str = "Examples:
  adit create tunnel k8s
  adit create route 10.0.0.0/8 --tunnel k8s
  adit create hostname app.example.com --tunnel k8s -o yaml";

pub(crate) const EDIT_EXAMPLES: &str = "Examples:
  adit edit route 10.0.0.0/8 --comment 'cluster network'
  adit edit tunnel k8s --name cluster";

pub(crate) const DELETE_EXAMPLES: &str = "Examples:
  adit delete route 10.0.0.0/8
  adit delete tunnel k8s --cascade";

pub(crate) const LOGIN_EXAMPLES: &str =
    "The token is proved, and kept with address, account and certificates in ~/.config/adit/profile.json,
which only its owner can read. Without --token it is read from the standard input.

Examples:
  adit login --url https://adit.example.com --ca ca.pem < token
  adit login --data /var/lib/adit";

pub(crate) const COMPLETIONS_EXAMPLES: &str = "Examples:
  adit completions bash > /etc/bash_completion.d/adit
  adit completions zsh > ~/.zfunc/_adit
  adit completions fish > ~/.config/fish/completions/adit.fish";

/// Runs a command to its end; gives what goes to the standard output.
pub(crate) fn block_on(command: impl Future<Output = Result<String, Problem>>) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let text = runtime.block_on(command)?;
    write_out(&text);
    Ok(())
}

/// Writes to the standard output. A reader that has seen enough (`| head`) is no error.
pub(crate) fn write_out(text: &str) {
    let mut output = std::io::stdout().lock();
    let _read = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

fn rendered(kind: &Kind, format: Format, objects: &[Value], single: bool) -> String {
    let value = || match objects {
        [one] if single => one.clone(),
        several => several.to_vec().into(),
    };
    match format {
        Format::Table => print::table(kind, objects, print::width(), Colour::of_output()),
        Format::Json => print::json(&value()),
        Format::Yaml => print::yaml(&value()),
    }
}

pub(crate) fn get(command: GetCommand) -> anyhow::Result<()> {
    block_on(async move {
        let session = Session::open(&command.installation).await?;
        let mut found = Vec::new();
        for name in &command.names {
            found.push(objects::find(&session, command.kind, name).await?);
        }
        if command.names.is_empty() {
            found = objects::all(&session, command.kind).await?;
        }
        if command.output.output == Format::Table {
            readable::for_people(&session, command.kind, &mut found).await;
        }
        Ok(rendered(command.kind, command.output.output, &found, command.names.len() == 1))
    })
}

pub(crate) fn create(command: CreateCommand) -> anyhow::Result<()> {
    block_on(async move {
        let session = Session::open(&command.installation).await?;
        let Chosen { kind, name, fields, .. } = command.chosen;
        let what = format!("create {} {name}", kind.name);
        let mut body = resolved(&session, kind, fields).await.map_err(|problem| problem.within(&what))?;
        body.insert(kind.key.to_owned(), name.clone().into());
        if kind.name == "token" {
            body = token::body(&session, body).await.map_err(|problem| problem.within(&what))?;
        }
        let operation = objects::create(&session, kind, body);
        let made = run(&session, &what, &operation).await?;
        // The call that makes a host name shows no record.
        let mut object =
            if kind.name == "hostname" { objects::find(&session, kind, &name).await? } else { made };
        say(readable::warning(&what, &object));
        let secrets = secret_lines(kind, &name, &object);
        if command.output.output == Format::Table {
            readable::for_people(&session, kind, std::slice::from_mut(&mut object)).await;
        }
        let text = rendered(kind, command.output.output, std::slice::from_ref(&object), true);
        Ok(if command.output.output == Format::Table { text + &secrets } else { text })
    })
}

/// What of a new object is shown this once.
pub(crate) fn secret_lines(kind: &Kind, name: &str, object: &Value) -> String {
    let secret = |key: &str| object[key].as_str();
    match kind.name {
        "tunnel" => secret("token").map_or_else(String::new, |token| {
            format!("\nThe connector runs with:\n  adit tunnel run --token {token}\n")
        }),
        "service-token" => match (secret("client_id"), secret("client_secret")) {
            (Some(id), Some(secret)) => {
                format!("\nThe secret of {name} is shown this once, as ID:SECRET:\n  {id}:{secret}\n")
            }
            _ => String::new(),
        },
        "token" => secret("value")
            .map_or_else(String::new, |value| format!("\nThe token is shown this once:\n  {value}\n")),
        _ => String::new(),
    }
}

pub(crate) fn edit(command: EditCommand) -> anyhow::Result<()> {
    block_on(async move {
        let session = Session::open(&command.installation).await?;
        let Chosen { kind, name, fields, .. } = command.chosen;
        let what = format!("edit {} {name}", kind.name);
        if fields.is_empty() {
            let text = format!(
                "{what}: nothing to change: give a flag; `adit edit {} --help` shows them",
                kind.name
            );
            return Err(Problem::usage(text));
        }
        let within = |problem: Problem| problem.within(&what);
        let old = objects::find(&session, kind, &name).await.map_err(within)?;
        let body = resolved(&session, kind, fields).await.map_err(within)?;
        let id = match kind.path {
            Path::Tunnel(_) => old["tunnel_id"].as_str(),
            Path::Account(_) | Path::Zone(_) => old["id"].as_str(),
        };
        let id = id.unwrap_or_default().to_owned();
        let operation = objects::change(&session, kind, &id, &old, body);
        let made = run(&session, &what, &operation).await?;
        let mut object =
            if kind.name == "hostname" { objects::find(&session, kind, &name).await? } else { made };
        say(readable::warning(&what, &object));
        if command.output.output == Format::Table {
            readable::for_people(&session, kind, std::slice::from_mut(&mut object)).await;
        }
        Ok(rendered(kind, command.output.output, &[object], true))
    })
}

pub(crate) fn delete(command: DeleteCommand) -> anyhow::Result<()> {
    block_on(async move {
        let kind = command.kind;
        if !kind.can_delete() {
            return Err(Problem::usage(format!("a {} cannot be deleted", kind.name)));
        }
        let session = Session::open(&command.installation).await?;
        let mut text = String::new();
        for name in &command.names {
            let what = format!("delete {} {name}", kind.name);
            let id = objects::id_of(&session, kind, name).await.map_err(|problem| problem.within(&what))?;
            let mut operation = objects::delete(&session, kind, &id);
            if command.cascade {
                operation.path += if kind.name == "tunnel" { "?cascade=true" } else { "?force=true" };
            }
            let deleted = run(&session, &what, &operation).await;
            deleted.map_err(|problem| with_cascade(problem, command.cascade))?;
            text.extend([kind.name, " ", name, " deleted\n"]);
        }
        Ok(text)
    })
}

/// A refusal for what hangs on an object says how to delete that too.
fn with_cascade(problem: Problem, was_typed: bool) -> Problem {
    let hangs = ["(code 1019", "(code 1022", "(code 1023"];
    if was_typed || !hangs.iter().any(|code| problem.text.contains(code)) {
        return problem;
    }
    Problem { text: format!("{}; --cascade deletes those too", problem.text), ..problem }
}

/// Says something on the standard error.
fn say(line: Option<String>) {
    if let Some(line) = line {
        let _gone = std::io::stderr().write_all(line.as_bytes());
    }
}

async fn run(session: &Session, what: &str, operation: &Operation) -> Result<Value, Problem> {
    let answer = session.call(operation.method, &operation.path, operation.body.as_ref()).await;
    answer.map_err(|problem| problem.within(what))
}

/// The fields with ids in the place of names.
async fn resolved(
    session: &Session,
    kind: &Kind,
    fields: Map<String, Value>,
) -> Result<Map<String, Value>, Problem> {
    let mut body = Map::new();
    for (key, value) in fields {
        let shape = kind.fields.iter().find(|field| field.api == key).map(|field| field.shape);
        let value = match (shape, value.as_str()) {
            (Some(Shape::Reference(target)), Some(name)) => {
                let target = Kind::named(target).expect("a reference leads to a kind of the table");
                objects::id_of(session, target, name).await?.into()
            }
            (Some(Shape::Expression), Some(text)) => with_lists(session, text).await?.into(),
            _ => value,
        };
        body.insert(key, value);
    }
    Ok(body)
}

/// An expression in which `${list.NAME}` is the list's reference.
async fn with_lists(session: &Session, text: &str) -> Result<String, Problem> {
    if !text.contains(LIST_BEGIN) {
        return Ok(text.to_owned());
    }
    let kind = Kind::named("list").expect("the table has lists");
    let lists = objects::all(session, kind).await?;
    replace_lists(text, |name| {
        let id = objects::one_named(kind, &lists, name)?["id"].as_str().unwrap_or_default();
        Ok(id.replace('-', ""))
    })
}

/// Replaces each `${list.NAME}` by `$` and what stands for the list.
pub(crate) fn replace_lists(
    text: &str,
    mut list: impl FnMut(&str) -> Result<String, Problem>,
) -> Result<String, Problem> {
    let mut parts = text.split(LIST_BEGIN);
    let mut done = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('}').ok_or_else(|| {
            Problem::usage(format!("{LIST_BEGIN}{part}: expected a closing }} behind the list's name"))
        })?;
        done.push('$');
        done.push_str(&list(name)?);
        done.push_str(rest);
    }
    Ok(done)
}

/// How an expression begins to name a list.
pub(crate) const LIST_BEGIN: &str = "${list.";

pub(crate) fn login(command: LoginCommand) -> anyhow::Result<()> {
    block_on(async move {
        let mut flags = command.installation;
        let path = session::profile_path(|name| std::env::var(name).ok()).ok_or_else(|| {
            Problem::usage("neither HOME nor XDG_CONFIG_HOME is set: the profile has no place")
        })?;
        if path.exists() && !command.force {
            let text = format!("{} is there already; --force overwrites it", path.display());
            return Err(Problem::new(Code::Conflict, text));
        }
        if flags.token.is_none() && flags.data.is_none() {
            flags.token = Some(typed_token()?);
            if flags.url.is_none() {
                return Err(Problem::usage(
                    "--url is missing: expected the installation, https://HOST[:PORT]",
                ));
            }
        }
        let session = Session::open(&flags).await?;
        let kept = keep(&flags, &session)?;
        let directory = path.parent().unwrap_or(&path);
        std::fs::create_dir_all(directory).map_err(|error| {
            Problem::new(Code::Failed, format!("cannot make {}: {error}", directory.display()))
        })?;
        session::write_secret(&path, &format!("{:#}\n", json!(kept)))?;
        Ok(format!(
            "Logged in to {} as account {}; kept in {}\n",
            session.place(),
            session.account(),
            path.display()
        ))
    })
}

fn keep(flags: &InstallationFlags, session: &Session) -> Result<Profile, Problem> {
    let of_data = |name: &str| flags.data.as_ref().map(|data| data.join(name));
    let ca = flags.ca.clone().or_else(|| of_data("ca.pem"));
    Ok(Profile {
        url: session.url(),
        token: session.token().to_owned(),
        account: session.account().to_owned(),
        ca: ca.map(|path| session::read(&path)).transpose()?.map(|text| text + "\n"),
    })
}

fn typed_token() -> Result<String, Problem> {
    use std::io::IsTerminal;
    let input = std::io::stdin();
    if input.is_terminal() {
        let _gone = write!(std::io::stderr(), "API token: ");
    }
    let mut line = String::new();
    let read =
        std::io::BufRead::read_line(&mut std::io::Read::take(input.lock(), MAX_TOKEN_BYTES), &mut line);
    match (read, line.trim()) {
        (Ok(_), token) if !token.is_empty() => Ok(token.to_owned()),
        _ => Err(Problem::usage("expected an API token on the standard input, or --token")),
    }
}

/// Longest token that is read.
const MAX_TOKEN_BYTES: u64 = 1024;

pub(crate) fn completions(command: &CompletionsCommand) {
    let mut tree = crate::command_line::CommandLine::command();
    let mut text = Vec::new();
    clap_complete::generate(command.shell, &mut tree, "adit", &mut text);
    write_out(&String::from_utf8_lossy(&text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_an_expression_are_replaced_by_name() {
        let by_name = |name: &str| Ok(format!("<{name}>"));
        let text = replace_lists("a in ${list.one two} or b in ${list.x}", by_name).unwrap();
        assert_eq!(text, "a in $<one two> or b in $<x>");
        assert_eq!(replace_lists("a == 1", by_name).unwrap(), "a == 1");
        assert!(replace_lists("a in ${list.one", by_name).unwrap_err().text.contains("closing }"));
    }

    fn help(arguments: &[&str]) -> String {
        use clap::Parser;
        let arguments = [&["adit"], arguments, &["--help"]].concat();
        let error = crate::command_line::CommandLine::try_parse_from(arguments).unwrap_err();
        assert!(!error.use_stderr(), "{error}");
        error.to_string()
    }

    #[test]
    fn every_command_says_what_it_does_and_shows_examples() {
        let mut all = String::new();
        let plain: &[&[&str]] = &[
            &[],
            &["get"],
            &["create"],
            &["edit"],
            &["delete"],
            &["login"],
            &["completions"],
            &["create", "route"],
            &["create", "rule"],
            &["edit", "route"],
            &["edit", "tunnel-configuration"],
        ];
        for command in plain {
            let text = help(command);
            assert!(command.is_empty() || text.contains("Examples:"), "{text}");
            all.extend(["$ adit ", &command.join(" "), " --help\n", &text, "\n"]);
        }
        insta::assert_snapshot!(all);
    }

    #[test]
    fn every_kind_has_help_for_each_verb_that_it_has() {
        for kind in kind::KINDS {
            for (verb, has) in [("create", kind.can_create()), ("edit", kind.can_edit())] {
                if has {
                    assert!(help(&[verb, kind.name]).contains("Examples:\n  adit "), "{verb} {}", kind.name);
                }
            }
        }
    }

    #[test]
    fn every_command_that_does_something_shows_an_example() {
        fn walk(command: &clap::Command, path: &str) {
            for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
                let path = format!("{path} {}", inner.get_name());
                let shown = inner.get_after_help().map(ToString::to_string).unwrap_or_default();
                let is_leaf = !inner.has_subcommands();
                assert!(!is_leaf || shown.contains("Examples:\n"), "{path}: {shown}");
                walk(inner, &path);
            }
        }
        walk(&crate::command_line::CommandLine::command(), "adit");
    }

    #[test]
    fn completions_know_the_whole_tree() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut text = Vec::new();
            let mut tree = crate::command_line::CommandLine::command();
            clap_complete::generate(shell, &mut tree, "adit", &mut text);
            let text = String::from_utf8(text).unwrap();
            for word in ["enroll", "cleanup", "virtual-network", "completions", "proxy"] {
                assert!(text.contains(word), "{shell}: {word}");
            }
        }
    }
}
