//! Asks the edge what becomes of a flow of this device, over a connection of its own, as an enrolment has.

use std::time::Duration;

use adit_model::{ExplainQuestion, Explained};
use adit_transport::ReadChunk;
use adit_wire::device;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use tokio::time::timeout;

use crate::dialer::{ConnectError, Dialer};

/// For the connection, and the dial that the edge may make.
const DEADLINE: Duration = Duration::from_secs(30);

/// The edge did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExplainError {
    /// There is no connection.
    #[error("cannot ask the edge")]
    Connect(#[from] ConnectError),
    /// It broke.
    #[error("the edge broke the connection")]
    Broken,
    /// It takes too long.
    #[error("the edge does not answer")]
    Slow,
    /// It does not know the question.
    #[error("the edge answered {0}: is it of the same version?")]
    Status(StatusCode),
    /// It cannot be understood.
    #[error("the edge's answer cannot be read: is it of the same version?")]
    Answer,
}

/// What would become of a flow of this device.
pub(crate) async fn explain(dialer: &Dialer, question: &ExplainQuestion) -> Result<Explained, ExplainError> {
    timeout(DEADLINE, ask(dialer, question)).await.unwrap_or(Err(ExplainError::Slow))
}

async fn ask(dialer: &Dialer, question: &ExplainQuestion) -> Result<Explained, ExplainError> {
    let connection = dialer.connect(&dialer.resolve().await?).await?;
    let request = connection
        .request(Method::POST, device::EXPLAIN_PATH)
        .header(CONTENT_TYPE, "application/json")
        .body(())
        .expect("the edge's address fits into a request");
    let body = serde_json::to_vec(question).expect("a question has string keys only");
    let sent = connection.send(request, Bytes::from(body)).await;
    let (status, mut reader) = sent.map_err(|_| ExplainError::Broken)?;
    let mut answer = Vec::new();
    while let Some(chunk) = reader.read_chunk().await.map_err(|_| ExplainError::Broken)? {
        answer.extend_from_slice(&chunk);
        if answer.len() > device::MAX_EXPLAINED_BYTES {
            return Err(ExplainError::Answer);
        }
    }
    match status {
        StatusCode::OK => serde_json::from_slice(&answer).map_err(|_| ExplainError::Answer),
        status => Err(ExplainError::Status(status)),
    }
}
