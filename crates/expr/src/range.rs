//! Ranges of numbers and addresses, made ready to be asked whether a value is in one of them.
//!
//! A prefix is a range of addresses, and whether an address is in *some* prefix needs no longest match: overlapping and
//! adjacent ranges are merged when a set is made. What is left are the bounds at which a value goes in or out, in their
//! order: a value is in if an odd number of bounds are not above it.
//!
//! Where to look is known from a directory: the values from the first bound to the last are cut into slots of the same
//! width, and the directory tells where the bounds of each slot begin. A search of a million ranges is so one look into
//! the directory and one at the few bounds of a slot. Where bounds crowd in one slot (networks of IPv6 do), it has a
//! directory of its own; what crowds against all of that is searched by halves. What costs time is what does not fit in
//! the nearest caches, and so of a bound only the 16 bits are kept in which it differs from the others of its slot,
//! where that is all.

/// As many bounds are counted one by one.
const FEW: usize = 32;

/// As many bounds are meant to be in a slot.
const IN_A_SLOT: usize = 16;

/// As many directories are looked into, one below the other.
const DEPTH: usize = 6;

/// Values that can stand in a range.
pub(crate) trait Point: Copy + Ord {
    /// The next value, if there is one.
    fn next(self) -> Option<Self>;

    /// The slot of `1 << shift` values that it is in, of those that begin at `base`, which is not above it.
    fn slot(self, base: Self, shift: u32) -> u64;

    /// The last 16 bits of how far it is from `base`, which is not above it, in units of `1 << grain` values.
    fn short(self, base: Self, grain: u32) -> u16;

    /// How many bits it takes to write how far it is from `base`, which is not above it.
    fn width(self, base: Self) -> u32;

    /// How many of those bits at the end are 0.
    fn trailing_zeros(self, base: Self) -> u32;
}

macro_rules! point {
    ($($integer:ty, $distance:ty;)*) => {
        $(#[allow(
            clippy::cast_sign_loss,
            clippy::cast_possible_truncation,
            reason = "a distance has no sign, and of its bits the last are wanted"
        )]
        impl Point for $integer {
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            #[inline]
            fn slot(self, base: Self, shift: u32) -> u64 {
                let distance = self.wrapping_sub(base) as $distance;
                u64::try_from(distance.checked_shr(shift).unwrap_or(0)).unwrap_or(u64::MAX)
            }

            #[inline]
            fn short(self, base: Self, grain: u32) -> u16 {
                let distance = self.wrapping_sub(base) as $distance;
                distance.checked_shr(grain).unwrap_or(0) as u16
            }

            fn width(self, base: Self) -> u32 {
                <$distance>::BITS - (self.wrapping_sub(base) as $distance).leading_zeros()
            }

            fn trailing_zeros(self, base: Self) -> u32 {
                (self.wrapping_sub(base) as $distance).trailing_zeros()
            }
        })*
    };
}

point! {
    i64, u64;
    u32, u32;
    u64, u64;
    u128, u128;
}

/// Ranges, both ends included.
#[derive(Debug, Clone)]
pub(crate) enum RangeSet<T> {
    /// Bounds: a value goes in at the first, out at the second, and so on.
    Few(Box<[T]>),
    Many(Box<Directory<T>>),
}

/// Where bounds are.
#[derive(Debug, Clone)]
pub(crate) struct Directory<T> {
    /// The first bound.
    base: T,
    /// A slot is of `1 << shift` values.
    shift: u32,
    /// Whether the bounds below the first are odd in number.
    odd: bool,
    /// The slots up to that of the last bound, and what comes after.
    slots: Box<[Slot]>,
    bounds: Bounds<T>,
    /// The directories of slots that have their own, by the numbers of the slots.
    crowded: Box<[(u32, Directory<T>)]>,
}

/// The bounds of a slot are those from its first to the next slot's first.
#[derive(Debug, Clone, Copy)]
struct Slot(u32);

impl Slot {
    const CROWDED: u32 = 1 << 31;
    const ODD: u32 = 1 << 30;

    /// A slot whose bounds begin here, and whether those below them are odd in number. (Nobody has 2^30 bounds.)
    fn new(first: usize, odd: bool, crowded: bool) -> Self {
        let first = u32::try_from(first).unwrap_or(u32::MAX) & (Self::ODD - 1);
        Self(first | if odd { Self::ODD } else { 0 } | if crowded { Self::CROWDED } else { 0 })
    }

    fn first(self) -> usize {
        (self.0 & (Self::ODD - 1)) as usize
    }

    fn is_odd(self) -> bool {
        self.0 & Self::ODD != 0
    }

    fn is_crowded(self) -> bool {
        self.0 & Self::CROWDED != 0
    }
}

/// The bounds of all slots that are not crowded.
#[derive(Debug, Clone)]
enum Bounds<T> {
    /// The last 16 bits of how far they are from the base, in units of `1 << grain` values.
    Short {
        grain: u32,
        bounds: Box<[u16]>,
    },
    Long(Box<[T]>),
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
        let bounds: Box<[T]> =
            merged.into_iter().flat_map(|(start, end)| [Some(start), end.next()]).flatten().collect();
        if bounds.len() <= FEW {
            Self::Few(bounds)
        } else {
            Self::Many(Box::new(Directory::new(&bounds, false, DEPTH)))
        }
    }

    #[inline]
    pub(crate) fn contains(&self, value: T) -> bool {
        match self {
            Self::Few(bounds) => not_above(bounds, &value) % 2 == 1,
            Self::Many(directory) => directory.contains(value),
        }
    }
}

impl<T: Point> Directory<T> {
    /// A directory of bounds, of which there are more than [`FEW`].
    fn new(bounds: &[T], odd: bool, depth: usize) -> Self {
        let (base, last) = (bounds[0], bounds[bounds.len() - 1]);
        let slots = bounds.len().div_ceil(IN_A_SLOT).next_power_of_two();
        let shift = last.width(base).saturating_sub(slots.ilog2());
        let (mut slots, mut kept, mut crowded) = (Vec::new(), Vec::new(), Vec::new());
        let (mut odd_here, mut rest) = (odd, bounds);
        // The last bound's slot is among the first `slots` ones.
        for number in 0..=u32::try_from(last.slot(base, shift)).unwrap_or(u32::MAX) {
            let count = rest.iter().take_while(|bound| bound.slot(base, shift) == u64::from(number)).count();
            let (here, after) = rest.split_at(count);
            let is_crowded = count > FEW && depth > 1;
            slots.push(Slot::new(kept.len(), odd_here, is_crowded));
            if is_crowded {
                crowded.push((number, Self::new(here, odd_here, depth - 1)));
            } else {
                kept.extend_from_slice(here);
            }
            odd_here ^= count % 2 == 1;
            rest = after;
        }
        slots.push(Slot::new(kept.len(), odd_here, false));
        let bounds = Bounds::new(kept, base, shift);
        Self { base, shift, odd, slots: slots.into(), bounds, crowded: crowded.into() }
    }

    #[inline]
    fn contains(&self, value: T) -> bool {
        let mut directory = self;
        loop {
            if value < directory.base {
                return directory.odd;
            }
            let Ok(number) = usize::try_from(value.slot(directory.base, directory.shift)) else {
                return false;
            };
            let [here, next] = match directory.slots.get(number..).unwrap_or_default() {
                [here, next, ..] => [*here, *next],
                // Beyond the last bound.
                _ => return directory.slots.last().is_some_and(|slot| slot.is_odd()),
            };
            if !here.is_crowded() {
                return here.is_odd() ^ (directory.not_above(here.first()..next.first(), value) % 2 == 1);
            }
            let own = directory.crowded.binary_search_by_key(&number, |(number, _)| *number as usize);
            let Some((_, own)) = own.ok().and_then(|at| directory.crowded.get(at)) else { return false };
            directory = own;
        }
    }

    /// How many bounds of a slot, the one that holds a value, are not above the value.
    #[inline]
    fn not_above(&self, of_slot: std::ops::Range<usize>, value: T) -> usize {
        match &self.bounds {
            Bounds::Short { grain, bounds } => {
                not_above(bounds.get(of_slot).unwrap_or_default(), &value.short(self.base, *grain))
            }
            Bounds::Long(bounds) => not_above(bounds.get(of_slot).unwrap_or_default(), &value),
        }
    }
}

impl<T: Point> Bounds<T> {
    fn new(bounds: Vec<T>, base: T, shift: u32) -> Self {
        let grain = bounds.iter().map(|bound| bound.trailing_zeros(base)).min().unwrap_or(0);
        if shift.saturating_sub(grain) <= u16::BITS {
            Self::Short { grain, bounds: bounds.into_iter().map(|bound| bound.short(base, grain)).collect() }
        } else {
            Self::Long(bounds.into())
        }
    }
}

/// How many bounds, which are in their order, are not above a value.
#[inline]
fn not_above<V: Copy + Ord>(bounds: &[V], value: &V) -> usize {
    if bounds.len() > FEW {
        return bounds.partition_point(|bound| bound <= value);
    }
    let mut count = 0;
    for bound in bounds {
        count += u16::from(bound <= value);
    }
    count.into()
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
        fn a_large_range_set_is_searched_through_its_directory(gap in 2_u32..50, count in 1_u32..2000, value: u32) {
            let set = RangeSet::new((0..count).map(|n| (n * gap, n * gap)).collect());
            let value = value % (count * gap + 7);
            prop_assert_eq!(set.contains(value), value % gap == 0 && value / gap < count);
        }

        /// Crowds of every size at every distance from each other, as prefixes of IPv6 lie.
        #[test]
        fn ranges_that_crowd_are_found_like_others(
            crowds in proptest::collection::vec((any::<u128>(), 0_u32..128, 1_u128..300), 1..6),
            near in proptest::collection::vec((any::<prop::sample::Index>(), -3_i8..4), 30),
        ) {
            let ranges: Vec<(u128, u128)> = crowds
                .iter()
                .flat_map(|(start, spread, count)| {
                    (0..*count).map(move |n| {
                        let first = (start >> (127 - spread)).saturating_add((n * n) << (spread / 2));
                        (first, first.saturating_add(n % 3))
                    })
                })
                .collect();
            let set = RangeSet::new(ranges.clone());
            for (at, off) in near {
                let value = ranges[at.index(ranges.len())].0.saturating_add_signed(off.into());
                let expected = ranges.iter().any(|(start, end)| (*start..=*end).contains(&value));
                prop_assert_eq!(set.contains(value), expected);
            }
        }
    }

    #[test]
    fn ranges_reach_both_ends_of_a_type() {
        let set = RangeSet::new(vec![(i64::MIN, i64::MIN), (i64::MAX, i64::MAX), (5, i64::MAX)]);
        assert!(set.contains(i64::MIN) && set.contains(i64::MAX) && set.contains(5));
        assert!(!set.contains(4) && !set.contains(i64::MIN + 1));
    }

    #[test]
    fn wide_prefixes_of_ipv6_keep_apart() {
        let wide = 1_u128 << 100;
        let set = RangeSet::new((0..1000).map(|n| (n * 7 * wide, n * 7 * wide + wide - 1)).collect());
        for n in 0..7000 {
            for value in [n * wide, n * wide + wide / 3, (n + 1) * wide - 1] {
                assert_eq!(set.contains(value), n % 7 == 0, "{value:x}");
            }
        }
    }

    #[test]
    fn a_directory_reaches_both_ends_of_a_type() {
        let scattered = (0..100).map(|n| (n * 1_000, n * 1_000));
        let set = RangeSet::new(scattered.chain([(i64::MIN, i64::MIN), (i64::MAX - 1, i64::MAX)]).collect());
        assert!(set.contains(i64::MIN) && set.contains(i64::MAX) && set.contains(99_000));
        assert!(!set.contains(i64::MAX - 2) && !set.contains(i64::MIN + 1) && !set.contains(1));
    }
}
