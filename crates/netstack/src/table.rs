//! Which flows there are, and which of them a packet belongs to.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;

use adit_model::Protocol;

use crate::datagram::DatagramFlow;
use crate::packet::icmp::Unreachable;
use crate::tcp::TcpFlow;

/// Names a flow of one [`crate::Stack`], from its first packet until it is released. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    slot: u32,
    generation: u32,
}

impl FlowId {
    /// A number that no other flow of the same stack has.
    pub(crate) fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }
}

impl fmt::Debug for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlowId({self})")
    }
}

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

/// What tells flows apart: protocol, source, destination.
pub(crate) type Key = (Protocol, SocketAddr, SocketAddr);

#[derive(Debug)]
pub(crate) enum State {
    /// TCP, not decided yet.
    Requested { syn: Box<[u8]> },
    /// TCP, turned down by ICMP, which is said once more.
    Refused { syn: Box<[u8]>, reason: Unreachable },
    /// TCP, accepted.
    Open(Box<TcpFlow>),
    /// UDP or ICMP, decided or not.
    Datagrams(Box<DatagramFlow>),
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    by_key: HashMap<Key, u32>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    /// Nothing if it is vacant.
    flow: Option<(Key, State)>,
}

impl Table {
    /// A new flow, to which packets with this key belong from now on.
    pub(crate) fn insert(&mut self, key: Key, state: State) -> FlowId {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, flow: None });
            u32::try_from(self.slots.len() - 1).expect("the flows are bounded by the configuration")
        });
        let entry = &mut self.slots[slot as usize];
        entry.flow = Some((key, state));
        self.by_key.insert(key, slot);
        FlowId { slot, generation: entry.generation }
    }

    /// The flow that packets with this key belong to.
    pub(crate) fn find(&self, key: &Key) -> Option<FlowId> {
        let slot = *self.by_key.get(key)?;
        Some(FlowId { slot, generation: self.slots[slot as usize].generation })
    }

    pub(crate) fn state(&self, id: FlowId) -> Option<&State> {
        self.entry(id).map(|(_, state)| state)
    }

    pub(crate) fn state_mut(&mut self, id: FlowId) -> Option<&mut State> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        let flow = slot.flow.as_mut().filter(|_| slot.generation == id.generation);
        flow.map(|(_, state)| state)
    }

    /// Packets with its key belong to this flow no more.
    pub(crate) fn unlink(&mut self, id: FlowId) {
        let Some((key, _)) = self.entry(id) else { return };
        let key = *key;
        // A newer flow may have taken over the addresses of one in TIME-WAIT.
        if self.by_key.get(&key) == Some(&id.slot) {
            self.by_key.remove(&key);
        }
    }

    /// Frees the flow's slot; its id is void from here on.
    pub(crate) fn remove(&mut self, id: FlowId) -> Option<State> {
        self.unlink(id);
        let slot = self.slots.get_mut(id.slot as usize)?;
        let (_, state) = slot.flow.take_if(|_| slot.generation == id.generation)?;
        slot.generation = slot.generation.wrapping_add(1);
        self.vacant.push(id.slot);
        Some(state)
    }

    /// Every flow, in no order that means anything.
    pub(crate) fn ids(&self) -> Vec<FlowId> {
        let id = |(slot, number): (&Slot, u32)| {
            slot.flow.as_ref().map(|_| FlowId { slot: number, generation: slot.generation })
        };
        self.slots.iter().zip(0..).filter_map(id).collect()
    }

    fn entry(&self, id: FlowId) -> Option<&(Key, State)> {
        let slot = self.slots.get(id.slot as usize)?;
        slot.flow.as_ref().filter(|_| slot.generation == id.generation)
    }
}
