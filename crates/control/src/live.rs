//! Which connections are open now, as edges report them. In memory only: after a start, connectors connect anew.

use std::collections::{BTreeMap, HashMap};

use adit_model::{ConnectionId, ConnectionOpened, ConnectorId, LocalConfiguration, TunnelId};

/// The most bytes of a connector's own configuration that are kept; a longer one is not shown.
const MAX_LOCAL_CONFIGURATION: usize = 256 * 1024;

/// Open connections by tunnel.
#[derive(Debug, Default)]
pub(crate) struct Live(HashMap<TunnelId, Connections>);

/// What is open of one tunnel.
#[derive(Debug, Default)]
struct Connections {
    open: BTreeMap<ConnectionId, ConnectionOpened>,
    /// What connectors with an open connection told of their own configurations.
    configurations: HashMap<ConnectorId, String>,
}

/// Whether a tunnel has come up or gone down by a change of its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// It has its first connection.
    Up,
    /// It has lost its last one.
    Down,
    /// Neither.
    No,
}

impl Live {
    /// A connection opened.
    pub(crate) fn open(&mut self, opened: ConnectionOpened) -> Moved {
        let connections = self.0.entry(opened.tunnel).or_default();
        let first = connections.open.is_empty();
        connections.open.insert(opened.connection, opened);
        if first { Moved::Up } else { Moved::No }
    }

    /// A connection closed.
    pub(crate) fn close(&mut self, tunnel: TunnelId, connection: ConnectionId) -> Moved {
        self.retain(tunnel, |open| open.connection != connection)
    }

    /// A connector told its own configuration. One without an open connection is passed over, and so is a text that is too
    /// long to keep.
    pub(crate) fn configured(&mut self, told: LocalConfiguration) {
        let Some(connections) = self.0.get_mut(&told.tunnel) else { return };
        let known = connections.open.values().any(|open| open.connector == told.connector);
        if known && told.config.len() <= MAX_LOCAL_CONFIGURATION {
            connections.configurations.insert(told.connector, told.config);
        }
    }

    /// What a connector told of its own configuration.
    pub(crate) fn configuration(&self, tunnel: TunnelId, connector: ConnectorId) -> Option<&str> {
        self.0.get(&tunnel)?.configurations.get(&connector).map(String::as_str)
    }

    /// Connections were asked to close: those of one connector, or all. They count no more from now on, so that a tunnel
    /// may be deleted right after (contract D, 14.1).
    pub(crate) fn dismiss(&mut self, tunnel: TunnelId, connector: Option<ConnectorId>) -> Moved {
        self.retain(tunnel, |open| connector.is_some_and(|connector| open.connector != connector))
    }

    fn retain(&mut self, tunnel: TunnelId, keep: impl Fn(&ConnectionOpened) -> bool) -> Moved {
        let Some(connections) = self.0.get_mut(&tunnel) else { return Moved::No };
        connections.open.retain(|_, open| keep(open));
        if !connections.open.is_empty() {
            let open = &connections.open;
            connections.configurations.retain(|id, _| open.values().any(|open| open.connector == *id));
            return Moved::No;
        }
        self.0.remove(&tunnel);
        Moved::Down
    }

    /// A tunnel's connections, by connector, index and time.
    pub(crate) fn of(&self, tunnel: TunnelId) -> Vec<ConnectionOpened> {
        let mut open: Vec<_> =
            self.0.get(&tunnel).into_iter().flat_map(|of| of.open.values()).cloned().collect();
        open.sort_by_key(|open| (open.connector, open.index, open.at, open.connection));
        open
    }

    /// How many connections a tunnel has.
    pub(crate) fn count(&self, tunnel: TunnelId) -> usize {
        self.0.get(&tunnel).map_or(0, |of| of.open.len())
    }
}
