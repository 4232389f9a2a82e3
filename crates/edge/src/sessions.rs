//! Which devices are connected, so that a revoked one can be cut and a second process with one key is noticed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use adit_model::RegistrationId;
use adit_policy::Snapshot;
use adit_wire::device::Block;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::limits::MAX_CONNECTIONS_PER_DEVICE;

/// Why a device's connection is ended by the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Its registration was revoked or removed.
    Revoked,
    /// A newer process uses the same key (design, section 4).
    Superseded,
    /// The edge is stopping.
    EdgeStopping,
}

/// One connection of a device.
#[derive(Debug)]
pub(crate) struct Session {
    registration: RegistrationId,
    instance: Mutex<Option<Uuid>>,
    why: Mutex<Option<Cut>>,
    ended: CancellationToken,
    told: mpsc::Sender<Block>,
    to_tell: Mutex<Option<mpsc::Receiver<Block>>>,
}

/// Blocks that a device has not been told of yet.
const MAX_UNTOLD: usize = 16;

impl Session {
    /// What rules have blocked and the device is to be told of. The first who asks gets it.
    pub(crate) fn blocks(&self) -> Option<mpsc::Receiver<Block>> {
        self.to_tell.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Resolves when the edge ends the connection.
    pub(crate) async fn cut(&self) -> Cut {
        self.ended.cancelled().await;
        self.why()
    }

    /// What [`cut`](Self::cut) is for one flow: its own to wait for, so that flows share no lock while they carry.
    pub(crate) fn flow_token(&self) -> CancellationToken {
        self.ended.child_token()
    }

    /// Why it was ended, once it was.
    pub(crate) fn why(&self) -> Cut {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(Cut::EdgeStopping)
    }

    fn end(&self, why: Cut) {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.ended.cancel();
    }
}

/// All connections of devices.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_registration: Mutex<HashMap<RegistrationId, Vec<Arc<Session>>>>,
}

/// The device has as many connections as it may have.
#[derive(Debug, thiserror::Error)]
#[error("the device has {MAX_CONNECTIONS_PER_DEVICE} connections already")]
pub(crate) struct TooManySessions;

impl Sessions {
    pub(crate) fn begin(
        &self,
        registration: RegistrationId,
        stopping: &CancellationToken,
    ) -> Result<Arc<Session>, TooManySessions> {
        let mut by_registration = self.by_registration.lock().unwrap_or_else(PoisonError::into_inner);
        let sessions = by_registration.entry(registration).or_default();
        if sessions.len() >= MAX_CONNECTIONS_PER_DEVICE {
            return Err(TooManySessions);
        }
        let (told, to_tell) = mpsc::channel(MAX_UNTOLD);
        let session = Arc::new(Session {
            registration,
            instance: Mutex::new(None),
            why: Mutex::new(None),
            ended: stopping.child_token(),
            told,
            to_tell: Mutex::new(Some(to_tell)),
        });
        sessions.push(Arc::clone(&session));
        Ok(session)
    }

    pub(crate) fn end(&self, session: &Arc<Session>) {
        let mut by_registration = self.by_registration.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sessions) = by_registration.get_mut(&session.registration) {
            sessions.retain(|other| !Arc::ptr_eq(other, session));
            if sessions.is_empty() {
                by_registration.remove(&session.registration);
            }
        }
    }

    /// Notes which process a connection belongs to, and ends those of another process with the same key. Whether there
    /// were any.
    pub(crate) fn identify(&self, session: &Arc<Session>, instance: Uuid) -> bool {
        *session.instance.lock().unwrap_or_else(PoisonError::into_inner) = Some(instance);
        let by_registration = self.by_registration.lock().unwrap_or_else(PoisonError::into_inner);
        let mut superseded = false;
        for other in by_registration.get(&session.registration).into_iter().flatten() {
            let theirs = *other.instance.lock().unwrap_or_else(PoisonError::into_inner);
            if theirs.is_some_and(|theirs| theirs != instance) {
                other.end(Cut::Superseded);
                superseded = true;
            }
        }
        superseded
    }

    /// Ends the connections of registrations that are revoked or no more.
    pub(crate) fn cut_revoked(&self, snapshot: &Snapshot) {
        let by_registration = self.by_registration.lock().unwrap_or_else(PoisonError::into_inner);
        for (registration, sessions) in &*by_registration {
            if snapshot.registration(*registration).is_none_or(|registration| registration.revoked) {
                for session in sessions {
                    session.end(Cut::Revoked);
                }
            }
        }
    }

    /// Tells a device of a block, on every connection that it listens on. Without room it is not told.
    pub(crate) fn tell(&self, registration: RegistrationId, block: &Block) {
        let by_registration = self.by_registration.lock().unwrap_or_else(PoisonError::into_inner);
        for session in by_registration.get(&registration).into_iter().flatten() {
            if session.told.try_send(block.clone()).is_err() {
                tracing::debug!(rule = %block.rule, "a device is not told of a block: it does not listen");
            }
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.by_registration.lock().unwrap_or_else(PoisonError::into_inner).values().map(Vec::len).sum()
    }
}
