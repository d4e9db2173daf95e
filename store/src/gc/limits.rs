//! How much is done at once, so that readers and writers don't wait long.

/// Rows looked at for one portion, at most.
pub(super) const PORTION_ROWS: usize = 10_000;
/// Things found in one portion, at most.
pub(super) const PORTION_SIZE: usize = 256;
