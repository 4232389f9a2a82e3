//! Sets that answer "is it in" without allocating: addresses by ranges, and strings by hash.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};

use crate::range::RangeSet;

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
    Many(TextTable),
}

impl TextSet {
    pub(crate) fn new(texts: impl IntoIterator<Item = Box<[u8]>>) -> Self {
        let texts: Vec<Box<[u8]>> = texts.into_iter().collect();
        if texts.len() <= FEW {
            Self::Few(texts.into_boxed_slice())
        } else {
            Self::Many(TextTable::new(&texts))
        }
    }

    #[inline]
    pub(crate) fn contains(&self, text: &[u8]) -> bool {
        match self {
            Self::Few(texts) => texts.iter().any(|one| **one == *text),
            Self::Many(table) => table.contains(text),
        }
    }
}

/// A hash table of strings, by open addressing. The strings lie one after the other, each behind its length, so that one
/// that is in the set costs two looks beyond the nearest caches, and one that is not costs one.
#[derive(Debug, Clone)]
pub(crate) struct TextTable {
    /// At most half of them are taken; as many as a power of two.
    slots: Box<[TextSlot]>,
    strings: Vec<u8>,
    /// Nobody can write a list whose strings are all looked for at the same place.
    seed: u64,
}

#[derive(Debug, Clone, Copy)]
struct TextSlot {
    /// The first half of the string's hash; the rest chooses the slot.
    hash: u32,
    /// Where in the strings it is, plus one; 0 for a free slot.
    place: u32,
}

impl TextTable {
    fn new(texts: &[Box<[u8]>]) -> Self {
        let free = TextSlot { hash: 0, place: 0 };
        let mut table = Self {
            slots: vec![free; (texts.len() * 2).next_power_of_two()].into_boxed_slice(),
            strings: Vec::with_capacity(texts.iter().map(|text| text.len() + LENGTH).sum()),
            seed: RandomState::new().hash_one(texts.len()),
        };
        for text in texts {
            let (hash, mut at) = table.place(text);
            while table.slots[at].place != 0 && !table.holds(table.slots[at], hash, text) {
                at = (at + 1) % table.slots.len();
            }
            if table.slots[at].place == 0 {
                // (Nobody has 4 GiB of strings in one set.)
                table.slots[at] =
                    TextSlot { hash, place: u32::try_from(table.strings.len() + 1).unwrap_or(0) };
                let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
                table.strings.extend_from_slice(&length.to_le_bytes());
                table.strings.extend_from_slice(text);
            }
        }
        table
    }

    #[inline]
    fn contains(&self, text: &[u8]) -> bool {
        let (hash, mut at) = self.place(text);
        while let Some(slot) = self.slots.get(at)
            && slot.place != 0
        {
            if self.holds(*slot, hash, text) {
                return true;
            }
            at = (at + 1) % self.slots.len();
        }
        false
    }

    /// The first half of a string's hash, and the slot from which on it is looked for.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of a hash are what is wanted")]
    fn place(&self, text: &[u8]) -> (u32, usize) {
        let hash = hash(text, self.seed);
        ((hash >> 32) as u32, hash as usize & (self.slots.len() - 1))
    }

    /// Whether a slot that is taken holds this string.
    #[inline]
    fn holds(&self, slot: TextSlot, hash: u32, text: &[u8]) -> bool {
        let string = || {
            let (length, rest) =
                self.strings.get((slot.place as usize).checked_sub(1)?..)?.split_first_chunk::<LENGTH>()?;
            rest.get(..u32::from_le_bytes(*length) as usize)
        };
        slot.hash == hash && string() == Some(text)
    }
}

/// As many bytes is a string's length.
const LENGTH: usize = 4;

/// A quick hash for strings: for each eight bytes a multiplication of 64 by 64 bits whose halves are folded.
fn hash(text: &[u8], seed: u64) -> u64 {
    let mut state = seed;
    let mut chunks = text.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        state = fold(state ^ u64::from_le_bytes(word), 0x9e37_79b9_7f4a_7c15);
    }
    let mut word = [0; 8];
    let rest = chunks.remainder();
    word[..rest.len()].copy_from_slice(rest);
    state = fold(state ^ u64::from_le_bytes(word), 0xd6e8_feb8_6659_fd93);
    state = fold(state ^ (text.len() as u64), 0xa076_1d64_78bd_642f);
    fold(state, 0xe703_7ed1_a0b4_28db)
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
        fn a_text_set_holds_what_was_put_in(texts in proptest::collection::vec("[a-c]{0,12}", 0..40), probe in "[a-c]{0,3}") {
            let set = TextSet::new(texts.iter().map(|text| text.clone().into_bytes().into_boxed_slice()));
            for text in &texts {
                prop_assert!(set.contains(text.as_bytes()));
            }
            prop_assert_eq!(set.contains(probe.as_bytes()), texts.contains(&probe));
        }
    }

    #[test]
    fn a_text_that_is_there_a_hundred_thousand_times_is_kept_once() {
        let texts = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"].map(|text| Box::from(text.as_bytes()));
        let TextSet::Many(table) = TextSet::new(texts.iter().cycle().take(100_000).cloned()) else {
            panic!()
        };
        assert_eq!(table.slots.iter().filter(|slot| slot.place != 0).count(), texts.len());
        assert!(texts.iter().all(|text| table.contains(text)) && !table.contains(b"k"));
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
    fn a_prefix_is_the_range_of_its_addresses() {
        let range = |text: &str, length| prefix_range(text.parse().unwrap(), length).unwrap();
        assert_eq!(range("10.0.0.0", 8), ("10.0.0.0".parse().unwrap(), "10.255.255.255".parse().unwrap()));
        assert_eq!(range("0.0.0.0", 0), ("0.0.0.0".parse().unwrap(), "255.255.255.255".parse().unwrap()));
        assert_eq!(range("2001:db8::", 127), ("2001:db8::".parse().unwrap(), "2001:db8::1".parse().unwrap()));
        assert_eq!(prefix_range("10.0.0.0".parse().unwrap(), 33), None);
    }
}
