//! Which descriptors a process or a thread holds, and for how long.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use rustix::io::{FdFlags, close, fcntl_getfd, fcntl_setfd};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Marks every descriptor but standard input, output and error to be closed by
/// programs that this process starts: a shell's own pipes, a build's job server.
pub fn close_on_exec() -> io::Result<()> {
    for number in open_numbers()? {
        if number > 2 {
            // SAFETY: the number was just listed as open, and only flags are touched; should
            // another thread have closed it since, the call fails with EBADF.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            if let Ok(flags) = fcntl_getfd(descriptor) {
                fcntl_setfd(descriptor, flags | FdFlags::CLOEXEC)?;
            }
        }
    }
    Ok(())
}

/// Gives the calling thread descriptors of its own: standard input, output and
/// error, and `kept`. It must not use any other, nor open what outlives it.
pub(crate) fn keep_only(kept: &[RawFd]) -> io::Result<()> {
    // SAFETY: the thread's table is a copy from here on; the caller uses none of its numbers but
    // those kept, which stay what they are.
    unsafe { unshare_unsafe(UnshareFlags::FILES) }?;
    for number in open_numbers()? {
        if number > 2 && !kept.contains(&number) {
            // SAFETY: this closes the number in this thread's own table only, where nobody uses it;
            // whoever owns it in the process's table still does.
            unsafe { close(number) };
        }
    }
    Ok(())
}

/// The numbers that are open in the calling thread's table.
fn open_numbers() -> io::Result<Vec<RawFd>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir("/proc/thread-self/fd")? {
        numbers.extend(entry?.file_name().to_str().and_then(|n| n.parse::<RawFd>().ok()));
    }
    Ok(numbers)
}
