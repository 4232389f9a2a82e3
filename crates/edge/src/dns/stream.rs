//! Queries on a stream, answered in the order in which their answers come (RFC 7766, 6.2).

use std::time::Duration;

use adit_transport::messages::{self, Limits};
use adit_transport::{Duplex, ReadChunk, WriteChunk};
use adit_wire::dns::{MAX_MESSAGE_BYTES, MAX_QUERY_BYTES, encode};

use super::{Asker, MAX_QUERIES_OF_ONE, query};
use crate::Shared;

/// Answers what is asked until the asker ends, misbehaves, or asks nothing for so long.
///
/// May be cancelled: queries that are under way are given up.
pub(crate) async fn serve<R: ReadChunk, W: WriteChunk>(
    shared: &Shared,
    asker: &Asker,
    stream: &mut Duplex<R, W>,
    idle: Option<Duration>,
) {
    let limits = Limits { message_bytes: MAX_QUERY_BYTES, under_way: MAX_QUERIES_OF_ONE, idle };
    let answered = |message: bytes::Bytes| async move {
        let answer = query::answer(shared, asker, &message).await?;
        Some(encode(&answer, MAX_MESSAGE_BYTES))
    };
    if let Err(error) = messages::serve(stream, limits, answered).await {
        tracing::debug!(%error, "a stream of queries ends");
    }
}
