//! Faults for tests: a build with the feature `fault` has them, and no other.
//!
//! The variable `WASMFS_FAULT` says which: `KIND WHAT INODE [MARKER]`. `KIND` is `abort`, `panic`,
//! or `stall` (to stand still in the middle of a request); `WHAT` a request (`read`, `lookup`, …),
//! `check`, before an open that is passed through, or `init`, the moment before FUSE_INIT is
//! answered, for inode 0. With a marker, a path, it happens only while that file is there, and
//! takes it away: so it happens once.

#[cfg(feature = "fault")]
mod enabled {
    use std::path::PathBuf;
    use std::sync::LazyLock;
    use std::time::Duration;

    use wasmfs_store::Inode;

    enum FaultKind {
        Abort,
        Panic,
        Stall,
    }

    struct Fault {
        kind: FaultKind,
        what: String,
        inode: Inode,
        marker: Option<PathBuf>,
    }

    static FAULT: LazyLock<Option<Fault>> = LazyLock::new(|| {
        let text = std::env::var("WASMFS_FAULT").ok()?;
        let mut words = text.split_whitespace();
        let kind = match words.next()? {
            "abort" => FaultKind::Abort,
            "panic" => FaultKind::Panic,
            "stall" => FaultKind::Stall,
            _ => return None,
        };
        let (what, inode) = (words.next()?.to_owned(), Inode(words.next()?.parse().ok()?));
        Some(Fault { kind, what, inode, marker: words.next().map(PathBuf::from) })
    });

    pub(crate) fn strike(what: &str, inode: Inode) {
        let Some(fault) = &*FAULT else { return };
        if (fault.what.as_str(), fault.inode) != (what, inode) {
            return;
        }
        if fault.marker.as_ref().is_some_and(|marker| std::fs::remove_file(marker).is_err()) {
            return;
        }
        match fault.kind {
            FaultKind::Abort => std::process::abort(),
            FaultKind::Panic => panic!("a fault in {what} of inode {inode}, as asked for"),
            FaultKind::Stall => loop {
                std::thread::sleep(Duration::from_secs(3600));
            },
        }
    }
}

#[cfg(feature = "fault")]
pub(crate) use enabled::strike;

/// Where a fault may happen.
#[cfg(not(feature = "fault"))]
pub(crate) fn strike(_what: &str, _inode: wasmfs_store::Inode) {}
