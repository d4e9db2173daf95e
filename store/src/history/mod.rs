//! The history: the append-only file that is the commit.
//!
//! One line a change. A change is committed when its line is on disk; everything else is derived
//! from it. Several changes are appended with one fsync, and each says which one was the last on
//! disk before them (`after`): so a line that can't be read was never acknowledged unless a later
//! line counts on it.
//!
//! [`History`] is the owner's handle; [`scan`] reads beside whoever writes. Nobody else knows what
//! a line looks like.

mod change;
mod codec;
mod log;
mod replay;
pub(crate) mod scan;

pub(crate) use change::{Blocks, Change, CollectedVersion, LogEntry, NewDirectory};
pub(crate) use codec::{BadLine, decode, line_of};
pub(crate) use log::{End, History};
