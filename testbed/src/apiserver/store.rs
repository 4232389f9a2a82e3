//! The objects of the testbed's API server, in memory, with a history to watch.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

/// Changes kept for watches that resume; an older resourceVersion is answered "too old", as a real server does.
const HISTORY: usize = 10_000;

/// A kind of object that the server has.
#[derive(Debug)]
pub(super) struct Resource {
    /// As in the path.
    pub(super) name: &'static str,
    /// As in `kind`.
    pub(super) kind: &'static str,
    /// For kubectl's abbreviations.
    pub(super) short_name: &'static str,
    /// Whether it lives in a namespace.
    pub(super) namespaced: bool,
}

/// All of them; the group is the core one, version v1.
pub(super) static RESOURCES: [Resource; 3] = [
    Resource { name: "configmaps", kind: "ConfigMap", short_name: "cm", namespaced: true },
    Resource { name: "namespaces", kind: "Namespace", short_name: "ns", namespaced: false },
    Resource { name: "pods", kind: "Pod", short_name: "po", namespaced: true },
];

/// Which object: resource, namespace (empty for none), name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// [`Resource::name`].
    pub(super) resource: &'static str,
    /// Empty for objects outside namespaces.
    pub(super) namespace: String,
    /// The object's name.
    pub(super) name: String,
}

/// What happened to an object.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// The resourceVersion that it made.
    pub(super) version: u64,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub(super) kind: &'static str,
    /// Which object.
    pub(super) key: Key,
    /// The object as it is, or last was.
    pub(super) object: Value,
}

/// All objects.
#[derive(Debug)]
pub(super) struct Store {
    inner: Mutex<Inner>,
    version: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    version: u64,
    objects: BTreeMap<Key, Value>,
    history: VecDeque<Change>,
}

impl Default for Store {
    fn default() -> Self {
        let inner = Inner { version: 1, objects: BTreeMap::new(), history: VecDeque::new() };
        Self { inner: Mutex::new(inner), version: watch::Sender::new(1) }
    }
}

impl Store {
    /// One object.
    pub(super) fn find(&self, key: &Key) -> Option<Value> {
        self.lock().objects.get(key).cloned()
    }

    /// The objects that `wanted` accepts, and the version at which they were so.
    pub(super) fn list(&self, wanted: impl Fn(&Key, &Value) -> bool) -> (u64, Vec<Value>) {
        let inner = self.lock();
        let objects = inner.objects.iter().filter(|(key, object)| wanted(key, object));
        (inner.version, objects.map(|(_, object)| object.clone()).collect())
    }

    /// Changes what is at `key` in one step: `f` gets the object there, if any, and gives what shall be there, if
    /// anything, or an error. The result is the new object, or the removed one.
    pub(super) fn change<E>(
        &self,
        key: &Key,
        f: impl FnOnce(Option<&Value>) -> Result<Option<Value>, E>,
    ) -> Result<Option<Value>, E> {
        let mut inner = self.lock();
        let old = inner.objects.get(key).cloned();
        let (kind, mut object) = match (f(old.as_ref())?, old) {
            (None, None) => return Ok(None),
            (Some(new), Some(old)) if new == old => return Ok(Some(new)),
            (Some(new), Some(_)) => ("MODIFIED", new),
            (Some(new), None) => ("ADDED", new),
            (None, Some(old)) => ("DELETED", old),
        };
        inner.version += 1;
        let version = inner.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        if kind == "DELETED" {
            inner.objects.remove(key);
        } else {
            inner.objects.insert(key.clone(), object.clone());
        }
        if inner.history.len() == HISTORY {
            inner.history.pop_front();
        }
        inner.history.push_back(Change { version, kind, key: key.clone(), object: object.clone() });
        drop(inner);
        self.version.send_replace(version);
        Ok(Some(object))
    }

    /// What happened after `version`, or `None` when that is no longer known.
    pub(super) fn changes_after(&self, version: u64) -> Option<Vec<Change>> {
        let inner = self.lock();
        let oldest = inner.history.front().map_or(inner.version + 1, |change| change.version);
        (version + 1 >= oldest)
            .then(|| inner.history.iter().filter(|change| change.version > version).cloned().collect())
    }

    /// Tells of new versions.
    pub(super) fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
