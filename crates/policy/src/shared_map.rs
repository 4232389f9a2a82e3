//! A map whose copy is one pointer, until one of the two changes.
//!
//! What holds: a snapshot shares with the state all kinds of objects of which none changed; a change copies the pointers of
//! its own kind. For what there may be very many of and what changes often, see [`crate::trie`].

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A hash map behind a pointer.
#[derive(Debug, Clone)]
pub(crate) struct SharedMap<K, V>(Arc<HashMap<K, V>>);

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, V> Deref for SharedMap<K, V> {
    type Target = HashMap<K, V>;

    fn deref(&self) -> &HashMap<K, V> {
        &self.0
    }
}

impl<K: Clone + Eq + Hash, V: Clone> DerefMut for SharedMap<K, V> {
    fn deref_mut(&mut self) -> &mut HashMap<K, V> {
        Arc::make_mut(&mut self.0)
    }
}
