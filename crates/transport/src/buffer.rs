//! A buffer to read into that grows with the traffic and lets an idle flow be small.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};

use crate::CHUNK_BYTES;

/// Where a reader's next bytes go.
///
/// Its size follows the reads: one that fills it makes the next one four times as large, up to [`CHUNK_BYTES`]; one that
/// uses little of it makes it small again. Chunks share one allocation until it is used up, and when all of them are
/// dropped by then, the same memory is used anew. All buffers of a process together grow by at most [`BUDGET_BYTES`]: a
/// thousand flows whose readers are slower than their writers hold no thousand of the largest chunks.
#[derive(Debug)]
pub struct ReadBuffer {
    bytes: BytesMut,
    size: usize,
}

impl Default for ReadBuffer {
    fn default() -> Self {
        Self { bytes: BytesMut::new(), size: SMALLEST_BYTES }
    }
}

/// What the buffers of one process may have beyond their smallest size, in bytes.
pub const BUDGET_BYTES: usize = 24 << 20;

/// What they have.
static GROWN_BYTES: AtomicUsize = AtomicUsize::new(0);

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        GROWN_BYTES.fetch_sub(self.size - SMALLEST_BYTES, Ordering::Relaxed);
    }
}

impl ReadBuffer {
    /// Room for the next read, at least 2 KiB.
    pub fn space(&mut self) -> &mut BytesMut {
        if self.bytes.capacity() - self.bytes.len() < self.size {
            self.bytes.reserve(self.size);
        }
        &mut self.bytes
    }

    /// Takes what was read into [`space`](Self::space).
    pub fn take(&mut self) -> Bytes {
        let chunk = self.bytes.split().freeze();
        if chunk.len() >= self.size {
            self.resize((self.size * 4).min(CHUNK_BYTES));
        } else if chunk.len() < self.size / 16 && self.size > SMALLEST_BYTES {
            self.resize((self.size / 4).max(SMALLEST_BYTES));
            if self.size == SMALLEST_BYTES {
                self.bytes = BytesMut::new();
            }
        }
        chunk
    }

    /// Takes another size, unless all buffers together would be too large.
    fn resize(&mut self, size: usize) {
        if size > self.size {
            let more = size - self.size;
            if GROWN_BYTES.fetch_add(more, Ordering::Relaxed) + more > BUDGET_BYTES {
                GROWN_BYTES.fetch_sub(more, Ordering::Relaxed);
                return;
            }
        } else {
            GROWN_BYTES.fetch_sub(self.size - size, Ordering::Relaxed);
        }
        self.size = size;
    }
}

/// What an idle flow holds.
const SMALLEST_BYTES: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(buffer: &mut ReadBuffer, available: usize) -> usize {
        let space = buffer.space();
        let length = available.min(space.capacity() - space.len());
        space.extend_from_slice(&vec![7; length]);
        buffer.take().len()
    }

    #[test]
    fn all_buffers_together_grow_no_further_than_they_may() {
        let mut buffers: Vec<_> = (0..200).map(|_| ReadBuffer::default()).collect();
        for buffer in &mut buffers {
            for _ in 0..4 {
                read(buffer, 1 << 20);
            }
        }
        let grown =
            |buffers: &[ReadBuffer]| buffers.iter().map(|buffer| buffer.size - SMALLEST_BYTES).sum::<usize>();
        assert!(grown(&buffers) <= BUDGET_BYTES, "{}", grown(&buffers));
        assert!(buffers.last().unwrap().size < CHUNK_BYTES, "the last ones stay small");
        drop(buffers);
        let mut next = ReadBuffer::default();
        assert!((0..8).map(|_| read(&mut next, 1 << 20)).max() >= Some(CHUNK_BYTES), "room again");
    }

    #[test]
    fn it_grows_under_load_and_shrinks_when_idle() {
        let mut buffer = ReadBuffer::default();
        assert!(read(&mut buffer, 1 << 20) < 16 << 10);
        let largest = (0..8).map(|_| read(&mut buffer, 1 << 20)).max();
        assert!(largest >= Some(CHUNK_BYTES), "{largest:?}");
        for _ in 0..8 {
            assert_eq!(read(&mut buffer, 10), 10);
        }
        assert!(buffer.bytes.capacity() <= 2 * SMALLEST_BYTES, "{}", buffer.bytes.capacity());
    }
}
