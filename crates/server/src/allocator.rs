//! What glibc's allocator is told: to give large blocks back.

/// From this size on a block is mapped by itself, and unmapped when it is freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES_MIN: libc::c_int = 4 * 1024 * 1024;

/// Called once, before there are threads. Without it glibc maps only blocks larger than the largest that was ever freed
/// (`mallopt(3)`, `M_MMAP_THRESHOLD`), so that the memory of the first password hash would never go back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "no crate wraps mallopt(3); it takes two numbers and there is one thread")]
pub(crate) fn give_large_blocks_back() {
    // Safety: no other thread runs yet, and the call has no other conditions. Where it is refused, more memory is kept.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN) };
}

/// Other allocators have other habits.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn give_large_blocks_back() {}
