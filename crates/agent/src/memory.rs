//! What the data path asks of the C library and the kernel about memory: idle flows cost little, chunks are recycled.

/// Free memory that the allocator keeps, in bytes: what a few bulk flows have on their way.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: libc::c_int = 32 << 20;
/// Smallest allocation that comes fresh from the kernel, in bytes.
#[cfg(target_env = "gnu")]
const FRESH_BYTES: libc::c_int = 1 << 20;

/// Sets the C library's allocator to what the data path does with memory.
///
/// Every flow has two buffers of a megabyte, mostly never touched: those come fresh from the kernel and go back to it, as
/// long as the allocator does not learn (by the first of them being freed) to recycle them, which means to clear them
/// whole. Chunks on their way are smaller and follow each other all the time: those are recycled, as long as the
/// allocator does not give its free memory back at once, which costs a page fault for every 4 KiB carried.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "settings of the allocator")]
pub fn tune_allocator() {
    for (parameter, value) in [(libc::M_MMAP_THRESHOLD, FRESH_BYTES), (libc::M_TRIM_THRESHOLD, KEPT_BYTES)] {
        // SAFETY: mallopt may be called at any time; it takes the allocator's own lock.
        if unsafe { libc::mallopt(parameter, value) } == 0 {
            tracing::debug!(parameter, value, "the allocator keeps its own setting");
        }
    }
}

/// Other C libraries have no such settings.
#[cfg(not(target_env = "gnu"))]
pub fn tune_allocator() {}

/// Keeps the kernel from giving a whole huge page, 2 MiB, to each flow's first byte.
#[expect(unsafe_code, reason = "a setting of this process")]
pub(crate) fn avoid_huge_pages() {
    // SAFETY: this option takes numbers only, and changes nothing in memory that exists.
    if unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) } != 0 {
        tracing::debug!("the kernel keeps its own setting of huge pages");
    }
}

#[cfg(test)]
mod tests {
    /// The largest buffers must stay above the threshold, or they are cleared whole for every flow.
    #[test]
    #[cfg(target_env = "gnu")]
    fn a_flows_buffers_come_fresh_from_the_kernel() {
        let config = adit_netstack::Config::default();
        for buffer in [config.receive_buffer, config.send_buffer] {
            assert!(buffer >= usize::try_from(super::FRESH_BYTES).unwrap());
        }
    }
}
