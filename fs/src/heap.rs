//! Giving memory back that large requests took.

/// Has the allocator give freed memory back to the system. glibc keeps what threads have freed
/// (malloc_trim(3)); other allocators see to it by themselves.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and only releases pages that nothing is allocated in.
    unsafe {
        libc::malloc_trim(0);
    }
}
