//! Why a flow of a device is, or would be, allowed, blocked or unroutable: `A/x/explain`.
//!
//! An edge answers (see [`crate::Explainer`]), by the code that decides flows; here are the question and its checks.

use std::net::{IpAddr, SocketAddr};

use adit_model::{ExplainFor, ExplainQuestion, MAX_SERVER_NAME_BYTES, Protocol};
use http::StatusCode;
use serde_json::Value;

use super::Call;
use super::answer::{Kind, object};
use super::body::Family;
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::Operation;
use crate::permission::{Area, Level};

pub(super) const OPERATIONS: &[Operation] = &[Operation::post(
    "/accounts/{account}/x/explain",
    "Tell what becomes of a flow of a device, step by step",
    |call| Box::pin(explain(call)),
)
// It may dial, and so does something.
.needs(Area::ZeroTrust, Level::Write)
.body(Family::Device, BODY)
.answers(EXPLAINED)];

const EXPLAINED: Kind = Kind::Object("Explained", EXPLAINED_FIELDS, &[]);
const MAYBE: Kind = Kind::Maybe(&Kind::Text);

object! {
    EXPLAINED_FIELDS = explained_object(explained: &adit_model::Explained) [
        "allowed": Kind::Flag => explained.allowed,
        "refusal": MAYBE => explained.refusal,
        "generation": Kind::Number => explained.generation,
        "steps": Kind::Many(&Kind::Map(&Kind::Anything)) => explained.steps,
    ]
}

const BODY: &[Field] = &[
    Field::required("device_id", "the id of a device", Shape::Uuid),
    Field::required("destination_ip", "an IP address", Shape::Text),
    Field::optional("destination_port", Shape::Number(65535)),
    Field::optional("protocol", Shape::OneOf(&["tcp", "udp", "icmp"])),
    Field::optional("server_name", Shape::Comment(MAX_SERVER_NAME_BYTES)),
    Field::optional("dial", Shape::Flag),
];

async fn explain(call: &Call<'_>) -> Result<Reply, ApiError> {
    let fields = call.fields(Family::Device)?;
    let missing = |name| fields.wrong(name, "a value");
    let device = fields.id("device_id")?.ok_or_else(|| missing("device_id"))?;
    let address: IpAddr =
        fields.parsed("destination_ip", "an IP address")?.ok_or_else(|| missing("destination_ip"))?;
    let protocol: Protocol = fields.parsed("protocol", "tcp, udp or icmp")?.unwrap_or(Protocol::Tcp);
    let given = fields.value("destination_port").and_then(Value::as_u64).unwrap_or(DEFAULT_PORT);
    let port = if protocol.has_ports() { u16::try_from(given).unwrap_or_default() } else { 0 };
    let question = ExplainQuestion {
        destination: SocketAddr::new(address, port),
        protocol,
        server_name: fields.text("server_name")?.map(str::to_owned),
        dial: fields.flag("dial")?.unwrap_or(true),
    };
    let not_found = || ApiError::new(StatusCode::NOT_FOUND, 1100, "Device not found");
    // Whether it is this account's is asked of the store, so that the answer is the same whatever edges know.
    let known =
        call.control.0.store.device_fetch(call.account, device).await.map_err(super::device::missing)?;
    let Some(explainer) = call.control.0.explainer.get() else {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, 1001, "There is no edge to ask"));
    };
    let whose = ExplainFor { device, source: known.public_ip };
    let explained = explainer.explain(call.account, &whose, &question).await.ok_or_else(not_found)?;
    Ok(Reply::One(explained_object(&explained)))
}

const DEFAULT_PORT: u64 = 443;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_has_the_fields_that_programs_read() {
        let explained = adit_model::Explained {
            allowed: false,
            refusal: Some("blocked".into()),
            generation: 7,
            steps: Vec::new(),
        };
        let answer = explained_object(&explained);
        assert_eq!(answer, json!({ "allowed": false, "refusal": "blocked", "generation": 7, "steps": [] }));
        assert_eq!(serde_json::from_value::<adit_model::Explained>(answer).unwrap(), explained);
    }
}
