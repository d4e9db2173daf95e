//! Sizes of what is in memory, and of what is on the disk.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("wasmfs needs a machine with 64-bit addresses");

/// A number of bytes on the disk as one in memory: there is none that doesn't fit.
#[expect(clippy::cast_possible_truncation, reason = "addresses have 64 bits, see above")]
#[must_use]
pub(crate) const fn in_memory(size: u64) -> usize {
    size as usize
}
