//! The operations that the kernel asks for, and how many of each were answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted. Forgets are not: nobody waits for them. Nor is what a read-only disk refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Lookup,
    Getattr,
    Open,
    Read,
    Release,
    Flush,
    Opendir,
    Readdir,
    Releasedir,
    Readlink,
    Getxattr,
    Listxattr,
    Statfs,
}

impl Operation {
    const ALL: [Operation; 13] = [
        Operation::Lookup,
        Operation::Getattr,
        Operation::Open,
        Operation::Read,
        Operation::Release,
        Operation::Flush,
        Operation::Opendir,
        Operation::Readdir,
        Operation::Releasedir,
        Operation::Readlink,
        Operation::Getxattr,
        Operation::Listxattr,
        Operation::Statfs,
    ];

    /// Its name, as `status` shows it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Lookup => "lookup",
            Operation::Getattr => "getattr",
            Operation::Open => "open",
            Operation::Read => "read",
            Operation::Release => "release",
            Operation::Flush => "flush",
            Operation::Opendir => "opendir",
            Operation::Readdir => "readdir",
            Operation::Releasedir => "releasedir",
            Operation::Readlink => "readlink",
            Operation::Getxattr => "getxattr",
            Operation::Listxattr => "listxattr",
            Operation::Statfs => "statfs",
        }
    }
}

/// Counts of requests since the worker started.
#[derive(Default)]
pub(crate) struct RequestCounts([AtomicU64; Operation::ALL.len()]);

impl RequestCounts {
    pub(crate) fn count(&self, operation: Operation) {
        self.0[operation as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The counts of what was asked for at all.
    pub(crate) fn by_name(&self) -> BTreeMap<&'static str, u64> {
        let count = |operation: &Operation| self.0[*operation as usize].load(Ordering::Relaxed);
        let all = Operation::ALL.iter().map(|operation| (operation.name(), count(operation)));
        all.filter(|(_, count)| *count > 0).collect()
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_count_of_its_own() {
        let counts = RequestCounts::default();
        for (index, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, index);
            counts.count(operation);
        }
        assert_eq!(counts.by_name().len(), Operation::ALL.len());
        assert!(counts.by_name().into_values().all(|count| count == 1));
    }
}
