//! The part of a configuration that an edge may replace while the connector runs (contract, 4.2).
//!
//! A reader takes the whole of it at once ([`Live::current`]) and keeps it for as long as its request lasts: what a push
//! replaces lives on until the last request under it has ended. Versions only grow; a push that cannot be understood
//! changes nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::{Map, Value, json};
use serde_saphyr::{Location, Spanned};

use super::allow::AllowNetworks;
use super::at::{At, Source};
use super::error::ConfigError;
use super::origin::{OriginOptions, TypedRule, WarpRoutingOptions};
use super::yaml::Node;
use super::{ConnectorConfig, DEFAULT_CONNECT_TIMEOUT, DEFAULT_MAX_ACTIVE_FLOWS, DEFAULT_TCP_KEEP_ALIVE};
use crate::ingress::{Rules, RulesError};

/// Version of a configuration that no edge has pushed (contract, 4.2).
const LOCAL_VERSION: i32 = -1;
/// Largest configuration that is taken, in bytes.
const MAX_PUSHED_BYTES: usize = 4 << 20;

/// What requests go by.
#[derive(Debug)]
pub(crate) struct Configuration {
    /// -1 for the connector's own.
    pub(crate) version: i32,
    pub(crate) rules: Arc<Rules>,
    pub(crate) warp_routing: WarpRouting,
}

/// How private networks are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WarpRouting {
    /// How long a dial may take.
    pub connect_timeout: Duration,
    /// Idle time after which a TCP connection is probed.
    pub tcp_keep_alive: Duration,
    /// Flows at once.
    pub max_active_flows: usize,
}

impl WarpRouting {
    /// The options with their defaults; `max_active_flows` of a flag or a file goes before what is pushed.
    pub(super) fn new(options: &WarpRoutingOptions, own_max_active_flows: Option<u32>) -> Self {
        let flows = own_max_active_flows.or(options.max_active_flows).filter(|flows| *flows > 0);
        Self {
            connect_timeout: options.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT),
            tcp_keep_alive: options.tcp_keep_alive.unwrap_or(DEFAULT_TCP_KEEP_ALIVE),
            max_active_flows: flows
                .and_then(|flows| usize::try_from(flows).ok())
                .unwrap_or(DEFAULT_MAX_ACTIVE_FLOWS),
        }
    }

    /// What is not as by default.
    pub(super) fn json(&self) -> Value {
        let mut set = Map::new();
        let mut add = |key: &str, value: u64, default: u64| {
            if value != default {
                set.insert(key.to_owned(), value.into());
            }
        };
        add("connectTimeout", self.connect_timeout.as_secs(), DEFAULT_CONNECT_TIMEOUT.as_secs());
        let flows = |flows: usize| u64::try_from(flows).unwrap_or(u64::MAX);
        add("maxActiveFlows", flows(self.max_active_flows), flows(DEFAULT_MAX_ACTIVE_FLOWS));
        add("tcpKeepAlive", self.tcp_keep_alive.as_secs(), DEFAULT_TCP_KEEP_ALIVE.as_secs());
        Value::Object(set)
    }
}

/// A pushed configuration is not applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    /// It is too large.
    #[error("larger than {} MiB", MAX_PUSHED_BYTES >> 20)]
    TooLarge,
    /// It is no JSON.
    #[error("expected JSON, at line {} column {}", .0.line(), .0.column())]
    Json(serde_json::Error),
    /// A key or a value is not understood.
    #[error(transparent)]
    Key(#[from] ConfigError),
    /// The rules contradict each other, or a service cannot be used.
    #[error(transparent)]
    Rules(#[from] RulesError),
}

/// The current configuration, and how it is replaced.
#[derive(Debug)]
pub(crate) struct Live {
    current: ArcSwap<Configuration>,
    /// One push at a time.
    applying: Mutex<()>,
    own_max_active_flows: Option<u32>,
    allow_networks: AllowNetworks,
}

impl Live {
    /// Starts with the connector's own configuration.
    pub(crate) fn new(config: &ConnectorConfig) -> Self {
        let rules = Arc::clone(&config.ingress);
        Self::starting(rules, config.warp_routing, config.own_max_active_flows, config.allow_networks.clone())
    }

    fn starting(
        rules: Arc<Rules>,
        warp_routing: WarpRouting,
        own_max_active_flows: Option<u32>,
        allow_networks: AllowNetworks,
    ) -> Self {
        let own = Configuration { version: LOCAL_VERSION, rules, warp_routing };
        let current = ArcSwap::from_pointee(own);
        Self { current, applying: Mutex::new(()), own_max_active_flows, allow_networks }
    }

    /// What holds now.
    pub(crate) fn current(&self) -> Arc<Configuration> {
        self.current.load_full()
    }

    /// Applies what an edge pushed: the version that holds afterwards, and why nothing was applied if it was an error.
    pub(crate) fn apply(&self, version: i32, config: &[u8]) -> (i32, Option<PushError>) {
        // Nothing is left half done by whoever held it.
        let _one_at_a_time = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current().version;
        if version <= current {
            return (current, None);
        }
        match self.read(version, config) {
            Ok(configuration) => {
                self.current.store(Arc::new(configuration));
                (version, None)
            }
            Err(error) => (current, Some(error)),
        }
    }

    fn read(&self, version: i32, config: &[u8]) -> Result<Configuration, PushError> {
        let pushed = Pushed::read(config)?;
        let rules = Rules::pushed(&pushed.ingress, &pushed.origin_request, &self.allow_networks)?;
        Ok(Configuration {
            version,
            rules: Arc::new(rules),
            warp_routing: WarpRouting::new(&pushed.warp_routing, self.own_max_active_flows),
        })
    }
}

impl Configuration {
    /// As `/config` shows it (contract, section 7).
    pub(crate) fn json(&self) -> Value {
        json!({
            "version": self.version,
            "config": {
                "ingress": self.rules.json(),
                "warp-routing": self.warp_routing.json(),
                "originRequest": self.rules.defaults_json(),
            },
        })
    }
}

/// What was pushed, as it was typed.
#[derive(Debug, Default)]
struct Pushed {
    ingress: Vec<TypedRule>,
    origin_request: OriginOptions,
    warp_routing: WarpRoutingOptions,
}

impl Pushed {
    fn read(config: &[u8]) -> Result<Self, PushError> {
        if config.len() > MAX_PUSHED_BYTES {
            return Err(PushError::TooLarge);
        }
        let value: Value = serde_json::from_slice(config).map_err(PushError::Json)?;
        let node = placeless(value);
        let at = At { source: &Source::Pushed, key: String::new(), value: &node };
        let mut pushed = Self::default();
        for (key, at) in at.entries(&["ingress", "originRequest", "warp-routing"])? {
            match key {
                "ingress" => pushed.ingress = TypedRule::list(&at)?,
                "originRequest" => pushed.origin_request = OriginOptions::read(&at)?,
                _ => pushed.warp_routing = WarpRoutingOptions::read(&at)?,
            }
        }
        Ok(pushed)
    }
}

/// JSON as the nodes that keys are read from. Its depth is bounded by the parser.
fn placeless(value: Value) -> Spanned<Node> {
    let spanned = |node| Spanned::new(node, Location::UNKNOWN, Location::UNKNOWN);
    let text = |key| Spanned::new(key, Location::UNKNOWN, Location::UNKNOWN);
    spanned(match value {
        Value::Null => Node::Null,
        Value::Bool(value) => Node::Bool(value),
        Value::Number(number) => Node::Number(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(value) => Node::Text(value),
        Value::Array(list) => Node::List(list.into_iter().map(placeless).collect()),
        Value::Object(map) => {
            Node::Map(map.into_iter().map(|(key, value)| (text(key), placeless(value))).collect())
        }
    })
}

/// Fuzz body: any bytes are a configuration, which then is the current one, or an error of one line that changes nothing.
#[doc(hidden)]
pub fn fuzz_pushed_configuration(input: &[u8]) {
    let warp_routing = WarpRouting::new(&WarpRoutingOptions::default(), None);
    let live = Live::starting(Arc::new(Rules::none()), warp_routing, None, AllowNetworks::default());
    let (version, error) = live.apply(0, input);
    assert_eq!(live.current().version, version, "what is answered holds");
    match error {
        None => {
            assert_eq!(version, 0, "applied");
            let _ = live.current().json().to_string();
        }
        Some(error) => {
            assert_eq!(version, LOCAL_VERSION, "nothing changed");
            assert_eq!(error.to_string().lines().count(), 1, "one line: {error}");
        }
    }
}
