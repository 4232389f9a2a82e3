//! Room for what an evaluation makes on its way, on the stack as long as it is short.

use std::fmt;

/// As many bytes fit without allocating: host names, e-mail addresses and most paths do.
const INLINE: usize = 256;

/// Bytes that a function makes.
#[derive(Debug)]
pub(crate) struct Buffer {
    length: usize,
    inline: [u8; INLINE],
    /// Holds everything, once the inline room was too small.
    spilled: Vec<u8>,
}

impl Buffer {
    pub(crate) fn new() -> Self {
        Self { length: 0, inline: [0; INLINE], spilled: Vec::new() }
    }

    pub(crate) fn push(&mut self, byte: u8) {
        self.extend(&[byte]);
    }

    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if end <= INLINE {
            self.inline[self.length..end].copy_from_slice(bytes);
        } else {
            if self.length <= INLINE {
                self.spilled.extend_from_slice(&self.inline[..self.length]);
            }
            self.spilled.extend_from_slice(bytes);
        }
        self.length = end;
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        if self.length <= INLINE { &self.inline[..self.length] } else { &self.spilled }
    }
}

impl fmt::Write for Buffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.extend(text.as_bytes());
        Ok(())
    }
}

/// Truths by index, as many as the elements of an array.
#[derive(Debug, Default)]
pub(crate) struct Truths {
    length: usize,
    inline: [u64; 4],
    spilled: Vec<u64>,
}

impl Truths {
    fn word(&mut self, index: usize) -> &mut u64 {
        match index.checked_sub(self.inline.len()) {
            None => &mut self.inline[index],
            Some(beyond) => {
                if self.spilled.len() <= beyond {
                    self.spilled.resize(beyond + 1, 0);
                }
                &mut self.spilled[beyond]
            }
        }
    }

    pub(crate) fn push(&mut self, truth: bool) {
        let at = self.length;
        *self.word(at / 64) |= u64::from(truth) << (at % 64);
        self.length += 1;
    }

    fn get(&self, at: usize) -> bool {
        let word = at / 64;
        let word = self.inline.get(word).or_else(|| self.spilled.get(word.checked_sub(self.inline.len())?));
        word.is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = bool> {
        (0..self.length).map(|at| self.get(at))
    }

    /// Two of these, by index, cut to the shorter (section 5).
    pub(crate) fn zip(&self, other: &Self, combine: impl Fn(bool, bool) -> bool) -> Self {
        let mut combined = Self::default();
        for (a, b) in self.iter().zip(other.iter()) {
            combined.push(combine(a, b));
        }
        combined
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_buffer_holds_what_was_put_in(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..150), 0..6)) {
            let mut buffer = Buffer::new();
            for piece in &pieces {
                buffer.extend(piece);
            }
            prop_assert_eq!(buffer.as_slice(), pieces.concat());
        }

        #[test]
        fn truths_keep_their_order(truths in proptest::collection::vec(any::<bool>(), 0..700)) {
            let mut kept = Truths::default();
            for truth in &truths {
                kept.push(*truth);
            }
            prop_assert_eq!(kept.iter().collect::<Vec<_>>(), truths);
        }
    }
}
