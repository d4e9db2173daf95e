//! The release before: its stores, its mounts, its commands.
//!
//! `tests/previous.sh` builds its program; `tests/fixtures/` has a store that it made.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod mounts;
mod stores;
