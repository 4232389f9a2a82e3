//! Objects as people read them in tables: names in the place of ids, where they can be found. JSON and YAML stay the API's.

use std::collections::HashMap;

use serde_json::Value;

use super::kind::Kind;
use super::objects;
use super::session::Session;

/// Puts names in the place of the ids that the table of a kind shows. What this token may not read stays an id.
pub(super) async fn for_people(session: &Session, kind: &Kind, rows: &mut [Value]) {
    match kind.name {
        "hostname" => {
            named(session, "tunnel", rows, |row, names| {
                let target =
                    row["content"].as_str().and_then(|text| text.split('.').next()).unwrap_or_default();
                if let Some(name) = names.get(target) {
                    row["content"] = name.clone().into();
                }
            })
            .await;
        }
        "tunnel-configuration" => {
            named(session, "tunnel", rows, |row, names| {
                if let Some(name) = row["tunnel_id"].as_str().and_then(|id| names.get(id)) {
                    row["tunnel_id"] = name.clone().into();
                }
            })
            .await;
        }
        "rule" => {
            named(session, "list", rows, |row, names| {
                let Some(text) = row["traffic"].as_str().filter(|text| text.contains('$')) else { return };
                let named = names.iter().fold(text.to_owned(), |text, (id, name)| {
                    text.replace(&format!("${}", id.replace('-', "")), &format!("${{list.{name}}}"))
                });
                row["traffic"] = named.into();
            })
            .await;
        }
        // A person has an address; a token has a name.
        "audit-record" => {
            named(session, "token", rows, |row, names| {
                let actor = &mut row["actor"];
                if actor["email"].is_null() {
                    let id = actor["id"].as_str().unwrap_or_default();
                    let name = names.get(id).or_else(|| names.get(&id.replace('-', "")));
                    actor["email"] = name.cloned().unwrap_or_else(|| id.to_owned()).into();
                }
            })
            .await;
        }
        _ => {}
    }
}

/// Changes rows by the names of another kind, by their ids.
async fn named(
    session: &Session,
    kind: &str,
    rows: &mut [Value],
    change: impl Fn(&mut Value, &HashMap<String, String>),
) {
    if rows.is_empty() {
        return;
    }
    let kind = Kind::named(kind).expect("a kind of the table");
    let found = objects::all(session, kind).await.unwrap_or_default();
    let names = found.iter().filter_map(|object| {
        Some((object["id"].as_str()?.to_owned(), object[kind.key].as_str()?.to_owned()))
    });
    let names: HashMap<String, String> = names.collect();
    for row in rows {
        change(row, &names);
    }
}

/// What is to be known of an object that was written: a line for the standard error.
pub(super) fn warning(what: &str, object: &Value) -> Option<String> {
    let text = object["warning_status"].as_str().filter(|text| !text.is_empty())?;
    Some(format!("adit: {what}: note: {text}\n"))
}
