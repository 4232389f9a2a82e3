//! A device asks what becomes of a flow of its own: answered for that device, and for no other.

use std::sync::Arc;
use std::time::Duration;

use adit_model::{ExplainQuestion, FlowFacts, MAX_SERVER_NAME_BYTES};
use adit_wire::device::MAX_EXPLAIN_BYTES;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response, StatusCode};

use super::Device;
use super::http2::respond_with;
use crate::explain::{Source, explain};
use crate::limits::MAX_FLOWS_PER_DEVICE;
use crate::named::destination_of;

/// For the question to come.
const QUESTION_DEADLINE: Duration = Duration::from_secs(5);

/// Answers a question of a device.
pub(super) async fn answer(
    device: Arc<Device>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let read = tokio::time::timeout(QUESTION_DEADLINE, question(request.into_body())).await;
    let Ok(Some(question)) = read else {
        return respond_with(respond, StatusCode::BAD_REQUEST);
    };
    let (shared, registration) = (&device.shared, &device.registration);
    let Some(virtual_network) = shared.snapshots.current().default_network(registration.account) else {
        return respond_with(respond, StatusCode::NOT_FOUND);
    };
    // A dial costs what a flow costs.
    if device.open_flows() >= MAX_FLOWS_PER_DEVICE {
        return respond_with(respond, StatusCode::TOO_MANY_REQUESTS);
    }
    let counted = super::Counted::new(&device.open_flows);
    let (destination, named) = destination_of(shared, registration, device.peer, question.destination).await;
    let facts = FlowFacts {
        account: registration.account,
        registration: registration.id,
        device: registration.device,
        virtual_network,
        protocol: question.protocol,
        source: device.peer.ip().to_canonical(),
        destination,
        named,
    };
    let explained = explain(shared, facts, &question, Source::Known).await;
    drop(counted);
    let Ok(body) = serde_json::to_vec(&explained) else {
        return respond_with(respond, StatusCode::INTERNAL_SERVER_ERROR);
    };
    let response = Response::builder().header(http::header::CONTENT_TYPE, "application/json").body(());
    let Ok(mut stream) = respond.send_response(response.unwrap_or_default(), false) else { return };
    if stream.send_data(body.into(), true).is_err() {
        tracing::trace!("the device gave up before it was answered");
    }
}

/// A question, unless it is too long or none.
async fn question(mut body: RecvStream) -> Option<ExplainQuestion> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.ok()?;
        if body.flow_control().release_capacity(chunk.len()).is_err() {
            return None;
        }
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_EXPLAIN_BYTES {
            return None;
        }
    }
    let question: ExplainQuestion = serde_json::from_slice(&bytes).ok()?;
    let long = question.server_name.as_ref().is_some_and(|name| name.len() > MAX_SERVER_NAME_BYTES);
    (!long).then_some(question)
}
