//! Values by prefixes of up to 128 bits, kept such that a copy is one pointer and a change copies one path.
//!
//! A radix tree, four bits to a node and without nodes that would lead nowhere but on. What holds: a clone and its
//! original share what neither has changed since, so that a snapshot costs nothing and a change after it costs the nodes
//! above it (at most 32, for as deep as the prefixes go; about six among 100,000), whatever the number of prefixes. Looking
//! up allocates nothing. IPv4 and IPv6 are two tries: a prefix does not know its family.

use std::sync::Arc;

/// Bits that a node decides by.
const STRIDE: u8 = 4;
/// Bits of a key.
const KEY_BITS: u8 = 128;

/// The first bits of a key, the rest of which is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Prefix {
    key: u128,
    len: u8,
}

/// Values by prefix.
#[derive(Debug, Clone)]
pub(crate) struct Trie<V> {
    /// That of the prefix without bits.
    all: Option<V>,
    root: Option<Arc<Node<V>>>,
}

/// What stands below the first `depth` bits of a key: the prefixes that are one to four bits longer, and the nodes of longer
/// ones.
#[derive(Debug, Clone)]
struct Node<V> {
    /// The bits that all below it begin with.
    key: u128,
    /// How many they are: a multiple of the stride.
    depth: u8,
    /// Which of the thirty prefixes have a value, see [`slot`].
    held: u32,
    values: Vec<V>,
    /// By the next four bits. In the node itself, since a look-up spends its time on waiting for memory.
    children: [Option<Arc<Self>>; 16],
}

/// Where a prefix has its value: in which node, and at which of its thirty places.
#[derive(Debug, Clone, Copy)]
struct Place {
    key: u128,
    depth: u8,
    slot: u8,
}

impl Prefix {
    /// The first `len` bits of a key.
    pub(crate) const fn new(key: u128, len: u8) -> Self {
        let len = if len > KEY_BITS { KEY_BITS } else { len };
        Self { key: key & first_bits(len), len }
    }

    /// `None` for the prefix without bits.
    fn place(self) -> Option<Place> {
        let depth = self.len.checked_sub(1)? / STRIDE * STRIDE;
        let slot = slot(nibble(self.key, depth), self.len - depth);
        Some(Place { key: self.key & first_bits(depth), depth, slot })
    }
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self { all: None, root: None }
    }
}

impl<V> Trie<V> {
    /// The value of the longest prefix that the key begins with.
    pub(crate) fn longest(&self, key: u128) -> Option<&V> {
        let mut best = None;
        let mut next = self.root.as_deref();
        while let Some(node) = next {
            if (key ^ node.key) & first_bits(node.depth) != 0 {
                break;
            }
            let step = nibble(key, node.depth);
            let holding = node.held & HOLDING[step];
            if holding != 0 {
                best = Some((node, holding.ilog2()));
            }
            next = node.children[step].as_deref();
        }
        match best {
            Some((node, slot)) => node.values.get(rank(node.held, slot)),
            None => self.all.as_ref(),
        }
    }

    /// The value of exactly this prefix.
    pub(crate) fn get(&self, prefix: Prefix) -> Option<&V> {
        let Some(place) = prefix.place() else { return self.all.as_ref() };
        let mut node = self.root.as_deref()?;
        while node.depth < place.depth {
            node = node.children[nibble(place.key, node.depth)].as_deref()?;
        }
        let found = node.depth == place.depth && node.key == place.key && node.held & (1 << place.slot) != 0;
        found.then(|| node.values.get(rank(node.held, place.slot.into()))).flatten()
    }

    /// Every value, in no order that means anything.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        let mut nodes: Vec<&Node<V>> = self.root.as_deref().into_iter().collect();
        let below = std::iter::from_fn(move || {
            let node = nodes.pop()?;
            nodes.extend(node.children.iter().flatten().map(Arc::as_ref));
            Some(node.values.iter())
        });
        self.all.iter().chain(below.flatten())
    }
}

impl<V: Clone> Trie<V> {
    /// Gives the prefix a value: the one that it had.
    pub(crate) fn insert(&mut self, prefix: Prefix, value: V) -> Option<V> {
        let Some(place) = prefix.place() else { return self.all.replace(value) };
        let Some(mut at) = self.root.as_mut() else {
            self.root = Some(Arc::new(Node::of(place, value)));
            return None;
        };
        loop {
            let shared = common(at.key, place.key).min(at.depth).min(place.depth) / STRIDE * STRIDE;
            if shared < at.depth {
                // The ways part above this node.
                *at = Arc::new(Node::above(at, shared));
            }
            let node = Arc::make_mut(at);
            if node.depth == place.depth {
                return node.put(place.slot, value);
            }
            match &mut node.children[nibble(place.key, node.depth)] {
                Some(child) => at = child,
                none => {
                    *none = Some(Arc::new(Node::of(place, value)));
                    return None;
                }
            }
        }
    }

    /// Takes the prefix's value away.
    pub(crate) fn remove(&mut self, prefix: Prefix) -> Option<V> {
        // Nothing is copied for a prefix that is not there; from here on the way to it is.
        self.get(prefix)?;
        let Some(place) = prefix.place() else { return self.all.take() };
        let value = remove_below(self.root.as_mut()?, place);
        match self.root.as_ref().map(|root| root.fate()) {
            Some(Fate::Empty) => self.root = None,
            Some(Fate::OnlyOn(child)) => self.root = Some(child),
            Some(Fate::Stays) | None => {}
        }
        value
    }
}

/// What becomes of a node that lost something.
enum Fate<V> {
    Stays,
    Empty,
    /// It only leads on: the node below takes its place.
    OnlyOn(Arc<Node<V>>),
}

impl<V> Node<V> {
    fn of(place: Place, value: V) -> Self {
        let Place { key, depth, slot } = place;
        Self { key, depth, held: 1 << slot, values: vec![value], children: Default::default() }
    }

    /// A node higher up with nothing below it but this one.
    fn above(node: &Arc<Self>, depth: u8) -> Self {
        let mut children: [_; 16] = Default::default();
        children[nibble(node.key, depth)] = Some(Arc::clone(node));
        Self { key: node.key & first_bits(depth), depth, held: 0, values: Vec::new(), children }
    }

    fn put(&mut self, slot: u8, value: V) -> Option<V> {
        let index = rank(self.held, slot.into());
        if self.held & (1 << slot) != 0 {
            return self.values.get_mut(index).map(|held| std::mem::replace(held, value));
        }
        self.held |= 1 << slot;
        self.values.insert(index, value);
        None
    }

    fn fate(&self) -> Fate<V> {
        let mut children = self.children.iter().flatten();
        match (self.values.is_empty(), children.next(), children.next()) {
            (true, None, _) => Fate::Empty,
            (true, Some(child), None) => Fate::OnlyOn(Arc::clone(child)),
            _ => Fate::Stays,
        }
    }
}

/// Takes the value at a place away that is there, and nodes that are left without a purpose.
fn remove_below<V: Clone>(at: &mut Arc<Node<V>>, place: Place) -> Option<V> {
    let node = Arc::make_mut(at);
    if node.depth == place.depth {
        let index = rank(node.held, place.slot.into());
        node.held &= !(1 << place.slot);
        return (index < node.values.len()).then(|| node.values.remove(index));
    }
    let way = &mut node.children[nibble(place.key, node.depth)];
    let child = way.as_mut()?;
    let value = remove_below(child, place);
    match child.fate() {
        Fate::Stays => {}
        Fate::OnlyOn(below) => *child = below,
        Fate::Empty => *way = None,
    }
    value
}

/// A mask of this many first bits.
const fn first_bits(len: u8) -> u128 {
    match len {
        0 => 0,
        len => u128::MAX << (KEY_BITS - len),
    }
}

/// How many first bits two keys have in common.
#[expect(clippy::cast_possible_truncation, reason = "128 at most")]
const fn common(one: u128, other: u128) -> u8 {
    (one ^ other).leading_zeros() as u8
}

/// The four bits behind the first `depth`.
const fn nibble(key: u128, depth: u8) -> usize {
    (key << depth >> (KEY_BITS - STRIDE)) as usize & 15
}

/// The place of the first one to four bits of a nibble among a node's thirty: the longer, the higher.
#[expect(clippy::cast_possible_truncation, reason = "a nibble is less than sixteen")]
const fn slot(nibble: usize, len: u8) -> u8 {
    (1 << len) - 2 + (nibble as u8 >> (STRIDE - len))
}

/// How many are held below this place.
const fn rank(held: u32, slot: u32) -> usize {
    (held & ((1 << slot) - 1)).count_ones() as usize
}

/// For each nibble, the places of the prefixes that it begins with.
const HOLDING: [u32; 16] = {
    let mut table = [0; 16];
    let mut step = 0;
    while step < 16 {
        let mut len = 1;
        while len <= STRIDE {
            table[step] |= 1 << slot(step, len);
            len += 1;
        }
        step += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// What the trie is to do, in the plainest way.
    #[derive(Clone, Default)]
    struct Model(HashMap<Prefix, u32>);

    impl Model {
        fn longest(&self, key: u128) -> Option<u32> {
            let holding = self.0.iter().filter(|(prefix, _)| Prefix::new(key, prefix.len) == **prefix);
            holding.max_by_key(|(prefix, _)| prefix.len).map(|(_, value)| *value)
        }
    }

    /// Keys that have much in common, some of them up to the last bits.
    fn key() -> impl Strategy<Value = u128> {
        let short = any::<u8>().prop_map(|high| u128::from(high) << 120);
        let long =
            (any::<u8>(), any::<u8>()).prop_map(|(high, low)| u128::from(high & 3) << 120 | u128::from(low));
        prop_oneof![short, long, any::<u128>()]
    }

    fn prefix() -> impl Strategy<Value = Prefix> {
        let len = prop_oneof![0u8..=10, 112u8..=128, 0u8..=128];
        (key(), len).prop_map(|(key, len)| Prefix::new(key, len))
    }

    fn check(trie: &Trie<u32>, model: &Model, keys: &[u128]) {
        let mut values: Vec<u32> = trie.values().copied().collect();
        let mut expected: Vec<u32> = model.0.values().copied().collect();
        values.sort_unstable();
        expected.sort_unstable();
        assert_eq!(values, expected);
        for (prefix, value) in &model.0 {
            assert_eq!(trie.get(*prefix), Some(value));
            assert_eq!(trie.longest(prefix.key).copied(), model.longest(prefix.key));
        }
        for key in keys {
            assert_eq!(trie.longest(*key).copied(), model.longest(*key));
        }
        trie.root.as_deref().into_iter().for_each(tidy);
    }

    /// No node without a purpose, none out of its place.
    fn tidy<V>(node: &Node<V>) {
        assert_eq!(node.values.len(), node.held.count_ones() as usize);
        let children = || node.children.iter().flatten();
        assert!(!node.values.is_empty() || children().count() > 1, "a node that only leads on");
        for child in children() {
            assert!(child.depth > node.depth && child.depth % STRIDE == 0);
            assert_eq!(child.key & first_bits(node.depth), node.key);
            tidy(child);
        }
    }

    proptest! {
        #[test]
        fn it_does_what_a_plain_search_does_and_what_was_copied_stays(
            changes in proptest::collection::vec((prefix(), any::<Option<u32>>()), 0..60),
            keys in proptest::collection::vec(key(), 20),
        ) {
            let (mut trie, mut model) = (Trie::default(), Model::default());
            let mut copies = Vec::new();
            for (index, (prefix, value)) in changes.into_iter().enumerate() {
                match value {
                    Some(value) => assert_eq!(trie.insert(prefix, value), model.0.insert(prefix, value)),
                    None => assert_eq!(trie.remove(prefix), model.0.remove(&prefix)),
                }
                if index % 7 == 0 {
                    copies.push((trie.clone(), model.clone()));
                }
            }
            copies.push((trie.clone(), model.clone()));
            for (trie, model) in &copies {
                check(trie, model, &keys);
            }
            for prefix in model.0.keys() {
                trie.remove(*prefix);
            }
            prop_assert!(trie.root.is_none() && trie.all.is_none());
        }
    }

    #[test]
    fn a_change_copies_its_path_and_nothing_else() {
        let mut trie = Trie::default();
        for high in 0..=255_u128 {
            for low in 0..=255_u128 {
                trie.insert(Prefix::new(high << 120 | low << 112, 16), low);
            }
        }
        let before = trie.clone();
        trie.insert(Prefix::new(0x0102 << 112, 16), 7);
        let mut shared = 0;
        let mut pairs = vec![(before.root.as_ref().unwrap(), trie.root.as_ref().unwrap())];
        let mut copied = 0;
        while let Some((one, other)) = pairs.pop() {
            if Arc::ptr_eq(one, other) {
                shared += 1;
            } else {
                copied += 1;
                pairs.extend(one.children.iter().flatten().zip(other.children.iter().flatten()));
            }
        }
        // The four nodes of the path; the fifteen siblings of three of them.
        assert_eq!((copied, shared), (4, 45));
    }
}
