//! `adit apply`, `adit diff` and `adit export`: configuration as files.
//!
//! The files are read whole and checked ([`document`]), compared with what there is ([`plan`]), and what is different is
//! shown ([`report`]) and done in one transaction. The transaction is refused if anything was written since it was looked
//! at, so that what happens is what was shown.

mod document;
mod plan;
mod report;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write as _};
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::manage::commands::{ApplyCommand, DiffCommand, ExportCommand, FileFlags};
use crate::manage::kind::{KINDS, Kind, Shape, When};
use crate::manage::objects::{self, Operation};
use crate::manage::print::{self, Colour};
use crate::manage::problem::{Code, Problem};
use crate::manage::session::{Session, write_secret};
use crate::manage::{block_on, secret_lines, write_out};
use plan::{Deed, Prune, State, Step};

pub(crate) const APPLY_EXAMPLES: &str = "A file has YAML documents, each an object: its kind, its name and its fields as the API has them, with names in the place
of ids. An object is the same one by its name; only the keys that are there are written; nothing is deleted without
--prune. All of it is done in one transaction, or none.

Examples:
  adit apply -f network/
  adit apply -f network/ --prune --yes
  adit apply -f - <<END
  kind: tunnel
  name: k8s
  ---
  kind: route
  network: 10.0.0.0/8
  tunnel: k8s
  END";

pub(crate) const DIFF_EXAMPLES: &str =
    "Exits with 0 if there are no changes, with 1 if there are, with more on errors.

Examples:
  adit diff -f network/
  adit diff -f network/ --prune";

pub(crate) const EXPORT_EXAMPLES: &str = "`adit apply` of an export makes no changes. Secrets are not in it.

Examples:
  adit export > network.yaml
  adit export tunnels routes";

/// A plan, and the state of the account for which it was made.
struct Planned {
    session: Session,
    steps: Vec<Step>,
    generation: String,
}

async fn planned(
    files: &FileFlags,
    installation: &crate::manage::session::InstallationFlags,
) -> Result<Planned, Problem> {
    let documents = document::read(&files.files)?;
    let session = Session::open(installation).await?;
    let batch = session.call("GET", &session.of_account("x/batch"), None).await?;
    let generation = batch["generation"].as_str().unwrap_or_default().to_owned();
    let state = state(&session, &plan::needed(&documents), |kind, object| {
        let named = |document: &document::Document| {
            document.kind.name == kind.name && object["name"].as_str() == Some(document.name.as_str())
        };
        documents.iter().any(named)
            || (kind.name == "tunnel-configuration"
                && documents.iter().any(|document| {
                    let id = object["id"].as_str();
                    document.kind.name == kind.name
                        && (object["name"] == document.name.as_str() || id == Some(&document.name))
                }))
    })
    .await?;
    let prune = if files.prune { Prune::Listed } else { Prune::Keep };
    let steps = plan::plan(&documents, &state, prune)?;
    Ok(Planned { session, steps, generation })
}

/// The objects of these kinds. What the list of a kind does not show is read for those that are wanted.
async fn state(
    session: &Session,
    kinds: &[&'static Kind],
    wanted: impl Fn(&Kind, &Value) -> bool,
) -> Result<State, Problem> {
    let mut state = State::new();
    for kind in kinds {
        let found = if kind.name == "tunnel-configuration" {
            let mut found = Vec::new();
            for tunnel in state.get("tunnel").into_iter().flatten().filter(|tunnel| wanted(kind, tunnel)) {
                let id = tunnel["id"].as_str().unwrap_or_default();
                found.push(session.call("GET", &objects::item(session, kind, id), None).await?);
            }
            found
        } else {
            objects::all(session, kind)
                .await
                .map_err(|problem| problem.within(format_args!("get {}s", kind.name)))?
        };
        let mut whole = Vec::with_capacity(found.len());
        for object in found {
            // Lists are listed without their items.
            let more = kind.name == "list" && wanted(kind, &object);
            whole.push(match object["id"].as_str().filter(|_| more) {
                Some(id) => session.call("GET", &objects::item(session, kind, id), None).await?,
                None => object,
            });
        }
        state.insert(kind.name, whole);
    }
    Ok(state)
}

/// What files change, as the operations of a batch; objects of other kinds than these may not be in them.
pub(crate) async fn operations(
    files: &FileFlags,
    installation: &crate::manage::session::InstallationFlags,
    kinds: &[&str],
) -> Result<(Session, Vec<Value>), Problem> {
    let Planned { session, steps, .. } = planned(files, installation).await?;
    if let Some(other) = steps.iter().find(|step| !kinds.contains(&step.kind.name)) {
        let place = other.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        let text = format!("{place}{} {}: expected a {}", other.kind.name, other.name, kinds.join(" or a "));
        return Err(Problem::usage(text));
    }
    let operations = steps.iter().map(|step| operation(&session, step)).collect();
    Ok((session, operations))
}

pub(crate) fn diff(command: &DiffCommand) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    block_on(async {
        let planned =
            planned(&command.files, &command.installation).await.map_err(|problem| match problem.code {
                // 1 says that there are changes.
                Code::Failed => Problem::new(Code::Usage, problem.text),
                Code::Usage | Code::NotFound | Code::NotAllowed | Code::Conflict | Code::Unreachable => {
                    problem
                }
            })?;
        if !planned.steps.is_empty() {
            code = ExitCode::FAILURE;
        }
        Ok(report::steps(&planned.steps, Colour::of_output()))
    })?;
    Ok(code)
}

pub(crate) fn apply(command: &ApplyCommand) -> anyhow::Result<()> {
    block_on(async {
        if let Some(path) = command.secrets.as_deref().filter(|path| path.exists()) {
            return Err(Problem::usage(format!("--secrets: {} is there already", path.display())));
        }
        let Planned { session, steps, generation } = planned(&command.files, &command.installation).await?;
        write_out(&report::steps(&steps, Colour::of_output()));
        if steps.is_empty() {
            return Ok(String::new());
        }
        let deletes = steps.iter().filter(|step| matches!(step.deed, Deed::Delete(_))).count();
        if deletes > 0 && !command.yes {
            confirm(deletes)?;
        }
        let results = carry_out(&session, &steps, &generation).await?;
        let secrets = secrets(&steps, &results);
        let kept = keep_secrets(command.secrets.as_deref(), &secrets)?;
        Ok(format!(
            "applied: {}\n{kept}",
            report::count(&steps)
                .replace("to create", "created")
                .replace("to change", "changed")
                .replace("to delete", "deleted")
        ))
    })
}

fn confirm(deletes: usize) -> Result<(), Problem> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(Problem::usage(format!(
            "{deletes} objects would be deleted: give --yes if that is meant"
        )));
    }
    let _gone = write!(std::io::stderr(), "{deletes} objects will be deleted. Go on? [y/N] ");
    let mut line = String::new();
    let _read = input.read_line(&mut line);
    if line.trim().eq_ignore_ascii_case("y") || line.trim().eq_ignore_ascii_case("yes") {
        return Ok(());
    }
    Err(Problem::new(Code::Failed, "nothing was done"))
}

/// Does all steps in one transaction.
async fn carry_out(session: &Session, steps: &[Step], generation: &str) -> Result<Vec<Value>, Problem> {
    let operations: Vec<Value> = steps.iter().map(|step| operation(session, step)).collect();
    let body = json!({ "generation": generation, "operations": operations });
    let path = session.of_account("x/batch");
    match session.call("POST", &path, Some(&body)).await {
        Ok(Value::Array(results)) => Ok(results),
        Ok(_) => {
            Err(Problem::new(Code::Failed, "the installation answered with something else than results"))
        }
        Err(problem) if problem.text.contains("(code 1020, at /generation)") => Err(Problem::new(
            Code::Conflict,
            "nothing was done: somebody else changed something in this account meanwhile; run `adit diff` again and look \
             at what it says, then apply",
        )),
        Err(problem) => Err(explained(problem, steps)),
    }
}

fn operation(session: &Session, step: &Step) -> Value {
    let (Operation { method, path, body }, stands_for) = match &step.deed {
        Deed::Create(stands_for, body) => {
            let makes_an_id = step.kind.name != "hostname";
            (objects::create(session, step.kind, body.clone()), makes_an_id.then_some(stands_for))
        }
        Deed::Change(id, old, body) => (objects::change(session, step.kind, id, old, body.clone()), None),
        Deed::Delete(id) => (objects::delete(session, step.kind, id), None),
    };
    json!({ "method": method, "path": path, "body": body, "as": stands_for })
}

/// An error of the batch, said of the object that a file has.
fn explained(problem: Problem, steps: &[Step]) -> Problem {
    let index = problem.text.strip_prefix("operation ").and_then(|rest| rest.split_once(": "));
    let found =
        index.and_then(|(index, rest)| Some((steps.get(index.parse::<usize>().ok()?)?, rest.to_owned())));
    let Some((step, rest)) = found else {
        return problem.within("nothing was done");
    };
    let place = step.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
    let text = format!("{place}{} {}: {rest}; nothing was done", step.kind.name, step.name);
    Problem { text, ..problem }
}

/// What of the results is shown this once, by the objects' names.
fn secrets(steps: &[Step], results: &[Value]) -> Vec<(&'static str, String, Value)> {
    let made = steps.iter().zip(results).filter(|(step, _)| matches!(step.deed, Deed::Create(..)));
    made.filter_map(|(step, result)| {
        let keys: &[&str] = match step.kind.name {
            "tunnel" => &["id", "token"],
            "service-token" => &["id", "client_id", "client_secret"],
            _ => return None,
        };
        let kept: Map<String, Value> =
            keys.iter().map(|key| ((*key).to_owned(), result[key].clone())).collect();
        Some((step.kind.name, step.name.clone(), kept.into()))
    })
    .collect()
}

fn keep_secrets(path: Option<&Path>, secrets: &[(&'static str, String, Value)]) -> Result<String, Problem> {
    let Some(path) = path.filter(|_| !secrets.is_empty()) else {
        return Ok(secrets
            .iter()
            .filter_map(|(kind, name, secret)| {
                Some(format!("\n{name}:{}", secret_lines(Kind::named(kind)?, name, secret)))
            })
            .collect());
    };
    let mut by_kind: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for (kind, name, secret) in secrets {
        by_kind.entry(kind.replace('-', "_")).or_default().insert(name.clone(), secret.clone());
    }
    write_secret(path, &print::yaml(&json!(by_kind)))?;
    Ok(format!("secrets are in {}\n", path.display()))
}

pub(crate) fn export(command: &ExportCommand) -> anyhow::Result<()> {
    block_on(async {
        let chosen: Vec<&'static Kind> = if command.kinds.is_empty() {
            KINDS.iter().filter(|kind| kind.can_apply()).collect()
        } else {
            command.kinds.clone()
        };
        if let Some(kind) = chosen.iter().find(|kind| !kind.can_apply()) {
            return Err(Problem::usage(format!("a {} cannot stand in files", kind.name)));
        }
        let session = Session::open(&command.installation).await?;
        // Names in the place of ids need what they lead to.
        let needed: Vec<&'static Kind> = KINDS.iter().filter(|kind| kind.can_apply()).collect();
        let exists = exported(&session, &needed, !command.kinds.is_empty(), &chosen).await?;
        let documents: Vec<String> = chosen
            .iter()
            .flat_map(|kind| {
                exists
                    .get(kind.name)
                    .into_iter()
                    .flatten()
                    .map(|object| exported_object(&exists, kind, object))
            })
            .collect();
        Ok(documents.join("---\n"))
    })
}

/// The state for an export. A kind that this installation does not have is none of its objects, unless it was asked for.
async fn exported(
    session: &Session,
    needed: &[&'static Kind],
    was_asked: bool,
    chosen: &[&'static Kind],
) -> Result<State, Problem> {
    let mut whole = State::new();
    for kind in needed {
        let asked = was_asked && chosen.iter().any(|chosen| chosen.name == kind.name);
        let with = if kind.name == "tunnel-configuration" { vec![&KINDS[0], *kind] } else { vec![*kind] };
        match state(session, &with, |kind, object| {
            kind.name != "tunnel-configuration" || object["config_src"] == "cloudflare"
        })
        .await
        {
            Ok(more) => whole.extend(more),
            Err(problem) if problem.code == Code::NotFound && !asked => {}
            Err(problem) => return Err(problem),
        }
    }
    if let Some(configurations) = whole.get_mut("tunnel-configuration") {
        configurations.retain(|configuration| !configuration["config"].is_null());
    }
    Ok(whole)
}

fn exported_object(state: &State, kind: &Kind, object: &Value) -> String {
    let mut text = format!("kind: {}\n", kind.in_files());
    let key = match kind.name {
        "tunnel-configuration" => {
            let id = &object["tunnel_id"];
            let tunnel = state.get("tunnel").into_iter().flatten().find(|tunnel| tunnel["id"] == *id);
            tunnel.map_or_else(|| id.clone(), |tunnel| tunnel["name"].clone())
        }
        _ => object[kind.key].clone(),
    };
    print::member(&mut text, kind.key, &key, 0);
    for field in kind.fields {
        let Some(value) = plan::shown(state, field, object) else { continue };
        let says_nothing = value == "" || value == json!([]) || value == json!({});
        if says_nothing && field.when != When::Required {
            continue;
        }
        // Whether a virtual network is the default one is said by the one that is.
        if field.shape == Shape::Flag && value == false && field.key == "is_default_network" {
            continue;
        }
        print::member(&mut text, field.key, &value, 0);
    }
    text
}
