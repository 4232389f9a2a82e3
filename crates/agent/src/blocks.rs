//! What the edge tells of blocks: each is told of once a while, and the last few are kept for whoever asks.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use adit_model::RuleId;
use adit_wire::device::Block;

/// For how long the same block of the same destination is not told of again (Gateway semantics, 5.2).
const SAME: Duration = Duration::from_mins(1);
/// How many are remembered; beyond that the oldest may be told of again.
const MAX_REMEMBERED: usize = 256;
/// How many are kept.
const MAX_KEPT: usize = 20;

/// What was told of lately.
#[derive(Debug, Default)]
pub(crate) struct Blocks(HashMap<(RuleId, String), Instant>);

impl Blocks {
    /// Whether it is to be told of; then it is remembered.
    pub(crate) fn is_new(&mut self, block: &Block, now: Instant) -> bool {
        self.0.retain(|_, told| now.saturating_duration_since(*told) < SAME);
        if self.0.len() >= MAX_REMEMBERED {
            self.0.clear();
        }
        let mut is_new = false;
        self.0.entry((block.rule, block.destination.clone())).or_insert_with(|| {
            is_new = true;
            now
        });
        is_new
    }
}

/// Puts it before the others.
pub(crate) fn keep(kept: &mut Vec<Block>, block: Block) {
    kept.truncate(MAX_KEPT - 1);
    kept.insert(0, block);
}

#[cfg(test)]
mod tests {
    use adit_model::Filter;
    use uuid::Uuid;

    use super::*;

    fn block(rule: u128, destination: &str) -> Block {
        Block {
            rule: RuleId::from_uuid(Uuid::from_u128(rule)),
            name: "no".into(),
            layer: Filter::L4,
            destination: destination.into(),
            message: String::new(),
            support_url: None,
            at: 0,
        }
    }

    #[test]
    fn the_same_block_is_told_of_once_a_minute() {
        let (mut blocks, now) = (Blocks::default(), Instant::now());
        let seconds = |seconds| now + Duration::from_secs(seconds);
        assert!(blocks.is_new(&block(1, "a"), now) && blocks.is_new(&block(1, "b"), now));
        assert!(blocks.is_new(&block(2, "a"), now), "another rule's is another");
        assert!(!blocks.is_new(&block(1, "a"), seconds(59)));
        assert!(blocks.is_new(&block(1, "a"), seconds(61)), "what was not told does not count");
    }

    #[test]
    fn the_newest_stand_first_and_no_more_are_kept_than_can_be_read() {
        let mut kept = Vec::new();
        (0..100).for_each(|rule| keep(&mut kept, block(rule, "a")));
        assert_eq!(kept.len(), MAX_KEPT);
        assert_eq!(kept[0], block(99, "a"));
    }
}
