//! Giving back memory: a keeper waits, and needs next to nothing for that.

use std::ffi::c_void;
use std::fs;

use rustix::mm::{Advice, madvise};

/// Has the kernel take the pages of this program that were needed to start it
/// out of memory. What is needed again comes back from the file by itself.
pub(super) fn shed() {
    // It only saves memory: without /proc, or with another format, nothing is given back.
    let Ok(smaps) = fs::read_to_string("/proc/self/smaps") else { return };
    let mut mapping = None;
    for line in smaps.lines() {
        let mut fields = line.split_ascii_whitespace();
        match fields.next() {
            Some(range) if range.contains('-') => mapping = file_mapping(range, fields),
            Some("Anonymous:") if fields.next() == Some("0") => {
                if let Some((start, length)) = mapping.take() {
                    // SAFETY: the range is a read-only private mapping of a file without a page of
                    // its own ("Anonymous: 0"; relocated pages are such), so that dropping its
                    // pages leaves what is read there as it is. Only this thread maps or unmaps.
                    let _ = unsafe { madvise(start as *mut c_void, length, Advice::LinuxDontNeed) };
                }
            }
            _ => {}
        }
    }
}

/// The start and length of a read-only private mapping of a file (proc_pid_smaps(5)).
fn file_mapping<'a>(
    range: &str,
    mut rest: impl Iterator<Item = &'a str>,
) -> Option<(usize, usize)> {
    let permissions = rest.next()?;
    let inode = rest.nth(2)?;
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    (matches!(permissions, "r--p" | "r-xp") && inode != "0").then(|| (start, end - start))
}
