//! Writing: one segment, appended to a buffer that may hold other bytes before it.

use bytes::{BufMut, BytesMut};

use super::{MAX_LIST_BITS, WORD};

/// A message that would be larger than its reader accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message is larger than its reader accepts ({limit} bytes)")]
pub struct EncodeError {
    /// The limit, in bytes.
    pub limit: usize,
}

/// Writes one message at the end of a buffer.
#[derive(Debug)]
pub struct Builder<'b> {
    out: &'b mut BytesMut,
    /// Where in the buffer the segment table begins.
    start: usize,
    limit: usize,
    /// Something did not fit: `finish` says so, and what was written is taken back.
    overflow: bool,
}

/// A struct being written: a place in the builder that made it.
#[derive(Debug, Clone, Copy)]
pub struct StructAt {
    at: usize,
    data: usize,
    pointers: usize,
}

/// A list of structs being written.
#[derive(Debug, Clone, Copy)]
pub struct StructListAt {
    at: usize,
    data: usize,
    pointers: usize,
    count: usize,
}

impl StructListAt {
    /// The places of the structs, in order.
    pub fn iter(self) -> impl Iterator<Item = StructAt> {
        (0..self.count).map(move |index| StructAt {
            at: self.at + index * (self.data + self.pointers) * WORD,
            data: self.data,
            pointers: self.pointers,
        })
    }
}

impl<'b> Builder<'b> {
    /// Starts a message of at most `limit` bytes whose root has `data` words and `pointers` pointers.
    pub fn new(out: &'b mut BytesMut, limit: usize, data: u16, pointers: u16) -> (Self, StructAt) {
        let start = out.len();
        let mut builder = Self { out, start, limit, overflow: false };
        // The segment table of one segment, then the root pointer.
        builder.out.put_bytes(0, 2 * WORD);
        let root = builder.structure_at(start + WORD, data, pointers);
        (builder, root)
    }

    /// Ends the message.
    ///
    /// # Errors
    /// It is larger than its limit; the buffer is then as it was before.
    pub fn finish(self) -> Result<(), EncodeError> {
        let segment = self.out.len() - self.start - WORD;
        let words =
            u32::try_from(segment / WORD).ok().filter(|_| segment + WORD <= self.limit && !self.overflow);
        let Some(words) = words else {
            self.out.truncate(self.start);
            return Err(EncodeError { limit: self.limit });
        };
        self.out[self.start + 4..self.start + 8].copy_from_slice(&words.to_le_bytes());
        Ok(())
    }

    /// Sets the bit `bit` of the data section.
    pub fn set_bool(&mut self, of: StructAt, bit: usize, value: bool) {
        debug_assert!(bit / 8 < of.data * WORD, "the field is inside the struct");
        let byte = &mut self.out[of.at + bit / 8];
        *byte = *byte & !(1 << (bit % 8)) | u8::from(value) << (bit % 8);
    }

    /// Writes a number at `offset` bytes of the data section, little endian.
    pub fn set<const N: usize>(&mut self, of: StructAt, offset: usize, value: [u8; N]) {
        debug_assert!(offset + N <= of.data * WORD, "the field is inside the struct");
        self.out[of.at + offset..of.at + offset + N].copy_from_slice(&value);
    }

    /// Puts a struct behind pointer `index`.
    pub fn structure(&mut self, of: StructAt, index: usize, data: u16, pointers: u16) -> StructAt {
        self.structure_at(pointer(of, index), data, pointers)
    }

    /// Puts a list of `count` structs behind pointer `index`.
    pub fn structs(
        &mut self,
        of: StructAt,
        index: usize,
        count: usize,
        data: u16,
        pointers: u16,
    ) -> StructListAt {
        let words = count.saturating_mul(usize::from(data) + usize::from(pointers));
        let list = self.list(pointer(of, index), 7, words, words.saturating_add(1));
        let tag = u64::try_from(count).unwrap_or(u64::MAX) << 2 | size_tag(data, pointers);
        let (data, pointers) = (data.into(), pointers.into());
        let Some(at) = list else { return StructListAt { at: 0, data, pointers, count: 0 } };
        self.out[at..at + WORD].copy_from_slice(&tag.to_le_bytes());
        StructListAt { at: at + WORD, data, pointers, count }
    }

    /// Puts a text behind pointer `index`.
    pub fn text(&mut self, of: StructAt, index: usize, text: impl AsRef<[u8]>) {
        self.text_at(pointer(of, index), text.as_ref());
    }

    /// Puts bytes behind pointer `index`.
    pub fn data(&mut self, of: StructAt, index: usize, data: &[u8]) {
        if let Some(at) = self.list(pointer(of, index), 2, data.len(), data.len().div_ceil(WORD)) {
            self.out[at..at + data.len()].copy_from_slice(data);
        }
    }

    /// Puts a list of texts behind pointer `index`.
    pub fn texts<T: AsRef<[u8]>>(&mut self, of: StructAt, index: usize, texts: &[T]) {
        let Some(at) = self.list(pointer(of, index), 6, texts.len(), texts.len()) else { return };
        for (position, text) in texts.iter().enumerate() {
            self.text_at(at + position * WORD, text.as_ref());
        }
    }

    /// Puts capability `capability` of the table behind pointer `index`.
    pub fn capability(&mut self, of: StructAt, index: usize, capability: u32) {
        let at = pointer(of, index);
        self.out[at..at + WORD].copy_from_slice(&(u64::from(capability) << 32 | 3).to_le_bytes());
    }

    /// Puts the root of another message's only segment behind pointer `index`: offsets inside it stay what they are.
    pub fn embed(&mut self, of: StructAt, index: usize, segment: &[u8]) {
        let Some((root, _)) = segment.split_first_chunk::<WORD>() else { return };
        let root = u64::from_le_bytes(*root);
        let [a, b, c, d, ..] = root.to_le_bytes();
        let offset = i64::from(i32::from_le_bytes([a, b, c, d]) >> 2);
        let from = pointer(of, index);
        let Some(at) = self.alloc(segment.len() / WORD) else { return };
        self.out[at..at + segment.len()].copy_from_slice(segment);
        let base = i64::try_from((at - from) / WORD).unwrap_or(i64::MAX);
        let moved = base.saturating_add(offset).cast_unsigned() << 2 & 0xffff_ffff;
        let value = root & !0xffff_fffc | moved;
        self.out[from..from + WORD].copy_from_slice(&value.to_le_bytes());
    }

    fn text_at(&mut self, pointer: usize, text: &[u8]) {
        if let Some(at) = self.list(pointer, 2, text.len() + 1, (text.len() + 1).div_ceil(WORD)) {
            self.out[at..at + text.len()].copy_from_slice(text);
        }
    }

    fn structure_at(&mut self, pointer: usize, data: u16, pointers: u16) -> StructAt {
        let words = usize::from(data) + usize::from(pointers);
        let size = size_tag(data, pointers);
        let (data, pointers) = (data.into(), pointers.into());
        if words == 0 {
            // An empty struct has nowhere to be: its offset is -1, so that its pointer is not null.
            self.out[pointer..pointer + WORD].copy_from_slice(&0xffff_fffc_u64.to_le_bytes());
            return StructAt { at: pointer, data, pointers };
        }
        let at = self.out.len();
        self.out.put_bytes(0, words * WORD);
        self.point(pointer, at, size);
        StructAt { at, data, pointers }
    }

    /// Makes room for a list and points to it; `None` if it does not fit.
    fn list(&mut self, pointer: usize, code: u64, elements: usize, words: usize) -> Option<usize> {
        let count = u64::try_from(elements).ok().filter(|_| elements <= MAX_LIST_BITS);
        let Some(count) = count else {
            self.overflow = true;
            return None;
        };
        let at = self.alloc(words)?;
        self.point(pointer, at, count << 35 | code << 32 | 1);
        Some(at)
    }

    /// Adds words of zeros, unless that is beyond the limit.
    fn alloc(&mut self, words: usize) -> Option<usize> {
        let at = self.out.len();
        let end = words.checked_mul(WORD).and_then(|bytes| bytes.checked_add(at - self.start));
        if end.is_none_or(|end| end > self.limit) {
            self.overflow = true;
            return None;
        }
        self.out.put_bytes(0, words * WORD);
        Some(at)
    }

    /// Writes a pointer in `from` to `to`, which is behind it.
    fn point(&mut self, from: usize, to: usize, tag: u64) {
        let offset = u64::try_from((to - from) / WORD - 1).unwrap_or(u64::MAX);
        self.out[from..from + WORD].copy_from_slice(&(tag | (offset << 2 & 0xffff_ffff)).to_le_bytes());
    }
}

fn pointer(of: StructAt, index: usize) -> usize {
    debug_assert!(index < of.pointers, "the field is inside the struct");
    of.at + (of.data + index) * WORD
}

/// The size of a struct in the high half of its pointer.
fn size_tag(data: u16, pointers: u16) -> u64 {
    u64::from(data) << 32 | u64::from(pointers) << 48
}
