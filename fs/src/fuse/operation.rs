//! How many requests of each kind were answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted. Forgets are not: nobody waits for them.
const KINDS: [&str; 13] = [
    "lookup",
    "getattr",
    "open",
    "read",
    "release",
    "flush",
    "opendir",
    "readdir",
    "releasedir",
    "readlink",
    "getxattr",
    "listxattr",
    "statfs",
];

/// Counts since the worker started.
#[derive(Default)]
pub(crate) struct Requests([AtomicU64; KINDS.len()]);

impl Requests {
    pub(crate) fn count(&self, kind: &str) {
        let mut counts = KINDS.iter().zip(&self.0);
        if let Some((_, count)) = counts.find(|(known, _)| **known == kind) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counts of what was asked for at all.
    pub(crate) fn by_kind(&self) -> BTreeMap<&'static str, u64> {
        let counts = KINDS.iter().zip(&self.0).map(|(kind, n)| (*kind, n.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}
