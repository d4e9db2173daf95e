//! Keeping a server in the background from holding what its starter had open.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Marks every descriptor but standard input, output and error to be closed by
/// programs that this process starts: a shell's own pipes, a build's job server.
pub fn close_on_exec() -> io::Result<()> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|n| n.parse::<RawFd>().ok()) else {
            continue;
        };
        if number > 2 {
            // SAFETY: the number was just listed as open, and only flags are touched; should another
            // thread have closed it since, the call fails with EBADF.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            if let Ok(flags) = fcntl_getfd(descriptor) {
                fcntl_setfd(descriptor, flags | FdFlags::CLOEXEC)?;
            }
        }
    }
    Ok(())
}
