//! Large pages for memory files.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

/// A large page, in bytes.
const LARGE_PAGE: usize = 2 << 20;

/// Has the kernel collapse the pages of a memory file into large ones, as far as they fill any:
/// hosts that map it are then given many at once (MADV_COLLAPSE, Linux 6.1). Where the kernel
/// can't, or has none to give, everything stays as it is.
pub(crate) fn collapse(file: &File, len: u64) {
    let whole = usize::try_from(len).unwrap_or(0) / LARGE_PAGE * LARGE_PAGE;
    if whole > 0
        && let Err(e) = try_collapse(file, whole)
    {
        log::debug!("no large pages for a memory file: {e}");
    }
}

fn try_collapse(file: &File, whole: usize) -> io::Result<()> {
    let reserved = whole + LARGE_PAGE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: new addresses, which nothing refers to; what they are is taken away below.
    let start = unsafe { libc::mmap(ptr::null_mut(), reserved, libc::PROT_NONE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let aligned = start.wrapping_add(start.align_offset(LARGE_PAGE));
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    // SAFETY: the addresses lie within those just reserved: at most LARGE_PAGE - 1 bytes are
    // skipped.
    let mapped = unsafe { libc::mmap(aligned, whole, libc::PROT_READ, flags, file.as_raw_fd(), 0) };
    let collapsed = if mapped == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        // SAFETY: it moves pages of the mapping, and changes no byte of it.
        match unsafe { libc::madvise(mapped, whole, libc::MADV_COLLAPSE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: they were reserved above, and nothing refers to them.
    unsafe { libc::munmap(start, reserved) };
    collapsed
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    #[test]
    fn no_byte_changes() {
        let mut file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        let bytes: Vec<u8> = (0..3 * LARGE_PAGE + 5000).map(|n| (n % 251) as u8).collect();
        file.write_all(&bytes).unwrap();
        collapse(&file, bytes.len() as u64);
        let mut read = vec![0; bytes.len()];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read == bytes);
        collapse(&file, 100);
    }
}
