//! Sets that answer "is it in" without allocating: ranges of numbers and addresses, and strings by hash.
//!
//! A prefix is a range of addresses, and whether an address is in *some* prefix needs no longest match: overlapping and
//! adjacent ranges are merged when a set is made, and one search finds the only range that could hold a value. The search
//! goes down a tree of blocks, each of 16 starts, of which it counts those that are not above the value: the blocks are
//! in one piece, there is nothing to mispredict, and of a million ranges only the last two of five levels are beyond the
//! nearest caches.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{IpAddr, Ipv6Addr};

/// As many starts are in a block: of IPv4 addresses, those of one line of cache.
const BLOCK: usize = 16;

/// Starts, in their order.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Block<T>([T; BLOCK]);

/// Ranges, in their order. The ends stand beside the starts, so that a search ends where it came to.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Leaf<T> {
    starts: [T; BLOCK],
    ends: [T; BLOCK],
}

/// Values that can stand in a range.
pub(crate) trait Point: Copy + Ord {
    /// The next value, if there is one.
    fn next(self) -> Option<Self>;
}

impl Point for i64 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Point for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Point for u64 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Point for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// Ranges, both ends included, none of which touches another.
#[derive(Debug, Clone)]
pub(crate) struct RangeSet<T> {
    /// The first starts of the blocks of the next level, at last of the leaves; the first level is one block.
    levels: Box<[Box<[Block<T>]>]>,
    leaves: Box<[Leaf<T>]>,
}

impl<T: Point> RangeSet<T> {
    pub(crate) fn new(mut ranges: Vec<(T, T)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
        for (start, end) in ranges {
            match merged.last_mut() {
                // Touching is enough; and after the largest value there is nothing that could not touch.
                Some((_, last)) if last.next().is_none_or(|next| start <= next) => *last = end.max(*last),
                _ => merged.push((start, end)),
            }
        }
        // What fills up the last block repeats its last range, so that a search that comes there comes to that.
        let leaf = |ranges: &[(T, T)]| {
            let range = |at: usize| ranges[at.min(ranges.len() - 1)];
            Leaf {
                starts: std::array::from_fn(|at| range(at).0),
                ends: std::array::from_fn(|at| range(at).1),
            }
        };
        let block = |starts: &[T]| Block(std::array::from_fn(|at| starts[at.min(starts.len() - 1)]));
        let leaves: Box<[Leaf<T>]> = merged.chunks(BLOCK).map(leaf).collect();
        let mut firsts: Vec<T> = leaves.iter().map(|leaf| leaf.starts[0]).collect();
        let mut levels = Vec::new();
        while firsts.len() > 1 {
            levels.push(firsts.chunks(BLOCK).map(block).collect());
            firsts = firsts.into_iter().step_by(BLOCK).collect();
        }
        levels.reverse();
        Self { levels: levels.into_boxed_slice(), leaves }
    }

    #[inline]
    pub(crate) fn contains(&self, value: T) -> bool {
        let below = |starts: &[T; BLOCK]| starts.iter().filter(|start| **start <= value).count();
        let mut at = 0;
        for level in &self.levels {
            // Beyond a level's end only a block that was filled up leads, and it means the last.
            at = at.min(level.len() - 1);
            let Some(Block(starts)) = level.get(at) else { return false };
            // Nothing below is at the top only: a block's first start is known not to be above the value.
            let Some(last) = below(starts).checked_sub(1) else { return false };
            at = at * BLOCK + last;
        }
        let Some(leaf) = self.leaves.get(at.min(self.leaves.len().wrapping_sub(1))) else { return false };
        below(&leaf.starts).checked_sub(1).is_some_and(|last| value <= leaf.ends[last])
    }
}

/// A set of addresses. IPv4 and IPv6 are apart: no IPv6 prefix holds an IPv4 address.
#[derive(Debug, Clone)]
pub(crate) struct IpSet {
    v4: RangeSet<u32>,
    /// Whole networks of IPv6, by the first half of their addresses: most are, and half as much is searched.
    v6_networks: RangeSet<u64>,
    v6: RangeSet<u128>,
}

impl IpSet {
    pub(crate) fn new(ranges: impl IntoIterator<Item = (IpAddr, IpAddr)>) -> Self {
        let (mut v4, mut v6_networks, mut v6) = (Vec::new(), Vec::new(), Vec::new());
        for range in ranges {
            match range {
                (IpAddr::V4(start), IpAddr::V4(end)) => v4.push((start.to_bits(), end.to_bits())),
                (IpAddr::V6(start), IpAddr::V6(end)) => {
                    let ((first, from), (last, to)) = (halves(start), halves(end));
                    if from == 0 && to == u64::MAX {
                        v6_networks.push((first, last));
                    } else {
                        v6.push((start.to_bits(), end.to_bits()));
                    }
                }
                // The checker makes no such range.
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
            }
        }
        Self { v4: RangeSet::new(v4), v6_networks: RangeSet::new(v6_networks), v6: RangeSet::new(v6) }
    }

    #[inline]
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.contains(address.to_bits()),
            IpAddr::V6(address) => {
                self.v6_networks.contains(halves(address).0) || self.v6.contains(address.to_bits())
            }
        }
    }
}

/// The network's and the host's half of an address.
#[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
fn halves(address: Ipv6Addr) -> (u64, u64) {
    let bits = address.to_bits();
    ((bits >> 64) as u64, bits as u64)
}

/// The first and last address of a prefix; none if its length is too large.
pub(crate) fn prefix_range(network: IpAddr, length: u8) -> Option<(IpAddr, IpAddr)> {
    match network {
        IpAddr::V4(address) if length <= 32 => {
            let host = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
            let bits = address.to_bits();
            Some((IpAddr::V4((bits & !host).into()), IpAddr::V4((bits | host).into())))
        }
        IpAddr::V6(address) if length <= 128 => {
            let host = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
            let bits = address.to_bits();
            Some((IpAddr::V6((bits & !host).into()), IpAddr::V6((bits | host).into())))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// As many strings are compared one by one before hashing pays.
const FEW: usize = 8;

/// A set of strings.
#[derive(Debug, Clone)]
pub(crate) enum TextSet {
    Few(Box<[Box<[u8]>]>),
    Many(HashSet<Box<[u8]>, BuildHasherDefault<TextHasher>>),
}

impl TextSet {
    pub(crate) fn new(texts: impl IntoIterator<Item = Box<[u8]>>) -> Self {
        let texts: Vec<Box<[u8]>> = texts.into_iter().collect();
        if texts.len() <= FEW {
            Self::Few(texts.into_boxed_slice())
        } else {
            Self::Many(texts.into_iter().collect())
        }
    }

    #[inline]
    pub(crate) fn contains(&self, text: &[u8]) -> bool {
        match self {
            Self::Few(texts) => texts.iter().any(|one| **one == *text),
            Self::Many(texts) => texts.contains(text),
        }
    }
}

/// A quick hash for strings. What is in a set is written by administrators, and what is looked up is not added, so that
/// nobody gains by making keys collide; and nothing ever walks these sets.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TextHasher(u64);

impl Hasher for TextHasher {
    fn write(&mut self, bytes: &[u8]) {
        // A multiplication of 64 by 64 bits whose halves are folded, for each eight bytes.
        let mut state = self.0;
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            state = fold(state ^ u64::from_le_bytes(word), 0x9e37_79b9_7f4a_7c15);
        }
        let mut word = [0; 8];
        let rest = chunks.remainder();
        word[..rest.len()].copy_from_slice(rest);
        state = fold(state ^ u64::from_le_bytes(word), 0xd6e8_feb8_6659_fd93);
        self.0 = state;
    }

    fn write_usize(&mut self, length: usize) {
        self.0 = fold(self.0 ^ (length as u64), 0xa076_1d64_78bd_642f);
    }

    fn finish(&self) -> u64 {
        fold(self.0, 0xe703_7ed1_a0b4_28db)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves of a product are what is wanted")]
fn fold(value: u64, by: u64) -> u64 {
    let product = u128::from(value) * u128::from(by);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_range_set_holds_what_one_of_its_ranges_holds(
            ranges in proptest::collection::vec((-300_i64..300, 0_i64..9), 0..200),
            values in proptest::collection::vec(-310_i64..310, 0..50),
        ) {
            let ranges: Vec<(i64, i64)> = ranges.iter().map(|(start, length)| (*start, start + length)).collect();
            let set = RangeSet::new(ranges.clone());
            for value in values {
                let expected = ranges.iter().any(|(start, end)| (*start..=*end).contains(&value));
                prop_assert_eq!(set.contains(value), expected);
            }
        }

        #[test]
        fn a_large_range_set_is_searched_through_its_levels(gap in 2_u32..50, count in 1_u32..2000, value: u32) {
            let set = RangeSet::new((0..count).map(|n| (n * gap, n * gap)).collect());
            let value = value % (count * gap + 7);
            prop_assert_eq!(set.contains(value), value % gap == 0 && value / gap < count);
        }

        #[test]
        fn a_text_set_holds_what_was_put_in(texts in proptest::collection::vec("[a-c]{0,12}", 0..40), probe in "[a-c]{0,3}") {
            let set = TextSet::new(texts.iter().map(|text| text.clone().into_bytes().into_boxed_slice()));
            for text in &texts {
                prop_assert!(set.contains(text.as_bytes()));
            }
            prop_assert_eq!(set.contains(probe.as_bytes()), texts.contains(&probe));
        }
    }

    #[test]
    fn networks_and_hosts_of_ipv6_are_found_beside_each_other() {
        let range = |text: &str, length| prefix_range(text.parse().unwrap(), length).unwrap();
        let set = IpSet::new([
            range("2001:db8::", 48),
            range("2001:db8:1::", 64),
            range("2001:db8:2::", 65),
            range("::1", 128),
            range("10.0.0.0", 8),
        ]);
        let holds = |text: &str| set.contains(text.parse().unwrap());
        assert!(holds("2001:db8:0:ffff::1") && holds("2001:db8:1::ffff:0:0:1") && holds("2001:db8:2::1"));
        assert!(holds("::1") && holds("10.255.255.255"));
        assert!(!holds("2001:db8:1:1::") && !holds("2001:db8:2:0:8000::") && !holds("::2") && !holds("::"));
        assert!(!holds("::ffff:10.0.0.1") && !holds("11.0.0.0"));
    }

    #[test]
    fn ranges_reach_both_ends_of_a_type() {
        let set = RangeSet::new(vec![(i64::MIN, i64::MIN), (i64::MAX, i64::MAX), (5, i64::MAX)]);
        assert!(set.contains(i64::MIN) && set.contains(i64::MAX) && set.contains(5));
        assert!(!set.contains(4) && !set.contains(i64::MIN + 1));
    }

    #[test]
    fn a_prefix_is_the_range_of_its_addresses() {
        let range = |text: &str, length| prefix_range(text.parse().unwrap(), length).unwrap();
        assert_eq!(range("10.0.0.0", 8), ("10.0.0.0".parse().unwrap(), "10.255.255.255".parse().unwrap()));
        assert_eq!(range("0.0.0.0", 0), ("0.0.0.0".parse().unwrap(), "255.255.255.255".parse().unwrap()));
        assert_eq!(range("2001:db8::", 127), ("2001:db8::".parse().unwrap(), "2001:db8::1".parse().unwrap()));
        assert_eq!(prefix_range("10.0.0.0".parse().unwrap(), 33), None);
    }
}
