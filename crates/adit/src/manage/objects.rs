//! Objects by their names, and the calls that write them: what commands and files have in common.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::kind::{Field, Kind, Path, Shape, Writes};
use super::problem::{Code, Problem};
use super::session::{Session, escaped};

/// One call of the API that writes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Operation {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) body: Option<Value>,
}

/// Every live object of a kind.
pub(crate) async fn all(session: &Session, kind: &Kind) -> Result<Vec<Value>, Problem> {
    let live = match kind.name {
        "tunnel" | "route" | "hostname-route" | "virtual-network" => "&is_deleted=false",
        _ => "",
    };
    match kind.path {
        Path::Account(path) => session.list(&session.of_account(path), live).await,
        Path::Zone(path) => session.list(&session.of_zone(path), live).await,
        Path::Tunnel(_) => {
            let tunnels = Box::pin(all(session, tunnel_kind())).await?;
            let mut found = Vec::new();
            for tunnel in tunnels {
                let id = tunnel["id"].as_str().unwrap_or_default();
                found.push(session.call("GET", &item(session, kind, id), None).await?);
            }
            Ok(found)
        }
    }
}

/// The kind that others lead to.
fn tunnel_kind() -> &'static Kind {
    Kind::named("tunnel").expect("the table has tunnels")
}

/// The path of one object.
pub(crate) fn item(session: &Session, kind: &Kind, id: &str) -> String {
    match kind.path {
        Path::Account(path) => format!("{}/{id}", session.of_account(path)),
        Path::Zone(path) => format!("{}/{id}", session.of_zone(path)),
        Path::Tunnel(path) => session.of_account(&format!("cfd_tunnel/{id}/{path}")),
    }
}

/// The one object of this name or id, as the API gives it alone.
pub(crate) async fn find(session: &Session, kind: &Kind, text: &str) -> Result<Value, Problem> {
    if let Path::Tunnel(_) = kind.path {
        let tunnel = id_of(session, tunnel_kind(), text).await?;
        return session.call("GET", &item(session, kind, &tunnel), None).await;
    }
    if kind.writes == Writes::Never {
        return one_named(kind, &all(session, kind).await?, text).cloned();
    }
    let id = id_of(session, kind, text).await?;
    session.call("GET", &item(session, kind, &id), None).await
}

/// The id of the one object of this name or id.
pub(crate) async fn id_of(session: &Session, kind: &Kind, text: &str) -> Result<String, Problem> {
    if is_id(text) && kind.writes != Writes::Never {
        match session.call("GET", &item(session, kind, text), None).await {
            Ok(found) => return Ok(found["id"].as_str().unwrap_or(text).to_owned()),
            Err(problem) if problem.code == Code::NotFound => {}
            Err(problem) => return Err(problem),
        }
    }
    let objects = all(session, kind).await?;
    one_named(kind, &objects, text).map(|found| found["id"].as_str().unwrap_or_default().to_owned())
}

/// The one object of this name or id.
pub(crate) fn one_named<'a>(kind: &Kind, objects: &'a [Value], text: &str) -> Result<&'a Value, Problem> {
    let wanted = as_key(kind, text);
    let is = |object: &&Value| {
        object[kind.key].as_str().is_some_and(|key| as_key(kind, key) == wanted) || object["id"] == text
    };
    let found: Vec<&Value> = objects.iter().filter(is).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => {
            let names = objects.iter().filter_map(|object| object[kind.key].as_str());
            let like = nearest(text, names).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
            let see = format!("`adit get {}` shows those that there are", kind.name);
            Err(Problem::new(Code::NotFound, format!("there is no {} {text:?}{like}; {see}", kind.name)))
        }
        several => {
            let ids: Vec<&str> = several.iter().filter_map(|object| object["id"].as_str()).collect();
            let text = format!(
                "{} {}s are called {text:?}: say which by id: {}",
                several.len(),
                kind.name,
                ids.join(", ")
            );
            Err(Problem::usage(text))
        }
    }
}

/// A key in the form in which two ways to write it are equal.
pub(crate) fn as_key(kind: &Kind, text: &str) -> String {
    match kind.name {
        "route" => network(text).map_or_else(|| text.to_owned(), |network| network.to_string()),
        "hostname" | "hostname-route" => text.trim_end_matches('.').to_ascii_lowercase(),
        _ => text.to_owned(),
    }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Whether a text has the form of an id: a UUID, with dashes or without.
pub(crate) fn is_id(text: &str) -> bool {
    matches!(text.len(), 32 | 36) && uuid::Uuid::try_parse(text).is_ok()
}

/// How an object is made. The body has the API's names.
pub(crate) fn create(session: &Session, kind: &Kind, body: Map<String, Value>) -> Operation {
    match (kind.writes, kind.path) {
        (Writes::Hostname, _) => hostname(session, &body, false),
        (_, Path::Account(path)) => {
            Operation { method: "POST", path: session.of_account(path), body: Some(body.into()) }
        }
        (_, Path::Zone(path)) => {
            Operation { method: "POST", path: session.of_zone(path), body: Some(body.into()) }
        }
        (_, Path::Tunnel(_)) => {
            let tunnel = body.get(kind.key).and_then(Value::as_str).unwrap_or_default().to_owned();
            change(session, kind, &tunnel, &Value::Null, body)
        }
    }
}

/// How an object becomes another one: `body` has what changes, `old` what there is.
pub(crate) fn change(
    session: &Session,
    kind: &Kind,
    id: &str,
    old: &Value,
    body: Map<String, Value>,
) -> Operation {
    let path = item(session, kind, id);
    match kind.writes {
        Writes::Hostname => {
            let mut body = body;
            body.insert("name".into(), old["name"].clone());
            hostname(session, &body, true)
        }
        Writes::Replace => {
            let mut whole = Map::new();
            let kept = kind.fields.iter().filter(|field| field.shape != Shape::Items).map(|field| field.api);
            for key in kept.chain([kind.key]) {
                if let Some(value) = old.get(key).filter(|value| !value.is_null()) {
                    whole.insert(key.to_owned(), value.clone());
                }
            }
            whole.extend(body);
            Operation { method: "PUT", path, body: Some(whole.into()) }
        }
        Writes::Singleton => {
            let mut body = body;
            body.remove(kind.key);
            Operation { method: "PUT", path, body: Some(body.into()) }
        }
        Writes::Patch | Writes::CreateOnly | Writes::DeleteOnly | Writes::Never => {
            Operation { method: "PATCH", path, body: Some(body.into()) }
        }
    }
}

/// A host name leads to a tunnel: in the body, `content` is the tunnel's id.
fn hostname(session: &Session, body: &Map<String, Value>, overwrite: bool) -> Operation {
    let tunnel = body.get("content").and_then(Value::as_str).unwrap_or_default();
    Operation {
        method: "PUT",
        path: session.of_zone(&format!("tunnels/{}/routes", escaped(tunnel))),
        body: Some(json!({
            "type": "dns",
            "user_hostname": body.get("name"),
            "overwrite_existing": overwrite,
        })),
    }
}

/// How an object goes away.
pub(crate) fn delete(session: &Session, kind: &Kind, id: &str) -> Operation {
    Operation { method: "DELETE", path: item(session, kind, id), body: None }
}

/// The id to which a field of an object leads.
pub(crate) fn target<'a>(field: &Field, object: &'a Value) -> Option<&'a str> {
    let text = object[field.api].as_str()?;
    Some(text.strip_suffix(CNAME_SUFFIX).unwrap_or(text))
}

/// What a host name's record ends in behind the tunnel's id.
const CNAME_SUFFIX: &str = ".cfargotunnel.com";

/// The name most like a text, if one is like it at all.
pub(crate) fn nearest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = (text.chars().count() / 3).max(1);
    names
        .take(MAX_COMPARED)
        .map(|name| (distance(text, name), name))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, name)| name)
}

/// How many letters have to be changed, put in or left out to make one text the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().take(MAX_LETTERS).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().take(MAX_LETTERS).enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, there) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *there);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

/// Names that are compared with one that is unknown: enough to be of help, few enough to be quick.
const MAX_COMPARED: usize = 1000;
/// Letters of a name that are compared.
const MAX_LETTERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_found_by_name_or_id_and_only_if_it_is_the_only_one() {
        let kind = Kind::named("route").unwrap();
        let objects = [
            json!({ "id": "a", "network": "10.0.0.1/32" }),
            json!({ "id": "b", "network": "2001:DB8::/32" }),
        ];
        assert_eq!(one_named(kind, &objects, "10.0.0.1").unwrap()["id"], "a");
        assert_eq!(one_named(kind, &objects, "2001:db8::/32").unwrap()["id"], "b");
        assert_eq!(one_named(kind, &objects, "b").unwrap()["id"], "b");
        let problem = one_named(kind, &objects, "10.0.0.2").unwrap_err();
        assert_eq!(problem.code, Code::NotFound);
        let twice = [objects[0].clone(), json!({ "id": "c", "network": "10.0.0.1/32" })];
        let problem = one_named(kind, &twice, "10.0.0.1").unwrap_err();
        assert_eq!(problem.text, "2 routes are called \"10.0.0.1\": say which by id: a, c");
    }

    #[test]
    fn the_nearest_name_is_suggested_and_no_far_one() {
        assert_eq!(nearest("comand", ["comment", "command"].into_iter()), Some("command"));
        assert_eq!(nearest("nam", ["name"].into_iter()), Some("name"));
        assert_eq!(nearest("xyz", ["name"].into_iter()), None);
    }
}
