//! Operations, and over them the v4 API and enrolment.
//!
//! [`Control`] owns an installation's store. Three things lead out of it: [`api::router`] serves people and programs,
//! [`device::router`] enrols devices, and [`Control::subscribe`] tells edges what changed. One leads in:
//! [`Control::record`] takes what edges report.
//!
//! What holds: every change that edges must know goes through the store's change log, in its order; what is live
//! (connections) is in memory only and is rebuilt by the edges' reports. It never sees an edge: what crosses is a type of
//! `model`.

pub mod accounts;
pub mod api;
pub mod device;
pub mod inspection;
mod install;
mod limiter;
mod live;
mod permission;

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use adit_model::{AccountId, ChangeBatch, Command, ExplainFor, ExplainQuestion, Explained, Record, TunnelId};
use adit_store::{Fault, Feed, Store};
use time::OffsetDateTime;
use tokio::sync::broadcast;
use tracing::warn;

pub use install::StartError;

use crate::limiter::{FailureLimiter, RequestCounter};
use crate::live::{Live, Moved};

/// How many commands an edge may be behind before it misses some.
const COMMAND_BACKLOG: usize = 256;

/// What an installation's control plane is called and how it answers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name of this node, as the `CF-Ray` header carries it.
    pub node: String,
    /// The names by which this installation itself is reached: no public host name may be one of them.
    pub own_names: Vec<String>,
    /// The domain whose hosts are DNS locations: no public host name may be in it.
    pub dns_domain: String,
    /// Where connectors find the edge, `HOST:PORT`: told to whoever makes a tunnel.
    pub edges: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node: "adit".into(),
            own_names: Vec::new(),
            dns_domain: "dns.localhost".into(),
            edges: Vec::new(),
        }
    }
}

/// Answers what becomes of flows: an edge, which the control plane never sees.
pub trait Explainer: Send + Sync {
    /// What would become of a flow of an account's device; none if the device is not known there.
    fn explain<'a>(
        &'a self,
        account: AccountId,
        whose: &'a ExplainFor,
        question: &'a ExplainQuestion,
    ) -> Pin<Box<dyn Future<Output = Option<Explained>> + Send + 'a>>;
}

/// The control plane of one installation. Clones share it.
#[derive(Clone)]
pub struct Control(Arc<Inner>);

struct Inner {
    store: Store,
    account: AccountId,
    settings: Settings,
    live: Arc<Mutex<Live>>,
    failures: Arc<Mutex<FailureLimiter>>,
    requests: Arc<Mutex<RequestCounter>>,
    commands: broadcast::Sender<Command>,
    /// Where connectors find the other nodes.
    other_edges: Arc<Mutex<Vec<String>>>,
    explainer: Arc<OnceLock<Arc<dyn Explainer>>>,
}

impl Control {
    /// Takes over a store. The first time, this makes the account, its default virtual network and the admin token, and
    /// leaves `account-id` and `admin-token` in the store's directory; later it changes neither.
    ///
    /// # Errors
    /// The store or those files fail.
    pub async fn new(store: Store, settings: Settings) -> Result<Self, StartError> {
        let account = install::install(&store).await?;
        store.tunnel_all_inactive().await?;
        let (commands, _) = broadcast::channel(COMMAND_BACKLOG);
        Ok(Self(Arc::new(Inner {
            store,
            account,
            settings,
            live: Arc::default(),
            failures: Arc::default(),
            requests: Arc::default(),
            commands,
            other_edges: Arc::default(),
            explainer: Arc::default(),
        })))
    }

    /// Names the edge that answers what becomes of flows. The first one stays.
    pub fn explain_by(&self, explainer: Arc<dyn Explainer>) {
        let _first = self.0.explainer.set(explainer);
    }

    /// The installation's account.
    pub fn account(&self) -> AccountId {
        self.0.account
    }

    /// The installation's store.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// The state as changes to an empty one, and what follows it: every committed batch, once and in order.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn subscribe(&self) -> Result<(ChangeBatch, Feed), Fault> {
        let state = self.0.store.state().await?;
        let feed = self.0.store.follow(state.number);
        Ok((state, feed))
    }

    /// What edges are asked to do from now on. A receiver that lags by more than a few hundred misses the oldest: its
    /// edge then keeps connections that someone wanted closed, and nothing else.
    pub fn commands(&self) -> broadcast::Receiver<Command> {
        self.0.commands.subscribe()
    }

    /// Takes a report of an edge. To be called one by one in the order of the reports; may be cancelled. What cannot be
    /// stored is logged: an edge has nothing to do about it.
    pub async fn record(&self, record: Record) {
        let stored = match record {
            Record::ConnectionOpened(opened) => {
                let (tunnel, at) = (opened.tunnel, OffsetDateTime::from(opened.at));
                let moved = self.live().open(opened);
                match moved {
                    Moved::Up => self.0.store.tunnel_became_active(tunnel, at).await,
                    Moved::No | Moved::Down => Ok(()),
                }
            }
            Record::ConnectionClosed(closed) => {
                let moved = self.live().close(closed.tunnel, closed.connection);
                self.tunnel_moved(closed.tunnel, moved, closed.at.into()).await
            }
            Record::LocalConfiguration(told) => {
                self.live().configured(told);
                Ok(())
            }
            Record::RegistrationSeen(seen) => {
                let store = &self.0.store;
                store
                    .registration_seen(seen.registration, seen.source, &seen.agent_version, seen.at.into())
                    .await
            }
            // Log records, which have ways of their own (`adit::records`).
            Record::Decision(_) | Record::Http(_) | Record::Flow(_) | Record::Request(_) | Record::Dns(_) => {
                Ok(())
            }
        };
        if let Err(error) = stored {
            warn!(error = &error as &dyn std::error::Error, "a report was not stored");
        }
    }

    async fn tunnel_moved(&self, tunnel: TunnelId, moved: Moved, at: OffsetDateTime) -> Result<(), Fault> {
        match moved {
            Moved::Down => self.0.store.tunnel_became_inactive(tunnel, at).await,
            Moved::Up | Moved::No => Ok(()),
        }
    }

    /// The same control plane over the store of a batch.
    fn within(&self, store: Store) -> Self {
        Self(Arc::new(Inner {
            store,
            account: self.0.account,
            settings: self.0.settings.clone(),
            live: Arc::clone(&self.0.live),
            failures: Arc::clone(&self.0.failures),
            requests: Arc::clone(&self.0.requests),
            commands: self.0.commands.clone(),
            other_edges: Arc::clone(&self.0.other_edges),
            explainer: Arc::clone(&self.0.explainer),
        }))
    }

    /// Notes where connectors find the other edge nodes, `HOST:PORT` each: whoever makes a tunnel is told of them too.
    pub fn note_other_edges(&self, edges: Vec<String>) {
        *unpoisoned(&self.0.other_edges) = edges;
    }

    /// Where connectors find edges, this node's own first.
    fn edges(&self) -> Vec<String> {
        let others = unpoisoned(&self.0.other_edges);
        self.0.settings.edges.iter().chain(others.iter()).cloned().collect()
    }

    /// Asks edges to do something; where no edge is, there is nothing to do.
    fn command(&self, command: Command) {
        let _edges = self.0.commands.send(command);
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        unpoisoned(&self.0.live)
    }

    fn failures(&self) -> MutexGuard<'_, FailureLimiter> {
        unpoisoned(&self.0.failures)
    }

    fn requests(&self) -> MutexGuard<'_, RequestCounter> {
        unpoisoned(&self.0.requests)
    }
}

/// The value, also after a panic of another holder: what these mutexes hold is whole after every statement.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("account", &self.0.account).finish_non_exhaustive()
    }
}
