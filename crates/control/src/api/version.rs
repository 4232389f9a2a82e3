//! Versions of objects (contract D, 4): `ETag` on what is read, and `If-Match` on what is changed.
//!
//! An object's version is a hash of what its path answers, without what changes by itself (whether a tunnel is connected,
//! when a device was seen). A change that names a version is made in one transaction with the look at what there is: of
//! two that name the same, one is made and the other is refused with 412. `*` asks that there is an object at all.
//!
//! What it does not do: lists have no versions, and a change at a path that cannot be read is refused if it names one, since
//! there is nothing to compare. A batch names its generation in its body.

use std::io;

use adit_store::BatchCommitError;
use axum::body::Bytes;
use http::header::IF_MATCH;
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::Call;
use super::envelope::{ApiError, Reply};
use super::operation::{self, Operation, Verb};
use super::path::Query;
use super::rule::precedence_taken;

/// Fields that change without anybody changing the object.
const LIVE: [&str; 9] = [
    "status",
    "connections",
    "conns_active_at",
    "conns_inactive_at",
    "last_seen_at",
    "last_seen",
    "last_seen_user",
    "public_ip",
    "warning_status",
];
/// Longest `If-Match`, in bytes.
const MAX_CONDITION: usize = 4096;

/// What a change asks of what there is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// That there is an object.
    Any,
    /// That it is one of these versions.
    OneOf(Vec<String>),
}

impl Condition {
    /// Reads the header; none is no condition.
    pub(super) fn read(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let mut versions = Vec::new();
        let mut given = headers.get_all(IF_MATCH).iter().peekable();
        if given.peek().is_none() {
            return Ok(None);
        }
        for header in given {
            let text =
                header.to_str().ok().filter(|text| text.len() <= MAX_CONDITION).ok_or_else(malformed)?;
            if text.trim() == "*" {
                return Ok(Some(Self::Any));
            }
            for version in text.split(',').map(str::trim).filter(|version| !version.is_empty()) {
                let quoted = version.strip_prefix("W/").unwrap_or(version);
                let bare = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
                versions.push(bare.ok_or_else(malformed)?.to_owned());
            }
        }
        Ok(Some(Self::OneOf(versions)))
    }

    fn holds(&self, version: &str) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(versions) => versions.iter().any(|known| known == version),
        }
    }
}

fn malformed() -> ApiError {
    ApiError::new(
        StatusCode::BAD_REQUEST,
        6003,
        "Invalid request headers: If-Match: expected \"VERSION\" or *",
    )
}

fn failed(message: &str) -> ApiError {
    ApiError::new(StatusCode::PRECONDITION_FAILED, 1020, message)
}

/// The version of what was answered, if it is an object.
pub(super) fn of(reply: &Reply) -> Option<String> {
    match reply {
        Reply::One(Value::Object(object)) => Some(hashed(object)),
        Reply::One(_) | Reply::Many { .. } | Reply::Document(_) => None,
    }
}

fn hashed(object: &Map<String, Value>) -> String {
    let mut hash = Hash(Sha256::new());
    for (key, value) in object.iter().filter(|(key, _)| !LIVE.contains(&key.as_str())) {
        hash.0.update(key.as_bytes());
        hash.0.update([0]);
        serde_json::to_writer(&mut hash, value).expect("hashing never fails, and an object's keys are texts");
        hash.0.update([0]);
    }
    let digest = hash.0.finalize();
    format!("{:032x}", u128::from_be_bytes(digest[..16].try_into().expect("SHA-256 has 32 bytes")))
}

/// Takes what is written into a hash.
struct Hash(Sha256);

impl io::Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes a change if what there is fulfils its condition; what it answers, and the version that there is then.
pub(super) async fn change(
    call: Call<'_>,
    row: &Operation,
    segments: &[&str],
    condition: &Condition,
) -> Result<(Reply, Option<String>), ApiError> {
    let nothing = || failed("If-Match: nothing can be read at this path whose version could be compared");
    let look = operation::find(Verb::Get, segments).filter(|_| !segments.ends_with(&["x", "batch"]));
    let look = look.ok_or_else(nothing)?;
    call.allowed(look)?;
    let batch = call.control.0.store.begin().await?;
    let control = call.control.within(batch.store().clone());
    let call = Call { control: &control, ..call };
    let reading = Call {
        control: &control,
        principal: call.principal,
        actor: call.actor.clone(),
        account: call.account,
        parameters: look.parameters(segments),
        query: Query::parse("")?,
        body: Bytes::new(),
    };
    let before = of(&(look.run)(&reading).await?).ok_or_else(nothing)?;
    if !condition.holds(&before) {
        return Err(failed(
            "Something was written to this object since the version that If-Match names: look at it again",
        ));
    }
    let reply = (row.run)(&call).await?;
    // What was deleted has no version any more.
    let after = (look.run)(&reading).await.ok().and_then(|reply| of(&reply));
    // A rule that was put aside in the batch has no other to change places with.
    batch.commit().await.map_err(|error| match error {
        BatchCommitError::PrecedenceTaken { by, .. } => precedence_taken(&by),
        BatchCommitError::Fault(fault) => fault.into(),
    })?;
    Ok((reply, after))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(headers: &[&str], expected: Option<&Condition>) {
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(IF_MATCH, header.parse().unwrap());
        }
        assert_eq!(Condition::read(&map).unwrap().as_ref(), expected, "{headers:?}");
    }

    #[test]
    fn conditions_are_versions_or_a_star() {
        let one_of = |names: &[&str]| Condition::OneOf(names.iter().map(|name| (*name).to_owned()).collect());
        check(&[], None);
        check(&["*"], Some(&Condition::Any));
        check(&["\"a\""], Some(&one_of(&["a"])));
        check(&["\"a\", W/\"b\"", "\"c\""], Some(&one_of(&["a", "b", "c"])));
        check(&[""], Some(&one_of(&[])));
        let mut bad = HeaderMap::new();
        bad.insert(IF_MATCH, "a".parse().unwrap());
        assert_eq!(Condition::read(&bad).unwrap_err().status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn a_version_is_of_what_somebody_set() {
        let version = |object: Value| of(&Reply::One(object)).unwrap();
        let tunnel = json!({ "id": "x", "name": "a", "status": "down", "connections": [] });
        let connected = json!({ "id": "x", "name": "a", "status": "healthy", "connections": [1] });
        assert_eq!(version(tunnel.clone()), version(connected));
        assert_ne!(version(tunnel), version(json!({ "id": "x", "name": "b" })));
        assert_ne!(version(json!({ "a": "b", "c": null })), version(json!({ "a": "b" })));
        assert_eq!(of(&Reply::One(Value::Null)), None);
    }
}
