//! UDP and ICMP echo between the device and a carrier.
//!
//! What the application has sent while the flow was being opened goes out first, as soon as it is open; a question and its
//! answer cost no more than that. Silence is measured by `adit-netstack`, which ends the flow.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::{Duration, Instant};

use adit_model::Refusal;
use adit_netstack::SendError;
use adit_transport::datagram::{DatagramFlow, Exchanged, Packet, ReceivePacket, SendPacket, exchange};
use adit_transport::{ReadChunk, StreamError, WriteChunk};

use super::{Held, Request, refusal};
use crate::carrier::{Carrier, OpenError};

/// Longer than what `adit-netstack` waits in any flow.
const IDLE: Duration = Duration::from_mins(5);

impl<C: Carrier + Clone> Request<C> {
    pub(super) async fn carry_datagrams<R: ReadChunk, W: WriteChunk>(self, mut far: DatagramFlow<R, W>) {
        if let Err(error) = self.stack.borrow_mut().accept(self.flow, Instant::now()) {
            tracing::debug!(flow = %self.flow, %error, "flow not accepted");
            far.reset();
            return;
        }
        let held = Rc::new(Held { stack: self.stack, flow: self.flow });
        let mut near = (FromDevice(Rc::clone(&held)), ToDevice(held));
        let mut passed = Exchanged::default();
        let ends = ((&mut near.0, &mut near.1), (&mut far.receiver, &mut far.sender));
        let end = exchange(ends.0, ends.1, IDLE, &mut passed).await;
        tracing::debug!(
            flow = %self.flow, protocol = %self.protocol, source = %self.source,
            destination = %self.destination, up = passed.bytes_up, down = passed.bytes_down, ?end, "flow ended"
        );
    }
}

/// What the application sends.
pub(super) struct FromDevice(pub(super) Rc<Held>);

/// What the application receives.
pub(super) struct ToDevice(pub(super) Rc<Held>);

impl ReceivePacket for FromDevice {
    async fn receive(&mut self) -> Result<Option<Packet>, StreamError> {
        let next = poll_fn(|context| self.0.stack.borrow_mut().poll_receive(context, self.0.flow));
        Ok(next.await.map(Packet::Datagram))
    }

    fn stop(&mut self) {
        // Whatever the application still sends asks for another flow.
    }
}

impl SendPacket for ToDevice {
    async fn send(&mut self, packet: Packet) -> Result<(), StreamError> {
        let mut stack = self.0.stack.borrow_mut();
        match packet {
            Packet::Datagram(datagram) => match stack.send(self.0.flow, datagram, Instant::now()) {
                Err(SendError::UnknownFlow) => return Err(StreamError::Reset),
                Err(error @ (SendError::TooLong | SendError::NotAReply | SendError::QueueFull)) => {
                    tracing::trace!(flow = %self.0.flow, %error, "datagram dropped");
                }
                Ok(()) => {}
            },
            Packet::Refusal(name) => {
                // A name of another version is still a refusal.
                let why = name.parse().unwrap_or(Refusal::ConnectorError);
                stack.refuse_datagram(self.0.flow, refusal(OpenError::Refused(why)));
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn reset(&mut self) {
        // The flow is given back to the stack with its last holder, and the next datagram asks for another.
    }
}
