//! Which network the device is in, and which carrier was the better one there.
//!
//! A network is told by its default gateway, the interface, and the device's own address. What was measured is kept in the
//! state directory for the networks seen last, so that a known one is used well from its first flow on. Nothing is decided
//! here but that: a memory that is lost or wrong costs one measurement.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::state::StateDirectory;
use crate::status::Transport;

/// Networks that are remembered; the one seen longest ago is forgotten first.
const MAX_NETWORKS: usize = 64;
/// Longest description of a network that is remembered, in bytes.
const MAX_DESCRIPTION_BYTES: usize = 200;

/// What is remembered of one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    network: String,
    transport: Transport,
}

/// The networks seen last, the newest first.
#[derive(Debug)]
pub(crate) struct Networks {
    state: Rc<StateDirectory>,
    known: Vec<Known>,
}

impl Networks {
    /// What is remembered; nothing, if that cannot be read.
    pub(crate) fn load(state: Rc<StateDirectory>) -> Self {
        let known = match state.networks() {
            Ok(Some(text)) => read(&text),
            Ok(None) => Vec::new(),
            Err(error) => {
                tracing::warn!(%error, "what is known of networks cannot be read");
                Vec::new()
            }
        };
        Self { state, known }
    }

    /// The better carrier in a network, if that is known.
    pub(crate) fn transport(&self, network: &str) -> Option<Transport> {
        self.known.iter().find(|known| known.network == network).map(|known| known.transport)
    }

    /// Remembers the better carrier in a network.
    pub(crate) fn remember(&mut self, network: &str, transport: Transport) {
        let newest = self.known.first();
        if newest.is_some_and(|known| known.network == network && known.transport == transport) {
            return;
        }
        note(&mut self.known, network, transport);
        let text = serde_json::to_vec_pretty(&self.known).expect("a list of texts");
        if let Err(error) = self.state.set_networks(&text) {
            tracing::warn!(%error, "what is known of networks cannot be kept");
        }
    }
}

fn note(known: &mut Vec<Known>, network: &str, transport: Transport) {
    known.retain(|known| known.network != network);
    known.insert(0, Known { network: network.to_owned(), transport });
    known.truncate(MAX_NETWORKS);
}

fn read(text: &[u8]) -> Vec<Known> {
    let mut known: Vec<Known> = serde_json::from_slice(text).unwrap_or_default();
    known.retain(|known| known.network.len() <= MAX_DESCRIPTION_BYTES);
    known.truncate(MAX_NETWORKS);
    known
}

/// Describes the network by which this address of the edge is reached. `None` if there is none.
pub(crate) fn current(edge: SocketAddr) -> Option<String> {
    let any: SocketAddr = if edge.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    // Sends nothing: the kernel only chooses the way.
    socket.connect(edge).ok()?;
    let address = socket.local_addr().ok()?.ip();
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    Some(describe(default_gateway(&routes), address))
}

fn describe(gateway: Option<(String, Ipv4Addr)>, address: IpAddr) -> String {
    match gateway {
        Some((interface, gateway)) => format!("{gateway} on {interface}, as {address}"),
        None => format!("no gateway, as {address}"),
    }
}

/// Interface and address of the default gateway with the least metric, from `/proc/net/route` (proc(5)).
fn default_gateway(routes: &str) -> Option<(String, Ipv4Addr)> {
    let gateways = routes.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (interface, destination, gateway) = (fields.next()?, fields.next()?, fields.next()?);
        let metric: u32 = fields.nth(3)?.parse().ok()?;
        // In the machine's own order of bytes.
        let gateway = Ipv4Addr::from(u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes());
        (destination == "00000000" && !gateway.is_unspecified())
            .then(|| (metric, interface.to_owned(), gateway))
    });
    let (_, interface, gateway) = gateways.min_by_key(|(metric, ..)| *metric)?;
    Some((interface, gateway))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn a_network_is_told_by_its_gateway_and_the_devices_address() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            wlan0\t00000000\t0102000A\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            eth0\t000200C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
        let gateway = default_gateway(routes);
        assert_eq!(gateway, Some(("eth0".to_owned(), Ipv4Addr::new(192, 0, 2, 1))));
        let address = Ipv4Addr::new(192, 0, 2, 2).into();
        assert_eq!(describe(gateway, address), "192.0.2.1 on eth0, as 192.0.2.2");
        assert_eq!(default_gateway("Iface\nnonsense\n"), None);
        assert_eq!(describe(None, address), "no gateway, as 192.0.2.2");
    }

    #[test]
    fn networks_are_remembered_across_restarts_and_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let state = Rc::new(StateDirectory::open(directory.path()).unwrap());
        let mut networks = Networks::load(Rc::clone(&state));
        assert_eq!(networks.transport("home"), None);
        networks.remember("home", Transport::Quic);
        networks.remember("office", Transport::H2);
        networks.remember("home", Transport::H2);
        assert_eq!(Networks::load(Rc::clone(&state)).transport("home"), Some(Transport::H2));
        for n in 0..MAX_NETWORKS {
            networks.remember(&format!("network {n}"), Transport::Quic);
        }
        let networks = Networks::load(Rc::clone(&state));
        assert_eq!((networks.known.len(), networks.transport("office")), (MAX_NETWORKS, None));
        state.set_networks(b"nonsense").unwrap();
        assert_eq!(Networks::load(state).known, []);
    }
}
