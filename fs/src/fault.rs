//! Faults for tests, by the variable `WASMFS_FAULT`: `KIND WHAT INODE [MARKER]`.
//!
//! `KIND` is `abort`, `panic` or `stall` (to stand still in the middle of a
//! request); `WHAT` a request (`read`, `lookup`, …), or `init`, the moment
//! before FUSE_INIT is answered, for inode 0. With a marker, a path, it happens
//! only while that file is there, and takes it away: so it happens once.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

enum Kind {
    Abort,
    Panic,
    Stall,
}

struct Fault {
    kind: Kind,
    what: String,
    inode: u64,
    marker: Option<PathBuf>,
}

static FAULT: LazyLock<Option<Fault>> = LazyLock::new(|| {
    let text = std::env::var("WASMFS_FAULT").ok()?;
    let mut words = text.split_whitespace();
    let kind = match words.next()? {
        "abort" => Kind::Abort,
        "panic" => Kind::Panic,
        "stall" => Kind::Stall,
        _ => return None,
    };
    let (what, inode) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
    Some(Fault { kind, what, inode, marker: words.next().map(PathBuf::from) })
});

/// Where a fault may happen.
pub(crate) fn strike(what: &str, inode: u64) {
    let Some(fault) = &*FAULT else { return };
    if (fault.what.as_str(), fault.inode) != (what, inode) {
        return;
    }
    if fault.marker.as_ref().is_some_and(|marker| std::fs::remove_file(marker).is_err()) {
        return;
    }
    match fault.kind {
        Kind::Abort => std::process::abort(),
        Kind::Panic => panic!("a fault in {what} of inode {inode}, as asked for"),
        Kind::Stall => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
    }
}
