//! Fragments become packets again.
//!
//! The local kernel cuts what is longer than the interface's MTU: a UDP datagram or an echo request of up to 64 KiB. Its
//! pieces come one right after the other, so a packet that is not whole after a moment will never be.
//!
//! What always holds: at most [`MAX_PACKETS`] packets of at most 64 KiB each are kept, and pieces that overlap spoil their
//! packet (*RFC 5722*). What it does not do: packets whose first piece is not the whole IP header.

use std::time::{Duration, Instant};

use crate::packet::{Fragment, FragmentId, fold, sum};

/// Packets that may be incomplete at once: a few programs that send large datagrams, 4 MiB in all.
const MAX_PACKETS: usize = 64;
/// How long a packet may be incomplete. *RFC 791 § 3.2* and *RFC 8200 § 4.5* think of the Internet; here nothing is in between.
const PATIENCE: Duration = Duration::from_secs(2);
/// Gaps that a packet may have at once, plus one: the pieces come in order.
const MAX_RANGES: usize = 64;

/// Packets of which not every piece has come yet.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    /// In the order of their first pieces.
    partial: Vec<Partial>,
}

#[derive(Debug)]
struct Partial {
    id: FragmentId,
    deadline: Instant,
    /// Of the piece at offset 0.
    header: Option<Vec<u8>>,
    payload: Vec<u8>,
    /// What of the payload has come: sorted, apart.
    ranges: Vec<(usize, usize)>,
    /// Known once the last piece has come.
    length: Option<usize>,
}

/// A piece that does not belong to any possible packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Misfit;

impl Reassembly {
    /// Takes a piece, and gives the packet that it completes.
    pub(crate) fn handle(
        &mut self,
        fragment: &Fragment<'_>,
        now: Instant,
    ) -> Result<Option<Vec<u8>>, Misfit> {
        let at = match self.partial.iter().position(|partial| partial.id == fragment.id) {
            Some(at) => at,
            None => self.begin(fragment.id, now),
        };
        match self.partial[at].add(fragment) {
            Ok(false) => Ok(None),
            Ok(true) => Ok(self.partial.remove(at).finish()),
            Err(misfit) => {
                self.partial.remove(at);
                Err(misfit)
            }
        }
    }

    fn begin(&mut self, id: FragmentId, now: Instant) -> usize {
        if self.partial.len() == MAX_PACKETS {
            self.partial.remove(0);
        }
        self.partial.push(Partial {
            id,
            deadline: now + PATIENCE,
            header: None,
            payload: Vec::new(),
            ranges: Vec::new(),
            length: None,
        });
        self.partial.len() - 1
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.partial.first().map(|partial| partial.deadline)
    }

    /// Forgets what did not become whole in time.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.partial.retain(|partial| partial.deadline > now);
    }
}

impl Partial {
    /// True if the packet is whole now.
    fn add(&mut self, fragment: &Fragment<'_>) -> Result<bool, Misfit> {
        let (begin, end) = (fragment.offset, fragment.offset + fragment.payload.len());
        let fits = end <= room(fragment) && self.length.is_none_or(|length| end <= length);
        // Every piece but the last ends at a multiple of 8.
        if !fits || (fragment.more && (end % 8 != 0 || begin == end)) {
            return Err(Misfit);
        }
        if !fragment.more {
            let beyond = self.ranges.last().is_some_and(|&(_, last)| last > end);
            if beyond || self.length.is_some_and(|length| length != end) {
                return Err(Misfit);
            }
            self.length = Some(end);
        }
        self.insert(begin, end)?;
        if self.payload.len() < end {
            self.payload.resize(end, 0);
        }
        self.payload[begin..end].copy_from_slice(fragment.payload);
        if begin == 0 {
            self.header = Some(fragment.header.to_vec());
        }
        let whole = self.length.is_some_and(|length| self.ranges == [(0, length)]);
        Ok(whole && self.header.is_some())
    }

    fn insert(&mut self, begin: usize, end: usize) -> Result<(), Misfit> {
        let at = self.ranges.partition_point(|&(_, other_end)| other_end <= begin);
        if self.ranges.get(at).is_some_and(|&(other_begin, _)| other_begin < end) {
            return Err(Misfit);
        }
        let joins_left = at > 0 && self.ranges[at - 1].1 == begin;
        let joins_right = self.ranges.get(at).is_some_and(|&(other_begin, _)| other_begin == end);
        match (joins_left, joins_right) {
            (true, true) => {
                self.ranges[at - 1].1 = self.ranges[at].1;
                self.ranges.remove(at);
            }
            (true, false) => self.ranges[at - 1].1 = end,
            (false, true) => self.ranges[at].0 = begin,
            (false, false) if self.ranges.len() < MAX_RANGES => self.ranges.insert(at, (begin, end)),
            (false, false) => return Err(Misfit),
        }
        Ok(())
    }

    /// The packet, as if it had never been cut.
    fn finish(self) -> Option<Vec<u8>> {
        let mut packet = self.header?;
        let header_len = packet.len();
        if packet[0] >> 4 == 4 {
            let total = u16::try_from(header_len + self.payload.len()).ok()?;
            packet[2..4].copy_from_slice(&total.to_be_bytes());
            packet[6..8].fill(0);
            packet[10..12].fill(0);
            let checksum = !fold(sum(&packet));
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            let length = u16::try_from(self.payload.len()).ok()?;
            packet[4..6].copy_from_slice(&length.to_be_bytes());
            packet[6] = self.id.protocol;
        }
        packet.extend_from_slice(&self.payload);
        Some(packet)
    }
}

/// Longest payload that the packet of this piece can have.
fn room(fragment: &Fragment<'_>) -> usize {
    match fragment.header.first().map(|byte| byte >> 4) {
        Some(4) => usize::from(u16::MAX) - fragment.header.len(),
        _ => usize::from(u16::MAX),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::packet::{Packet, Parsed};
    use proptest::prelude::*;

    const V4_HEADER: [u8; 20] =
        [0x45, 0, 0, 0, 0xab, 0xcd, 0, 0, 64, 17, 0, 0, 100, 96, 0, 2, 198, 51, 100, 101];

    /// The pieces of a packet with this payload, `step` bytes each, as the kernel cuts it.
    fn pieces(payload: &[u8], step: usize, v4: bool) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        let mut offset = 0;
        while offset < payload.len() {
            let end = (offset + step).min(payload.len());
            let more = end < payload.len();
            let field = u16::try_from(offset).unwrap() | if v4 { 0 } else { u16::from(more) };
            let mut packet;
            if v4 {
                packet = V4_HEADER.to_vec();
                packet[2..4].copy_from_slice(&u16::try_from(20 + end - offset).unwrap().to_be_bytes());
                packet[6..8].copy_from_slice(&((field / 8) | (u16::from(more) << 13)).to_be_bytes());
            } else {
                packet = vec![0x60, 0, 0, 0, 0, 0, 44, 64];
                packet[4..6].copy_from_slice(&u16::try_from(8 + end - offset).unwrap().to_be_bytes());
                packet.extend_from_slice(&[0xfd; 32]);
                packet.extend_from_slice(&[17, 0]);
                packet.extend_from_slice(&field.to_be_bytes());
                packet.extend_from_slice(&[0, 0, 0xab, 0xcd]);
            }
            packet.extend_from_slice(&payload[offset..end]);
            pieces.push(packet);
            offset = end;
        }
        pieces
    }

    fn handle(reassembly: &mut Reassembly, piece: &[u8], now: Instant) -> Result<Option<Vec<u8>>, Misfit> {
        let Ok(Parsed::Fragment(fragment)) = Packet::parse(piece) else { panic!("a fragment") };
        reassembly.handle(&fragment, now)
    }

    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_reassembled_packet_looks_as_if_it_had_not_been_cut() {
        let (mut reassembly, now) = (Reassembly::default(), start());
        let pieces = pieces(&[7; 20], 16, true);
        assert_eq!(handle(&mut reassembly, &pieces[0], now), Ok(None));
        let packet = handle(&mut reassembly, &pieces[1], now).unwrap().unwrap();
        let mut expected = V4_HEADER.to_vec();
        expected[3] = 40;
        expected[10..12].copy_from_slice(&[0x3f, 0xfd]);
        expected.extend_from_slice(&[7; 20]);
        assert_eq!(packet, expected);
        assert_eq!(reassembly.poll_timeout(), None);
    }

    #[test]
    fn what_overlaps_or_sticks_out_spoils_its_packet() {
        let (mut reassembly, now) = (Reassembly::default(), start());
        let ours = pieces(&[7; 40], 16, true);
        for spoiler in [
            // The same piece twice; one that ends elsewhere; one beyond the end; one that is not of whole eights.
            ours[0].clone(),
            pieces(&[7; 24], 24, true).remove(0),
            pieces(&[7; 60], 48, true).remove(1),
            pieces(&[7; 40], 12, true).remove(0),
        ] {
            handle(&mut reassembly, &ours[0], now).unwrap();
            handle(&mut reassembly, &ours[2], now).unwrap();
            if let Ok(Parsed::Fragment(fragment)) = Packet::parse(&spoiler) {
                assert_eq!(reassembly.handle(&fragment, now), Err(Misfit));
                assert_eq!(reassembly.poll_timeout(), None);
            }
            reassembly = Reassembly::default();
        }
    }

    #[test]
    fn what_stays_incomplete_is_forgotten() {
        let (mut reassembly, now) = (Reassembly::default(), start());
        let pieces = pieces(&[7; 40], 16, false);
        handle(&mut reassembly, &pieces[0], now).unwrap();
        reassembly.handle_timeout(now + PATIENCE / 2);
        assert_eq!(reassembly.poll_timeout(), Some(now + PATIENCE));
        reassembly.handle_timeout(now + PATIENCE);
        assert_eq!(reassembly.poll_timeout(), None);
        for number in 0..1000_u16 {
            let mut piece = pieces[0].clone();
            piece[44..46].copy_from_slice(&number.to_be_bytes());
            assert_eq!(handle(&mut reassembly, &piece, now), Ok(None));
            assert!(reassembly.partial.len() <= MAX_PACKETS);
        }
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_become_their_packet(
            payload in proptest::collection::vec(any::<u8>(), 9..3000),
            step in 1_usize..100,
            order in any::<prop::sample::Index>(),
            v4 in any::<bool>(),
        ) {
            let (mut reassembly, now) = (Reassembly::default(), start());
            let step = (step * 8).min(payload.len().saturating_sub(1) / 8 * 8).max(payload.len() / 50 / 8 * 8 + 8);
            let mut pieces = pieces(&payload, step, v4);
            prop_assume!(pieces.len() > 1);
            let turn = order.index(pieces.len());
            pieces.rotate_left(turn);
            let last = pieces.pop().unwrap();
            for piece in &pieces {
                prop_assert_eq!(handle(&mut reassembly, piece, now), Ok(None));
            }
            let packet = handle(&mut reassembly, &last, now).unwrap().unwrap();
            let whole = Packet::whole(&packet).unwrap();
            prop_assert_eq!(whole.payload(), &payload[..]);
            prop_assert_eq!(whole.protocol, 17);
        }
    }
}
