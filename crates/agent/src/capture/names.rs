//! Flows to the device's resolver, which the agent answers itself.

use std::rc::Rc;
use std::time::{Duration, Instant};

use adit_transport::Duplex;
use adit_transport::buffer::ReadBuffer;
use adit_transport::datagram::{Packet, ReceivePacket, SendPacket};
use adit_transport::messages::{self, Limits};
use adit_wire::dns::MAX_QUERY_BYTES;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::datagrams::{FromDevice, ToDevice};
use super::{FlowReader, FlowWriter, Held, Request};
use crate::carrier::Carrier;
use crate::names::{From, Names};

/// Queries of one flow that are under way at once.
const MAX_UNDER_WAY: usize = 64;
/// How long a program may keep a TCP connection open on which it asks nothing (RFC 7766, 6.2.3).
const IDLE: Duration = Duration::from_secs(10);

impl<C: Carrier + Clone> Request<C> {
    /// Answers queries in datagrams for as long as they come; `adit-netstack` ends a flow that is silent.
    pub(super) async fn resolve_datagrams(self, names: Rc<Names<C>>) {
        let Some(held) = self.accepted() else { return };
        let (mut from, mut to) = (FromDevice(Rc::clone(&held)), ToDevice(held));
        let mut under_way = FuturesUnordered::new();
        let mut ended = false;
        while !(ended && under_way.is_empty()) {
            tokio::select! {
                received = from.receive(), if !ended && under_way.len() < MAX_UNDER_WAY => match received {
                    Ok(Some(Packet::Datagram(query))) => {
                        let names = Rc::clone(&names);
                        under_way.push(async move { names.answer(&query, From::Datagram).await });
                    }
                    Ok(Some(Packet::Refusal(_))) => {}
                    Ok(None) | Err(_) => ended = true,
                },
                Some(answer) = under_way.next() => {
                    if let Some(answer) = answer
                        && to.send(Packet::Datagram(answer.into())).await.is_err()
                    {
                        return;
                    }
                }
            }
        }
    }

    /// Answers queries on a TCP connection.
    pub(super) async fn resolve_stream(self, names: Rc<Names<C>>) {
        let Some(held) = self.accepted() else { return };
        let mut near = Duplex::new(
            FlowReader { held: Rc::clone(&held), buffer: ReadBuffer::default() },
            FlowWriter { held },
        );
        let limits = Limits { message_bytes: MAX_QUERY_BYTES, under_way: MAX_UNDER_WAY, idle: Some(IDLE) };
        let answered = |query: bytes::Bytes| {
            let names = Rc::clone(&names);
            async move { names.answer(&query, From::Stream).await }
        };
        if let Err(error) = messages::serve(&mut near, limits, answered).await {
            tracing::debug!(%error, "a connection for names ends");
            near.reset();
        }
    }

    fn accepted(self) -> Option<Rc<Held>> {
        if let Err(error) = self.stack.borrow_mut().accept(self.flow, Instant::now()) {
            tracing::debug!(flow = %self.flow, %error, "flow not accepted");
            return None;
        }
        Some(Rc::new(Held { stack: self.stack, flow: self.flow }))
    }
}
